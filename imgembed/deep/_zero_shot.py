"""ZeroShotClassifier: classes that are known by their names."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ._clip import CLIPEmbedder, check_templates, check_texts


class ZeroShotClassifier(ClassifierMixin, BaseEstimator):
    """Classify images by the names of classes, without images to learn from.

    The names are embedded as text, and an image has the class whose vector is nearest to its own
    [1]_. A scikit-learn classifier of images: paths, bytes, PIL images, arrays.

    Parameters
    ----------
    embedder : CLIPEmbedder
        Embeds images and names; what matters of it is ``transform_text``.
    classes : sequence of n_classes str, optional
        The names. By default those that are in the ``y`` of :meth:`fit`.
    templates : sequence of str, default=("a photo of a {}.",)
        Format strings that a name is put in. Sentences in the manner of captions classify better
        than bare names, and the mean of several better still: say what the images are, as in
        ``"a satellite photo of {}."``, or join ``"a blurry photo of a {}."`` and the like.
        ``open_clip.OPENAI_IMAGENET_TEMPLATES`` has the 80 of the paper, as functions.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The names in sorted order, as in all classifiers of scikit-learn.
    class_vectors_ : ndarray of shape (n_classes, n_features), dtype float32
        Their vectors, of unit length.

    See Also
    --------
    CLIPEmbedder : The embedder; with a linear classifier behind it, it learns from images.

    Notes
    -----
    Cross-validation clones the classifier and its embedder, and loads the network for each fold.
    ``ZeroShotClassifier(sklearn.frozen.FrozenEstimator(embedder), ...)`` loads it once.

    Probabilities are the softmax over the given classes: an image that shows none of them gets
    one all the same.

    References
    ----------
    .. [1] A. Radford, J. W. Kim, C. Hallacy et al., "Learning Transferable Visual Models From
       Natural Language Supervision", ICML 2021.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from imgembed import CLIPEmbedder, ZeroShotClassifier
    >>> embedder = CLIPEmbedder("ViT-S-32-alt", weights=None, engine="torch", random_state=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # random weights are for examples and tests
    ...     classifier = ZeroShotClassifier(embedder, ["dog", "cat"]).fit()
    >>> classifier.classes_.tolist()
    ['cat', 'dog']
    >>> classifier.predict_proba([np.zeros((60, 80, 3), dtype=np.uint8)]).shape
    (1, 2)
    """

    class_vectors_: NDArray[np.float32]
    classes_: NDArray[np.str_]

    def __init__(
        self,
        embedder: CLIPEmbedder,
        classes: Sequence[str] | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
    ) -> None:
        self.embedder = embedder
        self.classes = classes
        self.templates = templates

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        tags.target_tags.required = False
        return tags

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Embed the names of the classes.

        Parameters
        ----------
        X : ignored
            No image is read.
        y : sequence of str, optional
            Classes of images. They are the names if ``classes`` is None; otherwise each must be
            one of ``classes``.

        Returns
        -------
        self : ZeroShotClassifier

        Raises
        ------
        TypeError
            If the embedder has no ``transform_text``, or names are not strings.
        ValueError
            If there are fewer than two classes, one is there twice, or ``y`` has others.
        """
        if not hasattr(self.embedder, "transform_text"):
            raise TypeError(
                f"{type(self.embedder).__name__} embeds images only; names of classes need an "
                "embedder of images and text: CLIPEmbedder"
            )
        templates = check_templates(self.templates)
        classes = _resolve_classes(self.classes, y)
        self.class_vectors_ = self.embedder.transform_text(classes, templates)
        self.classes_ = np.array(classes)
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Give the logits, cosines of images and classes times the network's logit scale.

        Parameters
        ----------
        X : sequence of n_images images
            As :func:`imgembed.read_image` takes them.

        Returns
        -------
        logits : ndarray of shape (n_images, n_classes), dtype float64
            Of two classes an array of shape (n_images,) with the difference, positive for
            ``classes_[1]``, as in all classifiers of scikit-learn.

        Raises
        ------
        NotFittedError
            Before fit.
        ImageReadError
            If an image cannot be read, whatever the embedder's ``on_error``.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Give the probabilities of the classes, the softmax of their logits.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`decision_function`.

        Returns
        -------
        probabilities : ndarray of shape (n_images, n_classes), dtype float64
            In the order of ``classes_``; each row adds up to 1.
        """
        probabilities: NDArray[np.float64] = softmax(self._logits(X), axis=1)
        return probabilities

    def predict(self, X: Any) -> NDArray[np.str_]:
        """Give the class of each image.

        Parameters
        ----------
        X : sequence of n_images images
            As in :meth:`decision_function`.

        Returns
        -------
        classes : ndarray of shape (n_images,)
        """
        nearest = self._logits(X).argmax(axis=1)
        predicted: NDArray[np.str_] = self.classes_[nearest]
        return predicted

    def _logits(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        vectors, errors = self.embedder.transform_with_errors(X)
        for error in errors.values():
            raise error
        cosines = vectors.astype(np.float64) @ self.class_vectors_.T
        return self.embedder.logit_scale_ * cosines


def _resolve_classes(classes: Any, y: Any) -> list[str]:
    """The names of the classes, sorted, from what was given of them and of images."""
    if classes is None and y is None:
        raise ValueError("there are no classes: give classes, or fit to the y of images")
    there = set() if y is None else set(check_texts("y", y))
    names = check_texts("classes", there if classes is None else classes)
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    others = sorted(there.difference(names))
    if twice or others or len(names) < 2:
        raise ValueError(
            f"classes must be at least two, none of them twice, with all of y; got {len(names)}"
            + (f", twice {twice}" if twice else "")
            + (f", in y alone {others}" if others else "")
        )
    return sorted(names)
