"""Checkpoints: what a file of weights is, and a network filled from it whole or not at all."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._html import html_table
from ._archives import CheckpointError, read_archive
from ._bundled import bundled_state_dict
from ._fitting import misfits, move_norm, resample_positions, some
from ._layouts import ENTRIES, OWN, WRAPPERS, Convention, Layout, recognise
from ._pickles import StandIn

__all__ = [
    "OWN_RECORD",
    "Checkpoint",
    "CheckpointError",
    "CheckpointReport",
    "Convention",
    "bundled_state_dict",
    "fill_network",
    "load_checkpoint",
    "read_checkpoint",
]

StateDict = Mapping[str, Tensor]

# The entry in which trainings of this library say what is theirs.
OWN_RECORD = "imgembed"

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_HEADS_OF_MOCO_V3 = 12  # of its vit_small, in its vits.py


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Parameters
    ----------
    path : str
        Of the file.
    content : object
        All of it: plain values, tensors, and stand-ins for other objects.
    tensors : dict of str to Tensor
        Those of the networks in it, under their own names.
    layout : Layout
        How the file is laid out.
    architecture : str or None
        What the file says that the network is, in the words of whoever wrote it.
    ignored : tuple of str
        Entries of the file that are not looked into.
    """

    path: str
    content: Any
    tensors: dict[str, Tensor]
    layout: Layout
    architecture: str | None
    ignored: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class CheckpointReport:
    """What was recognised in a checkpoint, what was used of it and what was not.

    Parameters
    ----------
    path : str
        Of the file.
    layout : str
        The method whose training code lays out its files so; "plain" for a network alone.
    architecture : str or None
        What the file says that the network is.
    prefix : str
        What was taken off the names of the tensors.
    n_used : int
        Tensors of the network that were filled.
    dropped : tuple of str
        Tensors that were not used: heads, projections, momentum networks, queues.
    ignored : tuple of str
        Other entries of the file: optimizers, counters, options.
    resized : tuple of str
        Position embeddings that were resampled to the network's grid.
    convention : Convention
        How the method showed images to its network.
    notes : tuple of str
        What else was done.

    Examples
    --------
    >>> from imgembed import CheckpointReport
    >>> report = CheckpointReport("moco.pth.tar", "MoCo v2", "resnet50", "module.encoder_q.", 318)
    >>> report
    'moco.pth.tar': MoCo v2, resnet50
      318 tensors of the network filled, from 'module.encoder_q.*'
      images are shown to it: as the architecture is by default
    """

    path: str
    layout: str
    architecture: str | None = None
    prefix: str = ""
    n_used: int = 0
    dropped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    convention: Convention = OWN
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        says = f", {self.architecture}" if self.architecture else ""
        lines = [
            f"{self.path!r}: {self.layout}{says}",
            f"{self.n_used} tensors of the network filled, from {self.prefix + '*'!r}",
            f"images are shown to it: {self.convention}",
            *(f"{told}: {some(names)}" for told, names in self._lists()),
        ]
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            ("file", self.path),
            ("layout", self.layout),
            ("architecture", self.architecture or "not said"),
            ("filled", f"{self.n_used} tensors, from {self.prefix}*"),
            ("images are shown to it", self.convention),
            *((told, some(names)) for told, names in self._lists()),
        ]
        return html_table((), rows, caption="Checkpoint")

    def _lists(self) -> list[tuple[str, tuple[str, ...]]]:
        """What there is of dropped tensors and the like, and what it is called."""
        lists = [
            ("dropped", self.dropped),
            ("not looked into", self.ignored),
            ("resampled", self.resized),
            ("note", self.notes),
        ]
        return [(told, names) for told, names in lists if names]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a file of weights and recognise its layout; nothing in it is executed.

    Parameters
    ----------
    path : str or Path
        A file written by torch.save, torch.jit.save or safetensors.

    Returns
    -------
    checkpoint : Checkpoint
        With its tensors on the CPU.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, no checkpoint, or wants code to be run.
    """
    path = os.fspath(path)
    content = read_archive(path)
    way, beside, found = _unwrap(content)
    tensors = _named_tensors(found, path)
    beside += [str(name) for name in found if name not in tensors]
    names = [_without_wrappers(name) for name in tensors]
    return Checkpoint(
        path=path,
        content=content,
        tensors=tensors,
        layout=recognise([*beside, *(f"{entry}/" for entry in way)], names),
        architecture=_architecture(content),
        ignored=tuple(beside),
    )


def load_checkpoint(
    network: nn.Module, checkpoint: Checkpoint, head: tuple[str, ...]
) -> CheckpointReport:
    """Fill a network without head; every parameter and buffer must be filled.

    Parameters
    ----------
    network : torch.nn.Module
        A timm network, changed in place. The final norm of a transformer moves behind the
        pooling if the checkpoint has it there.
    checkpoint : Checkpoint
    head : tuple of str
        Beginnings of the names of the classifier's layers, which are dropped.

    Returns
    -------
    report : CheckpointReport

    Raises
    ------
    CheckpointError
        If something is missing, has another shape or type, or belongs to no layer.
    """
    _check_activation(network, checkpoint)
    _check_heads(network, checkpoint)
    wanted = network.state_dict()
    trunks = [_trunk(checkpoint, prefix, wanted, head) for prefix in checkpoint.layout.prefixes]
    trunk = max(trunks, key=lambda trunk: trunk.n_fitting(wanted))  # the first of the best
    notes = move_norm(network, trunk.tensors)
    resized = resample_positions(network, trunk.tensors)
    told = misfits(network.state_dict(), trunk.tensors)
    if told:
        says = f", and says {checkpoint.architecture!r}" if checkpoint.architecture else ""
        raise CheckpointError(
            f"{checkpoint.path!r} (layout {checkpoint.layout.name!r}{says}): {told}"
        )
    network.load_state_dict(trunk.tensors, strict=False)  # only num_batches_tracked is missing
    return CheckpointReport(
        path=checkpoint.path,
        layout=checkpoint.layout.name,
        architecture=checkpoint.architecture,
        prefix=trunk.prefix,
        n_used=len(trunk.tensors),
        dropped=tuple(trunk.dropped),
        ignored=checkpoint.ignored,
        resized=resized,
        convention=_convention(checkpoint),
        notes=notes,
    )


def fill_network(network: nn.Module, tensors: StateDict, head: tuple[str, ...]) -> None:
    """Load tensors into a network without head; every parameter and buffer must be filled.

    Parameters
    ----------
    network : torch.nn.Module
        The network, changed in place.
    tensors : mapping of str to Tensor
        Under the network's own names.
    head : tuple of str
        Beginnings of the names of the classifier's layers, which are dropped.

    Raises
    ------
    CheckpointError
        If something is missing, has another shape or type, or belongs to no layer.
    """
    wanted = network.state_dict()
    kept = {k: v for k, v in tensors.items() if k in wanted or not k.startswith(head)}
    if told := misfits(wanted, kept):
        raise CheckpointError(told)
    network.load_state_dict(kept, strict=False)  # only num_batches_tracked is missing


def _unwrap(content: Any) -> tuple[list[str], list[str], Any]:
    """Go down to the tensors: the entries on the way, the others, and what is there."""
    way: list[str] = []
    beside: list[str] = []
    for _ in ENTRIES:
        inner = [name for name in ENTRIES if isinstance(content, dict) and content.get(name)]
        inner = [name for name in inner if isinstance(content[name], dict)]
        if not inner:
            break
        way.append(inner[0])
        beside += [str(name) for name in content if name != inner[0]]
        content = content[inner[0]]
    return way, beside, content


def _named_tensors(found: Any, path: str) -> dict[str, Tensor]:
    if isinstance(found, StandIn) and "_parameters" in found:
        raise CheckpointError(
            f"{path!r} holds a whole network ({found.name}), which cannot be read without running "
            "its code. Load it where it was made, and save its state_dict()."
        )
    if not isinstance(found, dict) or not found:
        kind = found.name if isinstance(found, StandIn) else type(found).__name__
        raise CheckpointError(f"{path!r} holds a {kind}, not tensors with names")
    tensors = {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise CheckpointError(
            f"{path!r} holds entries that are not tensors: {some([*found])}. Save the network's "
            "state_dict() alone, or under 'state_dict' or 'model'."
        )
    return tensors


def _without_wrappers(name: str) -> str:
    return WRAPPERS.sub("", name, count=1)


def _architecture(content: Any) -> str | None:
    """What a training script calls its network: under 'arch', or among its arguments."""
    if not isinstance(content, dict):
        return None
    arguments = content.get("args")
    said = [content.get("arch")]
    if isinstance(arguments, dict):
        said += [arguments.get("arch"), arguments.get("model")]
    return next((name for name in said if isinstance(name, str)), None)


def _convention(checkpoint: Checkpoint) -> Convention:
    """As the file itself says, if it was written here; else as its layout's method did."""
    content = checkpoint.content
    record = content.get(OWN_RECORD) if isinstance(content, dict) else None
    told = record.get("convention") if isinstance(record, dict) else None
    if not isinstance(told, dict):
        return checkpoint.layout.convention
    try:
        mean, std, crop_pct = _three(told["mean"]), _three(told["std"]), float(told["crop_pct"])
        interpolation = str(told["interpolation"])
        is_sound = min(*std, crop_pct) > 0 and all(map(math.isfinite, (*mean, *std, crop_pct)))
    except (KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound or interpolation not in _INTERPOLATIONS:
        raise CheckpointError(
            f"{checkpoint.path!r} says in a damaged way how images are shown: {told!r}"
        )
    return Convention(mean, std, crop_pct, interpolation)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _check_activation(network: nn.Module, checkpoint: Checkpoint) -> None:
    wanted = checkpoint.layout.activation
    if wanted and not any(type(layer).__name__ == wanted for layer in network.modules()):
        raise CheckpointError(
            f"{checkpoint.path!r} (layout {checkpoint.layout.name!r}) was trained with {wanted}, "
            "which this network does not have, and its features would be wrong. Take the "
            "architecture with it, such as vit_base_patch32_clip_quickgelu_224."
        )


def _check_heads(network: nn.Module, checkpoint: Checkpoint) -> None:
    """MoCo v3's small transformer has twice the heads of timm's, in tensors of the same shapes."""
    small = checkpoint.layout.name == "MoCo v3" and checkpoint.architecture == "vit_small"
    found: list[Any] = [getattr(layer, "num_heads", None) for layer in network.modules()]
    heads = {n_heads for n_heads in found if n_heads is not None}
    if small and heads and heads != {_HEADS_OF_MOCO_V3}:
        raise CheckpointError(
            f"{checkpoint.path!r} is MoCo v3's vit_small, which has {_HEADS_OF_MOCO_V3} attention "
            f"heads, and this network has {max(heads)}: it would take the tensors and give wrong "
            "features. timm has none with these heads; take MoCo v3's vit_base or resnet50"
        )


@dataclass(frozen=True)
class _Trunk:
    """The backbone's tensors under timm's names, and the own names of all others."""

    prefix: str
    tensors: dict[str, Tensor]
    dropped: list[str]

    def n_fitting(self, wanted: StateDict) -> int:
        return sum(k in wanted and wanted[k].shape == v.shape for k, v in self.tensors.items())


def _trunk(checkpoint: Checkpoint, prefix: str, wanted: StateDict, head: tuple[str, ...]) -> _Trunk:
    """What is the backbone if its names begin with prefix."""
    layout = checkpoint.layout
    tensors: dict[str, Tensor] = {}
    dropped, prefixes = [], set()
    for own_name, tensor in checkpoint.tensors.items():
        bare = _without_wrappers(own_name)
        inner = bare.removeprefix(prefix)
        name = layout.rename(inner)
        is_head = name.startswith(head) or layout.is_dropped(name)
        if not bare.startswith(prefix) or (is_head and name not in wanted):
            dropped.append(own_name)
            continue
        if name in tensors:
            raise CheckpointError(f"{checkpoint.path!r} holds two tensors for {name}")
        tensors[name] = tensor
        prefixes.add(own_name.removesuffix(inner))
    joined = tensors if layout.join is None else layout.join(tensors)
    return _Trunk(" or ".join(sorted(prefixes)), joined, dropped)
