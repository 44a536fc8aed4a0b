"""Schedules: how the learning rate changes while a network is trained."""

import math


def warmup_cosine(progress: float, warmup: float = 0.0) -> float:
    """What the learning rate is multiplied by: a linear rise, then half a cosine down to 0.

    Parameters
    ----------
    progress : float
        The share of the training that is done, in 0..1.
    warmup : float, default=0.0
        The share of the training in which the rate rises.

    Returns
    -------
    factor : float
        In 0..1.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
       ICLR 2017.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
