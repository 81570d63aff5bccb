"""On how few cases do given weights help, and how much of them should stay?

    python benchmarks/transfer.py WORK --data FOLDER --source SET=MODEL ... [--cases Hippocampus:10,50 ACDC:8,32]
                                  [--seeds 0,1] [--minutes 3] [--held-out 40]

Of each set a fixed part is held out, by patient, and so many other cases are drawn for each seed. A network is trained on these
from scratch, and begins with each MODEL (a run, an exported file, what `nnseg pretrain` made, or an encoder's description) in each
mode of ``--init-mode``. Each cell is a whole command, ``nnseg run``, and a line of WORK/transfer.jsonl; what is done is not done
again. Prints a table for RESULTS.md: Dice of the same held-out cases, their mean over the seeds, with paired differences to scratch
and to the best way. A star is at the mode that ``auto`` takes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from suite import SETS

from nnseg.evaluation.statistics import bootstrap_weights, interval, sign_flip
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import write_json
from nnseg.storage.run import Run
from nnseg.training.schedule import FEWEST_WHOLE

MODES = ("frozen", "low_rate", "whole")
SCRATCH = "scratch"
Cell = tuple[str, int, int, str]
"""Set, number of cases, seed and way."""


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--source", action="append", default=[], metavar="SET=MODEL")
    parser.add_argument("--cases", nargs="+", default=["Hippocampus:10,50", "ACDC:8,32"], metavar="SET:NUMBERS")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--held-out", type=int, default=40)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sources = [tuple(text.split("=", 1)) for text in options.source]
    wanted = [(name, int(n)) for text in options.cases for name, numbers in [text.split(":")] for n in numbers.split(",")]
    for name, count in wanted:
        given = {f"{Path(model).stem}, {mode}": (model, mode) for of, model in sources if of == name for mode in MODES}
        for seed in map(int, options.seeds.split(",")):
            for way, settings in {SCRATCH: None, **given}.items():
                if (name, count, seed, way) not in read_cells(options.work):
                    _run_cell(options, (name, count, seed, way), settings)
    print("\n".join(table(read_cells(options.work))))


def read_cells(work: Path) -> dict[Cell, dict[str, Any]]:
    """The cells that are done."""
    file = work / "transfer.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(line["set"], line["cases"], line["seed"], line["way"]): line for line in lines}


def divide(names: Sequence[str], count: int, seed: int, held_out: int, pattern: str | None) -> dict[str, list[str]]:
    """The cases to train on and those that are held out, the same for all numbers and seeds; patients stay together.

    Args:
        count: of cases to train on.
        held_out: at least so many.
        pattern: of the patient in a case's name.
    """
    patient = {name: match[1] if pattern and (match := re.search(pattern, name)) else name for name in names}
    order = np.random.default_rng(0).permutation(sorted(set(patient.values()))).tolist()
    apart: set[str] = set()
    while sum(patient[name] in apart for name in names) < held_out:
        apart.add(order.pop())
    drawn = np.random.default_rng([1, seed]).permutation(order).tolist()
    ranked = sorted((name for name in names if patient[name] not in apart), key=lambda name: (drawn.index(patient[name]), name))
    return {"train": sorted(ranked[:count]), "val": sorted(name for name in names if patient[name] in apart)}


def _run_cell(options: argparse.Namespace, cell: Cell, given: tuple[str, str] | None) -> None:
    """Run one cell and add its line."""
    name, count, seed, way = cell
    data, one = options.data / SETS[name].folder, SETS[name]
    pattern = one.options[one.options.index("--group-by") + 1] if "--group-by" in one.options else None
    run = options.work / re.sub(r"[^\w.-]+", "-", f"{name}-{count}-{seed}-{way}")
    if run.exists():
        shutil.rmtree(run)  # interrupted
    names = [case.name for case in read_dataset(data).cases]
    split = options.work / f"{run.name}.json"
    write_json(split, [divide(names, count, seed, options.held_out, pattern)])
    command = [sys.executable, "-m", "nnseg", "run", data, run, "--split", split, "--folds", "0", "--device", "cpu", "--seed", seed]
    command += ["--budget", f"{options.minutes:g}m", *(("--init", given[0], "--init-mode", given[1]) if given else ())]
    with (options.work / f"{run.name}.log").open("w") as log:
        subprocess.run(list(map(str, command)), check=True, stdout=log, stderr=log)
    scores = Run(run).require_scores()
    line = {"set": name, "cases": count, "seed": seed, "way": way, "dice": {case.name: case.mean_dice for case in scores.cases}}
    with (options.work / "transfer.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    shutil.rmtree(run)


def table(cells: dict[Cell, dict[str, Any]]) -> Iterator[str]:
    """The lines of the table."""
    yield "| set | cases | begins with | Dice (95 %) | less scratch (95 %) | p | less the best (95 %) | p |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, count in dict.fromkeys((cell[0], cell[1]) for cell in cells):
        ways = dict.fromkeys(cell[3] for cell in cells if cell[:2] == (name, count))
        found = {
            way: _of_cases([line["dice"] for c, line in cells.items() if (c[0], c[1], c[3]) == (name, count, way)]) for way in ways
        }
        same = sorted(set.intersection(*map(set, found.values())))
        dice = {way: np.array([of[case] for case in same]) for way, of in found.items()}
        best = max(dice, key=lambda way: dice[way].mean())
        auto = "whole" if count >= FEWEST_WHOLE else "low_rate"
        for way, values in dice.items():
            star = " *" if way.endswith(f", {auto}") else ""
            compared = " | ".join(_difference(values, dice.get(other), own=way == other) for other in (SCRATCH, best))
            yield f"| {name} | {count} | {way}{star} | {values.mean():.4f}{_ends(values, '.4f')} | {compared} |"


def _of_cases(seeds: Sequence[dict[str, float | None]]) -> dict[str, float]:
    """The mean over seeds of each case that has a Dice in all."""
    values = {case: [of[case] for of in seeds] for case in set.intersection(*(set(of) for of in seeds))}
    return {case: float(np.mean(of)) for case, of in values.items() if None not in of}  # type: ignore[arg-type]


def _difference(values: np.ndarray, other: np.ndarray | None, *, own: bool) -> str:
    if own or other is None:
        return " | "
    differences = values - other
    return f"{differences.mean():+.4f}{_ends(differences, '+.4f')} | {sign_flip(differences, two_sided=True):.2g}"


def _ends(values: np.ndarray, form: str) -> str:
    ends = interval(bootstrap_weights(len(values)) @ values / len(values))
    return f" ({ends[0]:{form}} to {ends[1]:{form}})" if ends else ""


if __name__ == "__main__":
    main()
