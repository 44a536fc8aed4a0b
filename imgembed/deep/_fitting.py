"""Whether tensors fit a network, and what may be done to make them fit."""

import math
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

_N_TOLD = 5  # names in a message


def misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """What keeps tensors from filling a network whole.

    Parameters
    ----------
    wanted, tensors : mapping of str to Tensor
        Of the network, and what is there to fill it.

    Returns
    -------
    told : str
        For people; empty if they fit.
    """
    problems = {
        "missing": [
            k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")
        ],
        "unexpected": [k for k in tensors if k not in wanted],
        "other shape": [
            f"{k} {_shape(v)} instead of {_shape(wanted[k])}"
            for k, v in tensors.items()
            if k in wanted and v.shape != wanted[k].shape
        ],
        "other type": [
            f"{k} {v.dtype} instead of {wanted[k].dtype}"
            for k, v in tensors.items()
            if k in wanted and v.is_floating_point() != wanted[k].is_floating_point()
        ],
    }
    if not any(problems.values()):
        return ""
    told = "; ".join(f"{kind}: {some(names)}" for kind, names in problems.items() if names)
    return (
        f"the weights do not fit this network ({len(wanted)} tensors wanted, {len(tensors)} "
        f"given). {told}. {_comparison(wanted, tensors)}Is model_name the architecture that the "
        "weights were trained for?"
    )


def some(names: Sequence[Any]) -> str:
    """The first few of many names.

    Parameters
    ----------
    names : sequence

    Returns
    -------
    told : str
    """
    more = f" and {len(names) - _N_TOLD} more" if len(names) > _N_TOLD else ""
    return ", ".join(map(str, names[:_N_TOLD])) + more


def move_norm(network: Any, names: Container[str]) -> tuple[str, ...]:
    """Put a transformer's final norm behind the pooling, if the weights have it there.

    So it is in networks that MAE has fine-tuned: the mean of the patch tokens, then the norm.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place.
    names : container of str
        Of the tensors that are there to fill it.

    Returns
    -------
    notes : tuple of str
        What was done.
    """
    behind = "fc_norm.weight" in names and "norm.weight" not in names
    norms = getattr(network, "norm", None), getattr(network, "fc_norm", None)
    if not behind or not isinstance(norms[0], nn.LayerNorm) or type(norms[1]) is not nn.Identity:
        return ()
    network.norm, network.fc_norm = norms[1], norms[0]
    network.global_pool = "avg"
    return ("the final norm comes after the mean of the patch tokens, as in training",)


def resample_positions(network: Any, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Resample position embeddings of a square grid to the network's grid.

    Parameters
    ----------
    network : torch.nn.Module
    tensors : dict of str to Tensor
        What is there to fill it, changed in place.

    Returns
    -------
    resized : tuple of str
        What was resampled, and how.
    """
    wanted, given = getattr(network, "pos_embed", None), tensors.get("pos_embed")
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if wanted is None or given is None or grid is None or wanted.shape == given.shape:
        return ()
    n_prefix = 0 if network.no_embed_class else network.num_prefix_tokens
    edge = math.isqrt(max(given.shape[-2] - n_prefix, 0)) if given.ndim == 3 else 0
    if edge == 0 or given.shape != (1, edge * edge + n_prefix, wanted.shape[-1]):
        return ()
    with torch.no_grad():
        tensors["pos_embed"] = resample_abs_pos_embed(
            given, new_size=list(grid), num_prefix_tokens=n_prefix
        )
    return (f"pos_embed from {edge} x {edge} to {grid[0]} x {grid[1]}",)


def _comparison(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    told = ""
    network, file = _description(wanted), _description(tensors)
    if network != file:
        told = f"The weights are of {file}, the network is {network}. "
    stems = [_shape(names["conv1.weight"])[2:] for names in (wanted, tensors) if _has_stem(names)]
    if stems == [(7, 7), (3, 3)]:
        told += (
            "The weights have a stem for CIFAR (conv1 of 3 x 3 and no max pooling, for images of "
            "32 pixels), which this network does not have. "
        )
    return told


def _has_stem(tensors: Mapping[str, Tensor]) -> bool:
    return "conv1.weight" in tensors


def _description(tensors: Mapping[str, Tensor]) -> str:
    """A network in a few words: what two that are mixed up differ in."""
    qkv, patches = (tensors.get(k) for k in ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"))
    if qkv is not None and patches is not None:
        n_blocks = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        return (
            f"a transformer of {n_blocks} blocks, {qkv.shape[-1]} wide, with patches of "
            f"{patches.shape[-1]} pixels"
        )
    blocks = {m[0] for name in tensors if (m := re.match(r"layer(\d+)\.\d+", name))}
    if blocks:
        stages = sorted({block.split(".")[0] for block in blocks})
        n_blocks_of = [sum(block.startswith(f"{stage}.") for block in blocks) for stage in stages]
        kind = "bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"
        return f"a ResNet of {', '.join(map(str, n_blocks_of))} {kind} blocks"
    names = [f"{name} {_shape(tensor)}" for name, tensor in tensors.items()]
    return f"another kind (it begins with {some(names[:2])})" if names else "nothing known"


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
