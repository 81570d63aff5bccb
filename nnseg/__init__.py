"""nnseg: one command from a folder of labelled medical scans to a segmentation model one can trust.

The public names; each is loaded when it is first asked for, so that ``import nnseg`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Predictor": "nnseg.inference.predict",
    "NnsegError": "nnseg.core.errors",
    "Plan": "nnseg.core.plan",
    "evaluate_folders": "nnseg.evaluation.folders",
    "load": "nnseg.inference.segmenter",
    "load_model": "nnseg.network.load",
    "load_recipe": "nnseg.planning.recipe",
    "make_plans": "nnseg.planning.planner",
    "measure": "nnseg.planning.measure",
    "predict": "nnseg.inference.predict",
    "preprocess": "nnseg.preprocessing.preprocess",
    "read_dataset": "nnseg.storage.datasets.read",
    "read_label_map": "nnseg.storage.images.read",
    "read_scan": "nnseg.storage.images.read",
    "restore": "nnseg.preprocessing.preprocess",
    "run": "nnseg.pipeline",
    "train": "nnseg.training.api",
    "write_label_map": "nnseg.storage.images.write",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("nnseg")
    if name not in _HOMES:
        raise AttributeError(f"module 'nnseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
