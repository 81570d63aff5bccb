"""How good is a model after 5, 20 and 60 minutes, on five kinds of data? One training at a time; what is done is not done again.

    python benchmarks/suite.py WORK --data FOLDER [--sets ACDC,DRIVE] [--minutes 5,20,60] [--recipe auto] [--name NAME]
    python benchmarks/suite.py WORK --compare NAME OTHER

Each cell is a whole command, ``nnseg run SET RUN --folds 0 --budget MINUTES``, in a process of its own, and a line of
WORK/cells.jsonl. A cell in which other programs took more than `DISTURBED` of the processor's time is run again by the next call.
Prints a table for RESULTS.md and draws WORK/suite.svg. With --compare: differences of two names on the same held-out cases, set by
set; a recipe is better if the mean over the sets rises and no set falls beyond chance.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from drawing import write_figure
from measure import measure

from nnseg.evaluation.statistics import bootstrap_weights, interval, sign_flip
from nnseg.storage.run import Run

DISTURBED = 0.05
"""Share of the processor's time that other programs may take while a cell runs."""

ALPHA = 0.05
"""p of a fall that is beyond chance."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One of the sets.

    Args:
        folder: below the folder of data.
        options: of ``nnseg run``, besides those of the cell.
        published: where a number comes from, and mean Dice.
    """

    folder: str
    options: tuple[str, ...] = ()
    published: dict[str, float] = field(default_factory=dict)


SETS = {
    "Hippocampus": DataSet(folder="Task04_Hippocampus", published={"nnU-Net, 1000 epochs on a GPU, the same fold": 0.8923}),
    "ACDC": DataSet(
        folder="ACDC", options=("--group-by", r"(patient\d+)"), published={"nnU-Net, 1000 epochs on a GPU, 5 folds of 100": 0.9154}
    ),
    "DRIVE": DataSet(folder="DRIVE", published={"U-Net on the official test part": 0.816, "best on it": 0.829}),
    "DSB2018": DataSet(folder="DSB2018", published={"Otsu's threshold, all images": 0.866}),
    "ISBI2012_EM": DataSet(folder="ISBI2012_EM"),
}
"""The sets by name. Sources of the numbers: README of the data."""


def main() -> int:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--minutes", default="5,20,60")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--name", help="of the lines in the table; the recipe if absent")
    parser.add_argument("--compare", nargs=2, metavar="NAME")
    options = parser.parse_args()
    if options.compare:
        print("\n".join(compare(read_cells(options.work), *options.compare)))
        return 0
    wanted = [(name, float(m)) for m in options.minutes.split(",") for name in options.sets.split(",")]
    for name, minutes in wanted if options.data else ():
        own = options.name or Path(options.recipe).stem
        if (own, name, minutes) not in read_cells(options.work):
            run_cell(options.work, options.data, own, name, minutes, options.recipe, SETS[name])
    cells = read_cells(options.work)
    print("\n".join(table(list(cells.values()))))
    draw(list(cells.values()), options.work / "suite.svg")
    return 0


def read_cells(work: Path) -> dict[tuple[str, str, float], dict[str, Any]]:
    """The cells that count, by name, set and minutes: the last of each, without disturbed ones."""
    file = work / "cells.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(line["name"], line["set"], line["minutes"]): line for line in lines if line["others"] <= DISTURBED}


def run_cell(work: Path, data: Path, name: str, of: str, minutes: float, recipe: str, one: DataSet) -> None:
    """Run one cell and add its line."""
    run = work / f"{name}-{of}-{minutes:g}"
    if (run / "scores.json").exists() or (run / "cases").exists():
        shutil.rmtree(run)  # disturbed, or interrupted
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "nnseg", "run", str(data / one.folder), str(run), "--folds", "0", "--device", "cpu"]
    command += ["--budget", f"{minutes:g}m", "--recipe", recipe, *one.options]
    print(f"{time.strftime('%H:%M:%S')} {' '.join(command[1:])}", file=sys.stderr, flush=True)
    before = psutil.cpu_times()
    measured = measure(command, work / f"{run.name}.log")
    after = psutil.cpu_times()
    if measured["exit_code"]:
        raise SystemExit(f"{run.name} failed: see {work / run.name}.log")
    busy = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "nice", "system", "steal"))
    others = max(0.0, busy - measured["cpu_s"]) / (measured["wall_s"] * (psutil.cpu_count() or 1))
    line = {
        "name": name,
        "set": of,
        "minutes": minutes,
        "commit": _commit(),
        "others": round(others, 3),
        **measured,
        **_result(Run(run)),
    }
    with (work / "cells.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _result(run: Run) -> dict[str, Any]:
    """Dice of a run's held-out cases, and how it was trained."""
    assert run.scores
    mean, (plan,) = run.scores.averages.per_mask["dice"], run.plans
    last = plan.fold(0).history()[-1]
    return {
        "dice": mean.mean,
        "interval": mean.interval,
        "labels": dict(mean.labels),
        "cases": {case.name: case.mean_dice for case in run.scores.cases},
        "steps": last.step,
        "train_s": round(last.total_seconds, 1),
        "features": plan.plan.network.features[0],
        "windows": {name: choice.reason for name, choice in (run.windows or {}).items()},
    }


def _commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent, check=True
    )
    return found.stdout.strip()


def table(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of a table for RESULTS.md."""
    yield "| set | name | minutes | Dice (95 %) | by label | steps | the whole command | peak MB | commit |"
    yield "|---|---|---|---|---|---|---|---|---|"
    order = {name: number for number, name in enumerate(SETS)}
    for cell in sorted(cells, key=lambda c: (order[c["set"]], c["minutes"], c["name"])):
        spread = " ({:.3f} to {:.3f})".format(*cell["interval"]) if cell["interval"] else ""
        labels = ", ".join(f"{label} {value:.3f}" for label, value in cell["labels"].items() if value is not None)
        yield (
            f"| {cell['set']} | {cell['name']} | {cell['minutes']:g} | {cell['dice']:.4f}{spread} | {labels} | {cell['steps']} "
            f"| {cell['wall_s']:.0f} s | {cell['peak_tree_pss_mb']:.0f} | {cell['commit']} |"
        )
    for name, one in SETS.items():
        for source, dice in one.published.items():
            yield f"| {name} | {source} | | {dice:.4f} | | | | | |"
    for key in sorted({(cell["name"], cell["minutes"]) for cell in cells}):
        found = [cell["dice"] for cell in cells if (cell["name"], cell["minutes"]) == key]
        if len(found) == len(SETS):
            yield f"| mean of all | {key[0]} | {key[1]:g} | {np.mean(found):.4f} | | | | | |"


def draw(cells: Sequence[dict[str, Any]], path: Path) -> None:
    """Dice over minutes, a chart for each set."""
    charts = []
    for of, one in SETS.items():
        own = [cell for cell in cells if cell["set"] == of]
        series = {
            name: sorted((cell["minutes"], cell["dice"]) for cell in own if cell["name"] == name)
            for name in {c["name"] for c in own}
        }
        most = max((cell["minutes"] for cell in own), default=1.0)
        series |= {source: [(0.0, dice), (most, dice)] for source, dice in one.published.items()}
        charts += [(of, "minutes of training", "Dice", series)] if own else []
    if charts:
        write_figure(path, charts)


def compare(cells: dict[tuple[str, str, float], dict[str, Any]], name: str, other: str) -> Iterator[str]:
    """Differences of another name to the first, on the same held-out cases."""
    yield f"| set | minutes | {name} | {other} | difference (95 %) | p |"
    yield "|---|---|---|---|---|---|"
    means, falls = [], []
    for (of_name, of, minutes), cell in cells.items():
        if of_name != name or not (against := cells.get((other, of, minutes))):
            continue
        pairs = [(cell["cases"][case], against["cases"][case]) for case in cell["cases"] if case in against["cases"]]
        differences = np.array([b - a for a, b in pairs if a is not None and b is not None])
        low, high = interval(bootstrap_weights(len(differences)) @ differences / len(differences)) or (np.nan, np.nan)
        p = sign_flip(differences, two_sided=True)
        means.append(differences.mean())
        falls += [of] if differences.mean() < 0 and p < ALPHA else []
        yield (
            f"| {of} | {minutes:g} | {cell['dice']:.4f} | {against['dice']:.4f} "
            f"| {differences.mean():+.4f} ({low:+.4f} to {high:+.4f}) | {p:.3g} |"
        )
    if means:
        words = f"falls beyond chance: {', '.join(falls)}" if falls else "no set falls beyond chance"
        yield f"| mean | | | | {np.mean(means):+.4f} | {words} |"


if __name__ == "__main__":
    sys.exit(main())
