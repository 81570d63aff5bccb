"""Which kind of network is best at equal time? The cells of suite.py for each recipe of docs/concepts/networks.md.

    python benchmarks/bench_networks.py WORK --data FOLDER [--sets Hippocampus,ACDC] [--minutes 5] [--recipes auto,separable]

What is done is not done again. Prints the table of suite.py, then each recipe's differences from the first one on the same held-out
cases; a recipe is better if the mean over the sets rises and no set falls beyond chance. ``2.5d`` is ``auto`` in 2D but for the
slices, so ``auto-2d`` is run beside it, and both only on sets of volumes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import suite

RECIPES = ("auto", "separable", "atrous", "transformer", "attention", "auto-2d", "2.5d")
FLAT = "auto-2d"
"""A name for the recipe auto with --plans 2d."""

IMAGES = ("DRIVE",)
"""Sets of single images, which have no neighbouring slices."""


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", default="Hippocampus,ACDC,DRIVE")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
