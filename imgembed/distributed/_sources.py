"""Images at addresses that fsspec knows (s3://, gs://), fetched where they are embedded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._optional import import_optional

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*(::|://)")


class RemoteImage(Mapping[str, Any]):
    """An image at an address, in the form of a Hugging Face cell. It is fetched when it is read.

    Parameters
    ----------
    address : str
    storage_options : dict of str to object
        For its file system. They may hold credentials, and are in no message.
    """

    def __init__(self, address: str, storage_options: Mapping[str, Any]) -> None:
        self.address, self.storage_options = address, storage_options
        self._fetched: bytes | None = None

    def __getitem__(self, name: str) -> Any:
        if name == "path":
            return self.address
        if name != "bytes":
            raise KeyError(name)
        if self._fetched is None:
            fsspec = _fsspec()
            files, path = fsspec.core.url_to_fs(self.address, **self.storage_options)
            self._fetched = files.cat_file(path)
        return self._fetched

    def __iter__(self) -> Iterator[str]:
        return iter(("bytes", "path"))

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return f"RemoteImage({self.address!r})"


class RemoteImages(Sequence[object]):
    """Images of which some are addresses.

    Parameters
    ----------
    images : sequence of images
    storage_options : dict of str to object
        For the file systems of the addresses.

    Raises
    ------
    ImportError
        When an address is met and fsspec is not installed (extra ``remote``).
    """

    def __init__(self, images: Sequence[object], storage_options: Mapping[str, Any]) -> None:
        self.images, self.storage_options = images, storage_options

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: Any) -> Any:
        image = self.images[row]
        if not isinstance(image, str) or not _ADDRESS.match(image):
            return image
        _fsspec()  # what is missing is said here, and not by a worker of each image
        return RemoteImage(image, self.storage_options)


def _fsspec() -> Any:
    return import_optional("fsspec", extra="remote", needed_by="an image at an address")
