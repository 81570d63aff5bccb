"""The population to compare volumes with: from a table, measured volumes, a run or a model."""

from __future__ import annotations

from pathlib import Path

from nnseg.core.errors import DatasetError
from nnseg.core.labels import Labels
from nnseg.core.population import Person, Population, make_population
from nnseg.network.bundle import load_model_file
from nnseg.network.load import population_of_run
from nnseg.storage.files import read_json
from nnseg.storage.predictions import RECORD
from nnseg.storage.run import Run
from nnseg.volumetry.tables import read_people
from nnseg.volumetry.volumes import VOLUMES, Volumetry

TABLES = (".csv", ".tsv", ".txt")


def read_population(path: Path, labels: Labels) -> Population:
    """The population in a file or folder.

    Args:
        path: a table (see `read_people`), the ``volumes.json`` or folder of other scans that were reported on, a run, or a model.
        labels: to compare.

    Raises:
        DatasetError: there is no population in it, or a table cannot be read.
        ModelError: a model cannot be read.
    """
    if path.suffix.lower() in TABLES:
        return read_people(path, labels.foreground)
    if path.suffix.lower() == ".json" or (path / VOLUMES).exists():
        return _read_volumes(path if path.is_file() else path / VOLUMES)
    if (path / RECORD).exists():
        raise DatasetError(f"{path} holds predictions without volumes; run nnseg report {path} first")
    if not path.exists():
        raise DatasetError(f"there is no population {path}; give a CSV file, a run, a model, or a folder with a volumes.json")
    found = population_of_run(Run(path)) if path.is_dir() else load_model_file(path).population
    if found is None:
        raise DatasetError(f"{path} has no volumes of its training set; give a run or model that has them, or a CSV file")
    return found


def with_heads(population: Population, label: str) -> Population:
    """A population in which the volume of a label or region is the head size of those who have none otherwise."""
    people = (
        person if person.head_ml or label not in person.volumes else person.model_copy(update={"head_ml": person.volumes[label]})
        for person in population.people
    )
    return population.model_copy(update={"people": tuple(people)})


def _read_volumes(path: Path) -> Population:
    cases = [case for case in read_json(path, Volumetry).cases if not case.failed]
    if not cases:
        raise DatasetError(f"{path} has no volumes; give another population")
    people = [Person(volumes={name: v.ml for name, v in case.labels.items()}, **case.patient.model_dump()) for case in cases]
    return make_population(people, f"{len(people)} scans in {path.absolute().parent.name}", apart=True)
