"""The ledger of an index in ClickHouse: a change is made once, a read sees one state."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from .._errors import (
    ServerCredentialsError,
    ServerError,
    ServerTableError,
    ServerTimeoutError,
    ServerUnavailableError,
    missing_index,
    older_index,
)
from .._state import State
from . import _table as tables
from ._session import ClickHouseSession
from ._sql import named
from ._state import (
    Publication,
    create_states,
    delete,
    following,
    is_newest,
    new_tag,
    publish,
    read_publication,
    settle,
)

Result = TypeVar("Result")

_WAIT = 0.02
_FEWEST_ATTEMPTS = 5
# Errors that say nothing of whether the state is the newest.
_OF_NO_STATE = (ServerCredentialsError, ServerTimeoutError, ServerUnavailableError)


@dataclass(frozen=True)
class Draft:
    """A change whose rows are written, and which is not published yet.

    Parameters
    ----------
    state : State
    table : str
    n_rows : int
        Rows that were written.
    replaced : sequence of int
        Slots of which older rows are to be deleted.
    """

    state: State
    table: str
    n_rows: int
    replaced: Sequence[int] = ()


Change = Callable[[Publication | None, int], Draft]


class ClickHouseLedger:
    """Changes of an index, one after the other, and reads of what was published last.

    Parameters
    ----------
    session : ClickHouseSession
    index : str
        Its name.
    timeout : float
        Seconds that others may change the index while a change is made.
    """

    def __init__(self, session: ClickHouseSession, index: str, timeout: float) -> None:
        self._session = session
        self._index = index
        self._timeout = timeout
        # As it was last read or written.
        self._known: Publication | None = None
        self._is_looked_after = False

    def changed(self, change: Change) -> None:
        """Make a change once, even if the server is lost, or another one changes the index.

        Parameters
        ----------
        change : callable
            Takes what is published, or None, and a tag, and writes rows with that tag.

        Raises
        ------
        ServerError
            If the server does not do it.
        """
        self._made(change, self._looked_after)

    def replaced(self, change: Change) -> None:
        """Make a change after which nothing is left of what was there, which may be damaged.

        Parameters
        ----------
        change : callable
            As that of :meth:`changed`.

        Raises
        ------
        ServerError
            If the server does not do it.
        """
        self._made(change, lambda published: published)

    def read(self, work: Callable[[Publication], Result]) -> Result:
        """Read from what is published, and again if something else is published meanwhile.

        Parameters
        ----------
        work : callable
            Takes what is published.

        Returns
        -------
        result : object
            What ``work`` returned.

        Raises
        ------
        ServerError
            If the server does not do it.
        """

        def whole() -> Result:
            deadline, known = time.monotonic() + self._timeout, self._known
            while True:
                published = self._newest() if known is None else known
                try:
                    result = work(published)
                except _OF_NO_STATE:
                    raise
                except Exception:
                    if is_newest(self._session, published):
                        raise
                else:
                    if is_newest(self._session, published):
                        return result
                self._end_after(deadline)
                known = None

        return self._session.attempted(whole)

    def newest(self) -> Publication:
        """What is published now.

        Returns
        -------
        published : Publication

        Raises
        ------
        ServerTableError
            If there is no index, or its table is not that which was published.
        ServerError
            If the server does not do it.
        """
        return self._session.attempted(self._newest)

    def _made(self, change: Change, look_after: Callable[[Publication], Publication]) -> None:
        tried: list[int] = []

        def work() -> Publication:
            deadline = time.monotonic() + self._timeout
            while True:
                before = read_publication(self._session, self._index)
                if before is None:
                    create_states(self._session)
                elif set(tried) & set(before.tags):  # an attempt came through
                    return self._finished(before)
                else:
                    before = look_after(before)
                tried.append(new_tag(before))
                after = self._attempt(change, before, tried[-1])
                if after is not None:
                    return after
                if len(tried) >= _FEWEST_ATTEMPTS:
                    self._end_after(deadline)
                time.sleep(_WAIT)

        self._known = self._session.attempted(work)
        self._is_looked_after = True

    def _attempt(self, change: Change, before: Publication | None, tag: int) -> Publication | None:
        """Make a change, unless another one is published in the meantime."""
        draft = self._written(change, before, tag)
        if draft is None:
            return None
        after = following(before, self._index, draft.state, draft.table, tag)
        if not publish(self._session, after, draft.replaced):
            self._discard(draft.table, tag)
            return None
        return self._completed(before, replace(after, is_settled=not draft.replaced))

    def _written(self, change: Change, before: Publication | None, tag: int) -> Draft | None:
        """The rows of a change, which no one sees; None if they are not as they should be."""
        table = tables.table_name(self._index, tag) if before is None else before.table
        try:
            draft = change(before, tag)
            table = draft.table
            if tables.n_rows_of(self._session, table, tag) == draft.n_rows:
                return draft
        except BaseException as error:
            self._discard(table, tag)
            if self._is_of_the_past(before, error):  # its table may be gone
                return None
            raise
        self._discard(table, tag)  # a statement that was sent again was done twice
        return None

    def _is_of_the_past(self, before: Publication | None, error: BaseException) -> bool:
        """Whether the server has refused what followed a state that is not the newest."""
        if before is None or not isinstance(error, ServerError) or isinstance(error, _OF_NO_STATE):
            return False
        return not is_newest(self._session, before)

    def _completed(self, before: Publication | None, after: Publication) -> Publication:
        """Do what is left when a change is published."""
        try:
            if (
                before is None
                or before.table != after.table
                or before.state.kinds != after.state.kinds
            ):
                tables.tidy(self._session, after)
            return after if after.is_settled else settle(self._session, after)
        except ServerUnavailableError:
            raise
        except ServerError:
            return after  # the next change does it

    def _discard(self, table: str, tag: int) -> None:
        """Take back rows that are not published; if that fails, they stay unseen."""
        new = tables.table_name(self._index, tag)
        with suppress(ServerError):
            self._session.run(f"DROP TABLE IF EXISTS {named(new)}")
            if table != new:
                delete(self._session, table, f"imgembed_change = {tag}")

    def _looked_after(self, published: Publication) -> Publication:
        """Finish what a writer has left that did not come to its end."""
        if not self._is_looked_after:
            self._check_belonging(published)
            return self._finished(published)
        return published if published.is_settled else settle(self._session, published)

    def _finished(self, published: Publication) -> Publication:
        tables.tidy(self._session, published)
        if not published.is_settled:
            return settle(self._session, published)
        delete(self._session, published.table, published.doomed)
        return published

    def _newest(self) -> Publication:
        """What is published now, which is not older than what was known before."""
        published = there(read_publication(self._session, self._index), self._index)
        known = self._known
        if known is None:
            self._check_belonging(published)
        elif published.state.n_changes < known.state.n_changes:
            raise older_index(self._index)
        self._known = published
        return published

    def _check_belonging(self, published: Publication) -> None:
        """Raise a ServerTableError unless the table has as many rows as the state says."""
        query = f"SELECT count() FROM {named(published.table)} WHERE {published.visible}"
        n_rows = int(self._session.rows(query)[0][0])
        if n_rows != published.state.n_items and is_newest(self._session, published):
            raise ServerTableError(
                f"the index {self._index!r} should have {published.state.n_items} items, and its "
                f"table {published.table!r} has {n_rows}: they do not belong together; restore "
                "both, or fit again"
            )

    def _end_after(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise ServerError(f"others change the index {self._index!r} without a pause: try again")


def there(published: Publication | None, index: str) -> Publication:
    """What is published, which must be something.

    Parameters
    ----------
    published : Publication or None
    index : str
        Its name.

    Returns
    -------
    published : Publication

    Raises
    ------
    ServerTableError
        If it is None.
    """
    if published is None:
        raise missing_index(index, "database")
    return published
