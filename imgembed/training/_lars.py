"""LARS: SGD for large batches, with a learning rate for each layer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling.

    Each matrix or kernel moves by a step in proportion to its own norm, whatever the norm of its
    gradient. Vectors (biases, parameters of norms) take plain steps without weight decay, as in
    SimCLR.

    Parameters
    ----------
    parameters : iterable of Tensor, or of dict
        As any optimiser of torch takes them.
    lr : float
        The learning rate, before it is scaled for each layer.
    momentum : float, default=0.9
    weight_decay : float, default=1e-6
    trust : float, default=0.001
        The norm of a layer's step by the norm of its weights, at a learning rate of 1.

    References
    ----------
    .. [1] Y. You, I. Gitman and B. Ginsburg, "Large Batch Training of Convolutional Networks",
       2017, algorithm 1.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient.

        Parameters
        ----------
        closure : None
            For the API of torch; it is not called.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        rate = group["lr"]
        if parameter.ndim > 1:
            decay = group["weight_decay"]
            rate = rate * _trust_ratio(parameter, gradient, decay, group["trust"])
            gradient = gradient + decay * parameter
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        parameter.sub_(state["momentum_buffer"].mul_(group["momentum"]).add_(rate * gradient))


def _trust_ratio(parameter: Tensor, gradient: Tensor, decay: float, trust: float) -> Tensor:
    """By what the rate is multiplied; 1 where the weights or their gradient are all zero."""
    weight_norm, gradient_norm = parameter.norm(), gradient.norm()
    ratio = trust * weight_norm / (gradient_norm + decay * weight_norm)
    return torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, 1.0)
