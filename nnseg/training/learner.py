"""`Learner`: all that a training changes (weights, optimizer, step), and the step that changes it.

Everything else (plan, patches, seed) is given, and the n-th batch depends on nothing but (seed, fold, n), so a learner restored
from a snapshot continues exactly as if it had never stopped.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from nnseg.core.errors import NnsegError, RunError
from nnseg.core.schedule import Course, learning_rate
from nnseg.network.build import DeeplySupervised, build_network
from nnseg.network.checkpoint import flatten_state, join_groups, split_groups, unflatten_state
from nnseg.network.device import has_triton
from nnseg.network.unet import UNet
from nnseg.training.context import TrainingContext
from nnseg.training.losses import OwnLoss, make_loss, stage_weights
from nnseg.training.optimizer import WeightAverage, make_optimizer
from nnseg.training.patches import Batch

log = logging.getLogger(__name__)

RECENT_STEPS = 10
"""Steps over which the loss that is shown is averaged."""


class _StepResult(NamedTuple):
    """Loss and gradient norm of a step, still on the device, and its patches in words."""

    step: int
    loss: Tensor
    norm: Tensor
    patches: str


class NotFiniteError(NnsegError):
    """A loss, a gradient or a weight is not finite.

    Args:
        step: whose loss or gradient it is; None for a weight.
    """

    def __init__(self, what: str, step: int | None = None) -> None:
        super().__init__(
            f"{what}; look at these cases, lower training.learning_rate, or set training.precision to float32; the last checkpoint "
            "is intact"
        )
        self.step = step


class Learner:
    """A network in training, with its optimizer and averaged weights: the only mutable state of a training.

    Args:
        context: plan, fold, device and precision.
        course: of the learning rate; may be replaced between two steps.
        network: by default `fresh_network`. Weights that need no gradient stay.
        loss: in place of the plan's: a function of float32 logits (B, K, *space) and labels (B, *space), -1 where ignored.
        compiled: compile the network with torch.compile at the first step.
        fused_norm: compute channels-last, with the norm of `nnseg.network.triton_norm`, where there is Triton.
        float32_steps: that are computed in float32, whatever the precision of the others.

    Raises:
        RunError: a batch has fewer patches than there are processes.
    """

    def __init__(
        self,
        context: TrainingContext,
        course: Course,
        *,
        network: nn.Module | None = None,
        loss: OwnLoss | None = None,
        compiled: bool = False,
        fused_norm: bool = False,
        float32_steps: frozenset[int] = frozenset(),
    ) -> None:
        training = context.plan.training
        self.context, self.course = context, course
        self.network = (network or fresh_network(context)).to(context.device)
        if isinstance(network, UNet):  # other networks of users stay as they were made
            _set_deep_supervision(network, enabled=training.deep_supervision)
        if fused_norm and has_triton(context.device):
            from nnseg.network.triton_norm import use_triton_norm  # noqa: PLC0415 (where there is Triton)

            use_triton_norm(self.network)
        self._trainable = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self._trainable, training)
        self.average = WeightAverage(self.network, training.averaging)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=context.dtype is torch.float16)
        self.step = 0
        self.float32_steps = float32_steps
        self.parts = training.accumulation
        self.earlier_seconds = 0.0
        self._started = time.perf_counter()
        self._loss_function = make_loss(context.plan, ranks=context.ranks, loss=loss)
        self._forward = torch.compile(self.network, dynamic=False) if compiled else _in_parallel(self.network, context)
        _check_split(context)
        self._losses: list[float] = []
        self._pending: list[_StepResult] = []

    @property
    def seconds(self) -> float:
        """Wall-clock of the training so far, without interruptions."""
        return self.earlier_seconds + time.perf_counter() - self._started

    def weights(self) -> dict[str, Tensor]:
        """The result so far: averaged weights if the plan averages, else the current ones."""
        return dict(self.average.weights())

    def take_step(self, batch: Batch) -> Tensor:
        """Learn from a batch; returns its loss, still on the device, so that nothing waits for the device.

        If the device's memory is too small for the batch, it is split into more parts from then on.

        Raises:
            RunError: the memory is too small for a single patch.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.course, self.context.plan.training)
        self.network.train()
        while (loss := self._backward(batch)) is None:
            self.parts = self._more_parts(batch)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trainable, self.context.plan.training.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.network)
        self._pending.append(_StepResult(self.step, loss, norm.detach(), _describe_patches(batch)))
        self.step += 1
        return loss

    def mean_loss(self) -> float | None:
        """The mean loss of the steps since the last call; None if there were none. Raises as `losses` does."""
        values, self._losses = self.losses(), []
        return sum(values) / len(values) if values else None

    def recent_loss(self) -> float | None:
        """The mean loss of the last few steps, for show; None right after an epoch."""
        recent = [result.loss.float() for result in self._pending[-RECENT_STEPS:]]
        return float(torch.stack(recent).mean()) if recent else None

    def losses(self) -> list[float]:
        """The loss of each step since the last call of `mean_loss`.

        Raises:
            NotFiniteError: a loss or a gradient was not; names the step and its patches. The weights are useless from then on.
        """
        if self._pending:
            numbers = torch.stack([torch.stack([result.loss.float(), result.norm.float()]) for result in self._pending]).cpu()
            for result, (loss, norm) in zip(self._pending, numbers.double().tolist(), strict=True):
                skipped = self.scaler.is_enabled()  # float16 overflows now and then, and such a step is left out
                if not math.isfinite(loss) or not (math.isfinite(norm) or skipped):
                    what = f"the gradient is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
                    raise NotFiniteError(f"{what} at step {result.step}, on {result.patches}", result.step)
                self._losses.append(loss)
            self._pending.clear()
        return list(self._losses)

    def check(self) -> None:
        """Raise NotFiniteError if a loss, a gradient or a weight is not finite."""
        self.losses()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.weights().values() if tensor.is_floating_point()):
            raise NotFiniteError(f"some weights are no longer finite at step {self.step}")

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and the plain values from which `restore` makes an equal learner."""
        average, updates = self.average.state()
        optimizer, about = flatten_state(self.optimizer.state_dict())
        groups = {"network": self.network.state_dict(), "average": average, "optimizer": optimizer}
        plain = {
            "step": self.step,
            "seconds": self.seconds,
            "parts": self.parts,
            "averaged": updates,
            "optimizer": about,
            "scaler": self.scaler.state_dict(),
            "losses": self.losses(),
        }
        return join_groups(groups), plain

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Restore the state of a snapshot."""
        groups = split_groups(tensors)
        self.network.load_state_dict(groups["network"])
        self.average.load_state(groups["average"], about["averaged"])
        self.optimizer.load_state_dict(unflatten_state(groups["optimizer"], about["optimizer"]))
        _match_layout(self.optimizer)
        if about["scaler"]:
            self.scaler.load_state_dict(dict(about["scaler"]))
        self.step, self.parts, self.earlier_seconds = (
            int(about["step"]),
            int(about["parts"]),
            self.earlier_seconds + float(about["seconds"]),
        )
        self._losses, self._pending = list(about["losses"]), []

    def _backward(self, batch: Batch) -> Tensor | None:
        """The loss of a batch, its gradients in the parameters; None if the device's memory was too small."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = _split(batch, min(self.parts, len(batch.names)))
        shares = self._shares(len(parts))
        total = torch.zeros((), device=self.context.device)
        try:
            for number, part in enumerate(parts, 1):
                with self._gradient_exchange(last=number == len(parts)):
                    loss = self._loss(part) if len(parts) == 1 else self._loss(part) * shares[number - 1]
                    self.scaler.scale(loss).backward()
                    total += loss.detach()
        except torch.OutOfMemoryError:
            if self.context.ranks.size > 1:
                raise  # the other ranks would wait for this one
            return None
        return total

    def _shares(self, parts: int) -> list[float]:
        """Each part's share of the whole batch, over all ranks."""
        batch_size, ranks = self.context.plan.training.batch_size, self.context.ranks
        sizes = [len(replace(ranks, rank=rank).share(batch_size)) for rank in range(ranks.size)]
        return [sum(len(range(size)[_part(size, n, parts)]) for size in sizes) / batch_size for n in range(parts)]

    def _loss(self, batch: Batch) -> Tensor:
        with nullcontext() if self.step in self.float32_steps else self.context.autocast():
            outputs = self._forward(batch.image)
        return self._loss_function(outputs, batch.labels, batch.known, batch.probabilities)

    def _gradient_exchange(self, *, last: bool) -> AbstractContextManager[None]:
        """The context of one part of a batch: ranks exchange gradients in the last one only."""
        forward = self._forward
        return forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else nullcontext()

    def _more_parts(self, batch: Batch) -> int:
        """The number of parts for a batch that was too large, with patches in the largest part halved."""
        size, device = len(batch.names), self.context.device
        largest = math.ceil(size / self.parts)
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if largest == 1:
            raise RunError(
                f"{device} has too little memory for one patch of {self.context.plan.patch}; end other programs "
                "on it, make a new plan with less --memory, or use --device cpu"
            )
        parts = math.ceil(size / (largest // 2))
        log.warning(
            "%s is out of memory at step %d: batches of %d patches are split into %d parts from now on, each still one step",
            device,
            self.step,
            size,
            parts,
        )
        return parts


def fresh_network(context: TrainingContext) -> nn.Module:
    """The plan's network with random weights that depend on seed and fold alone, and the plan's deep supervision."""
    training = context.plan.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed * 1000 + context.fold)
        network = build_network(context.plan)
    if isinstance(network, DeeplySupervised):
        _set_deep_supervision(network, enabled=training.deep_supervision)
    return network


def _describe_patches(batch: Batch) -> str:
    """The case of each patch, and the voxel where it starts."""
    starts = batch.starts or ((),) * len(batch.names)
    return "; ".join(name + (f" from voxel {start}" if start else "") for name, start in zip(batch.names, starts, strict=True))


def _check_split(context: TrainingContext) -> None:
    size, ranks, parts = context.plan.training.batch_size, context.ranks.size, context.plan.training.accumulation
    if size // ranks < parts:
        of = f" and {parts} parts (training.accumulation)" if parts > 1 else ""
        raise RunError(f"a batch of {size} patches cannot be divided among {ranks} processes{of}; start fewer processes")


def _split(batch: Batch, count: int) -> list[Batch]:
    """A batch in parts of nearly equal size."""
    if count == 1:
        return [batch]
    known, given = batch.known, batch.probabilities
    return [
        replace(
            batch,
            image=batch.image[p],
            labels=batch.labels[p],
            names=batch.names[p],
            known=None if known is None else known[p],
            probabilities=None if given is None else given[p],
        )
        for p in (_part(len(batch.names), number, count) for number in range(count))
    ]


def _part(size: int, number: int, count: int) -> slice:
    """The patches, of ``size``, in part ``number`` of ``count``."""
    return slice(size * number // count, size * (number + 1) // count)


def _match_layout(optimizer: Optimizer) -> None:
    """Give an optimizer's state the layout of its parameters, as fused steps need it; checkpoints are contiguous."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _set_deep_supervision(network: DeeplySupervised, *, enabled: bool) -> None:
    """Set deep supervision; freeze heads whose loss weight is 0."""
    network.deep_supervision = enabled
    weights = stage_weights(len(network.heads)) if enabled else [1.0] + [0.0] * (len(network.heads) - 1)
    for head, weight in zip(network.heads, weights, strict=True):
        head.requires_grad_(weight > 0)


def _in_parallel(network: nn.Module, context: TrainingContext) -> nn.Module:
    """The network, its gradients averaged over the ranks if there are several."""
    if context.ranks.size == 1:
        return network
    # To look for parameters without a gradient, the device is waited for at each step; the U-Nets have none.
    return DistributedDataParallel(network, find_unused_parameters=not isinstance(network, UNet))
