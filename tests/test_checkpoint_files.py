"""Files of weights: read as torch reads them, harmless when hostile, refused when damaged."""

import argparse
import collections
import copy
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from test_checkpoints import HEAD, save_torchscript, vit

from imgembed.deep._archives import CheckpointError, read_archive
from imgembed.deep._checkpoints import load_checkpoint, read_checkpoint

LEGACY = {"_use_new_zipfile_serialization": False}


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    kinds = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
    return {
        **{kind: base.to(getattr(torch, kind)) for kind in kinds},
        "transposed": base.T,
        "a part": base[1:3, ::2],
        "shared": base,
        "a scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


@pytest.mark.parametrize("options", [{}, LEGACY, {"pickle_protocol": 4}])
def test_tensors_are_those_that_torch_reads(options: dict[str, Any], tmp_path: Path) -> None:
    content = {"state_dict": tensors(), "lr": 0.5, "n": 2**40, "names": ["a", ("b", None, True)]}
    torch.save(content, tmp_path / "file.pth", **options)
    got = read_archive(tmp_path / "file.pth")
    assert {k: got[k] for k in ("lr", "n", "names")} == {
        k: content[k] for k in ("lr", "n", "names")
    }
    assert got["state_dict"].keys() == tensors().keys()
    for name, wanted in tensors().items():
        assert got["state_dict"][name].dtype == wanted.dtype
        assert torch.equal(got["state_dict"][name], wanted), name


def test_a_file_saved_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors(), tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_archive(tmp_path / "file.pth")["shared"], tensors()["shared"])


def test_torchscript_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    state = vit(1).state_dict()
    save_torchscript(state, tmp_path / "file.pt")
    got = read_archive(tmp_path / "file.pt")
    assert got.keys() == state.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in state.items())


def test_neither_torch_load_nor_torch_jit_load_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tensors(), tmp_path / "file.pth")
    save_torchscript(vit(1).state_dict(), tmp_path / "file.pt")
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr(torch.jit, "load", None)
    assert read_archive(tmp_path / "file.pth").keys() == tensors().keys()
    assert read_archive(tmp_path / "file.pt").keys() == vit(1).state_dict().keys()


def test_other_objects_are_kept_as_their_attributes(tmp_path: Path) -> None:
    content = {
        "args": argparse.Namespace(lr=0.1, folder=Path("a")),
        "callbacks": collections.defaultdict(list, {"a": [1]}),
        "accuracy": np.float64(0.5),
        "counts": collections.Counter("abc"),
        "days": {frozenset({1}), frozenset({2})},
    }
    torch.save(content, tmp_path / "file.pth")
    got = read_archive(tmp_path / "file.pth")
    assert got["args"].name == "argparse.Namespace"
    assert got["args"]["lr"] == 0.1
    assert got["callbacks"] == {"a": [1]}
    assert got.keys() == content.keys()


class Call:
    """A pickle that calls a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(folder: Path) -> dict[str, Any]:
    """Of each kind, what would make a folder or run a program if it were unpickled."""
    made = str(folder / "executed")
    mkdir = Call(os.mkdir, made)
    return {
        "beside the tensors": {**tensors(), "x": mkdir},
        "in Lightning's callbacks": {
            "pytorch-lightning_version": "2.4.0",
            "state_dict": tensors(),
            "callbacks": collections.defaultdict(list, {"a": [mkdir]}),
        },
        "by eval": {
            "state_dict": tensors(),
            "args": Call(eval, f"__import__('os').mkdir({made!r})"),
        },
        "by getattr": {"state_dict": tensors(), "args": Call(getattr, Path(made), "mkdir")},
        "by a program": {"state_dict": tensors(), "args": Call(subprocess.Popen, ["mkdir", made])},
        "by a function of torch": {"a": Call(torch.hub.load_state_dict_from_url, "http://x")},
    }


@pytest.mark.parametrize("options", [{}, LEGACY, {"pickle_protocol": 4}])
@pytest.mark.parametrize("where", hostile(Path()))
def test_a_hostile_file_is_refused_and_not_executed(
    where: str, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(hostile(tmp_path)[where], tmp_path / "file.pth", **options)
    with pytest.raises(CheckpointError, match=r"more than tensors and plain.*to be called"):
        read_checkpoint(tmp_path / "file.pth")
    assert os.listdir(tmp_path) == ["file.pth"]


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Change the entries of a zip file, with the right checksums."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def test_modules_that_share_modules_are_taken_once(tmp_path: Path) -> None:
    save_torchscript(vit(1).state_dict(), tmp_path / "file.pt")
    # 60 modules, each twice in the next: 2**60 names for the one at the bottom.
    nested = b"\x80\x02c__torch__\nM\n)\x81q\x00"
    for _ in range(60):
        nested += b"c__torch__\nM\n)\x81}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00ubq\x00"
    rewritten(tmp_path / "file.pt", lambda n, x: nested + b"." if n.endswith("/data.pkl") else x)
    assert read_archive(tmp_path / "file.pt") == {}


def test_a_flipped_byte_among_the_numbers_is_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.full((1000,), 3.0)}, tmp_path / "file.pth")
    content = bytearray((tmp_path / "file.pth").read_bytes())
    content[content.index(struct.pack("<9f", *[3.0] * 9)) + 500] ^= 1
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checksum of file/data/0 is wrong"):
        read_archive(tmp_path / "file.pth")


def test_a_hostile_torchscript_archive_is_not_executed(tmp_path: Path) -> None:
    save_torchscript(vit(1).state_dict(), tmp_path / "file.pt")
    bad = pickle.dumps(Call(os.mkdir, str(tmp_path / "executed")), protocol=2)
    rewritten(tmp_path / "file.pt", lambda n, old: bad if n.endswith("/data.pkl") else old)
    with pytest.raises(CheckpointError, match="mkdir to be called"):
        read_checkpoint(tmp_path / "file.pt")
    assert os.listdir(tmp_path) == ["file.pt"]


def test_the_code_in_a_torchscript_archive_is_not_looked_at(tmp_path: Path) -> None:
    save_torchscript(vit(1).state_dict(), tmp_path / "file.pt")
    rewritten(tmp_path / "file.pt", lambda n, old: b"while True" if "/code/" in n else old)
    assert read_archive(tmp_path / "file.pt").keys() == vit(1).state_dict().keys()


def made_without_call(path: str) -> bytes:
    """A pickle that makes a subprocess.Popen and sets its attributes, without a call."""
    state = pickle.dumps({"args": path}, protocol=2)[2:-1]
    return b"\x80\x02}X\x01\x00\x00\x00acsubprocess\nPopen\n)\x81" + state + b"bs."


def test_an_object_of_any_class_is_never_made(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "file.pth")
    content = made_without_call(str(tmp_path / "executed"))
    rewritten(tmp_path / "file.pth", lambda n, old: content if "data.pkl" in n else old)
    got = read_archive(tmp_path / "file.pth")["a"]
    assert (got.name, got) == ("subprocess.Popen", {"args": str(tmp_path / "executed")})
    with pytest.raises(CheckpointError, match="not tensors: a"):
        read_checkpoint(tmp_path / "file.pth")


def lying(old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        assert not name.endswith("data.pkl") or old in content
        return content.replace(old, new) if name.endswith("data.pkl") else content

    return change


LIES = {
    "a storage of 8 GB": (b"K\x06t", b"J\x00\x00\x00\x7ft"),
    "a storage of less than nothing": (b"K\x06t", b"J\xff\xff\xff\xfft"),
    "a storage of 7 numbers": (b"K\x06t", b"K\x07t"),
    "a tensor of 2 billion rows": (b"K\x02K\x03\x86", b"J\x00\x00\x00\x7fK\x03\x86"),
    "one number 6 billion times": (
        b"K\x02K\x03\x86K\x03K\x01\x86",
        b"J\x00\x00\x00\x7fK\x03\x86K\x00K\x00\x86",
    ),
    "strides that leave the storage": (b"K\x03K\x01\x86", b"K\x7fK\x01\x86"),
    "strides backwards": (b"K\x03K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86"),
    "an offset beyond the end": (b"QK\x00K\x02", b"QK\x05K\x02"),
    "a name for its shape": (b"K\x02K\x03\x86", b"X\x01\x00\x00\x00aK\x03\x86"),
    "no such storage": (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("lie", LIES)
def test_sizes_that_lie_about_their_storage_are_refused(
    lie: str, legacy: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    state = {"a": torch.arange(6.0).reshape(2, 3)}
    torch.save(state, path, **(LEGACY if legacy else {}))
    old, new = LIES[lie]
    if not legacy:
        # To find the one place: without the memo's instructions between.
        rewritten(path, lambda n, x: plainly_pickled() if n.endswith("data.pkl") else x)
        assert torch.equal(read_archive(path)["a"], state["a"])
        rewritten(path, lying(old, new))
    else:
        start, end = legacy_parts(path)
        path.write_bytes(start + plainly_pickled() + end)
        assert torch.equal(read_archive(path)["a"], state["a"])
        path.write_bytes(start + plainly_pickled().replace(old, new) + end)
    with pytest.raises(CheckpointError, match=r"cannot read weights"):
        read_archive(path)


def plainly_pickled() -> bytes:
    """{"a": a tensor of 2 x 3 numbers of storage "0"}."""
    name = b"X\x01\x00\x00\x00"
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + name + b"0"
    storage += b"X\x03\x00\x00\x00cpuK\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02K\x03\x86"
    tensor += b"K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + name + b"a" + tensor + b"s."


def legacy_parts(path: Path) -> tuple[bytes, bytes]:
    """What is before and behind the content's pickle, for storage "0"."""
    content = path.read_bytes()
    stream = io.BytesIO(content)
    for _ in range(3):
        pickle.load(stream)
    numbers = struct.pack("<q6f", 6, *range(6))
    return content[: stream.tell()], pickle.dumps(["0"], protocol=2) + numbers


def test_entries_of_a_zip_file_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({str(i): torch.full((1000,), float(i)) for i in range(30)}, path)
    with zipfile.ZipFile(path) as archive:
        content, numbers = archive.read("file/data.pkl"), archive.read("file/data/0")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", content)
        archive.writestr("file/data/0", numbers)
        for i in range(1, 30):
            alias = copy.copy(archive.getinfo("file/data/0"))
            alias.filename = f"file/data/{i}"
            archive.filelist.append(alias)
    with pytest.raises(CheckpointError, match="claim more bytes than it has"):
        read_archive(path)


def in_zip(content: bytes, folder: Path) -> Path:
    torch.save({"a": torch.ones(1)}, folder / "file.pth")
    rewritten(folder / "file.pth", lambda n, old: content if n.endswith("data.pkl") else old)
    return folder / "file.pth"


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + b"(" * 300_000 + b")" + b"\x85" * 300_000 + b"K\x01s.",
        b"\x80\x02}r\xff\xff\xff\xff}q\x00h\x00s.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x0fabc.",
        b"\x80\x02.",
        b"\x80\x02tttt.",
        b"\x80\x02c__main__\n",
        b"",
    ],
    ids=range(8),
)
def test_hostile_instructions_end_in_the_one_error(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(in_zip(content, tmp_path))


def test_a_deep_tuple_as_a_key_is_not_hashed(tmp_path: Path) -> None:
    deep = b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."
    with pytest.raises(CheckpointError, match="not tensors with names"):
        read_checkpoint(in_zip(deep, tmp_path))


def test_a_dict_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"lr": 1}
    content["model"] = content
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="not tensors: lr, model"):
        read_checkpoint(tmp_path / "file.pth")


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"something")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pth", b"", "empty.*Download"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS.*git lfs pull"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1", "Git LFS.*git lfs pull"),
        ("a.pth", b"\n<!DOCTYPE html><html>", "HTML.*Download it again"),
        ("a.pth", zipped("readme.txt"), r"zip archive.*readme\.txt.*unpack"),
        ("a.npz", zipped("x.npy"), "archive of NumPy"),
        ("a.npy", b"\x93NUMPY\x01\x00", "NumPy array.*state_dict"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5.*Keras"),
        ("model.ckpt.index", b"\x00\x00\x12", "TensorFlow"),
        ("model.ckpt.data-00000-of-00001", b"\x12\x13", "TensorFlow"),
        ("a.tar", b"a" * 257 + b"ustar", "Unpack"),
        ("a.pth.gz", b"\x1f\x8b\x08", "Unpack"),
        ("a.json", b'{"weights": 1}', "JSON"),
        ("a.pkl", pickle.dumps({"a": 1}), r"pickle that torch.save did not write.*state_dict"),
        ("a.pth", b"some words", "no checkpoint of a kind"),
    ],
)
def test_a_mistaken_file_is_named_and_what_to_do(
    name: str, content: bytes, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as error:
        read_checkpoint(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_a_whole_network_is_named_and_what_to_do(options: dict[str, Any], tmp_path: Path) -> None:
    for content in (vit(1), {"model": vit(1), "epoch": 3}):
        torch.save(content, tmp_path / "file.pth", **options)
        with pytest.raises(CheckpointError, match=r"whole network \(timm.*state_dict\(\)"):
            read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize(("content", "told"), [([1, 2], "list"), (3, "int"), ({}, "dict")])
def test_what_has_no_named_tensors_is_told(content: Any, told: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=f"holds a {told}, not tensors with names"):
        read_checkpoint(tmp_path / "file.pth")


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "no.pth", tmp_path, str(tmp_path)):
        with pytest.raises(CheckpointError, match="no weights file"):
            read_checkpoint(path)


SMALL: dict[str, Any] = {"embed_dim": 2, "depth": 1, "num_heads": 1, "patch_size": 32}


def save(kind: str, path: Path) -> None:
    state = vit(1, **SMALL).state_dict()
    if kind == "TorchScript":
        save_torchscript(state, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        content = {"arch": "vit", "state_dict": state, "args": argparse.Namespace(lr=1)}
        torch.save(content, path, **(LEGACY if kind == "legacy" else {}))


def is_refused_or_whole(path: Path) -> bool:
    """Whether a damaged file is refused; if not, it has filled the network whole."""
    network = vit(2, **SMALL)
    for parameter in network.parameters():
        parameter.data.fill_(torch.inf)
    try:
        load_checkpoint(network, read_checkpoint(path), HEAD)
    except CheckpointError:
        return True
    wanted = vit(1, **SMALL).state_dict()
    n_right = sum(torch.equal(v, wanted[k]) for k, v in network.state_dict().items())
    assert n_right >= len(wanted) - 1  # one flipped byte changes one tensor
    return False


KINDS = ["zip", "legacy", "safetensors", "TorchScript"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path / "file")
    assert not is_refused_or_whole(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    for length in np.linspace(0, len(content) - 1, 150, dtype=int):
        (tmp_path / "file").write_bytes(content[:length])
        assert is_refused_or_whole(tmp_path / "file"), length


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_ends_in_the_one_error_or_a_whole_network(kind: str, tmp_path: Path) -> None:
    save(kind, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    rng = np.random.default_rng(0)
    n_refused = 0
    for position in rng.integers(0, len(content), 400):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        (tmp_path / "file").write_bytes(damaged)
        n_refused += is_refused_or_whole(tmp_path / "file")
    assert n_refused > 0
