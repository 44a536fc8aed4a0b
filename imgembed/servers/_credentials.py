"""Addresses of servers that may hold a password, which is never shown."""

import re
from typing import Self

_HIDDEN = "'...' (an address that is not shown, because it may hold a password)"
_PASSWORDS = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)
_USERINFO = re.compile(r"(://[^/@:]*):[^/@]*@")


class Address(str):
    """The address of a server, of which ``repr`` shows nothing.

    Examples
    --------
    >>> from imgembed.servers._credentials import Address
    >>> Address("postgresql://me:secret@host/db")
    '...' (an address that is not shown, because it may hold a password)
    """

    __slots__ = ()

    @classmethod
    def of(cls, address: str) -> Self:
        """An address as one that is not shown; one that is one already is itself."""
        return address if isinstance(address, cls) else cls(address)

    def __repr__(self) -> str:
        return _HIDDEN


def without_password(text: str, password: str | None) -> str:
    """A message without the password, and without what looks like one.

    Parameters
    ----------
    text : str
    password : str or None

    Returns
    -------
    text : str
    """
    if password:
        text = text.replace(password, "***")
    return _USERINFO.sub(r"\1:***@", _PASSWORDS.sub(r"\1***", text))
