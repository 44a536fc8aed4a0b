"""Tuner: the epochs in which labels change a part of a network, and how much of it is kept."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..deep._preprocessing import Preprocessing
from ..evaluation import mean_average_precision
from ._feed import Feed
from ._parts import train_only
from ._schedule import warmup_cosine
from ._trainer import seeded

Labels = NDArray[np.intp]
Rows = NDArray[np.intp]

_WARMUP = 0.1  # the share of the training in which the learning rate rises
# New layers are random, and learn faster than those that know something.
_NEW_LAYERS_RATE = 10.0


class Tuner:
    """Train an embedding, and keep what its best epoch has gained.

    Parameters
    ----------
    embedding : torch.nn.Module
        From inputs to vectors, where it is trained.
    names : frozenset of str
        Of its parameters that are trained.
    new_names : frozenset of str
        Of those that are new.
    criterion : callable
        Of embeddings and labels; its parameters, if it has any, are trained too.
    preprocessing : Preprocessing
        It normalises pixels.
    learning_rate : float
        The highest, of layers that are not new.
    blend : float
        The share of the way from the start to what was trained that is gone.
    device : torch.device
        Where the embedding is.
    """

    def __init__(
        self,
        embedding: nn.Module,
        names: frozenset[str],
        new_names: frozenset[str],
        criterion: Callable[[Tensor, Tensor], Tensor],
        preprocessing: Preprocessing,
        learning_rate: float,
        blend: float,
        device: torch.device,
    ) -> None:
        self.embedding = embedding
        self.blend = blend
        self.names = names
        self.criterion = criterion
        self.preprocessing = preprocessing
        self.device = device
        parameters = dict(embedding.named_parameters())
        new = [parameters[name] for name in sorted(new_names)]
        new += list(criterion.parameters()) if isinstance(criterion, nn.Module) else []
        known = [parameters[name] for name in sorted(names - new_names)]
        groups = [(known, learning_rate), (new, _NEW_LAYERS_RATE * learning_rate)]
        self._rates = [rate for some, rate in groups if some]
        self._optimizer = torch.optim.AdamW([{"params": some} for some, _ in groups if some])

    def run(
        self,
        feed: Feed,
        order: Callable[[int], Rows],
        labels: Labels,
        validation: tuple[Feed, Rows] | None,
        *,
        epochs: int,
        patience: int,
        seed: int,
        bar: Any,
    ) -> list[dict[str, Any]]:
        """Train until nothing is gained, and take what is kept of the best epoch.

        Parameters
        ----------
        feed : Feed
            Of augmented images.
        order : callable
            The rows of an epoch in order, given its number.
        labels : ndarray of shape (n_images,), dtype intp
            Of all rows.
        validation : (Feed, ndarray) or None
            Images as they are shown later, and the rows that are held out.
        epochs, patience, seed : int
            As in :class:`imgembed.FineTunedEmbedder`.
        bar : tqdm
            A step is an image.

        Returns
        -------
        history : list of dict
            Of the start and of each epoch ``epoch``, ``loss`` and ``validation_map``.
        """
        history = [self._record(0, math.nan, labels, validation)]
        start = self._tensors()
        best, kept = 0, start
        for number in range(epochs):
            with seeded(seed + number, self.device):
                loss = self._epoch(feed.ordered(number, order(number)), labels, number, epochs, bar)
            trained = self._tensors()
            blended = {name: _between(start[name], trained[name], self.blend) for name in start}
            self._take(blended)
            history.append(self._record(number + 1, loss, labels, validation))
            bar.set_postfix(history[-1], refresh=False)
            if validation is None or _score(history[-1]) >= _score(history[best]):
                best, kept = number + 1, blended
            elif number + 1 - best >= patience:
                break
            self._take(trained)
        self._take(kept)
        self.best_epoch = best
        return history

    def _epoch(
        self,
        batches: Iterator[tuple[Rows, list[Any]]],
        labels: Labels,
        number: int,
        epochs: int,
        bar: Any,
    ) -> float:
        train_only(self.embedding, self.names)
        total, n_images = 0.0, 0
        n_expected = max(1, bar.total // epochs)
        for rows, pixels in batches:
            # At the middle of a step, so that the first one, which may be the only one, counts.
            progress = (number + min(1.0, (n_images + len(rows) / 2) / n_expected)) / epochs
            total += len(rows) * self._step(pixels, labels[rows], progress)
            n_images += len(rows)
            bar.update(len(rows))
        return total / max(1, n_images)

    def _step(self, pixels: list[Any], labels: Labels, progress: float) -> float:
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * warmup_cosine(progress, _WARMUP)
        with torch.enable_grad():
            embeddings = self.embedding(self._inputs(pixels))
            loss = self.criterion(embeddings, torch.from_numpy(labels).to(self.device))
            _check_loss(loss)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss became {loss.item()} when {progress:.0%} of the training were done; "
                f"take a smaller learning_rate than {self._rates[0]}"
            )
        self._optimizer.step()
        return float(loss.item())

    def _record(
        self, epoch: int, loss: float, labels: Labels, validation: tuple[Feed, Rows] | None
    ) -> dict[str, Any]:
        score = math.nan if validation is None else self._validate(*validation, labels)
        return {"epoch": epoch, "loss": loss, "validation_map": score}

    def _validate(self, feed: Feed, held_out: Rows, labels: Labels) -> float:
        """Mean average precision of searching the images that are held out among each other."""
        self.embedding.eval()
        vectors, rows = [], []
        with torch.inference_mode():
            for batch_rows, pixels in feed.ordered(0, held_out):
                vectors.append(self.embedding(self._inputs(pixels)).cpu().numpy())
                rows.append(batch_rows)
        return _map_among_each_other(np.concatenate(vectors), labels[np.concatenate(rows)])

    def _inputs(self, pixels: list[Any]) -> Tensor:
        on_device = torch.from_numpy(np.stack(pixels)).to(self.device)
        return self.preprocessing.normalise(on_device)

    def _tensors(self) -> dict[str, Tensor]:
        """Copies of all that training changes."""
        changing = self.names | {name for name, _ in self.embedding.named_buffers()}
        tensors = self.embedding.state_dict().items()
        return {name: tensor.clone() for name, tensor in tensors if name in changing}

    def _take(self, tensors: dict[str, Tensor]) -> None:
        self.embedding.load_state_dict(tensors, strict=False)


def _between(start: Tensor, end: Tensor, share: float) -> Tensor:
    return torch.lerp(start, end, share) if start.is_floating_point() else end


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            "a loss of (embeddings, labels) must return a tensor that is one number, such as the "
            f"mean of a batch; got {got}"
        )


def _score(record: dict[str, Any]) -> float:
    return float(record["validation_map"])


def _map_among_each_other(vectors: NDArray[Any], labels: Labels) -> float:
    vectors = vectors.astype(np.float64)  # so that the squares of large ones are finite
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    others = ~np.eye(len(labels), dtype=bool)
    scores = similarity[others].reshape(len(labels), -1)
    relevant = (labels[:, None] == labels)[others].reshape(len(labels), -1)
    return mean_average_precision(scores, relevant)
