"""What a path that a user gives is, by the names of its files, and whether a command can do what is wanted with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from nnseg.core.errors import DatasetError, EvaluationError, ModelError, NnsegError, RunError
from nnseg.core.names import printable
from nnseg.core.options import Options
from nnseg.storage.files import has_manifest
from nnseg.storage.hub import model_path, nearest_model
from nnseg.storage.overwrite import is_made
from nnseg.storage.plan_folder import FoldFolder
from nnseg.storage.predictions import RECORD
from nnseg.storage.run import Run

PathKind = Literal[
    "nothing",
    "an empty folder",
    "a run of nnseg",
    "a part of a run",
    "a folder of predictions",
    "a model of nnseg",
    "a model of nnU-Net",
    "a file of scores",
    "a checkpoint of PyTorch",
    "a dataset",
    "a folder",
    "a file",
]
Role = Literal[
    "dataset",
    "new run",
    "run",
    "scans",
    "model",
    "output folder",
    "predictions",
    "references",
    "scores",
    "report",
    "model of nnU-Net",
]

SCORES = ("scores.json", "summary.json")
"""Files of scores in a folder: of nnseg, and of nnU-Net."""

CHECKPOINTS = (".pth", ".pt", ".ckpt")


def kind_of(path: Path) -> PathKind:
    """What there is at a path, by names and beginnings of files."""
    if not path.exists():
        return "nothing"
    if path.is_dir():
        return _kind_of_folder(path)
    if path.suffix == ".nnseg" or is_made(path, "model"):  # by its name also if it is damaged
        return "a model of nnseg"
    if path.suffix in CHECKPOINTS:
        return "a checkpoint of PyTorch"
    scores = path.suffix == ".json" and (is_made(path, "scores") or is_made(path, "summary"))
    return "a file of scores" if scores else "a file"


def _kind_of_folder(path: Path) -> PathKind:
    run = Run(path)
    if run.exists or has_manifest(path) or any(file.is_file() for file in run.plan_files):  # also if its record is not there
        return "a run of nnseg"
    if (path / RECORD).is_file():
        return "a folder of predictions"
    if FoldFolder(path).schedule_file.is_file():
        return "a part of a run"
    if any((folder / "plans.json").is_file() for folder in (path, *path.glob("*__*__*"))) and not (path / "imagesTr").is_dir():
        return "a model of nnU-Net"
    if (path / "dataset.json").is_file() or any((path / name).is_dir() for name in ("imagesTr", "labelsTr")):
        return "a dataset"
    return "a folder" if any(path.iterdir()) else "an empty folder"


EXPECTED: Final[Mapping[Role, tuple[type[NnsegError], str]]] = {
    "dataset": (DatasetError, "a folder of labelled scans"),
    "new run": (RunError, "a new folder for the run, or a run to go on with"),
    "run": (RunError, "the folder of a run"),
    "scans": (DatasetError, "a scan or a folder of scans"),
    "model": (ModelError, "a run, a file made by nnseg export or import, or a name of nnseg models list"),
    "output folder": (RunError, "a new folder for the label maps, or one of earlier predictions"),
    "predictions": (EvaluationError, "a folder of predicted label maps"),
    "references": (EvaluationError, "a folder of reference label maps"),
    "scores": (EvaluationError, "a run, or a file of scores"),
    "report": (RunError, "the folder of a run or of predictions"),
    "model of nnU-Net": (ModelError, "a folder TRAINER__PLANS__CONFIGURATION of nnU-Net, or the folder of a dataset's results"),
}
"""The error of each role of a path, and what is expected."""

PATH = "check the path"
PATTERN_ADVICE = 'give the folder; --images "PATTERN" chooses among the files in it'
RUN_FIRST = "make a run first: nnseg run DATASET RUN, or nnseg plan for its plan alone"
PREDICT_FIRST = "predict first: nnseg predict SCANS OUT --model MODEL"
WHOLE_RUN = "give the whole run; --folds 0 takes one fold of it"
IMPORT = "convert it first: nnseg import FOLDER model.nnseg"
IMPORT_FOLDER = "of nnU-Net's models convert the whole folder TRAINER__PLANS__CONFIGURATION: nnseg import FOLDER model.nnseg"
DATASET_FIRST = "the dataset comes first, then the run: nnseg run DATASET RUN"
SCANS_FIRST = "the scans come first, then the folder for label maps: nnseg predict SCANS OUT --model MODEL"
PREDICTIONS_FIRST = "the predictions come first, then the references: nnseg evaluate PREDICTIONS REFERENCES"
OTHER_FOLDER = "name another folder, which nnseg makes"
USE = "to use it: nnseg predict SCANS OUT --model MODEL"

MISTAKES: Final[Mapping[Role, Mapping[PathKind, str]]] = {
    "dataset": {
        "nothing": PATH,
        "an empty folder": "copy the scans into it, or check the path",
        "a run of nnseg": DATASET_FIRST,
        "a part of a run": DATASET_FIRST,
        "a folder of predictions": "give the folder of the scans and their label maps",
        "a model of nnseg": USE,
        "a model of nnU-Net": IMPORT,
        "a checkpoint of PyTorch": IMPORT_FOLDER,
        "a file of scores": PATH,
        "a file": "give the folder that holds the scans and their label maps",
    },
    "new run": {
        "a dataset": DATASET_FIRST,
        "a folder of predictions": OTHER_FOLDER,
        "a part of a run": WHOLE_RUN,
        "a model of nnU-Net": OTHER_FOLDER,
        "a model of nnseg": "to begin with it give it as --init, and name a folder for the run",
        "a checkpoint of PyTorch": OTHER_FOLDER,
        "a file of scores": OTHER_FOLDER,
        "a file": OTHER_FOLDER,
    },
    "run": {
        "nothing": RUN_FIRST,
        "an empty folder": RUN_FIRST,
        "a part of a run": WHOLE_RUN,
        "a folder of predictions": "give the run whose model made them",
        "a model of nnseg": USE,
        "a model of nnU-Net": IMPORT,
        "a checkpoint of PyTorch": IMPORT_FOLDER,
        "a file of scores": "give the folder of the run",
        "a dataset": RUN_FIRST,
        "a folder": RUN_FIRST,
        "a file": RUN_FIRST,
    },
    "scans": {
        "nothing": PATH,
        "an empty folder": "copy the scans into it, or check the path",
        "a run of nnseg": SCANS_FIRST,
        "a part of a run": SCANS_FIRST,
        "a folder of predictions": "give the folder of the scans themselves",
        "a model of nnseg": SCANS_FIRST,
        "a model of nnU-Net": IMPORT,
        "a checkpoint of PyTorch": SCANS_FIRST,
        "a file of scores": SCANS_FIRST,
    },
    "model": {
        "nothing": PATH,
        "an empty folder": RUN_FIRST,
        "a part of a run": WHOLE_RUN,
        "a folder of predictions": "give the run or the file that made them",
        "a model of nnU-Net": IMPORT,
        "a checkpoint of PyTorch": IMPORT_FOLDER,
        "a file of scores": "give the run that it is of",
        "a dataset": "train on it first: nnseg run DATASET RUN",
        "a folder": RUN_FIRST,
        "a file": PATH,
    },
    "output folder": {
        "a run of nnseg": OTHER_FOLDER,
        "a part of a run": OTHER_FOLDER,
        "a dataset": OTHER_FOLDER,
        "a model of nnU-Net": OTHER_FOLDER,
        "a model of nnseg": "give the model as --model MODEL, and name a folder for the label maps",
        "a checkpoint of PyTorch": OTHER_FOLDER,
        "a file of scores": OTHER_FOLDER,
        "a file": OTHER_FOLDER,
    },
    "predictions": {
        "nothing": PATH,
        "an empty folder": PREDICT_FIRST,
        "a run of nnseg": "what its folds held out is scored already, see nnseg evaluate RUN; for other scans predict first",
        "a model of nnseg": PREDICT_FIRST,
        "a model of nnU-Net": IMPORT,
        "a checkpoint of PyTorch": PREDICT_FIRST,
        "a file of scores": "to compare scores: nnseg compare A B",
        "a file": "give the folder that holds the label maps",
    },
    "references": {
        "nothing": PATH,
        "an empty folder": PATH,
        "a run of nnseg": "give the folder of the dataset; names of labels come from the run by --labels RUN",
        "a part of a run": "give the folder of the dataset",
        "a model of nnseg": "give the folder of the dataset",
        "a model of nnU-Net": "give the folder of the dataset",
        "a checkpoint of PyTorch": "give the folder of the dataset",
        "a file of scores": "to compare scores: nnseg compare A B",
        "a file": "give the folder that holds the label maps",
    },
    "scores": {
        "nothing": PATH,
        "an empty folder": "score predictions first: nnseg evaluate PREDICTIONS REFERENCES --out scores.json",
        "a folder of predictions": "score them first: nnseg evaluate PREDICTIONS REFERENCES --out scores.json",
        "a model of nnseg": "give the run that it is of, or scores of its predictions",
        "a checkpoint of PyTorch": "give a file of scores",
        "a dataset": "give runs or files of scores",
    },
    "report": {
        "nothing": PATH,
        "an empty folder": RUN_FIRST,
        "a part of a run": "give the whole run",
        "a model of nnseg": "give the run that it is of; its model card: nnseg card MODEL",
        "a model of nnU-Net": IMPORT,
        "a checkpoint of PyTorch": RUN_FIRST,
        "a file of scores": "give the folder of the run",
        "a dataset": RUN_FIRST,
        "a folder": RUN_FIRST,
        "a file": RUN_FIRST,
    },
    "model of nnU-Net": {
        "nothing": PATH,
        "an empty folder": PATH,
        "a run of nnseg": "it needs no conversion: nnseg export RUN model.nnseg",
        "a model of nnseg": USE,
        "a checkpoint of PyTorch": "give its folder, with plans.json and dataset.json",
        "a file": "give its folder, with plans.json and dataset.json",
    },
}
"""What is no good in each role, and what to do then. What is not listed is looked at by the command itself."""


def check_path(path: Path, role: Role) -> PathKind:
    """What there is at a path.

    Raises:
        NnsegError: it is no good in this role; the message says what it is, what was expected and what to do.
    """
    _check_text(path, EXPECTED[role][0])
    kind = kind_of(path)
    has_scores = role == "scores" and any((path / name).is_file() for name in SCORES)
    if not has_scores and (advice := MISTAKES[role].get(kind)) is not None:
        error, expected = EXPECTED[role]
        if kind == "nothing" and any(sign in str(path) for sign in "*?["):
            advice = PATTERN_ADVICE if role in ("dataset", "scans") else "without quotes the shell reads patterns; " + advice
            raise error.at(path, "is a pattern, which is not read here", expected, advice)
        missing = "there is no such file or folder"
        if role == "model":
            missing, meant = "there is no model here", nearest_model(str(path))
            advice = f"did you mean {meant}? {advice}" if meant else advice
        raise error.at(path, missing if kind == "nothing" else f"is {kind}", expected, advice)
    return kind


def find_model(given: str | Path) -> Path:
    """The path of a model that is given by its path, or by the name of a local one.

    Raises:
        ModelError: there is no model.
    """
    path = model_path(given)
    check_path(path, "model")
    return path


def with_found_init(options: Options) -> Options:
    """Options whose model to begin with is given by its path, also where its name was given.

    Raises:
        ModelError: nothing is there.
    """
    if options.init is None:
        return options
    path = model_path(options.init)
    if kind_of(path) == "nothing":
        check_path(path, "model")
    return replace(options, init=path)


def _check_text(path: Path, error: type[NnsegError]) -> None:
    """Raise an error for a path with bytes that are no text, which no record or page can hold."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        found = "has bytes in its path that are no text"
        raise error.at(printable(str(path)), found, "a path in UTF-8", "rename it, or the folder that it lies in") from None


SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "model": (".nnseg",),
    "scores": (".json", ".csv"),
    "summary": (".json",),
    "comparison": (".json",),
    "picture": (".png",),
}
"""Suffixes of the files that commands write, the usual one first."""


def check_suffix(file: Path, kind: str) -> None:
    """Raise RunError for a file whose suffix is that of another format than is written."""
    _check_text(file, RunError)
    known = SUFFIXES[kind]
    if file.is_dir():
        raise RunError.at(file, "is a folder", "the name of a file", f"write {file / kind.replace(' ', '_')}{known[0]}")
    if file.suffix.lower() not in known:
        found = f"the {kind} cannot be written as {file.suffix or 'a file without suffix'}"
        raise RunError.at(file, found, " or ".join(known), f"write {file.with_suffix(known[0]).name}")
