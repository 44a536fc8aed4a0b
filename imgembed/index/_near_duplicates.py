"""Groups of near-duplicates: complete linkage over the pairs that lie within a threshold."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Numbers = NDArray[np.int32]  # half the memory of rows


def complete_linkage_groups(
    first: Rows, second: Rows, distances: Floats, n_items: int
) -> list[Rows]:
    """Group items so that within a group every pair is near: complete linkage [1]_, cut.

    The nearest two groups are merged again and again, the distance of two groups being that of
    their farthest items, as long as every pair across two groups is among the given ones.
    So there are no chains: A near B and B near C do not bring A and C together.

    Parameters
    ----------
    first, second : ndarray of shape (n_pairs,), dtype int64
        The items of each pair, in either order; every pair within the threshold, once.
        A pair that is not here is farther than the threshold.
    distances : ndarray of shape (n_pairs,), dtype float64
        Finite; may be negative.
    n_items : int
        Items are numbered from 0 to n_items - 1.

    Returns
    -------
    groups : list of ndarray of shape (n_members,), dtype int64
        Groups of two or more, members ascending, in the order of their first members.

    Raises
    ------
    ValueError
        If lengths differ, an item is out of range or paired with itself, a pair is given twice
        or a distance is not finite.

    Notes
    -----
    Of equal distances the pair of groups with the smallest members is merged first (the
    smaller of the two first members, then the other), so that the order of the pairs does not
    matter. Merging nearest neighbours of each other wherever they are found [2]_ gives the
    same groups as always merging the nearest two of all, since with this order, too, a merged
    group is never nearer to a third than both of its parts were.

    Memory is some 150 bytes a pair at its peak. Time grows with the sum over merges of the
    number of pairs that the two first members had. A set of items whose pairs are all there,
    and which have no other pairs, is a group at once.

    References
    ----------
    .. [1] D. Defays, "An efficient algorithm for a complete link method", The Computer Journal
       20(4), 1977.
    .. [2] F. Murtagh, "A survey of recent advances in hierarchical clustering algorithms", The
       Computer Journal 26(4), 1983.

    Examples
    --------
    Item 1 is near 0 and 2, which are far from each other:

    >>> import numpy as np
    >>> first, second = np.array([0, 1, 3]), np.array([1, 2, 4])
    >>> complete_linkage_groups(first, second, np.array([0.1, 0.2, 0.1]), n_items=5)
    [array([0, 1]), array([3, 4])]
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    _check_pairs(low, high, distances, n_items)
    if not len(low):
        return []
    component = _components(low, high, n_items)
    complete = _is_complete(component, low)
    group = np.arange(n_items)  # of each item, by its first member
    clique = complete[component]
    group[clique] = _first_members(component)[clique]
    rest = ~complete[component[low]]
    if rest.any():
        _merge(group, low[rest], high[rest], distances[rest])
    return _members(group)


def _check_pairs(low: Rows, high: Rows, distances: Floats, n_items: int) -> None:
    if len(low) != len(distances):
        raise ValueError(f"Got {len(low)} pairs and {len(distances)} distances: one a pair.")
    if not len(low):
        return
    if low.min() < 0 or high.max() >= n_items:
        raise ValueError(
            f"Pairs hold items from {low.min()} to {high.max()}; with n_items={n_items} they "
            f"are numbered from 0 to {n_items - 1}."
        )
    if (low == high).any():
        item = low[low == high][0]
        raise ValueError(f"Item {item} is paired with itself; leave such pairs out.")
    if not np.isfinite(distances).all():
        row = np.flatnonzero(~np.isfinite(distances))[0]
        raise ValueError(f"The distance of pair {row} is {distances[row]}; leave such pairs out.")
    keys = np.sort(low * n_items + high)
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if len(repeated):
        a, b = divmod(int(repeated[0]), n_items)
        raise ValueError(f"The pair of items {a} and {b} is given twice; give each once.")


def _components(low: Rows, high: Rows, n_items: int) -> Rows:
    """The connected component of each item."""
    edges = coo_array((np.ones(len(low), dtype=bool), (low, high)), shape=(n_items, n_items))
    labels: Rows = connected_components(edges, directed=False)[1].astype(np.int64)
    return labels


def _is_complete(component: Rows, low: Rows) -> NDArray[np.bool_]:
    """Whether a component has all pairs of its items, which makes it one group in any order."""
    n_members = np.bincount(component)
    n_pairs = np.bincount(component[low], minlength=len(n_members))
    complete: NDArray[np.bool_] = n_pairs == n_members * (n_members - 1) // 2
    return complete


def _first_members(labels: Rows) -> Rows:
    """For each item the first item with the same label."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse]


def _merge(group: Rows, low: Rows, high: Rows, distances: Floats) -> None:
    """Write the groups of the items of these pairs into ``group``."""
    paired = np.zeros(len(group), dtype=bool)
    paired[low] = paired[high] = True
    items = np.flatnonzero(paired)
    number = np.cumsum(paired, dtype=np.int32) - 1
    into = _Linkage(number[low], number[high], distances, len(items)).run()
    group[items] = items[into]


class _Linkage:
    """Complete linkage by chains of nearest neighbours, on a sparse table of distances.

    A group goes by its first member and uses that member's row of the table: a group can only
    be near what its first member was near to, so rows lose entries (they become inf) and never
    gain any. Columns ascend in a row, therefore ``argmin`` takes the smallest member of ties.
    """

    def __init__(self, low: Numbers, high: Numbers, distances: Floats, n_items: int) -> None:
        n_pairs = len(low)
        rows, columns = np.concatenate([low, high]), np.concatenate([high, low])
        order = np.lexsort((columns, rows))
        place = np.empty(2 * n_pairs, dtype=np.int32 if n_pairs < 2**30 else np.int64)
        place[order] = np.arange(2 * n_pairs)
        self.columns = columns[order]
        self.distances = np.concatenate([distances, distances])[order]
        # Where the table has the same pair from its other end.
        self.twins = place[(order + n_pairs) % (2 * n_pairs)]
        starts = np.searchsorted(rows[order], np.arange(n_items + 1)).tolist()
        self.rows = [slice(a, b) for a, b in pairwise(starts)]
        self.into = np.arange(n_items)

    def run(self) -> Rows:
        """Merge until no two groups can be; the first member of each item's group."""
        for item in range(len(self.rows)):
            chain = [item] if self.into[item] == item else []
            while chain:
                nearest = self._nearest(chain[-1])
                if nearest is None:
                    chain.pop()
                elif len(chain) > 1 and nearest == chain[-2]:
                    kept = self._join(*sorted((chain.pop(), chain.pop())))
                    chain = chain or [kept]
                else:
                    chain.append(nearest)
        return _roots(self.into)

    def _nearest(self, item: int) -> int | None:
        """The group that is nearest to a group, if any can still be merged with it."""
        row = self.rows[item]
        distances = self.distances[row]
        best = distances.argmin()
        return None if distances[best] == np.inf else int(self.columns[row][best])

    def _join(self, kept: int, lost: int) -> int:
        """Merge two groups, of which the first has the smaller first member and stays."""
        row, other = self.rows[kept], self.rows[lost]
        columns = self.columns[other]
        at = np.searchsorted(columns, self.columns[row]).clip(max=len(columns) - 1)
        shared = columns[at] == self.columns[row]
        farthest = np.maximum(self.distances[row], self.distances[other][at])
        self._write(other, np.inf)
        self._write(row, np.where(shared, farthest, np.inf))
        self.into[lost] = kept
        return kept

    def _write(self, row: slice, distances: Floats | float) -> None:
        self.distances[row] = distances
        self.distances[self.twins[row]] = distances


def _roots(into: Rows) -> Rows:
    """Follow ``into`` from each item to the end."""
    while (into != into[into]).any():
        into = into[into]
    return into


def _members(group: Rows) -> list[Rows]:
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    return [members for members in np.split(order, starts) if len(members) > 1]
