"""Losses: what makes embeddings of images of the same class alike, and of others different."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Deng et al. 2019: the margin in radians, and the scale of cosines.
_ARCFACE_MARGIN = 0.5
_ARCFACE_SCALE = 30.0
# Khosla et al. 2020.
_SUPCON_TEMPERATURE = 0.1


class CrossEntropy(nn.Module):
    """A linear classifier, and the cross entropy of what it says.

    Parameters
    ----------
    n_features : int
        The width of the embeddings.
    n_classes : int
        Labels are 0..n_classes - 1.
    """

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(n_features, n_classes)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return functional.cross_entropy(self.classifier(embeddings), labels)


class ArcFace(nn.Module):
    """A classifier by angles, with a margin that the right class must win by.

    Parameters
    ----------
    n_features : int
        The width of the embeddings.
    n_classes : int
        Labels are 0..n_classes - 1.

    Notes
    -----
    Where angle and margin together exceed pi, their cosine would rise again; there the cosine is
    lowered by a straight line instead, which leaves it monotonic. [1]_

    References
    ----------
    .. [1] J. Deng, J. Guo, N. Xue and S. Zafeiriou, "ArcFace: Additive Angular Margin Loss for
       Deep Face Recognition", CVPR 2019.
    """

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.empty(n_classes, n_features))
        nn.init.xavier_uniform_(self.centres)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch."""
        centres = functional.normalize(self.centres, dim=1)
        cosines = functional.normalize(embeddings, dim=1) @ centres.T
        right = cosines.gather(1, labels[:, None])
        widened = cosines.scatter(1, labels[:, None], _with_margin(right))
        return functional.cross_entropy(_ARCFACE_SCALE * widened, labels)


class BatchHardTriplet(nn.Module):
    """For each image of a batch, its farthest companion against its nearest stranger.

    The soft margin of [1]_ on Euclidean distances of unit vectors.

    References
    ----------
    .. [1] A. Hermans, L. Beyer and B. Leibe, "In Defense of the Triplet Loss for Person
       Re-Identification", 2017.
    """

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of the images that have both a companion and a stranger."""
        unit = functional.normalize(embeddings, dim=1)
        # The least square keeps the root's gradient finite.
        distances = (2 - 2 * unit @ unit.T).clamp(min=1e-8).sqrt()
        same = labels[:, None] == labels
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        farthest = distances.masked_fill(~same | itself, -math.inf).amax(dim=1)
        nearest = distances.masked_fill(same, math.inf).amin(dim=1)
        usable = farthest.isfinite() & nearest.isfinite()
        if not usable.any():
            return embeddings.sum() * 0
        return functional.softplus(farthest[usable] - nearest[usable]).mean()


class SupervisedContrastive(nn.Module):
    """For each image of a batch, its companions against all others.

    The loss L_out of [1]_, at temperature 0.1.

    References
    ----------
    .. [1] P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.
    """

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of the images that have a companion."""
        unit = functional.normalize(embeddings, dim=1)
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        similarities = (unit @ unit.T / _SUPCON_TEMPERATURE).masked_fill(itself, -math.inf)
        log_shares = functional.log_softmax(similarities, dim=1)
        companions = (labels[:, None] == labels) & ~itself
        n_companions = companions.sum(dim=1)
        if not n_companions.any():
            return embeddings.sum() * 0
        sums = log_shares.masked_fill(~companions, 0).sum(dim=1)
        usable = n_companions > 0
        return -(sums[usable] / n_companions[usable]).mean()


def _with_margin(cosines: Tensor) -> Tensor:
    """The cosines of angles that are wider by the margin."""
    cosine, sine = math.cos(_ARCFACE_MARGIN), math.sin(_ARCFACE_MARGIN)
    sines = (1 - cosines.square()).clamp(min=1e-8).sqrt()
    beyond = cosines - math.sin(math.pi - _ARCFACE_MARGIN) * _ARCFACE_MARGIN
    return torch.where(cosines > -cosine, cosines * cosine - sines * sine, beyond)
