"""From a distance to the probability of a match, learned from labelled pairs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from ._calibration import Calibration, check_distances, check_sample

Floats = NDArray[np.float64]

# Added to a distance in units of the scale, lest the rounding of near-zero distances count. On
# copies and on phone photographs of covers, 0.0001 to 0.03 gave much the same probabilities.
_OFFSET = 0.01
# exp of more is no finite number.
_LARGEST_EXPONENT = 600.0
_NOTHING_MATCHES = -1.0
# Less, in logarithms of distances and in log-odds per logarithm, is none.
_LEAST_SPREAD = 1e-9
_LEAST_SLOPE = 1e-6


@dataclass(frozen=True)
class LabelledCalibration(Calibration):
    """Probability that a pair at a distance is a match, learned from labelled pairs.

    Log-odds fall linearly with the logarithm of the distance::

        logit(p) = intercept - slope * log(distance / scale + 0.01)

    Parameters
    ----------
    slope : float
        How fast log-odds fall; above 0.
    intercept : float
        Log-odds where the logarithm is 0; holds the prior.
    scale : float
        Median distance of the non-matches; above 0.
    prior : float
        Share of matches among the pairs that will be asked about, between 0 and 1.
    n_matches, n_non_matches : int
        Labelled pairs of each kind.
    precision : float
        Share of true matches among those called so, at the threshold and with the prior;
        1.0 if none is called so. Counted on the pairs of the fit, hence somewhat too good.
    recall : float
        Share of matches called so, counted likewise.

    Attributes
    ----------
    threshold : float
        A pair at or below this distance is called a match: there the probability is one half.
        -1.0 if even distance 0 does not reach it: then nothing matches.

    See Also
    --------
    RandomPairCalibration : Without labels.

    Notes
    -----
    The form has a reason: if distances of non-matches go to 0 with a power law (as of
    independent points in so many dimensions) and those of matches less steeply, the ratio of
    the two densities is a power of the distance. It is fitted as Platt did [1]_, with labels
    drawn in from 0 and 1 as far as their number tells, so that a few well separated pairs do
    not give certainty. Isotonic regression [2]_ assumes less, but its odds are bounded by the
    number of labelled pairs: at a prior of 1 in 500, a thousand of them gave no threshold. On
    copies of photographs the logistic form also had the smaller loss for few pairs and for
    small priors. Where log-odds are far from a line, it is wrong in the middle too.

    References
    ----------
    .. [1] J. Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to
       Regularized Likelihood Methods", Advances in Large Margin Classifiers, 1999.
    .. [2] B. Zadrozny and C. Elkan, "Transforming Classifier Scores into Accurate Multiclass
       Probability Estimates", KDD 2002.

    Examples
    --------
    >>> from imgembed import LabelledCalibration
    >>> calibration = LabelledCalibration(
    ...     slope=4.0, intercept=0.0, scale=0.3, prior=0.5,
    ...     n_matches=100, n_non_matches=100, precision=0.95, recall=0.9,
    ... )
    >>> round(calibration.threshold, 3)
    0.297
    >>> calibration.probability([0.1, 0.297, 1.0, float("inf")]).round(2)
    array([0.99, 0.5 , 0.01, 0.  ])
    """

    slope: float
    intercept: float
    scale: float
    prior: float
    n_matches: int
    n_non_matches: int
    precision: float
    recall: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("slope", "scale", "n_matches", "n_non_matches")
        for name in ("prior", "precision", "recall"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1; got {getattr(self, name)!r}.")
        half = np.exp(min(self.intercept / self.slope, _LARGEST_EXPONENT)) - _OFFSET
        threshold = float(self.scale * half) if half >= 0 else _NOTHING_MATCHES
        object.__setattr__(self, "threshold", threshold)

    def probability(self, distances: ArrayLike) -> Floats:
        """Probability of a match at each distance.

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
        with np.errstate(over="ignore"):  # becomes inf, and 0
            logs = np.log(check_distances(distances) / self.scale + _OFFSET)
        return np.asarray(expit(self.intercept - self.slope * logs), dtype=np.float64)


def calibrate_labelled(
    distances: ArrayLike, is_match: ArrayLike, prior: float | None = None
) -> LabelledCalibration:
    """Learn from labelled pairs how probable a match is at each distance.

    Parameters
    ----------
    distances : array-like of shape (n_pairs,)
        Finite, at least 0.
    is_match : array-like of shape (n_pairs,), dtype bool
        Whether the pair is a match; both kinds must be there.
    prior : float, optional
        Share of matches among the pairs that will be asked about, between 0 and 1; by default
        that of the given ones. Labelled pairs are mostly balanced, and pairs of a corpus are not:
        in a corpus of n images, each with one copy in it, 1 of n - 1 pairs is a match.

    Returns
    -------
    calibration : LabelledCalibration

    Raises
    ------
    ValueError
        If a distance is not finite or below 0, labels are not bool or of another number, one
        kind is missing, matches are not nearer than non-matches, or the prior is out of range.
    """
    distances = check_sample(distances)
    labels = _check_labels(is_match, len(distances))
    share = float(labels.mean())
    prior = share if prior is None else prior
    if not 0 < prior < 1:
        raise ValueError(f"prior is the share of matches, between 0 and 1; got {prior!r}.")
    scale = float(np.median(distances[~labels]))
    slope, intercept = _fit_logistic(distances, labels, scale)
    intercept += float(logit(prior) - logit(share))
    return _with_quality(distances, labels, slope, intercept, scale, float(prior))


def _check_labels(is_match: ArrayLike, n_pairs: int) -> NDArray[np.bool_]:
    labels = np.asarray(is_match)
    if labels.dtype != bool or labels.shape != (n_pairs,):
        raise ValueError(
            f"is_match must be bool, one for each of {n_pairs} distances; got shape "
            f"{labels.shape} and dtype {labels.dtype}."
        )
    if labels.all() or not labels.any():
        got = f"{n_pairs} {'matches' if labels.any() else 'non-matches'} only"
        raise ValueError(
            f"Got {got}. Give pairs of both kinds; pairs drawn at random are nearly all "
            "non-matches. Without matches, calibrate on random pairs instead."
        )
    return labels


def _fit_logistic(
    distances: Floats, labels: NDArray[np.bool_], scale: float
) -> tuple[float, float]:
    """Slope and intercept of log-odds, by maximum likelihood of Platt's targets."""
    n_matches, n_non_matches = labels.sum(), (~labels).sum()
    targets = np.where(labels, (n_matches + 1) / (n_matches + 2), 1 / (n_non_matches + 2))
    logs = np.log(distances / scale + _OFFSET) if scale > 0 else np.zeros(len(distances))
    spread = max(float(logs.std()), _LEAST_SPREAD)
    nearness = ((logs.mean() - logs) / spread)[:, None]
    # A target between 0 and 1 is a match and a non-match with these weights.
    model = LogisticRegression(C=np.inf, solver="lbfgs", tol=1e-8).fit(
        np.concatenate([nearness, nearness]),
        np.repeat([True, False], len(labels)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope = float(model.coef_[0, 0] / spread)
    if slope < _LEAST_SLOPE:
        raise ValueError(
            "The matches are not nearer than the non-matches: medians "
            f"{np.median(distances[labels]):.4g} and {np.median(distances[~labels]):.4g}. Check "
            "the labels; if they are right, these distances cannot tell matches."
        )
    return slope, float(model.intercept_[0] + slope * logs.mean())


def _with_quality(
    distances: Floats,
    labels: NDArray[np.bool_],
    slope: float,
    intercept: float,
    scale: float,
    prior: float,
) -> LabelledCalibration:
    """The calibration, with precision and recall on the pairs of the fit."""
    called = expit(intercept - slope * np.log(distances / scale + _OFFSET)) >= 0.5
    recall = float(called[labels].mean())
    true, false = prior * recall, (1 - prior) * float(called[~labels].mean())
    return LabelledCalibration(
        slope=slope,
        intercept=intercept,
        scale=scale,
        prior=prior,
        n_matches=int(labels.sum()),
        n_non_matches=int((~labels).sum()),
        precision=true / (true + false) if true + false else 1.0,
        recall=recall,
    )
