"""OnnxEngine: an embedding exported once, kept on disk, and run by ONNX Runtime."""

import hashlib
import logging
import os
import tempfile
import threading
import warnings
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .._optional import import_optional
from ._preprocessing import Preprocessing

# The largest difference to torch, by the largest entry: the two add in another order.
_TOLERANCE = 1e-4
# What exports and what runs; a new version of one exports anew.
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


class ExportError(RuntimeError):
    """A network cannot be exported to ONNX, or not faithfully."""


def onnx_available() -> bool:
    """Whether the packages of the extra ``onnx`` are installed."""
    return all(find_spec(package) is not None for package in _PACKAGES)


def exports_folder() -> Path:
    """Where exported networks are kept.

    Returns
    -------
    folder : Path
        ``$IMGEMBED_CACHE/onnx``, else ``$XDG_CACHE_HOME/imgembed/onnx``, else
        ``~/.cache/imgembed/onnx``. It may be deleted at any time.
    """
    if "IMGEMBED_CACHE" in os.environ:
        return Path(os.environ["IMGEMBED_CACHE"], "onnx")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "imgembed", "onnx")


class _FromPixels(nn.Module):
    """An embedding with the normalisation before it."""

    def __init__(self, embedding: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.embedding, self.preprocessing = embedding, preprocessing

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors of pixels of shape (n_images, height, width, 3), dtype uint8."""
        vectors: torch.Tensor = self.embedding(self.preprocessing.normalise(pixels))
        return vectors


class OnnxEngine:
    """Run an embedding in ONNX Runtime on the CPU, one image at a time.

    The network is exported for one image of fixed size, which is the fastest: batches gain
    nothing on a CPU, and free sizes cost. The normalisation is exported too: in torch it would wake
    threads of torch's in each thread that embeds. Each file that is loaded must give a test image
    the vector that torch gives it.

    Parameters
    ----------
    embedding : torch.nn.Module
        From inputs of shape (n_images, 3, height, width) to vectors. On the
        CPU, in evaluation mode.
    preprocessing : Preprocessing
        It normalises pixels.
    digest : str
        Of the weights and all that decides the vectors of normalised inputs.
    """

    def __init__(self, embedding: nn.Module, preprocessing: Preprocessing, digest: str) -> None:
        for package in _PACKAGES[1:]:
            import_optional(package, extra="onnx", needed_by="engine='onnxruntime'")
        self.network = _FromPixels(embedding, preprocessing)
        self.digest = f"{digest}, of pixels, {preprocessing.mean}, {preprocessing.std}"
        self._sessions: dict[tuple[int, int, int], Any] = {}
        self._lock = threading.Lock()

    def run(self, pixels: NDArray[np.uint8], n_threads: int) -> NDArray[np.float32]:
        """The vectors of images.

        Parameters
        ----------
        pixels : ndarray of shape (n_images, height, width, 3), dtype uint8
        n_threads : int
            Threads that work on an image.

        Returns
        -------
        vectors : ndarray of shape (n_images, n_features), dtype float32
        """
        session = self.session(pixels.shape[1], pixels.shape[2], n_threads)
        one_by_one = pixels[:, np.newaxis]
        return np.concatenate([session.run(None, {"pixels": one})[0] for one in one_by_one])

    def session(self, height: int, width: int, n_threads: int) -> Any:
        """The session for images of a size, from memory, from disk, or exported now.

        Parameters
        ----------
        height, width : int
            In pixels.
        n_threads : int
            Threads that work on an image.

        Returns
        -------
        session : onnxruntime.InferenceSession

        Raises
        ------
        ExportError
            If the network cannot be exported, or ONNX Runtime gives other vectors than torch.
        """
        with self._lock:
            key = (height, width, n_threads)
            if key not in self._sessions:
                self._sessions[key] = self._open(height, width, n_threads)
            return self._sessions[key]

    def _open(self, height: int, width: int, n_threads: int) -> Any:
        path = exports_folder() / f"{self._key(height, width)}.onnx"
        rng = np.random.default_rng(0)
        example = torch.from_numpy(rng.integers(0, 256, (1, height, width, 3), np.uint8))
        if path.is_file():
            try:
                return self._checked_session(path.read_bytes(), example, n_threads)
            except ExportError:  # it is damaged; the new one takes its place
                pass
        model = _export(self.network, example)
        session = self._checked_session(model, example, n_threads)
        _keep(model, path)
        return session

    def _key(self, height: int, width: int) -> str:
        versions = [(package, version(package)) for package in _PACKAGES]
        return hashlib.sha256(repr((self.digest, height, width, versions)).encode()).hexdigest()

    def _checked_session(self, model: bytes, example: torch.Tensor, n_threads: int) -> Any:
        """A session, if it gives the vector that torch gives."""
        session = _session(model, n_threads)
        with torch.inference_mode():
            wanted = self.network(example).numpy()
        try:
            got = session.run(None, {"pixels": example.numpy()})[0]
            difference = np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max())
        except Exception as error:  # ONNX Runtime has no common base of its errors
            raise ExportError(f"ONNX Runtime cannot run the network: {error}") from error
        if not difference <= _TOLERANCE:  # NaN too
            raise ExportError(
                f"ONNX Runtime's vector differs from torch's by {difference:.1e}, more than "
                f"{_TOLERANCE:.0e} of its largest entry"
            )
        return session


def _session(model: bytes, n_threads: int) -> Any:
    runtime = import_optional("onnxruntime", extra="onnx", needed_by="engine='onnxruntime'")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = n_threads
    # Idle threads would else burn the time of those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; they are raised as well
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot load the network: {error}") from error


def _export(network: nn.Module, example: torch.Tensor) -> bytes:
    """The network as an ONNX file, by torch's newer exporter, or by its older one.

    Graphs of the newer are a sixth faster on mobile networks; it fails on some transformers.
    """
    try:
        return _export_by(network, example, dynamo=True)
    except Exception:  # exporters let through whatever tracing raises
        try:
            return _export_by(network, example, dynamo=False)
        except Exception as error:
            raise ExportError(
                f"the network cannot be exported to ONNX ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no message'})"
            ) from error


def _export_by(network: nn.Module, example: torch.Tensor, *, dynamo: bool) -> bytes:
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        # Exporters draw and warn; neither is the user's concern.
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.simplefilter("ignore")
            path = Path(folder, "network.onnx")
            torch.onnx.export(
                network,
                (example,),
                path,
                input_names=["pixels"],
                output_names=["vectors"],
                dynamo=dynamo,
                external_data=False,
                verbose=False,
            )
            return path.read_bytes()
    finally:
        exporter.setLevel(level)


def _keep(model: bytes, path: Path) -> None:
    """Write a file whole or not at all; without it the network is only exported again."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(model)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        warnings.warn(
            f"the exported network cannot be kept in {path.parent} ({error}); it will be exported "
            "again next time. Set IMGEMBED_CACHE to a folder that can be written",
            UserWarning,
            stacklevel=2,
        )
