"""Training files: a checkpoint after each epoch, from which a stopped training goes on."""

import os
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from .._differences import differences
from ..deep._archives import write_checkpoint
from ..deep._checkpoints import OWN_RECORD, CheckpointError, read_checkpoint
from ..deep._preprocessing import Preprocessing
from ._encoder import from_file, to_file

History = list[dict[str, float]]


class TrainingFile:
    """A checkpoint in the layout of a method's own training code, with a record beside.

    Parameters
    ----------
    path : str or Path
        It is replaced whole, after each epoch.
    architecture : str
        The name of the network in timm.
    shown : Preprocessing
        How images are shown to it, which goes into the file for whoever reads it.
    recipe : dict of str to str
        What decides the training. It goes on only with the same.
    prefix : str
        What stands before the names of all tensors.

    Raises
    ------
    FileNotFoundError
        If its folder is not there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        architecture: str,
        shown: Preprocessing,
        recipe: dict[str, str],
        prefix: str,
    ) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"there is no folder {os.fspath(self.path.parent)!r} to save in"
            )
        self.architecture = architecture
        self.shown = shown
        self.recipe = recipe
        self.prefix = prefix

    def write(self, learner: nn.Module, optimizer: Optimizer, history: History) -> None:
        """Write how far the training is.

        Parameters
        ----------
        learner : torch.nn.Module
        optimizer : torch.optim.Optimizer
        history : list of dict
            Of all epochs so far.
        """
        content = {
            "epoch": len(history),
            "arch": self.architecture,
            "state_dict": to_file(learner, self.prefix),
            "optimizer": optimizer.state_dict(),
            OWN_RECORD: {
                "recipe": self.recipe,
                "history": history,
                "convention": _convention(self.shown),
            },
        }
        write_checkpoint(self.path, content)

    def resume(self, learner: nn.Module, optimizer: Optimizer) -> History:
        """Take up what is in the file, if there is one.

        Parameters
        ----------
        learner : torch.nn.Module
        optimizer : torch.optim.Optimizer
            Both changed in place.

        Returns
        -------
        history : list of dict
            Of the epochs that are done.

        Raises
        ------
        CheckpointError
            If the file is of another training, or none of a training here.
        """
        if not self.path.exists():
            return []
        content = read_checkpoint(self.path).content
        self._check(content)
        from_file(learner, content["state_dict"], self.prefix)
        optimizer.load_state_dict(content["optimizer"])
        history: History = content[OWN_RECORD]["history"]
        return history

    def _check(self, content: Any) -> None:
        record = content.get(OWN_RECORD) if isinstance(content, dict) else None
        if record is None:
            raise CheckpointError(
                f"{os.fspath(self.path)!r} is there, and is no file of a training here, so that it "
                "cannot go on. Take another save_path. To start from these weights, pass "
                "backbone=CNNEmbedder(name, weights=path)"
            )
        before = {"arch": content["arch"], **record["recipe"]}
        now = {"arch": self.architecture, **self.recipe}
        changed = differences(before, now, str)
        if changed:
            raise CheckpointError(
                f"{os.fspath(self.path)!r} is of another training: {changed}. Take "
                "another save_path, delete the file, or go on as it began"
            )


def _convention(shown: Preprocessing) -> dict[str, Any]:
    """How a reader of the file must show images, as plain values."""
    return {
        "mean": shown.mean,
        "std": shown.std,
        "crop_pct": shown.crop_pct,
        "interpolation": shown.resampling.name.lower(),
    }
