"""Projection: fewer axes for the graph of an index that stores its vectors in little space."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Of axes and a centre that come from a file.
_ROUNDING = 1e-3
_LARGEST = 1e15


class Projection:
    """Orthonormal axes that keep most of the distances between vectors.

    Parameters
    ----------
    axes : ndarray of shape (n_features, n_axes), dtype float32
    centre : ndarray of shape (n_features,), dtype float32
        Subtracted first.
    """

    def __init__(self, axes: Floats, centre: Floats) -> None:
        self.axes, self.centre = axes, centre

    @classmethod
    def fitted(cls, vectors: Floats, n_axes: int, *, centred: bool) -> "Projection":
        """The axes of the largest variance, or of the largest squares if not centred.

        Parameters
        ----------
        vectors : ndarray of shape (n_images, n_features), dtype float32
        n_axes : int
        centred : bool
            Distances do not change with the origin, inner products do.
        """
        centre = vectors.mean(axis=0) if centred else np.zeros(vectors.shape[1], np.float32)
        spread = vectors - centre
        _, axes = np.linalg.eigh(spread.T.astype(np.float64) @ spread)
        return cls(np.ascontiguousarray(axes[:, -n_axes:], np.float32), centre)

    def __call__(self, vectors: Floats) -> Floats:
        return np.ascontiguousarray((vectors - self.centre) @ self.axes)

    @classmethod
    def checked(cls, axes: Floats, centre: Floats, n: int) -> "Projection":
        """A projection of arrays that come from a file.

        Raises
        ------
        ValueError
            If they are no orthonormal axes of n features.
        """
        if axes.dtype != np.float32 or axes.ndim != 2 or axes.shape[0] != n or not axes.size:
            raise ValueError(f"axes of shape {axes.shape} do not project {n} features")
        if centre.dtype != np.float32 or centre.shape != (n,):
            raise ValueError(f"a centre of shape {centre.shape} is none of {n} features")
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.abs(axes.T @ axes - np.eye(axes.shape[1], dtype=np.float32)).max()
        # Else projections might not be finite. A NaN compares as false.
        if not (error <= _ROUNDING and np.abs(centre).max() <= _LARGEST):
            raise ValueError("the axes of the graph are not orthonormal")
        return cls(axes, centre)
