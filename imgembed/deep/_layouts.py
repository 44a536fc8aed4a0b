"""How published training code lays out its checkpoints: one row a layout.

Read from the code that wrote the files. A row says how a file is recognised, which of its
tensors are the backbone, how their names become timm's, and how the method showed images to
its network.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

# What wrapping a network for training puts before each of its names.
WRAPPERS = re.compile(r"((module|_orig_mod)\.)*")

# The classifier, and what stands in its place while a network is trained without labels.
_HEAD = r"(fc|head|classifier)\."

# Entries that lead to the tensors, best first: DINO's teacher is its better network, and an
# average of the weights over the last steps (EMA) is what training scripts evaluate.
ENTRIES = (
    "teacher",
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "resnet",
    "classy_state_dict",
    "base_model",
    "trunk",
)


@dataclass(frozen=True)
class Convention:
    """How a method showed images to its network; None is the architecture's own way.

    Parameters
    ----------
    mean, std : tuple of 3 float, or None
        By channel, of pixels in 0..1.
    crop_pct : float or None
        The share of the resized image's edge that the crop keeps.
    interpolation : {"bilinear", "bicubic"} or None
        How images are resized.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None

    def __str__(self) -> str:
        told = [f"{name} {value}" for name, value in vars(self).items() if value is not None]
        return ", ".join(told) or "as the architecture is by default"


OWN = Convention()


@dataclass(frozen=True)
class Layout:
    """A row of the table.

    Parameters
    ----------
    name : str
        The method, as its paper calls it.
    entries : tuple of str
        Entries beside the tensors that must all be there; with a slash behind, on the way to
        the tensors.
    marks : tuple of str
        Regular expressions, each of which must match the beginning of some tensor's name.
    prefixes : tuple of str
        What may stand before the backbone's names; the one that fits most tensors is taken.
    renames : tuple of (str, str)
        Regular expressions and their replacements, from the backbone's names to timm's.
    drops : tuple of str
        Regular expressions for the beginning of renamed names: what is no backbone, beside
        classifiers and projections named so.
    join : callable or None
        Makes timm's tensors of renamed ones, where they differ in more than their names.
    convention : Convention
        How images were shown to the network.
    activation : str
        Name of the class of the network's activation, where architectures that differ only
        in it have the same tensors.
    """

    name: str
    entries: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    renames: tuple[tuple[str, str], ...] = ()
    drops: tuple[str, ...] = ()
    join: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    convention: Convention = OWN
    activation: str = ""

    def recognises(self, entries: Collection[str], names: Collection[str]) -> bool:
        """Whether a file is laid out so.

        Parameters
        ----------
        entries : collection of str
            The names of all that lies beside the tensors or, with a slash behind, leads to them.
        names : collection of str
            The names of the tensors, without wrappers.

        Returns
        -------
        recognised : bool
        """
        marks = map(re.compile, self.marks)
        return set(self.entries) <= set(entries) and all(
            any(mark.match(name) for name in names) for mark in marks
        )

    def rename(self, name: str) -> str:
        """The name in timm of one of the backbone's tensors, without its prefix.

        Parameters
        ----------
        name : str

        Returns
        -------
        renamed : str
        """
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def is_dropped(self, renamed: str) -> bool:
        """Whether a tensor that the network does not want is known to be no backbone.

        Parameters
        ----------
        renamed : str

        Returns
        -------
        dropped : bool
        """
        return any(re.match(pattern, renamed) for pattern in (_HEAD, *self.drops))


def recognise(entries: Collection[str], names: Collection[str]) -> Layout:
    """The first layout of the table that a file has.

    Parameters
    ----------
    entries, names : collection of str
        See :meth:`Layout.recognises`.

    Returns
    -------
    layout : Layout
    """
    return next(layout for layout in LAYOUTS if layout.recognises(entries, names))


def _add_batch_axis(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's class token has one axis and its position embeddings two; timm's have three."""
    return {
        name: tensor.reshape(1, -1, tensor.shape[-1])
        if name in ("cls_token", "pos_embed")
        else tensor
        for name, tensor in tensors.items()
    }


def _split_positions(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With registers, timm has the class token's position added to the token."""
    if "reg_token" not in tensors or not {"cls_token", "pos_embed"} <= tensors.keys():
        return tensors
    positions = tensors["pos_embed"]
    return {
        **tensors,
        "cls_token": tensors["cls_token"] + positions[:, :1],
        "pos_embed": positions[:, 1:],
    }


def _join_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face keeps apart the query, key and value that timm has in one matrix."""
    joined = {}
    for name, tensor in tensors.items():
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if ".attn.query." in name and tensors.keys() >= set(parts):
            joined[name.replace(".query.", ".qkv.")] = torch.cat([tensors[p] for p in parts])
        elif not re.search(r"\.attn\.(key|value)\.", name):
            joined[name] = tensor
    return _split_positions(joined)


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_BILINEAR = Convention(_MEAN, _STD, 224 / 256, "bilinear")
_BICUBIC = Convention(_MEAN, _STD, 0.875, "bicubic")
_NOT_NORMALISED = Convention((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.875, "bicubic")
_OPENAI = Convention(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 1.0, "bicubic"
)

_LIGHTNING = ("pytorch-lightning_version",)

_CLIP_VIT = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "head.proj"),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.ls_(\d)\.", r".ls\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_CLIP_RESNET = (
    (r"^(conv|bn)(\d)\.", r"stem.conv\2.\1."),
    *((rf"^layer{stage}\.", f"stages.{stage - 1}.") for stage in (1, 2, 3, 4)),
    (r"^(stages\.\d+\.\d+)\.(conv|bn)([13])\.", r"\1.conv\3_1x1.\2."),
    (r"^(stages\.\d+\.\d+)\.(conv|bn)2\.", r"\1.conv2_kxk.\2."),
    (r"^(stages\.\d+\.\d+)\.downsample\.0\.", r"\1.shortcut.conv.conv."),
    (r"^(stages\.\d+\.\d+)\.downsample\.1\.", r"\1.shortcut.conv.bn."),
    (r"^attnpool\.positional_embedding$", "head.pos_embed"),
    (r"^attnpool\.([qkv])_proj\.", r"head.\1."),
    (r"^attnpool\.c_proj\.", "head.proj."),
)
_DINOV2 = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # in chunks, numbered through
    (r"^register_tokens$", "reg_token"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_HUGGING_FACE = (
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
_SIMCLR_V2 = (
    (r"^net\.0\.0\.", "conv1."),
    (r"^net\.0\.1\.0\.", "bn1."),
    (r"^net\.(\d)\.blocks\.(\d+)\.projection\.shortcut\.", r"layer\1.\2.downsample.0."),
    (r"^net\.(\d)\.blocks\.(\d+)\.projection\.bn\.0\.", r"layer\1.\2.downsample.1."),
    *(
        (rf"^net\.(\d)\.blocks\.(\d+)\.net\.{place}\.", rf"layer\1.\2.{layer}.")
        for place, layer in (
            *((str(2 * n - 2), f"conv{n}") for n in (1, 2, 3)),
            *((rf"{2 * n - 1}\.0", f"bn{n}") for n in (1, 2, 3)),
        )
    ),
)
_NUMBERED_RESNET = (  # nn.Sequential of its layers, of which 2 and 3 have no tensors
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    *((rf"^{stage + 3}\.", f"layer{stage}.") for stage in (1, 2, 3, 4)),
)

LAYOUTS = (
    Layout(
        "OpenAI CLIP",
        marks=("input_resolution$", r"visual\.class_embedding$"),
        prefixes=("visual.",),
        renames=_CLIP_VIT,
        join=_add_batch_axis,
        convention=_OPENAI,
        activation="QuickGELU",
    ),
    Layout(
        "CLIP",
        marks=(r"visual\.class_embedding$",),
        prefixes=("visual.",),
        renames=_CLIP_VIT,
        join=_add_batch_axis,
        convention=_OPENAI,
    ),
    Layout(
        "CLIP",
        marks=(r"visual\.attnpool\.",),
        prefixes=("visual.",),
        renames=_CLIP_RESNET,
        convention=_OPENAI,
    ),
    Layout("CLIP with a tower of timm", marks=(r"visual\.trunk\.",), prefixes=("visual.trunk.",)),
    Layout(
        "MoCo v3",
        marks=(r"base_encoder\.",),
        prefixes=("base_encoder.",),
        convention=_BICUBIC,
    ),
    Layout(
        "MoCo v2",
        marks=(r"encoder_q\.(fc|head|classifier)\.2\.",),
        prefixes=("encoder_q.",),
        convention=_BILINEAR,
    ),
    Layout(
        "MoCo v1",
        marks=(r"encoder_q\.",),
        prefixes=("encoder_q.",),
        convention=_BILINEAR,
    ),
    Layout(
        "DINOv2 of Hugging Face",
        marks=(
            r"(\w+\.)?embeddings\.patch_embeddings\.",
            r"(\w+\.)?encoder\.layer\.0\.layer_scale",
        ),
        prefixes=("", "backbone.", "dinov2.", "dinov2_with_registers."),
        renames=_HUGGING_FACE,
        drops=("mask_token$",),
        join=_join_attention,
        convention=Convention(_MEAN, _STD),
    ),
    Layout(
        "DINOv2",
        marks=(r"(backbone\.)?mask_token$", r"(backbone\.)?blocks\.[\d.]+\.ls1\.gamma$"),
        prefixes=("", "backbone."),
        renames=_DINOV2,
        drops=("mask_token$", r"(dino|ibot)_head\."),
        join=_split_positions,
        convention=Convention(_MEAN, _STD),
    ),
    Layout(
        "DINO",
        entries=("teacher/",),
        prefixes=("backbone.", ""),
        convention=_BICUBIC,
    ),
    Layout(
        "MAE",
        marks=(r"decoder_blocks\.", "mask_token$"),
        drops=("decoder_", "mask_token$"),
        convention=_BICUBIC,
    ),
    Layout(  # what MAE published, DeiT, and MoCo v3's convert_to_deit
        "MAE or DeiT",
        entries=("model/",),
        marks=("cls_token$", "pos_embed$", r"patch_embed\.proj\.", r"blocks\.0\.attn\.qkv\."),
        drops=("mask_token$",),
        convention=_BICUBIC,
    ),
    Layout(
        "VISSL",
        marks=(r"((trunk|base_model)\.)*_feature_blocks\.",),
        prefixes=(
            "_feature_blocks.",
            "base_model._feature_blocks.",
            "trunk._feature_blocks.",
            "trunk.base_model._feature_blocks.",
        ),
        convention=_BILINEAR,
    ),
    Layout(
        "SimCLR v2",
        marks=(r"net\.0\.0\.", r"net\.1\.blocks\."),
        renames=_SIMCLR_V2,
        convention=_NOT_NORMALISED,
    ),
    Layout(
        "lightly",
        entries=_LIGHTNING,
        marks=(
            r"(model\.)?(projection_head|prediction_head|key_\w+|online_classifier|features)\.",
        ),
        prefixes=("backbone.", "features.", "model.backbone.", "model.features."),
        renames=_NUMBERED_RESNET,
        convention=_BILINEAR,
    ),
    Layout(
        "solo-learn",
        entries=_LIGHTNING,
        marks=(
            r"(backbone|encoder)\.",
            r"(momentum_\w+|projector|predictor|prototypes|classifier|decoder)\.",
        ),
        prefixes=("backbone.", "encoder."),
        convention=_BICUBIC,
    ),
    Layout(
        "SimSiam",
        marks=(r"encoder\.", r"predictor\."),
        prefixes=("encoder.",),
        convention=_BILINEAR,
    ),
    Layout(
        "SimCLR",  # Spijkervet's
        marks=(r"encoder\.", r"projector\."),
        prefixes=("encoder.",),
        convention=_NOT_NORMALISED,
    ),
    Layout(
        "SimCLR",  # sthalles's
        marks=(r"backbone\.(fc|head|classifier)\.0\.",),
        prefixes=("backbone.",),
        convention=_NOT_NORMALISED,
    ),
    Layout(
        "Barlow Twins",
        marks=(r"backbone\.", r"projector\.", r"bn\."),
        prefixes=("backbone.",),
        convention=_BILINEAR,
    ),
    Layout(
        "VICReg",
        marks=(r"backbone\.", r"projector\."),
        prefixes=("backbone.",),
        convention=_BILINEAR,
    ),
    Layout(
        "SwAV",
        marks=(r"prototypes", r"projection_head\."),
        drops=("prototypes", r"projection_head\."),
        convention=_BILINEAR,
    ),
    Layout("MoCo linear probe", entries=("arch", "best_acc1"), convention=_BILINEAR),
    Layout(
        "plain",
        prefixes=("", "backbone.", "encoder.", "model.", "net.", "network.", "model.backbone."),
    ),
)
