"""Optimizers, and the moving average of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from nnseg.core.plan import OptimizerName, Training
from nnseg.core.validation import function_table
from nnseg.training.muon import Muon


def make_optimizer(parameters: Iterable[nn.Parameter], training: Training) -> Optimizer:
    """The plan's optimizer over all parameters, weight decay on each of them as in nnU-Net."""
    return OPTIMIZERS[training.optimizer](list(parameters), training)


def sgd(parameters: list[nn.Parameter], training: Training) -> Optimizer:
    """Stochastic gradient descent with Nesterov's momentum. Source: nnU-Net (Isensee et al. 2021)."""
    rate, decay, momentum = training.learning_rate, training.weight_decay, training.momentum
    return SGD(parameters, rate, momentum=momentum, weight_decay=decay, nesterov=momentum > 0, fused=_can_fuse(parameters))


def adamw(parameters: list[nn.Parameter], training: Training) -> Optimizer:
    """AdamW with its usual betas; the plan's momentum is not used. Source: Loshchilov & Hutter 2019."""
    return AdamW(parameters, training.learning_rate, weight_decay=training.weight_decay, fused=_can_fuse(parameters))


def muon(parameters: list[nn.Parameter], training: Training) -> Optimizer:
    """Muon for convolutions, AdamW for the rest; the plan's momentum is not used. Source: Jordan et al. 2024."""
    return Muon(parameters, training.learning_rate, weight_decay=training.weight_decay, fused=_can_fuse(parameters))


class WeightAverage:
    """An exponential moving average of a network's weights. Source: Polyak & Juditsky 1992; warm-up of the decay as in TensorFlow.

    The decay of update n = 0, 1, ... is min(decay, (1 + n) / (10 + n)), so that the initial weights lose their influence soon.

    Args:
        network: whose weights are averaged.
        decay: 0 for no average: the current weights, at no cost.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._current = {name: tensor.detach() for name, tensor in network.state_dict(keep_vars=True).items()}
        self._average = {name: tensor.clone() for name, tensor in self._current.items()} if decay else {}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the network's current weights to the average."""
        if not self._average:
            return
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        current = [tensor.detach() for tensor in network.state_dict(keep_vars=True).values()]
        pairs = list(zip(self._average.values(), current, strict=True))
        moving = [(mean, now) for mean, now in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in moving], [now for _, now in moving], 1 - decay)
        for mean, now in pairs:
            if not mean.is_floating_point():  # a count of batches, say
                mean.copy_(now)

    def weights(self) -> dict[str, Tensor]:
        """The average by parameter name; not copies: they change with the next update."""
        return dict(self._average or self._current)

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Tensors and the number of updates, for `load_state`."""
        return dict(self._average), self._updates

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Restore what `state` returned.

        Raises:
            KeyError: ``tensors`` belong to another network.
        """
        for name, tensor in self._average.items():
            tensor.copy_(tensors[name])
        self._updates = updates


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    """True if PyTorch has a fused step for the parameters, which on CPUs is 3 to 5 times faster and as exact."""
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


MakeOptimizer = Callable[[list[nn.Parameter], Training], Optimizer]
OPTIMIZERS: dict[str, MakeOptimizer] = function_table(OptimizerName, {"sgd": sgd, "adamw": adamw, "muon": muon})
