"""The classes whose objects may be in a file, and what of them is kept.

A class that is not in this table is neither written nor made from a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any

from sklearn.base import BaseEstimator


@dataclass(frozen=True)
class Kind:
    """A class, and what makes an object of it again.

    Parameters
    ----------
    module : str
        Where the class is.
    learned : tuple of str, default=()
        Attributes that are set after the object was made, where it has them.
    parameters : tuple of str or None, default=None
        Arguments of the class that are attributes too; None: all parameters of an estimator,
        or all fields of a dataclass.
    maker : str or None, default=None
        The classmethod that takes them; None: the class itself.
    """

    module: str
    learned: tuple[str, ...] = ()
    parameters: tuple[str, ...] | None = None
    maker: str | None = None

    def load(self, name: str) -> Any:
        """The class; its module is imported when it is first needed."""
        return getattr(import_module(self.module), name)

    def parameters_of(self, one: Any) -> dict[str, Any]:
        """The arguments that an object was made with, without those of one machine."""
        if self.parameters is not None:
            return {name: getattr(one, name) for name in self.parameters}
        if is_dataclass(one):
            return {field.name: getattr(one, field.name) for field in fields(one)}
        named: dict[str, Any] = one.get_params(deep=False)
        return {name: value for name, value in named.items() if name not in _OF_THE_MACHINE}

    def learned_of(self, one: Any) -> dict[str, Any]:
        """What an object has learned."""
        names = (*self.learned, *_OF_ESTIMATORS) if isinstance(one, BaseEstimator) else ()
        return {name: vars(one)[name] for name in names if name in vars(one)}

    def make(self, name: str, parameters: Mapping[str, Any], learned: Mapping[str, Any]) -> Any:
        """The object of these arguments, with what it has learned.

        Raises
        ------
        ValueError or TypeError
            If they are not those of this class.
        """
        unknown = set(learned) - {*self.learned, *_OF_ESTIMATORS}
        if unknown:
            raise ValueError(f"{name} learns no {', '.join(sorted(unknown))}")
        kind = self.load(name)
        made = (kind if self.maker is None else getattr(kind, self.maker))(**parameters)
        for attribute, value in learned.items():
            setattr(made, attribute, value)
        return made


# What another computer, or another run, has others of.
_OF_THE_MACHINE = frozenset({"cache", "device", "save_path"})
_OF_ESTIMATORS = ("_sklearn_output_config",)

_NETWORK = ("weights_digest_", "seed_")
_TRAINED = (*_NETWORK, "_learned", "history_")
_LOCAL = ("aggregator_",)
_VOCABULARY = ("_words", "_assigner", "_format", "n_descriptors_seen_", "n_features_in_", "kind_")
_PCA = (
    "mean_", "components_", "explained_variance_", "explained_variance_ratio_",
    "singular_values_", "noise_variance_", "n_components_", "n_features_in_", "n_samples_",
)  # fmt: skip
_MIXTURE = (
    "weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "converged_",
    "n_iter_", "lower_bound_", "n_features_in_",
)  # fmt: skip

KINDS: dict[str, Kind] = {
    "AKAZEEmbedder": Kind("imgembed.classical", _LOCAL),
    "AKAZEExtractor": Kind("imgembed.classical"),
    "BagOfVisualWords": Kind(
        "imgembed.classical", ("vocabulary_", "sigma_", "n_images_", "idf_", "_n_features_out")
    ),
    "CLIPEmbedder": Kind("imgembed.deep", _NETWORK),
    "CNNEmbedder": Kind("imgembed.deep", _NETWORK),
    "CellAssigner": Kind(
        "imgembed.classical._words",
        parameters=("words", "centres", "cell_of", "n_probes", "agreement"),
    ),
    "DescriptorFormat": Kind("imgembed.classical._descriptors"),
    "ExactAssigner": Kind("imgembed.classical._words", parameters=("words",)),
    "FineTunedEmbedder": Kind("imgembed.training", (*_TRAINED, "classes_")),
    "FisherVector": Kind(
        "imgembed.classical", ("_format", "pca_", "_scale", "mixture_", "_n_features_out")
    ),
    "GaussianMixture": Kind("sklearn.mixture", _MIXTURE, ("n_components", "covariance_type")),
    "GeometricReranker": Kind("imgembed.rerank"),
    "HOGEmbedder": Kind("imgembed.classical"),
    "Learned": Kind(
        "imgembed.training._trained",
        parameters=("arrays", "preprocessing"),
        maker="from_arrays",
    ),
    "MoCoEmbedder": Kind("imgembed.training", _TRAINED),
    "ORBEmbedder": Kind("imgembed.classical", _LOCAL),
    "ORBExtractor": Kind("imgembed.classical"),
    "PCA": Kind("sklearn.decomposition", _PCA, ("n_components",)),
    "Preprocessing": Kind("imgembed.deep._preprocessing"),
    "QueryExpansion": Kind("imgembed.rerank"),
    "Resampling": Kind("PIL.Image", parameters=("value",)),
    "SIFTEmbedder": Kind("imgembed.classical", _LOCAL),
    "SIFTExtractor": Kind("imgembed.classical"),
    "SURFEmbedder": Kind("imgembed.classical", _LOCAL),
    "SURFExtractor": Kind("imgembed.classical"),
    "SimCLREmbedder": Kind("imgembed.training", _TRAINED),
    "VLAD": Kind("imgembed.classical", ("vocabulary_", "_n_features_out")),
    "ViTEmbedder": Kind("imgembed.deep", _NETWORK),
    "VisualVocabulary": Kind("imgembed.classical", _VOCABULARY),
}
