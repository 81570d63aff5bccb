"""Which kind of network is best at equal time? The cells of suite.py for each recipe of docs/concepts/networks.md.

    python benchmarks/bench_networks.py WORK --data FOLDER [--sets Hippocampus,ACDC] [--minutes 5] [--recipes auto,separable]
    python benchmarks/bench_networks.py --cost PLAN [--threads 1]

What is done is not done again. Prints the table of suite.py, then each recipe's differences from the first one on the same held-out
cases; a recipe is better if the mean over the sets rises and no set falls beyond chance. ``2.5d`` is ``auto`` in 2D but for the
slices, so ``auto-2d`` is run beside it, and both only on sets of volumes. With --cost: weights, values of feature maps, and
processor time of a forward and backward pass, and of a forward pass, for two patches of a plan with each kind of network in turn.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import suite
import torch
from torch import nn

from nnseg.core.network_kinds import KINDS, count_values
from nnseg.core.plan import Plan
from nnseg.core.validation import parse
from nnseg.network.build import build_network

RECIPES = ("auto", "separable", "atrous", "transformer", "attention", "auto-2d", "2.5d")
FLAT = "auto-2d"
"""A name for the recipe auto with --plans 2d."""

IMAGES = ("DRIVE",)
"""Sets of single images, which have no neighbouring slices."""


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--cost", type=Path, help="plan.toml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", default="Hippocampus,ACDC,DRIVE")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    options = parser.parse_args()
    if options.cost:
        torch.set_num_threads(options.threads)
        print("\n".join(costs(read_plan(options.cost))))
        return
    recipes = options.recipes.split(",")
    for of in options.sets.split(","):
        for recipe in recipes:
            missing = (recipe, of, options.minutes) not in suite.read_cells(options.work)
            if missing and not (of in IMAGES and recipe in (FLAT, "2.5d")):
                run(options.work, options.data, recipe, of, options.minutes)
    cells = {key: cell for key, cell in suite.read_cells(options.work).items() if key[0] in recipes}
    print("\n".join(suite.table(list(cells.values()))))
    pairs = [(recipes[0], other) for other in recipes[1:]] + [(FLAT, "2.5d")] * ({FLAT, "2.5d"} <= {*recipes})
    for pair in pairs:
        print("\n" + "\n".join(suite.compare(cells, *pair)))


def run(work: Path, data: Path, recipe: str, of: str, minutes: float) -> None:
    """Run one cell and add its line."""
    one = suite.SETS[of]
    flat = replace(one, options=(*one.options, "--plans", "2d")) if recipe == FLAT else one
    suite.run_cell(work, data, recipe, of, minutes, "auto" if recipe == FLAT else recipe, flat)


def read_plan(file: Path) -> Plan:
    """The plan of a file."""
    return parse(Plan, tomllib.loads(file.read_text()), file.name)


def costs(plan: Plan) -> Iterator[str]:
    """The lines of a table: each kind of network at the plan's topology, times relative to the first."""
    yield "| network | weights | values a patch | forward and backward | forward |"
    yield "|---|---|---|---|---|"
    kinds = [(kind, False) for kind, of in KINDS.items() if plan.dimensions in of.dimensions] + [("plain", True)]
    plans = [_with(plan, kind, gates=gates) for kind, gates in kinds]
    networks = [build_network(one) for one in plans]
    times = np.array([[_seconds(network, one) for network, one in zip(networks, plans, strict=True)] for _ in range(4)])[1:]
    for one, network, (whole, forward) in zip(plans, networks, np.median(times, 0) / np.median(times, 0)[0], strict=True):
        name = one.network.kind + " with attention gates" * one.network.attention_gates
        weights = sum(parameter.numel() for parameter in network.parameters())
        values = count_values(one.network, one.patch, len(one.labels.heads))
        yield f"| {name} | {weights:,} | {values / 1e6:.1f} million | {whole:.2f} | {forward:.2f} |"


def _with(plan: Plan, kind: str, *, gates: bool) -> Plan:
    return plan.model_copy(update={"network": plan.network.model_copy(update={"kind": kind, "attention_gates": gates})})


def _seconds(network: nn.Module, plan: Plan) -> tuple[float, float]:
    """Processor time of a forward and backward pass, and of a forward pass, in bfloat16."""
    image = torch.randn(2, plan.input_channels, *plan.patch)
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    logits.float().square().mean().backward()
    middle = time.process_time()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        network(image)
    return middle - start, time.process_time() - middle


if __name__ == "__main__":
    main()
