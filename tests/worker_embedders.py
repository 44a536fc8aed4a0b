"""Embedders that tell what happens to them in workers, small, so that workers import them fast."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from mean_colour import MeanColour
from numpy.typing import NDArray


class Noted(MeanColour):
    """Each process that loads it, or embeds with it, leaves a line in a file of its own."""

    def __init__(
        self,
        folder: str = "",
        seconds: float = 0.0,
        batch_size: int = 2,
        n_jobs: int | None = None,
        on_error: str = "raise",
        progress: bool | str = False,
        max_pixels: int = 10_000_000,
    ) -> None:
        super().__init__(1.0, batch_size, n_jobs, on_error, progress, max_pixels)
        self.folder = folder
        self.seconds = seconds

    def _load(self) -> None:
        if not hasattr(self, "_loaded"):
            self._note("loaded")
            self._loaded = True

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_loaded"}

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        self._note(f"embedded {len(prepared)}")
        return super()._embed(prepared)

    def fingerprint_parts(self) -> dict[str, Any]:
        parts = super().fingerprint_parts()
        return {name: parts[name] for name in parts if name not in ("folder", "seconds")}

    def _note(self, line: str) -> None:
        with Path(self.folder, f"{os.getpid()}.txt").open("a") as file:
            file.write(f"{line}\n")


class NotesThreads(Noted):
    """It tells in which thread it prepares images, but for the process that made it."""

    def _prepare(self, image: NDArray[np.uint8]) -> Any:
        self._note(f"thread {threading.current_thread().name}")
        return super()._prepare(image)


class Heavy(Noted):
    """It has learned 10 MB, which go with it."""

    def _load(self) -> None:
        super()._load()
        if not hasattr(self, "learned_"):
            self.learned_ = np.random.default_rng(0).random(1_250_000)

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        assert self.learned_.nbytes == 10_000_000
        return super()._embed(prepared)


class KillsItsProcess(Noted):
    """The process that meets a black image is gone, as often as there are files named lives."""

    def _prepare(self, image: NDArray[np.uint8]) -> Any:
        if not image.any():
            for life in sorted(Path(self.folder).glob("life*")):
                life.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super()._prepare(image)


class Refuses(MeanColour):
    """It has a fault of its own, which a black image shows."""

    def _prepare(self, image: NDArray[np.uint8]) -> Any:
        if not image.any():
            raise ZeroDivisionError("black")
        return super()._prepare(image)


def notes(folder: Path) -> dict[int, list[str]]:
    """What was noted, by process."""
    return {int(path.stem): path.read_text().splitlines() for path in folder.glob("*.txt")}


def counts(folder: Path, but: int) -> tuple[list[int], int]:
    """How often each process but one has loaded, and how many images they have embedded."""
    lines = [lines for process, lines in notes(folder).items() if process != but]
    loaded = [sum(line == "loaded" for line in each) for each in lines]
    embedded = [
        int(line.split()[1]) for each in lines for line in each if line.startswith("embedded")
    ]
    return loaded, sum(embedded)
