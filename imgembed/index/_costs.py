"""What visiting a graph and scanning vectors cost, so that the faster of the two is taken.

The constants are nanoseconds that ``benchmarks/index.py --only costs`` measured on two cores
with 128 and 1,280 features; only their ratios matter.
"""

# To visit a candidate in the graph, and for each feature more.
_VISIT, _VISIT_A_FEATURE = 1000.0, 0.8
# To compare a vector with one of many queries, and for each feature more.
_COMPARE, _COMPARE_A_FEATURE = 4.0, 0.015
# To read a feature from memory, which queries share; to copy a vector from among others, and for
# each feature more, which they share too.
_READ_A_FEATURE = 0.2
_COPY, _COPY_A_FEATURE = 80.0, 0.6


def vectors_per_candidate(n_queries: int, n_features: int, *, copied: bool) -> float:
    """How many vectors are scanned in the time in which a graph visits one candidate.

    Parameters
    ----------
    n_queries : int
        Queries that are searched together.
    n_features : int
    copied : bool
        Whether the vectors are some among others, which are copied before they are compared.
    """
    shared = _READ_A_FEATURE * n_features
    if copied:
        shared += _COPY + _COPY_A_FEATURE * n_features
    scan = _COMPARE + _COMPARE_A_FEATURE * n_features + shared / n_queries
    return (_VISIT + _VISIT_A_FEATURE * n_features) / scan
