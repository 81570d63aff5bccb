"""The model "demo" of nnseg: a small network, trained on phantoms that `nnseg demo` does not draw, scored on those that it draws.

    python benchmarks/demo_model.py WORK [--steps 600] [--hub nnseg/models]

Makes WORK/phantoms with another seed, WORK/run and WORK/demo.nnseg, predicts and scores the phantoms of `nnseg demo` (WORK/new),
and with --hub pushes the model there. What is done is not done again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from nnseg.demo.dataset import write_phantoms

RECIPE = """# A small network: 8 channels in its first stage, at most 48.
based_on = "auto"
[on_cpu.planner]
base_features = 8
[on_cpu.planner.3d]
features_cap = 48
"""

SEED, CASES = 1, 60
"""Of the phantoms to train on; those of fold 0 are 12, enough for a threshold of flags."""


def main() -> None:
    """Train, score, and list the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--hub", type=Path, help="folder of models to write to")
    parser.add_argument("--title", default="demo@1", help="name and version there")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    (work / "small.toml").write_text(RECIPE)
    write_phantoms(work / "phantoms", cases=CASES, seed=SEED)
    write_phantoms(work / "new")
    nnseg("run", work / "phantoms", work / "run", "--recipe", work / "small.toml", "--steps", options.steps, "--folds", 0)
    nnseg("export", work / "run", work / "demo.nnseg")
    nnseg("predict", work / "new" / "imagesTr", work / "predictions", "--model", work / "demo.nnseg", "--uncertainty")
    nnseg("evaluate", work / "predictions", work / "new" / "labelsTr", "--out", work / "scores.json")
    if options.hub:
        nnseg("models", "push", work / "demo.nnseg", options.hub, options.title, "--licence", "Apache-2.0")


def nnseg(*arguments: object) -> None:
    """Run a command of nnseg, of which the output is shown."""
    subprocess.run([sys.executable, "-m", "nnseg", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
