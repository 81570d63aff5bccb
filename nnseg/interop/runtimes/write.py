"""Export of a model for another runtime: a folder with its networks in files of that runtime, all constants, and a program.

The program, ``run.py``, is a module of this package that needs no other; what it does with the constants is not repeated here.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnseg.core.errors import ModelError
from nnseg.core.options import ExportRuntime
from nnseg.core.plan import Normalization
from nnseg.inference.networks import MemberNetwork, NetworkGroup
from nnseg.inference.predict import Predictor
from nnseg.inference.tiles import gaussian
from nnseg.network.bundle import Member, Model
from nnseg.network.runtimes import WRITERS, Tiles, save_network
from nnseg.storage.files import write_aside, write_text

CONSTANTS, RUNNER = "model.json", "run.py"


def in_float32(model: Model) -> Model:
    """A model whose networks compute in float32 wherever they are."""
    return replace(model, members=tuple(map(_in_float32, model.members)))


def write_runtime_model(
    predictor: Predictor, folder: Path, runtime: ExportRuntime, calibration: Sequence[Sequence[Tiles]] = ()
) -> None:
    """Write a model's networks for another runtime, its constants, and the program that predicts with these.

    Args:
        predictor: of the model, on the CPU.
        folder: an empty one.
        calibration: for each group of networks the tiles by which 8-bit integers are chosen; () for float32.

    Raises:
        ModelError: the model needs what the program does not do; says what.
        NnsegError: the extra for it is not installed.
        WriteError: the folder cannot be written.
    """
    constants = describe_model(predictor, runtime)
    tiles = calibration or [()] * len(predictor.groups)
    for group, described, of_group in zip(predictor.groups, constants["groups"], tiles, strict=True):
        for network, name in zip(group.networks, described["networks"], strict=True):
            _write_network(network, runtime, folder / name, of_group)
    write_text(folder / CONSTANTS, json.dumps(constants, indent=1) + "\n")
    write_text(folder / RUNNER, Path(__file__).with_name(RUNNER).read_text(encoding="utf-8"))


def describe_model(predictor: Predictor, runtime: ExportRuntime) -> dict[str, Any]:
    """The content of model.json: all constants of preprocessing, tiles, labels and postprocessing, and the names of files.

    Raises:
        ModelError: the model needs what the program does not do; says what.
    """
    _check(predictor.model)
    groups, suffix = predictor.groups, WRITERS[runtime][0]
    names = iter(f"network_{number}{suffix}" for number in range(len(predictor.model.members)))
    weights = [group.weight * len(group.networks) for group in groups]
    described = [
        _group(group, [next(names) for _ in group.networks], weight / sum(weights))
        for group, weight in zip(groups, weights, strict=True)
    ]
    return {"nnseg": version("nnseg"), "runtime": runtime, "precision": "f32", **_model(predictor.model), "groups": described}


def _in_float32(member: Member) -> Member:
    plan = member.plan
    return replace(member, plan=plan.model_copy(update={"training": plan.training.model_copy(update={"precision": "float32"})}))


def _check(model: Model) -> None:
    """Raise ModelError for a model that needs more than the program does."""
    plans = [member.plan for member in model.members]
    needs = {
        "a previous stage (cascade)": bool(model.previous),
        "borders of objects": bool(model.learned.borders),
        "thresholds of lesions": bool(model.lesions),
        "registration of channels": any(plan.preprocessing.registration != "none" for plan in plans),
        "resampling of order 0": any(plan.preprocessing.image_order == 0 for plan in plans),
        "scans in two orientations": len({plan.preprocessing.orientation == "stored" for plan in plans}) > 1,
    }
    if needed := [name for name, is_needed in needs.items() if is_needed]:
        raise ModelError(f"the model needs {needed[0]}, which an exported model does not have; predict with nnseg predict")


def _write_network(network: MemberNetwork, runtime: ExportRuntime, file: Path, calibration: Sequence[Tiles]) -> None:
    """Write a network into a file, or into several whose names begin alike."""
    with tempfile.TemporaryDirectory() as scratch:
        save_network(network.network, runtime, network.input_shape, Path(scratch) / file.name, calibration)
        for made in sorted(Path(scratch).iterdir()):
            with write_aside(file.with_name(made.name)) as aside:
                shutil.copyfile(made, aside)


def _model(model: Model) -> dict[str, Any]:
    """The constants that all networks share."""
    labels = model.labels
    return {
        "channels": model.channels,
        "labels": labels.named,
        "values": labels.values,
        "dtype": labels.dtype.name,
        "regions": [region.paint for region in labels.regions],
        "overlaps": [{"heads": heads, "value": value} for heads, value in labels.partial_overlaps.items()],
        "stored": model.members[0].plan.preprocessing.orientation == "stored",
        "temperature": model.trust.temperature if model.trust else 1.0,
        "postprocessing": [step.model_dump(mode="json") for step in model.postprocessing],
    }


def _group(group: NetworkGroup, files: Sequence[str], weight: float) -> dict[str, Any]:
    """The constants of networks that share their tiles."""
    settings, window = group.plan.preprocessing, group.window
    return {
        "weight": weight,
        "networks": files,
        "flips": [2, 3] if settings.orientation == "ras" else [],
        "axes": settings.axes,
        "spacing": [None] * (3 - len(window.patch)) + list(settings.spacing),
        "ratio": settings.separate_axis_ratio,
        "normalization": list(map(_normalization, settings.normalization)),
        "order": settings.image_order,
        "patch": window.patch,
        "tile": window.tile,
        "steps": window.steps,
        "weights": [gaussian(length).tolist() for length in window.tile],
        "heads": window.heads,
        "copies": [{"flips": flips, "order": window.head_order(flips)} for flips in window.flips],
    }


def _normalization(settings: Normalization) -> dict[str, Any]:
    by, shift, divisor = {
        "ct": ("constants", settings.mean, settings.std),
        "rgb_to_0_1": ("constants", 0.0, 255.0),
        "none": ("constants", 0.0, 1.0),
        "zscore": ("mean and std", None, None),
        "rescale_to_0_1": ("least and greatest", None, None),
    }[settings.scheme]
    low, high = (settings.low, settings.high) if settings.scheme == "ct" else (None, None)
    return {"by": by, "shift": shift, "divisor": divisor, "low": low, "high": high, "masked": settings.masked}
