"""Ids as texts that every server keeps, and back."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..index import DuplicateIdError, UnknownIdError
from ..index.records._ids import Key, decode_id, encode_id, encode_ids, named_ids, number_after
from ..index.records._values import as_list

Encoded = tuple[list[str], list[bytes | None]]


def keys_of(ids: Iterable[Any] | None, n: int, first: int = 0) -> Encoded:
    """Ids as texts, which are equal where the ids are, and what the texts do not tell.

    Parameters
    ----------
    ids : iterable of n hashables, or None
        None are the numbers that go on from ``first``.
    n : int
    first : int, default=0

    Returns
    -------
    keys : list of str
        They begin with "t" for text, "n" for a number, "b" for all else.
    originals : list of bytes or None

    Raises
    ------
    DuplicateIdError
        If one is given more than once.
    TypeError, ValueError
        If one cannot be an id, or they are not ``n``.
    """
    if ids is None:
        return [f"n{number}" for number in range(first, first + n)], [None] * n
    encoded = encode_ids(ids, n)
    return _texts(zip(encoded.keys, encoded.originals, strict=True))


def id_of(key: str, original: bytes | None) -> Any:
    """The id that a key was made of.

    Parameters
    ----------
    key : str
    original : bytes or None

    Returns
    -------
    id : hashable
    """
    content = key[1:]
    read: Key
    if key[0] == "b":
        read = bytes.fromhex(content)
    elif key[0] == "n":
        read = int(content) if content.lstrip("-").isdigit() else float(content)
    else:
        read = content
    return decode_id(read, original)


def keys_of_some(ids: Any) -> Encoded:
    """Keys of ids that may come twice.

    Parameters
    ----------
    ids : iterable of hashables

    Returns
    -------
    keys : list of str
    originals : list of bytes or None

    Raises
    ------
    TypeError, ValueError
        If one cannot be an id.
    """
    return _texts(encode_id(one) for one in as_list(ids, "ids"))


def next_number(keys: Iterable[str]) -> int:
    """The whole number after the largest among keys, as the embedded index counts.

    Parameters
    ----------
    keys : iterable of str

    Returns
    -------
    number : int
        0 if there is none.
    """
    texts = [key[1:] for key in keys if key[0] == "n"]
    return number_after(int(text) if text.isdigit() else float(text) for text in texts)


def refuse_present(
    present: Collection[str], keys: Sequence[str], originals: Sequence[bytes | None]
) -> None:
    """Raise a DuplicateIdError if a key is there already.

    Parameters
    ----------
    present : collection of str
        The keys that are there.
    keys : sequence of str
    originals : sequence of bytes or None

    Raises
    ------
    DuplicateIdError
        It names the ids.
    """
    pairs = zip(keys, originals, strict=True)
    again = [id_of(*pair) for pair in pairs if pair[0] in present]
    if again:
        raise DuplicateIdError(f"there already: {named_ids(again)}; upsert replaces")


def require_present(
    present: Collection[str], keys: Sequence[str], originals: Sequence[bytes | None]
) -> None:
    """Raise an UnknownIdError unless all keys are there.

    Parameters
    ----------
    present : collection of str
        The keys that are there.
    keys : sequence of str
    originals : sequence of bytes or None

    Raises
    ------
    UnknownIdError
        It names the ids.
    """
    pairs = zip(keys, originals, strict=True)
    absent = [id_of(*pair) for pair in pairs if pair[0] not in present]
    if absent:
        raise UnknownIdError(f"no item has {named_ids(absent)}")


def _texts(encoded: Iterable[tuple[Key, bytes | None]]) -> Encoded:
    texts = [_key_text(key, original) for key, original in encoded]
    return [text for text, _ in texts], [original for _, original in texts]


def _key_text(key: Key, original: bytes | None) -> tuple[str, bytes | None]:
    if isinstance(key, bytes):
        return f"b{key.hex()}", original
    if isinstance(key, str):
        if "\0" in key:
            raise ValueError(f"the id {key!r:.80} holds a NUL, which servers do not keep")
        return f"t{key}", original
    if isinstance(key, float) and key.is_integer():
        return f"n{int(key)}", json.dumps(["float", key.hex()]).encode()
    return f"n{key!r}", original
