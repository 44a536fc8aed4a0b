"""LocalFeatures: the keypoints of one image, and their descriptors."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._optional import import_optional

# Descriptors of these kinds are strings of bits, eight to a byte.
BINARY_KINDS = frozenset({"orb", "akaze"})


@dataclass(frozen=True, eq=False, repr=False)
class LocalFeatures:
    """The local features of one image: keypoints, and a descriptor of each.

    Parameters
    ----------
    positions : ndarray of shape (n_keypoints, 2), dtype float32
        x and y in pixels of the image as it was given, of the centre of the keypoint;
        the centre of the first pixel is (0, 0).
    scales : ndarray of shape (n_keypoints,), dtype float32
        Diameter of the neighbourhood that the keypoint stands for, in the same pixels.
    angles : ndarray of shape (n_keypoints,), dtype float32
        Orientation in degrees, 0..360, clockwise from the x axis; -1 where the method is
        upright.
    responses : ndarray of shape (n_keypoints,), dtype float32
        Strength, by the measure of the detector; falling.
    descriptors : ndarray of shape (n_keypoints, n_dimensions)
        uint8 or float32, as the extractor says; of binary kinds eight bits a byte.
    image_shape : tuple of (int, int)
        Height and width of the image in pixels.
    kind : str
        What the descriptors are: "sift", "rootsift", "surf64", "surf128", "orb", "akaze". A
        vocabulary refuses descriptors of another kind than it has learned from.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import SIFTExtractor
    >>> blocks = np.random.default_rng(0).integers(0, 256, (15, 20), dtype=np.uint8)
    >>> features = SIFTExtractor(n_keypoints=50).extract(np.kron(blocks, np.ones((8, 8), np.uint8)))
    >>> features
    LocalFeatures of 50 keypoints, rootsift descriptors (50, 128) uint8, image 120 x 160
    >>> features[:10].positions.shape
    (10, 2)
    """

    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    angles: NDArray[np.float32]
    responses: NDArray[np.float32]
    descriptors: NDArray[Any]
    image_shape: tuple[int, int]
    kind: str

    def __len__(self) -> int:
        return len(self.descriptors)

    def __repr__(self) -> str:
        height, width = self.image_shape
        return (
            f"LocalFeatures of {len(self)} keypoints, {self.kind} descriptors "
            f"{self.descriptors.shape} {self.descriptors.dtype}, image {height} x {width}"
        )

    def __getitem__(self, chosen: Any) -> "LocalFeatures":
        """The features of some keypoints: a slice, a mask, or an array of their numbers."""
        if isinstance(chosen, (int, np.integer)):
            chosen = [chosen]
        return LocalFeatures(
            self.positions[chosen],
            self.scales[chosen],
            self.angles[chosen],
            self.responses[chosen],
            self.descriptors[chosen],
            self.image_shape,
            self.kind,
        )

    @property
    def binary(self) -> bool:
        """Whether descriptors are bits, to be compared by the Hamming distance."""
        return self.kind in BINARY_KINDS

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    def to_frame(self) -> Any:
        """The features as a table with a row a keypoint.

        Returns
        -------
        table : pandas.DataFrame
            Columns x, y, scale, angle, response, and d0, d1, ... for the dimensions of the
            descriptor.

        Raises
        ------
        ImportError
            If pandas is not installed (extra ``pandas``).
        """
        pandas = import_optional("pandas", extra="pandas", needed_by="LocalFeatures.to_frame")
        keypoints = pandas.DataFrame(
            {
                "x": self.positions[:, 0],
                "y": self.positions[:, 1],
                "scale": self.scales,
                "angle": self.angles,
                "response": self.responses,
            }
        )
        names = [f"d{i}" for i in range(self.descriptors.shape[1])]
        return keypoints.join(pandas.DataFrame(self.descriptors, columns=names))
