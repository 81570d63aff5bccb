"""What `panoptica` finds in the random pairs of the tests, stored for them; it needs an older NumPy than nnseg.

pip install panoptica==2.1.7    (into an environment of its own)
PYTHONPATH=tests/evaluation python benchmarks/peer_panoptica.py tests/evaluation/data/panoptica.json
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from lesion_pairs import PAIRS, lesion_pair
from panoptica import ConnectedComponentsInstanceApproximator, InputType, Panoptica_Evaluator
from panoptica.instance_matcher import MaxBipartiteMatching
from panoptica.metrics import Metric


def judge(threshold: float, *, strict: bool) -> Panoptica_Evaluator:
    """An evaluator that matches by IoU, the sum over all pairs being the largest."""
    matcher = MaxBipartiteMatching(Metric.IOU, threshold, strict_threshold=strict)
    return Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=matcher,
        instance_metrics=[Metric.IOU],
        global_metrics=[],
    )


def main() -> None:
    found, half = judge(0.1, strict=False), judge(0.5, strict=True)
    answers: list[dict[str, Any]] = []
    for seed in range(PAIRS):
        prediction, reference = (mask.astype(np.uint8) for mask in lesion_pair(seed))
        detected = found.evaluate(prediction, reference)["ungrouped"]
        panoptic = half.evaluate(prediction, reference)["ungrouped"]
        answers.append(
            {
                "reference": int(detected.n_ref_instances),
                "predicted": int(detected.n_pred_instances),
                "matched": int(detected.tp),
                "f1": float(detected.rq),
                "sensitivity": float(detected.rec),
                "precision": float(detected.prec),
                "matched_half": int(panoptic.tp),
                "panoptic_quality": float(panoptic.pq),
            }
        )
    text = ",\n".join(json.dumps(answer, allow_nan=False) for answer in answers)
    Path(sys.argv[1]).write_text(f'{{"panoptica": "{version("panoptica")}", "answers": [\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
