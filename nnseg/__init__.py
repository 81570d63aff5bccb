"""nnseg: one command from a folder of labelled medical scans to a segmentation model one can trust.

The public names; each is loaded when it is first asked for, so that ``import nnseg`` costs nothing. It sets environment variables
of numerical libraries that are not set, see `nnseg.core.processors.library_environment`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nnseg.core.processors import prepare_libraries as _prepare_libraries

if TYPE_CHECKING:  # what __getattr__ gives, for type checkers and editors
    from nnseg.api.audit import audit as audit
    from nnseg.api.check import check as check
    from nnseg.api.convert import convert as convert
    from nnseg.api.evaluate import evaluate as evaluate
    from nnseg.api.explain import explain as explain
    from nnseg.api.plan import plan as plan
    from nnseg.api.predict_folder import predict_folder as predict_folder
    from nnseg.api.prepare import prepare as prepare
    from nnseg.api.run import run as run
    from nnseg.api.validate import validate as validate
    from nnseg.commands.info import information as information
    from nnseg.core.errors import NnsegError as NnsegError
    from nnseg.core.plan import Budget as Budget
    from nnseg.core.plan import Plan as Plan
    from nnseg.planning.measure import measure as measure
    from nnseg.planning.planner import make_plans as make_plans
    from nnseg.planning.recipe import load_recipe as load_recipe
    from nnseg.preprocessing.prepare import prepare_scan as prepare_scan
    from nnseg.preprocessing.preprocess import preprocess as preprocess
    from nnseg.preprocessing.preprocess import restore as restore
    from nnseg.serving.segmentation import Segmentation as Segmentation
    from nnseg.serving.segmenter import Segmenter as Segmenter
    from nnseg.serving.segmenter import load as load
    from nnseg.storage.datasets.read import read_dataset as read_dataset
    from nnseg.storage.images.read import read_label_map as read_label_map
    from nnseg.storage.images.read import read_scan as read_scan
    from nnseg.storage.images.write import write_label_map as write_label_map
    from nnseg.training.api import train as train

    __version__: str

_prepare_libraries()  # before torch is loaded

_HOMES = {
    "Budget": "nnseg.core.plan",
    "NnsegError": "nnseg.core.errors",
    "Plan": "nnseg.core.plan",
    "Segmentation": "nnseg.serving.segmentation",
    "Segmenter": "nnseg.serving.segmenter",
    "audit": "nnseg.api.audit",
    "check": "nnseg.api.check",
    "convert": "nnseg.api.convert",
    "evaluate": "nnseg.api.evaluate",
    "explain": "nnseg.api.explain",
    "information": "nnseg.commands.info",
    "load": "nnseg.serving.segmenter",
    "load_recipe": "nnseg.planning.recipe",
    "make_plans": "nnseg.planning.planner",
    "measure": "nnseg.planning.measure",
    "plan": "nnseg.api.plan",
    "predict_folder": "nnseg.api.predict_folder",
    "prepare": "nnseg.api.prepare",
    "prepare_scan": "nnseg.preprocessing.prepare",
    "preprocess": "nnseg.preprocessing.preprocess",
    "read_dataset": "nnseg.storage.datasets.read",
    "read_label_map": "nnseg.storage.images.read",
    "read_scan": "nnseg.storage.images.read",
    "restore": "nnseg.preprocessing.preprocess",
    "run": "nnseg.api.run",
    "train": "nnseg.training.api",
    "validate": "nnseg.api.validate",
    "write_label_map": "nnseg.storage.images.write",
}

_GONE = {
    "Predictor": "nnseg.load(model, ...)",
    "evaluate_folders": "nnseg.evaluate(predictions, references)",
    "load_model": "nnseg.load(path)",
    "predict": "nnseg.load(model).predict(scan)",
}
"""What does it now, by names of earlier versions."""

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("nnseg")
    if name in _GONE:
        raise AttributeError(f"nnseg.{name} is no more; use {_GONE[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'nnseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
