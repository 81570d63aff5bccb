"""Predictions to measure: what is asked of them, and reading the files of a case."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path

from nnseg.core.errors import NnsegError, ScanError
from nnseg.core.geometry import Vector
from nnseg.core.image import Floats, LabelMap, Scan
from nnseg.core.labels import Labels
from nnseg.core.options import HeadMethod
from nnseg.core.population import Population
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.images.resampling import upright
from nnseg.storage.predictions import UNCERTAINTY, ScanRecord
from nnseg.volumetry.visits import Visit
from nnseg.volumetry.volumes import Patient, Volumetry

log = logging.getLogger(__name__)

GRID_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured besides volumes.

    Args:
        lesions: labels whose objects are measured one by one.
        align: register the scans of a patient's visits before lesions are matched.
        head: label or region that is the intracranial volume; "" for none.
        correction: for head size, of volumes that are compared with a population; None compares them as they are.
        smooth: compare with smooth centiles by age and sex.
    """

    lesions: tuple[str, ...] = ()
    align: bool = False
    head: str = ""
    correction: HeadMethod | None = None
    smooth: bool = False


@dataclass(frozen=True, kw_only=True)
class VolumetryOptions:
    """Predictions to measure, and what to compare them with.

    Args:
        folder: of the predictions.
        labels: of the model.
        records: of the prediction of each case, by name.
        header: provenance and population, without cases.
        population: to compare with.
        patients: age and sex, by case.
        visits: patient and date, by case.
        spacing: mm (z, y, x), for scans whose files have none.
        sheets: True writes a page for each case.
        asked: what is measured besides volumes.
    """

    folder: Path
    labels: Labels
    records: Mapping[str, ScanRecord]
    header: Volumetry
    population: Population | None = None
    patients: Mapping[str, Patient] = field(default_factory=dict)
    visits: Mapping[str, Visit] = field(default_factory=dict)
    spacing: Vector | None = None
    sheets: bool = True
    asked: MeasureOptions = field(default_factory=MeasureOptions)

    @cached_property
    def by_patient(self) -> dict[str, list[tuple[date, str]]]:
        """Date and case of the visits of each patient that were predicted, the first one first."""
        found: dict[str, list[tuple[date, str]]] = {}
        for case, visit in self.visits.items():
            if self.records[case].status == "done":
                found.setdefault(visit.patient, []).append((visit.date, case))
        return {patient: sorted(visits) for patient, visits in found.items()}


def read_case(options: VolumetryOptions, name: str) -> tuple[LabelMap, Scan | None]:
    """The label map of a case, and its scan if that can be read and has the same grid.

    Raises:
        NnsegError: the label map cannot be read.
    """
    written, scan = options.records[name], None
    try:
        scan = read_scan(written.images, repair=True, spacing=options.spacing)
    except NnsegError as error:
        if error.is_fault:
            raise
        log.info("%s", error)
    label_map = read_label_map(options.folder / written.file, like=scan.source if scan else None, sheared=True)
    return label_map, scan if scan and scan.grid.matches(upright(label_map.grid), GRID_TOLERANCE) else None


def read_objects(options: VolumetryOptions, name: str, label_map: LabelMap) -> LabelMap | None:
    """The numbers of a case's objects; None where these are connected components, which no file numbers.

    Raises:
        ScanError: the file cannot be read, or is not on the grid of the label map.
    """
    if not (file := options.records[name].objects_file):
        return None
    objects = read_label_map(options.folder / file, like=label_map.source, sheared=True)
    if not objects.grid.matches(label_map.grid, GRID_TOLERANCE):
        raise ScanError.at(options.folder / file, "is not on the grid of the label map", "numbers of its objects", "predict again")
    return objects


def read_uncertainty(options: VolumetryOptions, name: str, scan: Scan) -> Floats | None:
    """The uncertainty map of a case; None without one that fits the scan."""
    file = options.folder / f"{name}{UNCERTAINTY}"
    if file.name not in options.records[name].more or not file.exists():
        return None
    try:
        found = read_scan(file, repair=True)
    except NnsegError as error:
        if error.is_fault:
            raise
        return None
    return found.image[0] if found.grid.shape == scan.grid.shape else None
