"""nnU-Net's own export of logits to a label map, for bench_restore.py; run with the peer's Python."""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

RESAMPLING = "resample_data_or_seg_to_shape"


def plans(spacing: tuple[float, ...]) -> dict:
    """What of a plan the export reads."""
    settings = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},  # not asked for
        "spacing": list(spacing),
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": settings,
    }
    return {"configurations": {"3d_fullres": configuration}, "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logits, shape = torch.from_numpy(np.load(arguments.logits)), arguments.shape
    manager = PlansManager(plans((3.0, 3.0, 3.0)))
    names = {"background": 0} | {f"label {i}": i for i in range(1, len(logits))}
    labels = manager.get_label_manager({"labels": names})
    properties = {
        "spacing": (1.0, 1.0, 1.0),
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }
    configuration = manager.get_configuration("3d_fullres")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, manager, configuration, labels, properties, num_threads_torch=2
    )
    seconds = time.perf_counter() - start
    np.save(arguments.out, found)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    print(json.dumps({"seconds": round(seconds, 2), "gb": round(peak, 3)}))


if __name__ == "__main__":
    main()
