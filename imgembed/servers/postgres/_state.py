"""The state of an index in PostgreSQL: a row in a table of states, locked by who writes."""

from psycopg import sql

from .._state import State
from ._session import Connection

STATES = sql.Identifier("imgembed_indexes")


def create_states(connection: Connection) -> None:
    """Make the table of states, if it is not there."""
    # Two at once would both see that it is not there.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('imgembed_indexes'))")
    query = "CREATE TABLE IF NOT EXISTS {} (index_name text PRIMARY KEY, state jsonb NOT NULL)"
    connection.execute(sql.SQL(query).format(STATES))


def read_state(connection: Connection, table: str, *, lock: bool = False) -> State | None:
    """Read the state of an index.

    Parameters
    ----------
    connection : Connection
    table : str
    lock : bool, default=False
        Let no one else change it until the transaction ends.

    Returns
    -------
    state : State or None
        None if there is no such index.

    Raises
    ------
    ServerVersionError
        If a newer imgembed has written it.
    """
    query = sql.SQL("SELECT state FROM {} WHERE index_name = %s").format(STATES)
    if lock:
        query += sql.SQL(" FOR UPDATE")
    found = connection.execute(query, (table,)).fetchone()
    return None if found is None else State.from_json(found[0])


def write_state(connection: Connection, table: str, state: State) -> None:
    """Write the state of an index."""
    query = (
        "INSERT INTO {} (index_name, state) VALUES (%s, %s::jsonb) "
        "ON CONFLICT (index_name) DO UPDATE SET state = excluded.state"
    )
    connection.execute(sql.SQL(query).format(STATES), (table, state.to_json()))
