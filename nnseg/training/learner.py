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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnseg.core.errors import NnsegError, RunError
from nnseg.core.schedule import Course, learning_rate
from nnseg.network.build import DeeplySupervised, build_network
from nnseg.network.checkpoint import flatten_state, unflatten_state
from nnseg.network.unet import UNet
from nnseg.training.context import TrainingContext
from nnseg.training.losses import OwnLoss, make_loss, stage_weights
from nnseg.training.optimizer import WeightAverage, make_optimizer
from nnseg.training.patches import Batch

log = logging.getLogger(__name__)


class _StepResult(NamedTuple):
    """What is known of a step that was taken, the numbers still on the device."""

    step: int
    loss: Tensor
    norm: Tensor
    patches: str


class Learner:
    """A network in training: the only mutable thing here.

    Args:
        setting: what the training is given.
        course: the learning rate's way; may be replaced between two steps.
        network: to begin with; by default a fresh one, the same for the same seed and fold. Weights that need no gradient stay.
        loss: in place of the plan's: a function of float32 logits (B, K, *space) and labels (B, *space), -1 where ignored.
        compiled: let torch compile the network at the first step.
    """

    def __init__(
        self,
        setting: TrainingContext,
        course: Course,
        *,
        network: nn.Module | None = None,
        loss: OwnLoss | None = None,
        compiled: bool = False,
    ) -> None:
        training = setting.plan.training
        self.setting, self.course = setting, course
        self.network = (network or fresh_network(setting)).to(setting.device)
        if isinstance(self.network, DeeplySupervised):
            _set_deep_supervision(self.network, enabled=training.deep_supervision)
        self._learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self._learned, training)
        self.average = WeightAverage(self.network, training.averaging)
        self.scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.dtype is torch.float16)
        self.step = 0
        self.parts = training.accumulation
        self.spent = 0.0
        self._started = time.perf_counter()
        self._loss_of = make_loss(setting.plan, ranks=setting.ranks, loss=loss)
        self._parallel = torch.compile(self.network, dynamic=False) if compiled else _in_parallel(self.network, setting)
        _check_split(setting)
        self._seen: list[float] = []
        self._unseen: list[_StepResult] = []

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
        norm = nn.utils.clip_grad_norm_(self._learned, self.setting.plan.training.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.network)
        self._unseen.append(_StepResult(self.step, loss, norm.detach(), _in_words(batch)))
        self.step += 1
        return loss

    def mean_loss(self) -> float | None:
        """The mean loss of the steps since it was last asked for; None if there were none. Raises as `losses` does."""
        values = self.losses()
        self._seen = []
        return sum(values) / len(values) if values else None

    def losses(self) -> list[float]:
        """The loss of each step since `mean_loss` was last asked for.

        Raises:
            NnsegError: a loss or a gradient was not finite; names the step and its patches. The weights are then worth nothing.
        """
        if self._unseen:
            numbers = torch.stack([torch.stack([taken.loss.float(), taken.norm.float()]) for taken in self._unseen]).cpu()
            for taken, (loss, norm) in zip(self._unseen, numbers.double().tolist(), strict=True):
                skipped = self.scaler.is_enabled()  # float16 overflows now and then, and such a step is left out
                if not math.isfinite(loss) or not (math.isfinite(norm) or skipped):
                    what = f"the gradient is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
                    raise _hopeless(f"{what} at step {taken.step}, on {taken.patches}")
                self._seen.append(loss)
            self._unseen.clear()
        return list(self._seen)

    def check(self) -> None:
        """Nothing, if the weights are worth keeping.

        Raises:
            NnsegError: a loss, a gradient or a weight is not finite.
        """
        self.losses()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.weights().values() if tensor.is_floating_point()):
            raise _hopeless(f"some weights are no longer finite at step {self.step}")

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
            "losses": self.losses(),
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
        self._seen, self._unseen = list(about["losses"]), []

    def _gradients(self, batch: Batch) -> Tensor | None:
        """The loss of a batch, its gradients in the parameters; None if the device's memory was too small."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(_parts(batch, min(self.parts, len(batch.names))))
        shares = self._shares(len(parts))
        total = torch.zeros((), device=self.setting.device)
        try:
            for number, part in enumerate(parts, 1):
                with self._last(number == len(parts)):
                    loss = self._loss(part) if len(parts) == 1 else self._loss(part) * shares[number - 1]
                    self.scaler.scale(loss).backward()
                    total += loss.detach()
        except torch.OutOfMemoryError:
            if self.setting.ranks.size > 1:
                raise  # the other ranks would wait for this one
            return None
        return total

    def _shares(self, parts: int) -> list[float]:
        """Each part's share of the whole batch, over all ranks."""
        batch_size, ranks = self.setting.plan.training.batch_size, self.setting.ranks
        sizes = [len(replace(ranks, rank=rank).share(batch_size)) for rank in range(ranks.size)]
        return [sum(len(range(size)[_part(size, n, parts)]) for size in sizes) / batch_size for n in range(parts)]

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


def fresh_network(setting: TrainingContext) -> nn.Module:
    """The plan's network with first weights that depend on seed and fold alone."""
    plan = setting.plan
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.training.seed * 1000 + setting.fold)
        return build_network(plan)


def _in_words(batch: Batch) -> str:
    """The patches of a batch: cases, and where in them."""
    starts = batch.starts or ((),) * len(batch.names)
    return "; ".join(name + (f" from voxel {start}" if start else "") for name, start in zip(batch.names, starts, strict=True))


def _check_split(setting: TrainingContext) -> None:
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
        chosen = _part(size, number, count)
        known = None if batch.known is None else batch.known[chosen]
        yield replace(batch, image=batch.image[chosen], labels=batch.labels[chosen], names=batch.names[chosen], known=known)


def _part(size: int, number: int, count: int) -> slice:
    """Which of so many samples are in a part."""
    return slice(size * number // count, size * (number + 1) // count)


def _set_deep_supervision(network: DeeplySupervised, *, enabled: bool) -> None:
    """Set deep supervision; freeze heads whose loss weight is 0."""
    network.deep_supervision = enabled
    weights = stage_weights(len(network.heads)) if enabled else [1.0] + [0.0] * (len(network.heads) - 1)
    for head, weight in zip(network.heads, weights, strict=True):
        head.requires_grad_(weight > 0)


def _hopeless(what: str) -> NnsegError:
    return NnsegError(
        f"{what}; look at these cases, lower training.learning_rate, or set training.precision to float32; the last checkpoint is "
        "sound"
    )


def _in_parallel(network: nn.Module, setting: TrainingContext) -> nn.Module:
    """The network, its gradients averaged over the ranks if there are several."""
    if setting.ranks.size == 1:
        return network
    # To look for parameters that take no part costs a wait for the device at each step; our own networks have none.
    return DistributedDataParallel(network, find_unused_parameters=not isinstance(network, UNet))
