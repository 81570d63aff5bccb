"""What is learned in the time, by both tools, drawn; part of bench_training.py."""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from drawing import Chart, write_figure

from nnseg.storage.run import Run

FLOOR = 0.8
"""The Dice from which on differences are looked at closely."""


def curve(options: argparse.Namespace) -> dict[str, Any]:
    """Held-out mean Dice over minutes of training: trainings that end there, and what each estimates on its way."""
    ours = {name: Run(Path(path)) for name, path in _named(options.run)}
    peers = {name: path.split(",") for name, path in _named(options.peer_run)}
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, run in ours.items():
        ends[f"nnseg, {_group(name)}"].append(_our_end(run))
    for name, files in peers.items():
        ends[f"nnU-Net, {_group(name)}"].append(_peer_end(Path(files[0])))
    ways = {
        f"nnseg, {name}": [(e.total_seconds / 60, e.mean_dice) for e in run.fold(0).history() if e.mean_dice]
        for name, run in ours.items()
    }
    ways |= {f"nnU-Net, {name}": list(_pseudo_dice(Path(files[1]))) for name, files in peers.items() if files[1:]}
    ended = {name: sorted(points) for name, points in ends.items()}
    last = max(minutes for points in (*ended.values(), *ways.values()) for minutes, _ in points)
    if options.reference:
        ended["nnU-Net, 1000 epochs on a GPU"] = [(0.0, options.reference), (last, options.reference)]
    charts: list[Chart] = [
        ("Mean Dice of held-out cases, by length of training", "minutes of training", "Dice", ended),
        (f"The same above {FLOOR}", "minutes of training", "Dice", {name: _high(points) for name, points in ended.items()}),
        ("Estimate on held-out patches while training", "minutes", "Dice", ways),
    ]
    write_figure(options.work / "dice_over_time.svg", charts)
    return {"ended": ended, "figure": "dice_over_time.svg"}


def _named(arguments: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, path) for name, _, path in (argument.partition("=") for argument in arguments)]


def _high(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(minutes, dice) for minutes, dice in points if dice >= FLOOR]


def _group(name: str) -> str:
    """What is before the comma: trainings that differ only in length are one line."""
    return name.partition(",")[0]


def _our_end(run: Run) -> tuple[float, float]:
    dice = run.scores.averages.per_mask["dice"].mean
    assert dice is not None
    return round(run.fold(0).history()[-1].total_seconds / 60, 2), round(dice, 4)


def _peer_end(report: Path) -> tuple[float, float]:
    content = json.loads(report.read_text())
    return round(content["training_s"] / 60, 2), content["mean_dice"]


def _pseudo_dice(log: Path) -> Iterator[tuple[float, float]]:
    """Minutes and mean of the peer's own estimate of each epoch, which it writes into its log."""
    lines = re.findall(r"^(\d{4}-\S+ [\d:.]+): (.*)$", log.read_text(), re.MULTILINE)
    start = datetime.fromisoformat(lines[0][0])
    for at, text in lines:
        if text.startswith("Pseudo dice"):
            values = [float(v) for v in re.findall(r"\d\.\d+(?:e-\d+)?", text)]
            yield (datetime.fromisoformat(at) - start).total_seconds() / 60, sum(values) / len(values)
