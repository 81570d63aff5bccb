"""What the benchmarks of training share: a learner to time, a clock, made data, and the operations of a step and of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nnseg.core.labels import Labels
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.schedule import Course
from nnseg.network.build import build_network
from nnseg.network.device import autocast_dtype
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.losses import stage_weights


def make_learner(plan: Plan, device: torch.device, precision: str = "auto") -> Learner:
    """A learner at the beginning of a long training."""
    context = TrainingContext(plan=plan, fold=0, device=device, dtype=autocast_dtype(device, precision))
    return Learner(context, Course.of(10_000, plan.training))


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock of some work, on the device too."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def name_of(dtype: torch.dtype) -> str:
    """A type's name without its module: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def peak_rates(device: torch.device, dtype: torch.dtype, sizes: Sequence[int] = ()) -> list[float]:
    """Operations a second of products of square matrices of several sizes, each the best of five.

    Args:
        sizes: in place of those that a device of this kind needs to reach its peak.
    """
    rates = []
    for size in sizes or ((512, 1024, 2048, 4096) if device.type == "cpu" else (4096, 8192, 16384)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        torch.mm(a, b, out=out)
        rates.append(2 * size**3 / min(seconds_of(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device) for _ in range(5)))
    return rates


def step_flops(plan: Plan) -> int:
    """Multiplications and additions of all convolutions in one step, forward and backward, counted on shapes alone."""
    with torch.device("meta"):
        network = build_network(plan)
        image = torch.empty(plan.training.batch_size, plan.input_channels, *plan.patch)
    network.deep_supervision = plan.training.deep_supervision
    with FlopCounterMode(display=False) as counter:
        outputs = network(image)
        weights = stage_weights(len(outputs))
        sum(output.sum() for output, weight in zip(outputs, weights, strict=True) if weight).backward()
    return int(counter.get_total_flops())


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeCase:
    """A case of noise with a block in it, in memory."""

    name: str
    image: Any
    labels: Any
    locations: dict[int, Any]
    annotated: Any = None
    known: Any = None


def made_plan(*, edge: int = 32, batch: int = 2, features: int = 16, stages: int = 4) -> Plan:
    """A plain 3D U-Net on cubes of noise, with nnU-Net's augmentation and loss."""
    axes = (0, 1, 2)
    return Plan(
        name="3d",
        dataset="made",
        recipe="made",
        channels=("MRI",),
        labels=Labels(names=("background", "block"), values=(0, 1)),
        patch=(edge,) * 3,
        preprocessing=Preprocessing(axes=axes, spacing=(1.0, 1.0, 1.0), normalization=(Normalization(scheme="zscore"),)),
        network=Network(
            kind="plain",
            features=tuple(features * 2**n for n in range(stages)),
            strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
            kernels=((3, 3, 3),) * stages,
            blocks=(2,) * stages,
            decoder_blocks=(2,) * (stages - 1),
        ),
        training=Training(batch_size=batch, augmentation=Augmentation(mirror_axes=axes)),
        inference=Inference(),
    )


def made_cases(*, edge: int = 96, count: int = 4) -> list[MadeCase]:
    """Noise with a bright block in its middle."""
    random, block = np.random.default_rng(0), (slice(edge // 3, 2 * edge // 3),) * 3
    labels = np.zeros((edge,) * 3, np.int8)
    labels[block] = 1
    places = np.argwhere(labels)[::7].astype(np.int32)
    images = [random.normal(size=(1, edge, edge, edge)).astype(np.float32) + labels for _ in range(count)]
    return [MadeCase(name=f"made_{n}", image=image, labels=labels, locations={1: places}) for n, image in enumerate(images)]
