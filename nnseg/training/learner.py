"""`Learner`: all that a training changes, and the step that changes it.

Everything else (plan, patches, seed) is given, and the n-th batch depends on nothing but (seed, fold, n), so a learner restored
from a snapshot goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnseg.core.errors import NnsegError, RunError
from nnseg.network.checkpoint import flatten_state, unflatten_state
from nnseg.network.unet import UNet, build_network
from nnseg.training.course import Course, learning_rate
from nnseg.training.losses import OwnLoss, make_loss
from nnseg.training.optimizer import WeightAverage, make_optimizer
from nnseg.training.patches import Batch
from nnseg.training.setting import Setting

log = logging.getLogger(__name__)


class Learner:
    """A network in training: the only mutable thing here.

    Args:
        setting: what the training is given.
        course: the learning rate's way; may be replaced between two steps.
        network: to begin with; by default a fresh one, the same for the same seed and fold. Weights that need no gradient stay.
        loss: in place of the plan's: a function of float32 logits (B, K, *space) and labels (B, *space), -1 where ignored.
    """

    def __init__(self, setting: Setting, course: Course, *, network: nn.Module | None = None, loss: OwnLoss | None = None) -> None:
        training = setting.plan.training
        self.setting, self.course = setting, course
        self.network = (network or fresh_network(setting)).to(setting.device)
        if isinstance(self.network, UNet):
            self.network.deep_supervision = training.deep_supervision
        self._learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self._learned, training)
        self.average = WeightAverage(self.network, training.averaging)
        self.scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.dtype is torch.float16)
        self.step = 0
        self.parts = training.accumulation
        self.spent = 0.0
        self._started = time.perf_counter()
        self._loss_of = make_loss(setting.plan, ranks=setting.ranks, loss=loss)
        self._parallel = _in_parallel(self.network, setting)
        _check_split(setting)
        self._unseen: list[tuple[int, Tensor, str]] = []

    @property
    def seconds(self) -> float:
        """Wall-clock of the training so far, interruptions not counted."""
        return self.spent + time.perf_counter() - self._started

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(self.step, self.course, self.setting.plan.training)

    def weights(self) -> dict[str, Tensor]:
        """The result so far: averaged weights if the plan averages, else the current ones."""
        return dict(self.average.weights())

    def take_step(self, batch: Batch) -> Tensor:
        """Learn from a batch; returns its loss, still on the device, so that nothing waits for it.

        Where the device's memory is too small for the batch, it is taken in smaller parts from then on.

        Raises:
            RunError: even one patch at a time is too much.
        """
        rate = self.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        loss = self._gradients(batch)
        while loss is None:
            self.parts = self._smaller(batch)
            loss = self._gradients(batch)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self._learned, self.setting.plan.training.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.network)
        self._unseen.append((self.step, loss, _in_words(batch)))
        self.step += 1
        return loss

    def mean_loss(self) -> float | None:
        """The mean loss of the steps since it was last asked for; None if there were none. Raises as `losses` does."""
        values = self.losses()
        self._unseen.clear()
        return sum(values) / len(values) if values else None

    def losses(self) -> list[float]:
        """The loss of each step since `mean_loss` was last asked for.

        Raises:
            NnsegError: one was not finite; names its step and patches. The weights are then worth nothing.
        """
        values = torch.stack([loss for _, loss, _ in self._unseen]).double().tolist() if self._unseen else []
        for value, (step, _, patches) in zip(values, self._unseen, strict=True):
            if not math.isfinite(value):
                raise NnsegError(
                    f"the loss is {value} at step {step}, on {patches}; look at these cases, lower "
                    "training.learning_rate, or set training.precision to float32; the last checkpoint is sound"
                )
        return values

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which `restore` makes an equal learner."""
        average, counter = self.average.state()
        optimizer, about = flatten_state(self.optimizer.state_dict())
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in average.items()} | {f"optimizer/{k}": v for k, v in optimizer.items()}
        plain = {
            "step": self.step,
            "seconds": self.seconds,
            "parts": self.parts,
            "averaged": counter,
            "optimizer": about,
            "scaler": self.scaler.state_dict(),
        }
        return tensors, plain

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Become the learner a snapshot was taken of."""
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        self.network.load_state_dict(groups["network"])
        self.average.load_state(groups["average"], about["averaged"])
        self.optimizer.load_state_dict(unflatten_state(groups["optimizer"], about["optimizer"]))
        if about["scaler"]:
            self.scaler.load_state_dict(dict(about["scaler"]))
        self.step, self.parts, self.spent = int(about["step"]), int(about["parts"]), self.spent + float(about["seconds"])
        self._unseen.clear()

    def _gradients(self, batch: Batch) -> Tensor | None:
        """The loss of a batch, its gradients in the parameters; None if the device's memory was too small."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(_parts(batch, self.parts))
        total = torch.zeros((), device=self.setting.device)
        try:
            for number, part in enumerate(parts, 1):
                with self._last(number == len(parts)):
                    loss = self._loss(part) if len(parts) == 1 else self._loss(part) * (len(part.names) / len(batch.names))
                    self.scaler.scale(loss).backward()
                    total += loss.detach()
        except torch.OutOfMemoryError:
            if self.setting.ranks.size > 1:
                raise  # the other ranks would wait for this one
            return None
        return total

    def _loss(self, batch: Batch) -> Tensor:
        with self.setting.autocast():
            outputs = self._parallel(batch.image)
        return self._loss_of(outputs, batch.labels, batch.known)

    def _last(self, last: bool) -> AbstractContextManager[None]:
        """Where gradients are exchanged between ranks: in the last part of a batch only."""
        parallel = self._parallel
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) and not last else nullcontext()

    def _smaller(self, batch: Batch) -> int:
        """In how many parts to take a batch that was too large."""
        size = len(batch.names)
        largest = math.ceil(size / self.parts)
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.setting.device.type == "cuda":
            torch.cuda.empty_cache()
        if largest == 1:
            raise RunError(
                f"{self.setting.device} has too little memory for one patch of {self.setting.plan.patch}; end what else runs "
                "there, plan anew with less --memory, or use --device cpu"
            )
        parts = math.ceil(size / (largest // 2))
        log.warning(
            "%s is out of memory at step %d: the %d patches of a batch are from now on taken in %d parts, still as one step",
            self.setting.device,
            self.step,
            size,
            parts,
        )
        return parts


def fresh_network(setting: Setting) -> nn.Module:
    """The plan's network with first weights that depend on seed and fold alone."""
    plan = setting.plan
    with torch.random.fork_rng():
        torch.manual_seed(plan.training.seed * 1000 + setting.fold)
        return build_network(plan.network, channels=plan.inputs, heads=len(plan.labels.heads))


def _in_words(batch: Batch) -> str:
    """The patches of a batch: cases, and where in them."""
    starts = batch.starts or ((),) * len(batch.names)
    return "; ".join(name + (f" from voxel {start}" if start else "") for name, start in zip(batch.names, starts, strict=True))


def _check_split(setting: Setting) -> None:
    size, ranks, parts = setting.plan.training.batch_size, setting.ranks.size, setting.plan.training.accumulation
    if size // ranks < parts:
        of = f" and {parts} parts (training.accumulation)" if parts > 1 else ""
        raise RunError(f"a batch of {size} patches cannot be divided among {ranks} processes{of}; start fewer processes")


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in so many parts of nearly equal size."""
    size = len(batch.names)
    if count == 1:
        yield batch
        return
    for number in range(count):
        chosen = slice(size * number // count, size * (number + 1) // count)
        known = None if batch.known is None else batch.known[chosen]
        yield replace(batch, image=batch.image[chosen], labels=batch.labels[chosen], names=batch.names[chosen], known=known)


def _in_parallel(network: nn.Module, setting: Setting) -> nn.Module:
    """The network, its gradients averaged over the ranks if there are several."""
    if setting.ranks.size == 1:
        return network
    # The coarsest head is not scored, so some parameters take no part.
    return DistributedDataParallel(network, find_unused_parameters=True)
