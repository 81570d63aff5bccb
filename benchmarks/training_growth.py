"""How the cost of a training step grows with the patch, the batch and the channels; part of bench_training.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from drawing import Chart, write_figure
from learners import made_cases, made_plan, make_learner, seconds_of

from nnseg.core.plan import Plan
from nnseg.training.loop import prefetched
from nnseg.training.patches import Patches


@dataclass
class Sweep:
    """One quantity that is varied, and what it costs."""

    x_label: str
    y_label: str
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Of the logarithms: 1 where cost is in proportion."""
        x, y = (np.log([p[axis] for p in self.points]) for axis in (0, 1))
        return float(np.polyfit(x, y, 1)[0])


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """Step time against voxels, batch and channels, and batches a second against threads of the loader."""
    device, cases = torch.device(options.device), made_cases()
    edges = (16, 24, 32, 48, 64) if device.type == "cpu" else (32, 64, 96, 128, 160)
    sweeps = {
        "voxels": _swept("voxels of a patch", ((e**3, made_plan(edge=e)) for e in edges), cases, options),
        "batch": _swept("patches of a batch", ((b, made_plan(batch=b)) for b in (1, 2, 4, 8)), cases, options),
        "channels": _swept("features of the finest stage", ((f, made_plan(features=f)) for f in (8, 16, 32, 64)), cases, options),
        "loader": _loader_sweep(cases, device, options),
    }
    charts: list[Chart] = [
        (f"{s.y_label}, log-log slope {s.slope:.2f}", s.x_label, s.y_label, {s.y_label: s.points}) for s in sweeps.values()
    ]
    write_figure(options.work / "growth.svg", charts)
    return {name: {"points": [(x, round(y, 5)) for x, y in s.points], "slope": round(s.slope, 3)} for name, s in sweeps.items()}


def _swept(x_label: str, plans: Iterable[tuple[float, Plan]], cases: Sequence[Any], options: argparse.Namespace) -> Sweep:
    sweep, device = Sweep(x_label=x_label, y_label="seconds a step"), torch.device(options.device)
    for value, plan in plans:
        learner, batch = make_learner(plan, device, options.precision), Patches(cases, plan, fold=0, device=device).batch(0)
        seconds = [seconds_of(lambda: learner.take_step(batch), device) for _ in range(2 + options.steps * options.rounds)]  # noqa: B023
        sweep.points.append((value, median(seconds[2:])))
    return sweep


def _loader_sweep(cases: Sequence[Any], device: torch.device, options: argparse.Namespace) -> Sweep:
    sweep, plan = Sweep(x_label="threads that draw", y_label="patches a second"), made_plan(edge=48, batch=4)
    patches, count = Patches(cases, plan, fold=0, device=device), 4 * options.steps * options.rounds
    for threads in (1, 2, 4) if device.type == "cpu" else (1, 2, 4, 8):
        torch.set_num_threads(1)
        batches = prefetched(patches.batch, 0, ahead=threads)
        next(batches)
        seconds = seconds_of(lambda: [next(batches) for _ in range(count)], device)  # noqa: B023
        batches.close()
        sweep.points.append((threads, count * plan.training.batch_size / seconds))
    torch.set_num_threads(options.threads)
    return sweep
