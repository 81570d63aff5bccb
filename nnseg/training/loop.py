"""The training loop: one step after another, an `Epoch` at a time.

`Learner` is what training changes: weights, their average, the optimizer's memory, the step. Everything else (plan, patches,
number of steps) is given, and the n-th batch depends on nothing but (seed, fold, n), so a learner restored from a checkpoint goes
on exactly as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnseg.core.errors import NnsegError
from nnseg.core.history import Epoch
from nnseg.network.checkpoint import flatten_state, unflatten_state
from nnseg.network.unet import build_network
from nnseg.planning.pace import steps_within
from nnseg.training.losses import make_loss
from nnseg.training.optimizer import WeightAverage, learning_rate, make_optimizer
from nnseg.training.patches import Batch, Patches
from nnseg.training.setting import Setting
from nnseg.training.validation import Validation


class Learner:
    """A network in training: the only mutable thing here."""

    def __init__(self, setting: Setting) -> None:
        plan, training = setting.plan, setting.plan.training
        with torch.random.fork_rng():
            torch.manual_seed(_initial_seed(training.seed, setting.fold))
            network = build_network(plan.network, channels=len(plan.channels), heads=len(plan.labels.heads))
        self.network: nn.Module = network.to(setting.device)
        self.network.deep_supervision = training.deep_supervision
        self.optimizer = make_optimizer(self.network.parameters(), training)
        self.average = WeightAverage(self.network, training.averaging)
        self.scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.dtype is torch.float16)
        self.step = 0
        self.seconds = 0.0

    def weights(self) -> dict[str, Tensor]:
        """The result so far: averaged weights if the plan averages, else the current ones."""
        return dict(self.average.weights())

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which `restore` makes an equal learner."""
        average, counter = self.average.state()
        optimizer, about = flatten_state(self.optimizer.state_dict())
        tensors = {f"network/{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in average.items()} | {f"optimizer/{k}": v for k, v in optimizer.items()}
        plain = {
            "step": self.step,
            "seconds": self.seconds,
            "averaged": counter,
            "optimizer": about,
            "scaler": self.scaler.state_dict(),
        }
        return tensors, plain

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Become the learner a snapshot was taken of."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        self.network.load_state_dict(parts["network"])
        self.average.load_state(parts["average"], about["averaged"])
        self.optimizer.load_state_dict(unflatten_state(parts["optimizer"], about["optimizer"]))
        if about["scaler"]:
            self.scaler.load_state_dict(dict(about["scaler"]))
        self.step, self.seconds = int(about["step"]), float(about["seconds"])


def train(learner: Learner, patches: Patches, validation: Validation, setting: Setting) -> Iterator[Epoch]:
    """Train to the end of the schedule, yielding after each epoch; between two epochs the learner may be saved.

    Raises:
        NnsegError: the loss is no longer finite; names the cases of the batch.
    """
    take_step = make_step(learner, setting)
    epoch_steps = setting.plan.training.epoch_steps
    while learner.step < setting.steps:
        start, losses = time.perf_counter(), []
        for _ in range(min(epoch_steps - learner.step % epoch_steps, setting.steps - learner.step)):
            batch = patches.batch(learner.step)
            losses.append((take_step(batch), batch.names))
        loss = _finite_mean(losses, learner.step)
        dice = validation.estimate(learner.network, learner.weights())
        seconds = time.perf_counter() - start
        learner.seconds += seconds
        yield Epoch(
            number=math.ceil(learner.step / epoch_steps),
            step=learner.step,
            steps=setting.steps,
            loss=loss,
            learning_rate=learning_rate(learner.step - 1, setting.steps, setting.plan.training),
            dice=dice,
            seconds=seconds,
            total_seconds=learner.seconds,
        )


def make_step(learner: Learner, setting: Setting) -> Callable[[Batch], Tensor]:
    """A function that trains on one batch and returns its loss, still on the device, so that nothing waits for it."""
    training = setting.plan.training
    loss_of = make_loss(setting.plan)
    parameters = list(learner.network.parameters())

    def step(batch: Batch) -> Tensor:
        for group in learner.optimizer.param_groups:
            group["lr"] = learning_rate(learner.step, setting.steps, training)
        learner.network.train()
        learner.optimizer.zero_grad(set_to_none=True)
        with setting.autocast():
            outputs = learner.network(batch.image)
        loss = loss_of(outputs, batch.labels)
        learner.scaler.scale(loss).backward()
        learner.scaler.unscale_(learner.optimizer)
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
        learner.average.update(learner.network)
        learner.step += 1
        return loss.detach()

    return step


def steps_fitting(seconds: float, patches: Patches, validation: Validation, setting: Setting) -> tuple[int, float]:
    """How many steps fit into a time, measured on this machine with a learner that is then thrown away.

    Args:
        seconds: for the training, this measurement included.

    Returns:
        The number of steps, at least one, and the seconds measured for one.
    """
    start = time.perf_counter()
    learner = Learner(setting)
    take_step = make_step(learner, setting)
    times: list[float] = []
    while len(times) < 2 or (len(times) < 20 and time.perf_counter() - start < 0.04 * seconds):
        began = time.perf_counter()
        float(take_step(patches.batch(len(times))))  # float() waits for the device
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    validation.estimate(learner.network, learner.weights())
    pause = time.perf_counter() - began
    step_seconds = sorted(times[1:])[(len(times) - 1) // 2]  # the first also warms up
    left, epoch_steps = seconds - (time.perf_counter() - start), setting.plan.training.epoch_steps
    return steps_within(left, step_seconds=step_seconds, pause_seconds=pause, epoch_steps=epoch_steps), step_seconds


def _finite_mean(losses: Sequence[tuple[Tensor, tuple[str, ...]]], step: int) -> float:
    values = torch.stack([loss for loss, _ in losses]).double().cpu()
    for offset, (value, (_, names)) in enumerate(zip(values.tolist(), losses, strict=True)):
        if not math.isfinite(value):
            raise NnsegError(
                f"the loss is {value} at step {step - len(losses) + offset} on a batch of {', '.join(names)}; look at these cases, "
                "lower training.learning_rate, or set training.precision to float32; the last checkpoint is sound"
            )
    return float(values.mean())


def _initial_seed(seed: int, fold: int) -> int:
    return seed * 1000 + fold
