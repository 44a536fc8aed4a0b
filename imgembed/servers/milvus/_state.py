"""The state of an index in Milvus: an entity in a collection of states, written as a whole."""

import json
from typing import NamedTuple

from pymilvus import DataType, MilvusClient, MilvusException

from .._state import State
from ._session import when_loaded

STATES = "imgembed_indexes"
_NAME, _STATE, _VECTOR = "index_name", "state", "no_vector"
_LONGEST_TEXT = 65_535
_COLLECTION_NOT_FOUND = 100


class Held(NamedTuple):
    """An index as it is held on the server.

    Parameters
    ----------
    state : State
        After the latest change.
    collection : str
        The collection with the items.
    pending : str
        The mark of a change that is not known to be whole; empty if there is none.
    """

    state: State
    collection: str
    pending: str = ""


def create_states(client: MilvusClient, timeout: float) -> None:
    """Make the collection of states, if it is not there."""
    if client.has_collection(STATES, timeout=timeout):
        return
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field(_NAME, DataType.VARCHAR, is_primary=True, max_length=255)
    schema.add_field(_STATE, DataType.VARCHAR, max_length=_LONGEST_TEXT)
    schema.add_field(_VECTOR, DataType.FLOAT_VECTOR, dim=2)  # Milvus wants one
    index = client.prepare_index_params()
    index.add_index(_VECTOR, index_type="FLAT", metric_type="L2")
    client.create_collection(
        STATES, schema=schema, index_params=index, consistency_level="Strong", timeout=timeout
    )


def read_held(client: MilvusClient, name: str, timeout: float) -> Held | None:
    """Read what is known of an index.

    Parameters
    ----------
    client : MilvusClient
    name : str
    timeout : float

    Returns
    -------
    held : Held or None
        None if there is no such index.

    Raises
    ------
    ServerVersionError
        If a newer imgembed has written it.
    """

    def query() -> list[dict[str, str]]:
        rows: list[dict[str, str]] = client.query(
            STATES,
            filter=f'{_NAME} == "{name}"',
            output_fields=[_STATE],
            consistency_level="Strong",
            timeout=timeout,
        )
        return rows

    try:
        found = when_loaded(client, STATES, timeout, query)
    except MilvusException as error:
        if error.code == _COLLECTION_NOT_FOUND:
            return None
        raise
    if not found:
        return None
    fields = json.loads(found[0][_STATE])
    return Held(State.from_json(fields["state"]), fields["collection"], fields["pending"])


def write_held(client: MilvusClient, name: str, held: Held, timeout: float) -> None:
    """Write what is known of an index."""
    fields = {
        "state": json.loads(held.state.to_json()),
        "collection": held.collection,
        "pending": held.pending,
    }
    entity = {_NAME: name, _STATE: json.dumps(fields), _VECTOR: [0.0, 0.0]}
    client.upsert(STATES, [entity], timeout=timeout)
