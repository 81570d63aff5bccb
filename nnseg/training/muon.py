"""`Muon`: an update of a convolution that changes all directions alike; other parameters are updated as by AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

MOMENTUM = 0.95

LEAST_EDGE = 16
"""Smaller matrices are left to AdamW: heads, biases, norms."""

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration, steep at zero: after five, singular values are between about 0.7 and 1.2."""

RMS = 0.2
"""Root mean square of an update over the learning rate: about that of AdamW, so that both can have the same rate."""


class Muon(AdamW):
    """The momentum of each weight, as a matrix (channels out, channels in times kernel), is made orthogonal before it is added.

    Args:
        parameters: those that are a matrix of at least `LEAST_EDGE` rows and columns are updated so, the others by AdamW.
        rate: learning rate of all.
        weight_decay: of all.
        fused: AdamW in one kernel.

    Sources: Jordan et al. 2024, "Muon"; Liu et al. 2025 (arXiv 2502.16982) for the size of updates.
    """

    def __init__(self, parameters: list[nn.Parameter], rate: float, *, weight_decay: float, fused: bool) -> None:
        super().__init__(parameters, rate, weight_decay=weight_decay, fused=fused)
        self._step_supports_amp_scaling = False  # of AdamW's own step alone

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all parameters. The gradients of the matrices are used up."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and _is_matrix(weight):
                    self._update(weight, weight.grad, group["lr"], group["weight_decay"])
                    weight.grad = None
        return super().step(closure)

    def _update(self, weight: nn.Parameter, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(gradient)
        state["step"] += 1  # which AdamW expects of every parameter
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        matrix = gradient.lerp_(state["momentum"], MOMENTUM).flatten(1)  # Nesterov's
        size = rate * RMS * max(matrix.shape) ** 0.5
        weight.mul_(1 - rate * decay).add_(orthogonal(matrix).view_as(weight), alpha=-size)


def orthogonal(matrix: Tensor) -> Tensor:
    """U V of the singular value decomposition U S V of a matrix (M, N), approximately; bfloat16.

    The iteration X -> (a + b X X' + c (X X')^2) X is computed on X X', which is much smaller than X, and applied to X at the end.
    """
    a, b, c = COEFFICIENTS
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    square = x @ x.mT
    scale = 1 / (square.diagonal().sum().sqrt() + 1e-7)  # by which the largest singular value is at most 1
    square *= scale**2
    total = scale * torch.eye(len(x), device=x.device)
    for left in range(ITERATIONS)[::-1]:
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        factor.diagonal().add_(a)
        total = factor @ total
        square = factor @ square @ factor if left else square
    result = total.bfloat16() @ x.bfloat16()
    return result.mT if matrix.shape[0] > matrix.shape[1] else result


def _is_matrix(weight: nn.Parameter) -> bool:
    return weight.ndim > 1 and min(len(weight), weight[0].numel()) >= LEAST_EDGE
