"""Fisher vectors: how an image's descriptors would change a Gaussian mixture."""

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.utils import check_random_state, check_scalar

from ._aggregation import Aggregator, Vector, power_law
from ._descriptors import DescriptorFormat
from ._reservoir import Reservoir


class FisherVector(Aggregator):
    """Describe an image by how its descriptors would change a Gaussian mixture.

    Parameters
    ----------
    n_components : int, default=64
        Gaussians of the mixture, with diagonal covariances.
    n_dimensions : int or None, default=64
        Descriptors are first reduced to this many dimensions by PCA, which makes diagonal
        covariances fit [2]_; None (or no more than they have) leaves them.
    power : float, default=0.5
        Entries are raised to it, with their sign; 1 leaves them.
    subsample : int, default=100_000
        Descriptors that PCA and mixture are learned from, drawn from all.
    n_jobs : int or None, default=-1
        Threads that encode; -1 means one for each processor.
    random_state : int, RandomState instance or None, default=None
        Draws the sample and the start of the mixture.

    Attributes
    ----------
    pca_ : sklearn.decomposition.PCA
        The projection of descriptors.
    mixture_ : sklearn.mixture.GaussianMixture
        The mixture, over projected descriptors scaled to a mean variance of 1.

    See Also
    --------
    VLAD : The same idea with hard assignment and first moments only.

    Notes
    -----
    The gradients are those with respect to means and variances, scaled by the closed
    approximation of the Fisher information [1]_; those with respect to the weights add
    little and are left out [2]_. Width: ``2 * n_components * n_dimensions``.

    References
    ----------
    .. [1] F. Perronnin and C. Dance, "Fisher Kernels on Visual Vocabularies for Image
       Categorization", CVPR 2007.
    .. [2] F. Perronnin, J. Sanchez and T. Mensink, "Improving the Fisher Kernel for
       Large-Scale Image Classification", ECCV 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import FisherVector
    >>> tokens = np.random.default_rng(0).random((6, 50, 8), dtype=np.float32)
    >>> FisherVector(4, random_state=0).fit_transform(tokens).shape
    (6, 64)
    """

    def __init__(
        self,
        n_components: int = 64,
        *,
        n_dimensions: int | None = 64,
        power: float = 0.5,
        subsample: int = 100_000,
        n_jobs: int | None = -1,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.n_dimensions = n_dimensions
        self.power = power
        self.subsample = subsample
        self.n_jobs = n_jobs
        self.random_state = random_state

    def _check_parameters(self) -> None:
        check_scalar(self.n_components, "n_components", int, min_val=1)
        if self.n_dimensions is not None:
            check_scalar(self.n_dimensions, "n_dimensions", int, min_val=1)
        check_scalar(self.power, "power", (int, float), min_val=0, max_val=1)
        check_scalar(self.subsample, "subsample", int, min_val=self.n_components)

    def _fit(self, sets: Any) -> None:
        random_state = check_random_state(self.random_state)
        reservoir = Reservoir(self.subsample, random_state)
        for row, one in enumerate(sets):
            if row == 0:
                self._format = DescriptorFormat.of(one, row)
            reservoir.extend(self._format.check(one, row))
        points = self._format.encode(reservoir.sample()).astype(np.float64)
        if len(points) < self.n_components:
            raise ValueError(
                f"the images have {len(points)} descriptors, too few for n_components="
                f"{self.n_components}; give more images or fewer components"
            )
        widest = min(points.shape)
        n_dimensions = widest if self.n_dimensions is None else min(self.n_dimensions, widest)
        self.pca_ = PCA(n_dimensions, svd_solver="full", random_state=random_state).fit(points)
        self._scale = np.sqrt(self.pca_.explained_variance_.mean()) or 1.0
        self.mixture_ = GaussianMixture(
            self.n_components, covariance_type="diag", max_iter=200, random_state=random_state
        ).fit(self._projected(points))
        self._n_features_out = 2 * self.mixture_.means_.size

    def _learned(self) -> list[Any]:
        mixture = self.mixture_
        return [
            self.pca_.mean_,
            self.pca_.components_,
            self._scale,
            mixture.weights_,
            mixture.means_,
            mixture.covariances_,
        ]

    def _projected(self, points: Any) -> Any:
        return self.pca_.transform(points) / self._scale

    def _encode(self, descriptors: Any) -> Vector:
        points = self._format.encode(self._format.check(descriptors))
        if len(points) == 0:
            return np.zeros(self._n_features_out, dtype=np.float32)
        points = self._projected(points.astype(np.float64))
        shares = self.mixture_.predict_proba(points)
        # Moments of the descriptors of each Gaussian, relative to its mean and deviation.
        means, variances = self.mixture_.means_, self.mixture_.covariances_
        zeroth = shares.sum(axis=0)[:, np.newaxis]
        first = shares.T @ points
        second = shares.T @ np.square(points)
        centred = first - zeroth * means
        spread = (second - 2 * means * first + zeroth * (means**2 - variances)) / variances
        weights = self.mixture_.weights_[:, np.newaxis]
        gradients = np.stack(
            [centred / np.sqrt(weights * variances), spread / np.sqrt(2 * weights)]
        )
        return power_law(gradients.ravel().astype(np.float32), self.power)
