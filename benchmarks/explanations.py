"""Do maps of what predictions rest on point at the structure, and do they pass their checks? A table over held-out cases of a run.

    python benchmarks/explanations.py RUN [--cases 10] [--method smoothgrad|occlusion] [--copies 16]

RUN is a finished run, which is only read. Each case is explained by the networks that were not trained on it. The table has the
mean over cases and, in brackets, the worst case.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from nnseg.commands.explain import rank_cases
from nnseg.core.explanation import Explanation
from nnseg.inference.attribution import COPIES
from nnseg.network.load import load_model
from nnseg.serving.explanation import Explainer
from nnseg.storage.images.read import read_scan
from nnseg.storage.run import Run


def main() -> None:
    """Explain the cases, print a line for each map, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--method", choices=("smoothgrad", "occlusion"), default="smoothgrad")
    parser.add_argument("--copies", type=int, default=COPIES)
    options = parser.parse_args()
    run = Run(options.run)
    found: dict[str, list[Explanation]] = defaultdict(list)
    explainers: dict[int, Explainer] = {}
    for name in rank_cases(run.require_scores(), options.cases):
        fold = run.fold_of[name]
        if fold not in explainers:
            explainers = {fold: Explainer(load_model(run.path, folds=(fold,)), options.method, copies=options.copies)}
        scan = read_scan(run.cases[name].images, repair=True, spacing=run.cases[name].spacing)
        for one in explainers[fold].explain(scan, name, run.dataset.labels.foreground):
            found[one.explanation.label].append(one.explanation)
            random = ", ".join(f"{share} {value:+.2f}" for share, value in one.explanation.random.items())
            print(one.explanation.describe(), f"({random})", f"{one.explanation.seconds:.1f} s", flush=True)
    print(f"\n{'label':<12}{'maps':>5}{'inside':>18}{'near':>18}{'half random':>18}{'all random':>18}{'other':>18}{'repeated':>18}"
          f"{'withheld':>10}{'seconds':>9}")  # fmt: skip
    for label, explanations in found.items():
        print(_row(label, explanations))


def _row(label: str, explanations: list[Explanation]) -> str:
    """Mean and worst value of each column."""
    lowest = [[e.inside.ratio for e in explanations], [e.near.ratio for e in explanations]]
    highest = [[e.random[share] for e in explanations] for share in explanations[0].random]
    highest.append([e.other_correlation for e in explanations])
    repeated = [e.repeated for e in explanations if e.repeated is not None]
    cells = [f"{np.mean(v):.2f} (>= {min(v):.2f})" for v in lowest] + [f"{np.mean(v):.2f} (<= {max(v):.2f})" for v in highest]
    cells.append(f"{np.mean(repeated):.2f} (>= {min(repeated):.2f})" if repeated else "none")
    withheld, seconds = sum(bool(e.withheld) for e in explanations), np.mean([e.seconds for e in explanations])
    return f"{label:<12}{len(explanations):>5}{''.join(f'{cell:>18}' for cell in cells)}{withheld:>10}{seconds:>9.1f}"


if __name__ == "__main__":
    main()
