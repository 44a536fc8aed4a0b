"""Networks of images and text from open_clip; the only place that knows open_clip."""

import difflib
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from .._optional import import_optional
from ._backbones import Weights
from ._checkpoints import CheckpointError, CheckpointReport, fill_network, read_checkpoint
from ._layouts import WRAPPERS
from ._preprocessing import NORMALISATIONS, Normalisation, Preprocessing

# Numbers and masks that files hold beside the weights; the architecture says them too.
_NO_WEIGHTS = re.compile(
    r"(.+\.)?(input_resolution|context_length|vocab_size|attn_mask|position_ids)"
)
# The text tower's own names, in files that have no "text." before them.
_TEXT_TOWER = re.compile(
    r"positional_embedding|text_projection|(token_embedding|transformer|ln_final)\."
)
_N_TOLD = 3  # texts in a warning
_LONGEST_TOLD = 60  # characters of a text


class ImageTower(nn.Module):
    """From inputs of shape (n_images, 3, height, width) to vectors of unit length.

    Parameters
    ----------
    model : torch.nn.Module
        A model of open_clip. All of it is kept, so that a digest covers both towers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Vectors of shape (n_images, n_features), dtype float32."""
        return normalize(self.model.encode_image(inputs, normalize=False).float(), dim=-1)


def build_model(
    model_name: str, weights: Weights, seed: int = 0
) -> tuple[nn.Module, CheckpointReport | None]:
    """Build a model of open_clip with both towers, in evaluation mode, on the CPU.

    Parameters
    ----------
    model_name : str
        Name of the architecture in open_clip.
    weights : str, path or None
        One of open_clip's pretrained tags, a file, or nothing.
    seed : int, default=0
        For the weights of ``weights=None``.

    Returns
    -------
    model : torch.nn.Module
    report : CheckpointReport or None
        What was made of the file with the weights.

    Raises
    ------
    ValueError
        If open_clip has no such model.
    CheckpointError
        If the weights cannot be had or do not fit, or a part of the model needs a hub.
    ImportError
        If open_clip is not installed (extra ``clip``).
    """
    open_clip = _open_clip()
    if model_name not in open_clip.list_models():
        raise ValueError(_unknown_model(open_clip, model_name))
    config = open_clip.get_model_config(model_name)
    tag = open_clip.get_pretrained_cfg(model_name, str(weights))
    if tag and tag.get("quick_gelu") and not config.get("quick_gelu"):
        raise CheckpointError(_no_quick_gelu(open_clip, model_name, f"weights={weights!r} were"))
    path = _download(open_clip, model_name, weights, tag) if tag else weights
    preprocessing = tag or _preprocessing_of_tags(open_clip, model_name)
    try:
        # Initial weights come from the global generator, which is given back as it was.
        with torch.random.fork_rng(devices=[]), _open_clip_is_quiet():
            torch.default_generator.manual_seed(seed)
            model: nn.Module = open_clip.create_model(
                model_name, pretrained_text=False, force_preprocess_cfg=preprocessing
            )
    except (ImportError, OSError, RuntimeError) as error:
        raise CheckpointError(_no_text_tower(model_name, config, error)) from error
    report = None if path is None else _fill(open_clip, model, model_name, path)
    return model.eval(), report


def resolve_preprocessing(model: nn.Module, normalisation: Normalisation) -> Preprocessing:
    """The preprocessing that belongs to a model and its weights.

    Parameters
    ----------
    model : torch.nn.Module
        From :func:`build_model`.
    normalisation : str or (mean, std)
        What the user asks for; "auto" is what open_clip says.

    Returns
    -------
    preprocessing : Preprocessing

    Raises
    ------
    ValueError
        If the model wants something that is not built here.
    """
    config = _open_clip().get_model_preprocess_cfg(model)
    size, mode = config["size"], config["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width):
        raise ValueError(
            f"this model takes images of {height} x {width} pixels, resize mode {mode!r}; built "
            "are 'squash', and 'shortest' for squares"
        )
    if isinstance(normalisation, str):
        own = config["mean"], config["std"]
        normalisation = own if normalisation == "auto" else NORMALISATIONS[normalisation]
    bilinear = config["interpolation"] == "bilinear"
    return Preprocessing(
        height=height,
        width=width,
        crop_pct=1.0,
        squash=mode == "squash",
        resampling=Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC,
        mean=tuple(map(float, normalisation[0])),
        std=tuple(map(float, normalisation[1])),
    )


def tokenize(model_name: str, texts: Sequence[str]) -> Tensor:
    """Texts as the text tower takes them; a warning names those that it cuts.

    Parameters
    ----------
    model_name : str
        Name of the architecture in open_clip.
    texts : sequence of n_texts str

    Returns
    -------
    tokens : Tensor of shape (n_texts, context_length), dtype int64

    Raises
    ------
    CheckpointError
        If the tokenizer's vocabulary is on a hub and cannot be had.
    """
    tokenizer = _tokenizer(model_name)
    tokens: Tensor = tokenizer(list(texts))
    # A text is cut if with room for one token more it has more tokens.
    longer = tokenizer(list(texts), context_length=tokens.shape[1] + 1)
    padding = tokenizer([""])[0].mode().values
    is_cut = (longer != padding).sum(1) > (tokens != padding).sum(1)
    cut = [text for text, too_long in zip(texts, is_cut.tolist(), strict=True) if too_long]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(texts)} texts are longer than the {tokens.shape[1]} tokens that "
            f"{model_name!r} reads, and their ends are cut off: {_shortened(cut)}",
            UserWarning,
            stacklevel=3,
        )
    return tokens


def _open_clip() -> Any:
    return import_optional("open_clip", extra="clip", needed_by="CLIPEmbedder")


@contextmanager
def _open_clip_is_quiet() -> Iterator[None]:
    """Hold back what open_clip logs while it builds.

    It logs to the root logger, which sets up logging for the whole process, and says that
    weights are random which are loaded afterwards.
    """
    root, handler = logging.getLogger(), logging.NullHandler()

    def is_from_elsewhere(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root.addHandler(handler)
    root.addFilter(is_from_elsewhere)
    try:
        yield
    finally:
        root.removeFilter(is_from_elsewhere)
        root.removeHandler(handler)


def _unknown_model(open_clip: Any, model_name: str) -> str:
    close = difflib.get_close_matches(model_name, open_clip.list_models(), n=3)
    hint = f" Did you mean {', '.join(map(repr, close))}?" if close else ""
    return f"open_clip has no model {model_name!r}.{hint} open_clip.list_models() lists all."


def _no_quick_gelu(open_clip: Any, model_name: str, what: str) -> str:
    other = f"{model_name}-quickgelu"
    hint = f": model_name={other!r}" if other in open_clip.list_models() else ""
    return (
        f"{what} trained with QuickGELU, which {model_name!r} does not have, and its vectors would "
        f"be wrong. Take the architecture with it{hint}"
    )


def _no_text_tower(model_name: str, config: dict[str, Any], error: Exception) -> str:
    told = f"open_clip cannot build {model_name!r} ({_first_line(error)})"
    if "hf_model_name" in config["text_cfg"]:
        told += (
            ". Its text tower is of Hugging Face: install the package transformers, and let it "
            "load the configuration once with a network. Or take a model whose text tower is "
            "open_clip's own, such as 'ViT-B-32'"
        )
    return told


def _download(open_clip: Any, model_name: str, tag: Weights, config: dict[str, Any]) -> str:
    try:
        path: str = open_clip.download_pretrained(config)
    except (OSError, RuntimeError, ValueError) as error:
        source = config.get("hf_hub") or config.get("url")
        raise CheckpointError(
            f"cannot get the weights {tag!r} of {model_name!r} ({_first_line(error)}). Without a "
            f"network download them elsewhere, from {source!r}, and pass the file: "
            "weights='path/to/file.safetensors'"
        ) from error
    return path


def _preprocessing_of_tags(open_clip: Any, model_name: str) -> dict[str, Any]:
    """What all published weights of an architecture agree on; the rest is open_clip's default."""
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    configs = [open_clip.get_pretrained_cfg(model_name, tag) for tag in tags]
    return {
        name: configs[0][name]
        for name in ("mean", "std", "interpolation", "resize_mode")
        if configs and all(config[name] == configs[0][name] for config in configs)
    }


def _fill(open_clip: Any, model: nn.Module, model_name: str, path: Any) -> CheckpointReport:
    if not os.path.isfile(path):
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        raise CheckpointError(
            f"weights={os.fspath(path)!r} is neither a file nor one of open_clip's tags for "
            f"{model_name!r}: {', '.join(tags) or 'it has none'}"
        )
    checkpoint = read_checkpoint(path)
    own_names = {WRAPPERS.sub("", name, count=1): name for name in checkpoint.tensors}
    if "input_resolution" in own_names and not _has_quick_gelu(model):
        what = f"{checkpoint.path!r} is OpenAI's, which was"
        raise CheckpointError(_no_quick_gelu(open_clip, model_name, what))
    used = {name: own for name, own in own_names.items() if not _NO_WEIGHTS.fullmatch(name)}
    try:
        tensors = {name: checkpoint.tensors[own] for name, own in used.items()}
        fill_network(model, _as_model_has_them(tensors, model), ())
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path!r} for {model_name!r}: {error}") from error
    return CheckpointReport(
        path=checkpoint.path,
        layout=checkpoint.layout.name,
        architecture=checkpoint.architecture,
        prefix=" or ".join(sorted({own.removesuffix(name) for name, own in used.items()})),
        n_used=len(used),
        dropped=tuple(own for name, own in own_names.items() if name not in used),
        ignored=checkpoint.ignored,
    )


def _has_quick_gelu(model: nn.Module) -> bool:
    return any(type(layer).__name__ == "QuickGELU" for layer in model.modules())


def _as_model_has_them(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Under the model's names, and the scale and bias of logits with its axes, one or none."""
    wanted = model.state_dict()
    if hasattr(model, "text"):  # the text tower is apart
        tensors = {f"text.{k}" if _TEXT_TOWER.match(k) else k: v for k, v in tensors.items()}
    for name in {"logit_scale", "logit_bias"} & tensors.keys() & wanted.keys():
        if tensors[name].numel() == 1:
            tensors[name] = tensors[name].reshape(wanted[name].shape)
    return tensors


@lru_cache(maxsize=8)
def _tokenizer(model_name: str) -> Any:
    open_clip = _open_clip()
    try:
        with _open_clip_is_quiet():
            return open_clip.get_tokenizer(model_name)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"cannot get the tokenizer of {model_name!r} ({_first_line(error)}). Its vocabulary "
            "does not come with open_clip: install the package transformers, and load it once with "
            "a network. Images can be embedded without it"
        ) from error


def _shortened(texts: Sequence[str]) -> str:
    told = [
        repr(text if len(text) <= _LONGEST_TOLD else f"{text[:_LONGEST_TOLD]}...")
        for text in texts[:_N_TOLD]
    ]
    more = f" and {len(texts) - _N_TOLD} more" if len(texts) > _N_TOLD else ""
    return ", ".join(told) + more


def _first_line(error: Exception) -> str:
    told = str(error).splitlines() or ["no message"]
    return f"{type(error).__name__}: {told[0]}"
