"""How near a pair must be so that chance does not explain it, learned from random pairs."""

import math
from dataclasses import dataclass
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._calibration import Calibration, check_distances, check_sample

Floats = NDArray[np.float64]

# The law is fitted on the nearest pairs: so many an image that its few copies are not half of
# them, since the median gives way then; enough to know the exponent to some 10 percent; but no
# more than a share, since the law holds in the tail only.
_PAIRS_PER_IMAGE = 15
_FEWEST_IN_TAIL = 200
_LARGEST_TAIL = 0.05
_FEWEST_PAIRS = 400


@dataclass(frozen=True)
class RandomPairCalibration(Calibration):
    """How near a pair must be so that chance does not explain it, learned from random pairs.

    Random pairs are nearly all non-matches. Among the nearest of them, the share of pairs
    within a distance is taken for a power law::

        share(distance) = tail_share * (distance / tail_distance) ** exponent

    Parameters
    ----------
    n_items : int
        Images of the corpus; at least 2.
    false_alarms : float
        Pairs expected by chance at or below the threshold, for each image of the corpus.
    tail_share : float
        Share of the random pairs on which the law was fitted.
    tail_distance : float
        The largest distance among them; above 0.
    exponent : float
        Of the law; above 0.

    Attributes
    ----------
    threshold : float
        A pair at or below this distance is called a match: in a corpus without matches
        ``false_alarms * n_items`` pairs would be so near; never above ``tail_distance``.

    See Also
    --------
    LabelledCalibration : With labels, a probability that a pair is a match.

    Notes
    -----
    Counting false alarms under chance alone is the a-contrario method [1]_; the law is a
    generalised Pareto distribution [2]_ that ends at distance 0. The tail cannot be counted,
    not even with all pairs: it is wanted where one pair in 50 n_items lies, and if only every
    tenth image has a copy, copies are more than that. So the law is fitted by the median of the
    nearest 15 pairs an image (at least 200, at most 5 percent of the sample). Copies pull it only
    if they are many among these, and then towards a smaller threshold.

    What it does not do: distances alone do not tell copies from classes of a dozen images that
    look alike; such classes may pass for copies, and pairs must be labelled. Larger classes
    count as chance. Nor does a small probability mean that a pair differs: it may be a match at a
    distance at which chance finds as much.

    References
    ----------
    .. [1] A. Desolneux, L. Moisan and J.-M. Morel, "Meaningful Alignments", International
       Journal of Computer Vision 40(1), 2000.
    .. [2] J. Pickands, "Statistical Inference Using Extreme Order Statistics", The Annals of
       Statistics 3(1), 1975.

    Examples
    --------
    >>> from imgembed import RandomPairCalibration
    >>> calibration = RandomPairCalibration(
    ...     n_items=10_001, false_alarms=0.01, tail_share=0.05, tail_distance=0.4, exponent=6.0,
    ... )
    >>> round(calibration.threshold, 3)
    0.074
    >>> calibration.expected_false_pairs([0.074, 0.1]).round()
    array([100., 610.])
    >>> calibration.probability([0.0, 0.074, 0.15, float("inf")]).round(2)
    array([1.  , 0.98, 0.25, 0.  ])
    """

    n_items: int
    false_alarms: float
    tail_share: float
    tail_distance: float
    exponent: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("false_alarms", "tail_share", "tail_distance", "exponent")
        if self.n_items < 2:
            raise ValueError(f"n_items must be at least 2; got {self.n_items!r}.")
        if self.tail_share > 1:
            raise ValueError(f"tail_share must be at most 1; got {self.tail_share!r}.")
        share = min(2 * self.false_alarms / (self.n_items - 1) / self.tail_share, 1.0)
        threshold = float(self.tail_distance * share ** (1 / self.exponent))
        object.__setattr__(self, "threshold", threshold)

    def probability(self, distances: ArrayLike) -> Floats:
        """Probability that chance would not bring any image of the corpus as near to a query.

        That is ``exp(-(n_items - 1) * share(distance))``: 0.98 at the threshold when
        ``false_alarms`` is 0.01. It is one minus a p-value of the nearest neighbour, not
        the probability of a match, which cannot be known without matches.

        Parameters
        ----------
        distances : array-like of any shape
            At least 0; inf, as of padding, is no match.

        Returns
        -------
        probability : ndarray of the same shape, dtype float64
            From 0 to 1; the farther, the smaller.

        Raises
        ------
        ValueError
            If a distance is NaN or below 0.
        """
        distances = check_distances(distances)
        by_chance = (self.n_items - 1) * self._share(distances)
        return np.where(np.isinf(distances), 0.0, np.exp(-by_chance))

    def expected_false_pairs(self, distances: ArrayLike) -> Floats:
        """How many pairs at or below each distance chance alone gives in the whole corpus.

        Parameters
        ----------
        distances : array-like of any shape
            At least 0.

        Returns
        -------
        n_pairs : ndarray of the same shape, dtype float64
            From 0 to ``n_items * (n_items - 1) / 2``.

        Raises
        ------
        ValueError
            If a distance is NaN or below 0.
        """
        n_pairs = self.n_items * (self.n_items - 1) / 2
        return np.asarray(n_pairs * self._share(check_distances(distances)), dtype=np.float64)

    def _share(self, distances: Floats) -> Floats:
        with np.errstate(divide="ignore", over="ignore"):  # the logarithm of 0
            logs = self.exponent * (np.log(distances) - math.log(self.tail_distance))
        # Beyond its tail the law only grows until it holds all pairs.
        shares = self.tail_share * np.exp(np.minimum(logs, -math.log(self.tail_share)))
        return np.asarray(shares, dtype=np.float64)


def calibrate_random(
    distances: ArrayLike, n_items: int, *, false_alarms: float = 0.01
) -> RandomPairCalibration:
    """Learn from random pairs of a corpus how near two images come by chance.

    Parameters
    ----------
    distances : array-like of shape (n_pairs,)
        Of pairs of different images, drawn at random, or of all pairs; finite, at least 0. At
        least 400; the best number is ``10 * n_items``, more tell little.
    n_items : int
        Images of the corpus; at least 2.
    false_alarms : float, default=0.01
        Pairs expected by chance at or below the threshold, for each image of the corpus.

    Returns
    -------
    calibration : RandomPairCalibration

    Raises
    ------
    ValueError
        If a distance is not finite or below 0, there are too few, the nearest are mostly 0
        or all equal, or another number is out of range.
    """
    distances = check_sample(distances)
    if len(distances) < _FEWEST_PAIRS:
        raise ValueError(
            f"Got the distances of {len(distances)} random pairs; at least {_FEWEST_PAIRS} are "
            "needed (30 images have 435 pairs). Draw more, or label pairs."
        )
    share = max(2 * _PAIRS_PER_IMAGE / max(n_items, 2), _FEWEST_IN_TAIL / len(distances))
    share = min(share, _LARGEST_TAIL)
    largest, exponent = _fit_tail(distances, share)
    return RandomPairCalibration(index(n_items), float(false_alarms), share, largest, exponent)


def _fit_tail(distances: Floats, share: float) -> tuple[float, float]:
    """The largest of the nearest distances, and the exponent by their median."""
    n_tail = math.ceil(share * len(distances))
    tail = np.partition(distances, n_tail - 1)[:n_tail]
    largest, median = float(tail.max()), float(np.median(tail))
    if not 0 < median < largest:
        raise ValueError(
            f"No law fits the nearest {n_tail} of {len(distances)} random pairs: half of them "
            f"are at most {median:.6g}, and the farthest at {largest:.6g}. If they are 0, remove "
            "exact copies first; else label pairs."
        )
    # Half of a tail that follows the law lies below largest * 0.5 ** (1 / exponent).
    return largest, math.log(2) / math.log(largest / median)
