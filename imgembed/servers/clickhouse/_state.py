"""What is published of an index in ClickHouse: rows that are only added, the newest one holds.

ClickHouse has no transactions. The rows of a change carry its tag, and no one sees them until the
change is published by one more row in the table of states, which names the tag. Of two changes
that follow the same one only one is published: ClickHouse keeps the first of the rows that come
with one token, and drops the others.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._errors import ServerTableError, ServerTimeoutError, ServerUnavailableError
from .._state import State
from ._session import ClickHouseSession
from ._sql import named, quoted

STATES = "imgembed_indexes"
#: What the tables and views of indexes have as their comment.
COMMENT = "imgembed"

# A tag is the number of its change, and these bits, in which changes of one number differ.
_RANDOM_BITS = 24
# Tags that are known one by one; older rows that are not published have been deleted.
_N_TAGS = 256
# Rows with one token are told apart from new ones among so many.
_N_TOKENS = 10_000


@dataclass(frozen=True)
class Publication:
    """What is published of an index: its state, and which rows belong to it.

    Parameters
    ----------
    index : str
        Its name.
    state : State
    table : str
        What holds the rows.
    tags : tuple of int
        Of the latest changes, in order.
    is_settled : bool
        Whether the rows that the latest change has replaced are deleted.
    """

    index: str
    state: State
    table: str
    tags: tuple[int, ...]
    is_settled: bool

    @property
    def visible(self) -> str:
        """The condition on rows that belong to the index."""
        listed = ", ".join(map(str, self.tags))
        oldest = self.tags[0] >> _RANDOM_BITS << _RANDOM_BITS
        published = f"(imgembed_change < {oldest} OR imgembed_change IN ({listed}))"
        if self.is_settled:
            return published
        replaced = (
            f"SELECT arrayJoin(replaced) FROM {STATES} WHERE {_of_index(self.index)} "
            f"AND change = {self.tags[-1]} AND NOT settled"
        )
        return (
            f"({published} AND NOT (imgembed_change <> {self.tags[-1]} "
            f"AND imgembed_slot IN ({replaced})))"
        )

    def kept(self, condition: str | None) -> str:
        """The condition on rows that belong to the index and satisfy another one, if there is."""
        return self.visible if condition is None else f"{self.visible} AND {condition}"

    @property
    def doomed(self) -> str:
        """The condition on rows that no one will see again.

        Rows of a change that is being made have a higher number.
        """
        return f"(imgembed_change < {_first_tag(self.state.n_changes + 1)} AND NOT {self.visible})"

    def holds(self, change: int) -> bool:
        """Whether rows of a change belong to the index, if they are not replaced."""
        return change in self.tags or change >> _RANDOM_BITS < self.tags[0] >> _RANDOM_BITS


def new_tag(before: Publication | None) -> int:
    """A tag for the change that follows.

    Parameters
    ----------
    before : Publication or None

    Returns
    -------
    tag : int
    """
    number = 1 if before is None else before.state.n_changes + 1
    return _first_tag(number) + secrets.randbits(_RANDOM_BITS)


def following(
    before: Publication | None, index: str, state: State, table: str, tag: int
) -> Publication:
    """What is published after one more change.

    Parameters
    ----------
    before : Publication or None
    index : str
    state : State
    table : str
    tag : int

    Returns
    -------
    publication : Publication
    """
    n_changes = 0 if before is None else before.state.n_changes
    marks = () if before is None else before.state.marks
    marked = replace(state, n_changes=n_changes, marks=marks).marked(f"{tag:x}")
    tags = (tag,) if before is None else (*before.tags, tag)[-_N_TAGS:]
    return Publication(index, marked, table, tags, is_settled=True)


def create_states(session: ClickHouseSession) -> None:
    """Make the table of states, if it is not there.

    Parameters
    ----------
    session : ClickHouseSession
    """
    session.run(
        f"CREATE TABLE IF NOT EXISTS {STATES} (index_name String, change UInt64, settled Bool, "
        "stored_in String, tags Array(UInt64), replaced Array(Int64), state String) "
        "ENGINE = MergeTree ORDER BY (index_name, change) "
        f"SETTINGS non_replicated_deduplication_window = {_N_TOKENS}, fsync_after_insert = 1, "
        "fsync_part_directory = 1, enable_block_number_column = 1, enable_block_offset_column = 1 "
        f"COMMENT '{COMMENT}'"
    )


def read_publication(session: ClickHouseSession, index: str) -> Publication | None:
    """What is published of an index.

    Parameters
    ----------
    session : ClickHouseSession
    index : str

    Returns
    -------
    publication : Publication or None
        None if there is no such index.

    Raises
    ------
    ServerVersionError
        If a newer imgembed has written it.
    """
    found = _newest(session, index, "state, stored_in, tags, settled")
    if found is None:
        return None
    text, table, tags, is_settled = found
    state = State.from_json(json.loads(text))
    return Publication(index, state, table, tuple(tags), bool(is_settled))


def is_newest(session: ClickHouseSession, publication: Publication) -> bool:
    """Whether nothing was published since.

    Parameters
    ----------
    session : ClickHouseSession
    publication : Publication

    Returns
    -------
    is_newest : bool
    """
    found = _newest(session, publication.index, "change")
    return found is not None and found[0] == publication.tags[-1]


def publish(session: ClickHouseSession, publication: Publication, replaced: Sequence[int]) -> bool:
    """Publish a change, unless another one has followed the same change.

    Parameters
    ----------
    session : ClickHouseSession
    publication : Publication
    replaced : sequence of int
        Slots of which rows of earlier changes are to be deleted.

    Returns
    -------
    is_published : bool

    Raises
    ------
    ServerUnavailableError
        If it cannot be seen.
    """
    number = publication.state.n_changes
    token = f"{publication.index}:{number}".encode().hex()
    _write(session, publication, replaced, f"SETTINGS insert_deduplication_token = '{token}'")
    try:
        found = session.rows(
            f"SELECT DISTINCT change FROM {STATES} WHERE {_of_index(publication.index)} AND "
            f"change >= {_first_tag(number)} AND change < {_first_tag(number + 1)}"
        )
    except ServerTimeoutError as error:  # it may be published or not
        raise ServerUnavailableError(str(error)) from None
    return [row[0] for row in found] == [publication.tags[-1]]


def settle(session: ClickHouseSession, publication: Publication) -> Publication:
    """Delete the rows that the latest change has replaced, and say so.

    Parameters
    ----------
    session : ClickHouseSession
    publication : Publication

    Returns
    -------
    publication : Publication
    """
    delete(session, publication.table, publication.doomed)
    settled = replace(publication, is_settled=True)
    _write(session, settled, [], "")
    if publication.state.n_changes % _N_TAGS == 0:
        oldest = _first_tag(publication.state.n_changes - _N_TAGS)
        delete(session, STATES, f"{_of_index(publication.index)} AND change < {oldest}")
    return settled


def delete(session: ClickHouseSession, table: str, condition: str) -> None:
    """Delete rows, without building graphs again.

    Parameters
    ----------
    session : ClickHouseSession
    table : str
    condition : str
    """
    session.run(f"DELETE FROM {named(table)} WHERE {condition}")


def _first_tag(number: int) -> int:
    return number << _RANDOM_BITS


def _of_index(index: str) -> str:
    return f"index_name = {quoted(index)}"


def _newest(session: ClickHouseSession, index: str, columns: str) -> Sequence[Any] | None:
    try:
        found = session.rows(
            f"SELECT {columns} FROM {STATES} WHERE {_of_index(index)} "
            "ORDER BY change DESC, settled DESC LIMIT 1"
        )
    except ServerTableError:
        return None
    return found[0] if found else None


def _write(
    session: ClickHouseSession, publication: Publication, replaced: Sequence[int], settings: str
) -> None:
    values = (
        quoted(publication.index),
        str(publication.tags[-1]),
        str(not replaced).lower(),
        quoted(publication.table),
        str(list(publication.tags)),
        str(list(replaced)),
        quoted(publication.state.to_json()),
    )
    session.run(f"INSERT INTO {STATES} {settings} VALUES ({', '.join(values)})")
