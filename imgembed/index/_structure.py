"""What a graph is without its vectors, and whether it may be followed.

A search follows links without looking: one that points outside the graph, or to a level that
its node does not have, ends the process. So a graph that comes from a file is checked whole.
"""

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

MIN_M, MAX_M = 2, 10_000  # the level of a node is scaled by 1 / log(M); hnswlib caps M by itself
MAX_NODES = 2**31 - 1  # hnswlib counts the nodes that it visits in an int
_BITS_OF_A_LEVEL = 48  # levels beyond 48 / log2(M) have a chance of 2 ** -48 a node
_FIELDS = ("entry", "M", "ef_construction", "seed")
_ARRAYS = ("base", "levels", "upper")
_BLOCK = 2**21  # elements of an array looked at together: keeps temporary arrays small


@dataclass(frozen=True, eq=False)
class GraphLinks:
    """The links of a hierarchical navigable small world graph, as plain arrays.

    A list of links is one row: how many there are, then the nodes, then zeros.

    Parameters
    ----------
    base : ndarray of shape (n_nodes, 1 + 2 * M), dtype uint32
        The list of each node on level 0, where all nodes are.
    levels : ndarray of shape (n_nodes,), dtype int32
        The highest level of each node.
    upper : ndarray of shape (sum of levels, 1 + M), dtype uint32
        The lists on levels 1, 2, ... of the first node, then those of the second, ...
    entry : int
        The node where a search starts; -1 in an empty graph.
    M : int
        Links of a node above level 0.
    ef_construction : int
        Candidates when a node is added.
    seed : int
        Drew the levels.
    """

    base: NDArray[np.uint32]
    levels: NDArray[np.int32]
    upper: NDArray[np.uint32]
    entry: int
    M: int
    ef_construction: int
    seed: int

    def parts(self) -> tuple[dict[str, int], dict[str, NDArray[Any]]]:
        """Whole numbers, to be stored as JSON, and arrays, each by name of parameter."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return fields, {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_parts(cls, fields: dict[str, Any], arrays: dict[str, Any]) -> Self:
        """The links whose `parts` these are; not yet checked.

        Raises
        ------
        ValueError
            If a part is missing, or there is another one.
        """
        for parts, names in ((fields, _FIELDS), (arrays, _ARRAYS)):
            if not isinstance(parts, dict) or set(parts) != set(names):
                raise ValueError(f"a graph has {', '.join(names)}; got {reprlib.repr(parts)}")
        return cls(**arrays, **fields)


def check_links(links: GraphLinks, n_nodes: int) -> None:
    """Refuse links that a search could not follow.

    Parameters
    ----------
    links : GraphLinks
        In memory: what is mapped from a file may change after the check.
    n_nodes : int
        The number of vectors.

    Raises
    ------
    ValueError
        Says what is wrong, and at which node.
    """
    _check_scalars(links)
    _check_arrays(links, n_nodes)
    if n_nodes:
        _check_entry(links)
        _check_base(links)
        _check_upper(links)


def row_slices(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of the rows of an array, of about two million elements each."""
    step = max(1, _BLOCK // n_columns)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _check_scalars(links: GraphLinks) -> None:
    """Whole numbers, within what hnswlib can take."""
    bounds = {
        "M": (MIN_M, MAX_M),
        "ef_construction": (1, MAX_NODES),
        "seed": (0, 2**63 - 1),
        "entry": (-1, MAX_NODES),
    }
    for name, number in links.parts()[0].items():
        low, high = bounds[name]
        if type(number) is not int or not low <= number <= high:
            raise ValueError(
                f"{name} of the graph is {number!r}; a whole number from {low} to {high} is wanted"
            )


def _check_arrays(links: GraphLinks, n_nodes: int) -> None:
    """Kinds and shapes that fit each other and the number of vectors."""
    if not 0 <= n_nodes <= MAX_NODES:
        raise ValueError(f"a graph has from 0 to {MAX_NODES} nodes, not {n_nodes}")
    _check_array("levels", links.levels, np.int32, (n_nodes,))
    _check_levels(links)
    _check_array("base", links.base, np.uint32, (n_nodes, 1 + 2 * links.M))
    n_lists = int(links.levels.sum(dtype=np.int64))
    _check_array("upper", links.upper, np.uint32, (n_lists, 1 + links.M))


def _check_array(
    name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    got = f"a {type(array).__name__}"
    if isinstance(array, np.ndarray):
        if array.dtype == dtype and array.shape == shape:
            return
        got = f"{array.dtype} of shape {array.shape}"
    wanted = f"{np.dtype(dtype)} of shape {shape}"
    raise ValueError(f"{name} of the graph is {got}; {wanted} is wanted")


def _check_levels(links: GraphLinks) -> None:
    """From 0 to the highest that the draw can give."""
    highest = int(_BITS_OF_A_LEVEL / math.log2(links.M))
    wrong = (links.levels < 0) | (links.levels > highest)
    if wrong.any():
        node = int(wrong.argmax())
        raise ValueError(
            f"node {node} of the graph is on level {links.levels[node]}; levels go from 0 to "
            f"{highest}"
        )


def _check_entry(links: GraphLinks) -> None:
    """A node on the highest level, from where the search descends."""
    n_nodes, highest = len(links.levels), int(links.levels.max())
    if not 0 <= links.entry < n_nodes:
        raise ValueError(f"entry of the graph is node {links.entry}; there are {n_nodes} nodes")
    if links.levels[links.entry] != highest:
        raise ValueError(
            f"entry of the graph is node {links.entry} on level {links.levels[links.entry]}; "
            f"a node on the highest level {highest} is wanted"
        )


def _check_base(links: GraphLinks) -> None:
    """All lists on level 0."""
    n_nodes = len(links.base)
    for block in row_slices(*links.base.shape):
        owners = np.arange(block.start, block.stop, dtype=np.uint32)
        _check_lists(links.base[block], owners, n_nodes, "0")


def _check_upper(links: GraphLinks) -> None:
    """All lists above level 0; their links stay on nodes of that level."""
    levels, n_nodes, n_lists = links.levels, len(links.levels), len(links.upper)
    owners = np.repeat(np.arange(n_nodes, dtype=np.uint32), levels)
    first_list = np.cumsum(levels, dtype=np.int64) - levels
    list_levels = 1 + np.arange(n_lists) - np.repeat(first_list, levels)
    for block in row_slices(*links.upper.shape):
        used = _check_lists(links.upper[block], owners[block], n_nodes, "1 or above")
        too_low = levels[links.upper[block, 1:]] < list_levels[block, None]
        _refuse(
            np.any(used & too_low, axis=1), owners[block], "1 or above", "a link to a node below it"
        )


def _check_lists(
    lists: NDArray[np.uint32], owners: NDArray[np.uint32], n_nodes: int, level: str
) -> NDArray[np.bool_]:
    """Which slots of the lists are used; all of them have been checked.

    Parameters
    ----------
    lists : ndarray of shape (n_lists, 1 + n_slots), dtype uint32
    owners : ndarray of shape (n_lists,), dtype uint32
        The node to which each list belongs.
    n_nodes : int
    level : str
        For the message.

    Returns
    -------
    used : ndarray of shape (n_lists, n_slots), dtype bool
    """
    counts, linked = lists[:, :1], lists[:, 1:]
    n_slots = linked.shape[1]
    # A mark of deletion lies in the upper half of the count, and so makes it too large.
    _refuse(counts[:, 0] > n_slots, owners, level, f"more than {n_slots} links")
    _refuse(np.any(linked >= n_nodes, axis=1), owners, level, f"a link beyond the {n_nodes} nodes")
    used: NDArray[np.bool_] = np.arange(n_slots, dtype=np.uint32) < counts
    _refuse(np.any(used & (linked == owners[:, None]), axis=1), owners, level, "a link to itself")
    return used


def _refuse(wrong: NDArray[np.bool_], owners: NDArray[np.uint32], level: str, what: str) -> None:
    if wrong.any():
        node = owners[int(wrong.argmax())]
        raise ValueError(f"node {node} of the graph has {what} on level {level}")
