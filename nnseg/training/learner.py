"""`Learner`: all that a training changes (weights, optimizer, step), and the step that changes it.

Everything else (plan, patches, seed) is given, and the n-th batch depends on nothing but (seed, fold, n), so a learner restored
from a snapshot continues exactly as if it had never stopped.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
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

MOST_IN_A_ROW = 3
"""Steps one after another that are not finite in lower precision, with which a training ends."""


class _StepResult(NamedTuple):
    """Loss and gradient norm of a step, still on the device, and its patches in words."""

    step: int
    loss: Tensor
    norm: Tensor
    patches: str


class NotFiniteError(NnsegError):
    """A loss, a gradient or a weight is not finite.

    Args:
        what: is not finite, at which step and on which patches.
        remedy: besides looking at the cases.
    """

    def __init__(self, what: str, remedy: str = "lower training.learning_rate") -> None:
        super().__init__(f"{what}; look at these cases, or {remedy}; the last checkpoint is intact")


class Learner:
    """A network in training, with its optimizer and averaged weights: the only mutable state of a training.

    Args:
        context: plan, fold, device and precision.
        course: of the learning rate; may be replaced between two steps.
        network: by default `fresh_network`. Weights that need no gradient stay.
        loss: in place of the plan's: a function of float32 logits (B, K, *space) and labels (B, *space), -1 where ignored.
        compiled: compile the network with torch.compile at the first step.
        fused_norm: compute channels-last, with the norm of `nnseg.network.triton_norm`, where there is Triton.
        rate: by which the plan's learning rate is multiplied.

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
        rate: float = 1.0,
    ) -> None:
        training = context.plan.training
        self.context, self.course, self.rate = context, course, rate
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
        self.repeated_steps: list[int] = []
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

    def learning_rate(self, step: int) -> float:
        """The rate of a step."""
        return self.rate * learning_rate(step, self.course, self.context.plan.training)

    def weights(self) -> dict[str, Tensor]:
        """The result so far: averaged weights if the plan averages, else the current ones."""
        return dict(self.average.weights())

    def take_step(self, batch: Batch) -> Tensor:
        """Learn from a batch; returns its loss, still on the device.

        A step that is not finite in lower precision than float32 is computed again in float32.

        If the device's memory is too small for the batch, it is split into more parts from then on.

        Raises:
            RunError: the memory is too small for a single patch.
            NotFiniteError: the step is not finite in float32 either, or `MOST_IN_A_ROW` steps one after another were not in lower
                precision; the weights are those before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.network.train()
        with self._seeded():
            loss, norm = self._gradients(batch)
            if fault := self._overflow(loss, norm):
                loss, norm = self._repeat_in_float32(batch, fault)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.network)
        self._pending.append(_StepResult(self.step, loss, norm, _describe_patches(batch)))
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
                if fault := self._fault(loss, norm):
                    raise NotFiniteError(f"{fault} at step {result.step}, on {result.patches}")
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
            "repeated_steps": list(self.repeated_steps),
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
        self.repeated_steps = list(about.get("repeated_steps", []))

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """A context in which the channels that dropout drops depend on seed, fold and step alone."""
        context, device = self.context, self.context.device
        if not context.plan.network.dropout:
            yield
            return
        numbers = (context.plan.training.seed, context.fold, self.step, context.ranks.rank)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([k % 2**64 for k in numbers]).generate_state(1)[0]))
            yield

    def _fault(self, loss: float, norm: float) -> str:
        """What of a step is not finite, in words; empty if nothing is."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        skipped = self.scaler.is_enabled()  # float16 overflows now and then, and such a step is left out
        return "" if skipped or math.isfinite(norm) else f"the gradient is {norm}"

    def _overflow(self, loss: Tensor, norm: Tensor) -> str:
        """What of a step in lower precision is not finite; in float32 that is found later, so that nothing waits for the device."""
        if self.context.dtype is torch.float32:
            return ""
        return self._fault(*torch.stack([loss.float(), norm.float()]).tolist())

    def _repeat_in_float32(self, batch: Batch, fault: str) -> tuple[Tensor, Tensor]:
        """Loss and gradient norm of the step, computed again in float32. Raises NotFiniteError as `take_step` says."""
        context, step, patches = self.context, self.step, _describe_patches(batch)
        precision, row = str(context.dtype).removeprefix("torch."), list(range(step - MOST_IN_A_ROW + 1, step + 1))
        self.repeated_steps.append(step)
        if self.repeated_steps[-MOST_IN_A_ROW:] == row:
            raise NotFiniteError(
                f"{fault} in {precision} at step {step}, on {patches}, and the steps from {row[0]} on were not finite either: "
                "intensities are extreme, or the training diverges",
                "lower training.learning_rate, or set training.precision to float32",
            )
        log.warning(
            "%s fold %d: %s in %s at step %d, on %s; the step is repeated in float32",
            context.plan.name,
            context.fold,
            fault,
            precision,
            step,
            patches,
        )
        self.scaler.update()  # lowers the scale, and lets gradients be unscaled again
        loss, norm = self._gradients(batch, in_float32=True)
        if fault := self._overflow(loss, norm):
            raise NotFiniteError(f"{fault} at step {step}, in float32 too, on {patches}")
        return loss, norm

    def _gradients(self, batch: Batch, *, in_float32: bool = False) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the norm of its gradients, which are in the parameters, clipped."""
        while (loss := self._backward(batch, in_float32=in_float32)) is None:
            self.parts = self._more_parts(batch)
        self.scaler.unscale_(self.optimizer)
        return loss, nn.utils.clip_grad_norm_(self._trainable, self.context.plan.training.clip_norm).detach()

    def _backward(self, batch: Batch, *, in_float32: bool) -> Tensor | None:
        """The loss of a batch, its gradients in the parameters; None if the device's memory was too small."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = _split(batch, min(self.parts, len(batch.names)))
        shares = self._shares(len(parts))
        total = torch.zeros((), device=self.context.device)
        try:
            for number, part in enumerate(parts, 1):
                with self._gradient_exchange(last=number == len(parts)):
                    loss = self._loss(part, in_float32=in_float32) * shares[number - 1]
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

    def _loss(self, batch: Batch, *, in_float32: bool) -> Tensor:
        with nullcontext() if in_float32 else self.context.autocast():
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
