"""Populations that people give to compare volumes with."""

from __future__ import annotations

from pathlib import Path

from nnseg.core.errors import DatasetError
from nnseg.core.labels import Labels
from nnseg.core.population import Person, Population, population_of
from nnseg.core.volumes import Volumetry
from nnseg.network.bundle import load_model_file
from nnseg.storage.runs import RunFolder, read_json
from nnseg.storage.volumes import read_people
from nnseg.verbs.model import population_of_run
from nnseg.verbs.predictions import RECORD

TABLES = (".csv", ".tsv", ".txt")
VOLUMES = "volumes.json"


def read_population(path: Path, labels: Labels) -> Population:
    """The population that a file or folder holds.

    Args:
        path: a table (see `read_people`), the ``volumes.json`` or folder of other scans that were reported on, a run, or a model.
        labels: that are wanted.

    Raises:
        DatasetError: there is no population in it, or a table cannot be read.
        ModelError: a model cannot be read.
    """
    if path.suffix.lower() in TABLES:
        return read_people(path, labels.foreground)
    if path.suffix.lower() == ".json" or (path / VOLUMES).exists():
        return _measured(path if path.is_file() else path / VOLUMES)
    if (path / RECORD).exists():
        raise DatasetError(f"{path} holds predictions whose volumes are not known yet; give nnseg report {path} first")
    if not path.exists():
        raise DatasetError(f"there is no population {path}; give a CSV file, a run, a model, or a folder with a volumes.json")
    found = population_of_run(RunFolder(path)) if path.is_dir() else load_model_file(path).population
    if found is None:
        raise DatasetError(f"{path} does not know the volumes of its training set; give a run, a model, or a CSV file that does")
    return found


def _measured(path: Path) -> Population:
    cases = [case for case in read_json(path, Volumetry).cases if not case.failed]
    if not cases:
        raise DatasetError(f"{path} has no volumes; give another population")
    people = [
        Person(volumes={name: v.ml for name, v in case.labels.items()}, age=case.patient.age, sex=case.patient.sex)
        for case in cases
    ]
    return population_of(people, f"{len(people)} scans in {path.absolute().parent.name}", apart=True)
