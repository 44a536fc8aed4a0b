"""Labels of images: checked, numbered, held out, and put into the order of an epoch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.intp]

# A loss that compares the images of a batch with each other needs several of a class in it.
IMAGES_OF_A_CLASS = 4
# Validation searches the images of a class among each other.
_LEAST_HELD_OUT = 2


def check_labels(y: Any, n_images: int) -> NDArray[Any]:
    """A label for each image.

    Parameters
    ----------
    y : array-like of shape (n_images,) or None
    n_images : int

    Returns
    -------
    labels : ndarray of shape (n_images,)

    Raises
    ------
    ValueError
        If there are none, of another number, or some are missing.
    """
    if y is None:
        raise ValueError("fit needs y, a label for each image; without labels see MoCoEmbedder")
    labels = np.asarray(y)
    if labels.shape != (n_images,):
        raise ValueError(f"y must be one label an image, {n_images}; its shape is {labels.shape}")
    missing = [row for row, label in enumerate(labels.tolist()) if _is_missing(label)]
    if missing:
        raise ValueError(f"labels are missing in the rows {missing[:10]}; leave these images out")
    return labels


def number_classes(labels: NDArray[Any]) -> tuple[NDArray[Any], Labels]:
    """The classes, and the number of each image's class.

    Parameters
    ----------
    labels : ndarray of shape (n_images,)

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted.
    numbers : ndarray of shape (n_images,), dtype intp

    Raises
    ------
    ValueError
        If labels cannot be sorted, are of one class, or a class has one image.
    """
    try:
        classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    except TypeError as error:
        raise ValueError(
            f"labels must be all numbers or all strings, to be sorted: {error}"
        ) from error
    if len(classes) < 2:
        raise ValueError(
            f"the {len(labels)} images that can be read must be of two classes at least; they are "
            f"of {classes.tolist()}"
        )
    if counts.min() < 2:
        alone = classes[counts < 2][:10].tolist()
        raise ValueError(
            f"the classes {alone} have one image each, from which nothing can be learned about "
            "what is alike; leave them out, give more, or take MoCoEmbedder, which learns without "
            "labels"
        )
    return classes, numbers.astype(np.intp)


def hold_out(labels: Labels, fraction: float, seed: int) -> Labels:
    """Rows of each class to validate with.

    Parameters
    ----------
    labels : ndarray of shape (n_images,), dtype intp
        Numbers of classes.
    fraction : float
        The share of each class; at least two images are taken, unless it is 0.
    seed : int

    Returns
    -------
    rows : ndarray of shape (n_held_out,), dtype intp
        Ascending.

    Raises
    ------
    ValueError
        If fewer than two images of a class would be left.
    """
    if fraction == 0:
        return np.empty(0, dtype=np.intp)
    rng = np.random.default_rng(seed)
    held_out: list[Labels] = []
    for number, count in enumerate(np.bincount(labels)):
        n_held_out = max(_LEAST_HELD_OUT, round(fraction * count))
        if count - n_held_out < 2:
            raise ValueError(
                f"a class has {count} images, too few to hold {n_held_out} out and learn from two; "
                "give more, or set validation_fraction=0 and choose the number of epochs"
            )
        held_out.append(rng.choice(np.flatnonzero(labels == number), n_held_out, replace=False))
    return np.sort(np.concatenate(held_out))


def order_epoch(
    rows: Labels, labels: Labels, batch_size: int, seed: int, in_groups: bool, number: int
) -> Labels:
    """The rows of an epoch in order, in whole batches.

    Parameters
    ----------
    rows : ndarray of shape (n_rows,), dtype intp
        Of the images that take part.
    labels : ndarray of shape (n_images,), dtype intp
        Numbers of classes.
    batch_size, seed : int
    in_groups : bool
        Whether batches hold several images of each class in them.
    number : int
        Of the epoch, from 0.

    Returns
    -------
    ordered : ndarray, dtype intp
        Whole batches; some rows twice if there are fewer than a batch.
    """
    rng = np.random.default_rng([seed, number])
    shuffled = rng.permutation(rows)
    if in_groups:
        shuffled = _grouped(shuffled, labels, rng)
    if len(shuffled) < batch_size:  # rather some images twice than no batch
        shuffled = np.resize(shuffled, batch_size)
    return shuffled[: len(shuffled) // batch_size * batch_size]


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # the NA of pandas is neither equal nor unequal
        return True


def _grouped(shuffled: Labels, labels: Labels, rng: np.random.Generator) -> Labels:
    """Rows in runs of one class; the runs of each class are spread over the whole epoch."""
    runs, places = list[Labels](), list[float]()
    for number in np.unique(labels[shuffled]):
        of_class = shuffled[labels[shuffled] == number]
        n_runs = -(-len(of_class) // IMAGES_OF_A_CLASS)
        runs += np.array_split(np.resize(of_class, n_runs * IMAGES_OF_A_CLASS), n_runs)
        places += list((np.arange(n_runs) + rng.random(n_runs)) / n_runs)
    return np.concatenate([runs[i] for i in np.argsort(places)])
