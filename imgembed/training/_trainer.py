"""Trainer: the steps and epochs in which a contrastive method is trained."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer
from tqdm.auto import tqdm

from ..deep._preprocessing import Preprocessing
from ._encoder import set_training
from ._feed import Feed
from ._schedule import warmup_cosine
from ._training_file import History, TrainingFile

Pixels = NDArray[np.uint8]


class Learner(Protocol):
    """What a contrastive method trains: encoders, and how two views of images are compared."""

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of a batch, of two views of each image."""
        ...


class Trainer:
    """Train a method for one epoch after another.

    Parameters
    ----------
    learner : torch.nn.Module
        With a ``loss``.
    optimizer : torch.optim.Optimizer
        Its learning rate is the highest one.
    preprocessing : Preprocessing
        It normalises pixels.
    device : torch.device
        Where the learner is.
    epochs : int
        How many there will be.
    warmup : float
        The share of them in which the learning rate rises.
    freeze_statistics : bool
        Whether batch norms keep the statistics that they have.
    seed : int
        With the number of the epoch it decides whatever is random in the networks.
    """

    def __init__(
        self,
        learner: Any,
        optimizer: Optimizer,
        preprocessing: Preprocessing,
        device: torch.device,
        *,
        epochs: int,
        warmup: float,
        freeze_statistics: bool,
        seed: int,
    ) -> None:
        self.learner = learner
        self.optimizer = optimizer
        self.preprocessing = preprocessing
        self.device = device
        self.epochs = epochs
        self.warmup = warmup
        self.freeze_statistics = freeze_statistics
        self.seed = seed
        self.learning_rate: float = optimizer.param_groups[0]["lr"]

    def run(self, feed: Feed, file: TrainingFile | None, name: str) -> History:
        """Train, from the beginning or from where a file has it.

        Parameters
        ----------
        feed : Feed
            Of two views of each image.
        file : TrainingFile or None
            Where the training is kept.
        name : str
            Of the progress bar.

        Returns
        -------
        history : list of dict
            Of each epoch its number from 1, as ``epoch``, and the mean ``loss`` of its steps.

        Raises
        ------
        FloatingPointError
            If the loss is no longer a number.
        """
        history = [] if file is None else file.resume(self.learner, self.optimizer)
        with self._bar(feed, len(history), name) as bar:
            for number in range(len(history), self.epochs):
                loss = self._epoch(number, feed, bar)
                history.append({"epoch": number + 1, "loss": loss})
                if file is not None:
                    file.write(self.learner, self.optimizer, history)
        return history

    def _bar(self, feed: Feed, n_done: int, name: str) -> Any:
        progress, n_images = feed.reader.progress, len(feed.images)
        return tqdm(
            total=self.epochs * n_images,
            initial=n_done * n_images,
            desc=name,
            unit="image",
            disable=None if progress == "auto" else not progress,
        )

    def _epoch(self, number: int, feed: Feed, bar: Any) -> float:
        set_training(self.learner, freeze_statistics=self.freeze_statistics)
        losses: list[float] = []
        n_steps = len(feed.images) // feed.batch_size
        with seeded(self.seed + number, self.device), torch.enable_grad():
            for _, views in feed.epoch(number):
                progress = (number + len(losses) / n_steps) / self.epochs
                losses.append(self._step(views, progress))
                bar.set_postfix(epoch=number + 1, loss=f"{losses[-1]:.3f}", refresh=False)
                bar.update(len(views))
        return float(np.mean(losses))

    def _step(self, views: list[tuple[Pixels, Pixels]], progress: float) -> float:
        rate = self.learning_rate * warmup_cosine(progress, self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        first, second = (self._inputs(view) for view in zip(*views, strict=True))
        loss = self.learner.loss(first, second)
        value: float = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss became {value} when {progress:.0%} of the training were done; take a "
                f"smaller learning_rate than {self.learning_rate}"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return value

    def _inputs(self, pixels: tuple[Pixels, ...]) -> Tensor:
        on_device = torch.from_numpy(np.stack(pixels)).to(self.device)
        return self.preprocessing.normalise(on_device)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, which networks draw from, and give them back as they were.

    Parameters
    ----------
    seed : int
    device : torch.device
        Whose generator is seeded beside the CPU's.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
