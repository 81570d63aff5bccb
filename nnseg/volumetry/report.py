"""The report on predictions without references: volumes, percentiles, asymmetries, a sheet for each case."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nnseg.core.errors import DatasetError, NnsegError
from nnseg.core.image import LabelMap, Scan
from nnseg.core.label_volumes import volumes_of
from nnseg.core.labels import Labels
from nnseg.core.population import Population, corrected_for_head
from nnseg.core.trust import FolderDice
from nnseg.core.units import volume_name
from nnseg.evaluation.folder_dice import estimate_folder_dice
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.pictures import Picture, draw_case
from nnseg.storage.files import text_hash, write_json, write_text
from nnseg.storage.images.resampling import upright_label_map
from nnseg.storage.predictions import Predictions, read_record
from nnseg.storage.temporary import sweep_ended
from nnseg.system.parallel import map_items
from nnseg.volumetry.centiles import with_centiles
from nnseg.volumetry.lesions import check_labels
from nnseg.volumetry.measure_lesions import with_lesions
from nnseg.volumetry.page import SHEETS, report_html, sheet_html, sheet_name
from nnseg.volumetry.population import with_heads
from nnseg.volumetry.predicted import MeasureOptions, VolumetryOptions, read_case, read_uncertainty
from nnseg.volumetry.tables import (
    changes_table,
    lesion_changes_table,
    lesions_table,
    long_table,
    read_patients,
    read_visits,
    wide_table,
)
from nnseg.volumetry.visits import VolumeChange, changes_between, find_changes
from nnseg.volumetry.volumes import VOLUMES, CaseVolumes, Patient, Volumetry, describe_volumes, volumes_at

log = logging.getLogger(__name__)

CHANGES = "changes.csv"
"""Name of the table of changes between visits."""

LESIONS, LESION_CHANGES = "lesions.csv", "lesion_changes.csv"
"""Names of the tables of lesions, and of what became of them between visits."""

MOST_PREVIEWS = 12
"""Cases with pictures on the page."""
MOST_OTHERS = 4
"""Of these, cases without a flag."""
MOST_VIEWED = 6
"""Cases in the viewer."""


def report_predictions(
    folder: Path,
    *,
    population: Population | None = None,
    covariates: Path | None = None,
    visits: Path | None = None,
    asked: MeasureOptions | None = None,
    sheets: bool = True,
    workers: int = 0,
) -> Volumetry:
    """Volumes of the predictions in a folder, which are also written there.

    Files are ``report.html``, ``volumes.csv``, ``volumes_wide.csv``, ``volumes.json``, a sheet for each case, with visits
    ``changes.csv``, and of lesions ``lesions.csv`` and with visits ``lesion_changes.csv``.

    Args:
        folder: of the label maps, with their ``predictions.json``.
        population: to compare with; by default the training set's.
        covariates: a table of case, age, sex and head size.
        visits: a table of case, patient and date; changes between the visits of a patient are measured then.
        asked: what is measured besides volumes.
        sheets: False leaves out the sheets.
        workers: processes.

    Raises:
        RunError: the folder holds no predictions, or cannot be written to.
        DatasetError: a table cannot be used, or there is no such label.
    """
    options = _read_options(folder, population, covariates, visits, asked or MeasureOptions(), sheets=sheets)
    cases = list[CaseVolumes]()
    for names in _by_visit(options):
        known = {case.name: case for case in cases}
        for outcome in map_items(partial(measure, options, known), names, workers=workers, label="measuring volumes"):
            cases.append(outcome.result or CaseVolumes(name=outcome.item, failed=outcome.reason or ""))
    for place in (folder, folder / SHEETS):  # of an earlier command, or a process of this one, that was killed
        sweep_ended(place)
    at_visits = {case.name: volumes_at(case, options.visits[case.name]) for case in cases if case.name in options.visits}
    volumetry = options.header.model_copy(
        update={
            "cases": tuple(sorted(cases, key=lambda c: c.name)),
            "expected": _expected(options, cases),
            "visits": dict(options.visits),
            "changes": tuple(find_changes(at_visits, options.visits)),
        }
    )
    previews, viewed = [], []
    for number, case in enumerate(_choose_cases(volumetry.cases)):
        if images := _read_images(options, case):
            previews.append(draw_case(images))
            viewed += [images] if number < MOST_VIEWED else []
    page = report_html(
        volumetry,
        options.labels,
        population=options.population,
        previews=previews,
        viewed=viewed,
        sheets=sheets,
    )
    texts = {"volumes.csv": long_table(volumetry), "volumes_wide.csv": wide_table(volumetry), "report.html": page}
    texts |= {CHANGES: changes_table(volumetry)} if options.visits else {}
    texts |= {LESIONS: lesions_table(volumetry)} if volumetry.lesions else {}
    texts |= {LESION_CHANGES: lesion_changes_table(volumetry)} if options.visits and volumetry.lesions else {}
    volumetry = volumetry.model_copy(update={"files": {name: text_hash(text) for name, text in texts.items()}})
    write_json(folder / VOLUMES, volumetry)  # first, so that the others are known to be of nnseg
    for name, text in texts.items():
        write_text(folder / name, text)
    return volumetry


def _expected(options: VolumetryOptions, cases: Sequence[CaseVolumes]) -> FolderDice | None:
    """The mean Dice that is expected of the cases whose volumes are known."""
    found = (options.records[case.name].confidence for case in cases if not case.failed)
    return estimate_folder_dice([confidence for confidence in found if confidence])


def _by_visit(options: VolumetryOptions) -> list[list[str]]:
    """Names of the cases: of first visits and those without a visit, then of second ones, and so on."""
    found: list[list[str]] = [[]]
    for name in sorted(options.records):
        number = len(_visits_before(options, name))
        found += [[] for _ in range(len(found), number + 1)]
        found[number].append(name)
    return found


def measure(options: VolumetryOptions, known: Mapping[str, CaseVolumes], name: str) -> CaseVolumes:
    """The volumes of one case; its sheet is written.

    Args:
        known: volumes at earlier visits, by name of the case.

    Raises:
        NnsegError: its label map cannot be read.
    """
    written = options.records[name]
    if written.status == "failed":
        return CaseVolumes(name=name, patient=options.patients.get(name, Patient()), failed=written.reason)
    label_map, scan = read_case(options, name)
    case, before = _describe(options, name, label_map), _visit_before(options, known, name)
    if options.asked.lesions:
        case = with_lesions(options, case, label_map, scan, before)
    if options.sheets:
        drawn = _draw_slices(scan, label_map, options.labels, name) if scan else ()
        changes = _changes_since(options, known[before], case) if before else {}
        write_text(options.folder / SHEETS / sheet_name(name), sheet_html(case, options.header, options.labels, drawn, changes))
    return case


def _visits_before(options: VolumetryOptions, name: str) -> list[str]:
    """The cases of the same patient that were predicted, of earlier visits, the first one first."""
    if (visit := options.visits.get(name)) is None:
        return []
    return [case for day, case in options.by_patient.get(visit.patient, ()) if (day, case) < (visit.date, name)]


def _visit_before(options: VolumetryOptions, known: Mapping[str, CaseVolumes], name: str) -> str | None:
    """The case of the patient's visit before; None if there is none, or its label map cannot be read."""
    before = next(reversed(_visits_before(options, name)), None)
    return None if before is None or known[before].failed else before


def _changes_since(options: VolumetryOptions, before: CaseVolumes, case: CaseVolumes) -> dict[str, VolumeChange]:
    """The change of each label of a case since an earlier one of the patient."""
    measured = (volumes_at(one, options.visits[one.name]) for one in (before, case))
    return {change.label: change for change in changes_between(options.visits[before.name].patient, *measured)}


def _describe(options: VolumetryOptions, name: str, label_map: LabelMap) -> CaseVolumes:
    written, volumes = options.records[name], volumes_of(label_map, options.labels)
    patient = options.patients.get(name, Patient())
    if patient.head_ml is None and volumes.get(options.asked.head):
        patient = patient.model_copy(update={"head_ml": volumes[options.asked.head]})
    described = describe_volumes(
        name,
        volumes,
        patient=patient,
        population=options.population,
        confidence=written.confidence,
        objects=written.objects,
        notes=(*written.findings, *_unit_note(label_map)),
        unit=_unit(label_map),
    )
    answers = (f"{one.question} ({one.rule})" for one in written.answers if one.yes)
    return described.model_copy(update={"flags": (*described.flags, *answers)})


def _draw_slices(scan: Scan, label_map: LabelMap, labels: Labels, name: str) -> Sequence[Picture]:
    prediction = upright_label_map(label_map).labels
    images = CaseImages(name=name, caption="", image=scan.image, grid=scan.grid, prediction=prediction, labels=labels)
    return draw_case(images).pictures


def _read_options(
    folder: Path,
    population: Population | None,
    covariates: Path | None,
    visits: Path | None,
    asked: MeasureOptions,
    *,
    sheets: bool,
) -> VolumetryOptions:
    record, labels = read_record(folder)
    check_labels((*asked.lesions, *filter(None, [asked.head])), labels)
    population = _comparable(population or record.population, asked)
    header = Volumetry(
        made_by=_made_by(record),
        population=population.source if population else "",
        names=labels.foreground,
        cases=(),
        lesions=asked.lesions,
    )
    return VolumetryOptions(
        folder=folder,
        labels=labels,
        records=record.cases,
        header=header,
        population=population,
        patients=read_patients(covariates, record.cases) if covariates else {},
        visits=read_visits(visits, record.cases) if visits else {},
        spacing=record.options.get("spacing"),
        sheets=sheets,
        asked=asked,
    )


def _comparable(population: Population | None, asked: MeasureOptions) -> Population | None:
    """The population, with volumes corrected as those of the cases will be.

    Raises:
        DatasetError: there is none to correct, or too few of it have a head size.
    """
    if population is None:
        if asked.correction or asked.smooth:
            raise DatasetError("there is no population to correct volumes or draw centiles by; give one with --population")
        return None
    if asked.correction:
        population = corrected_for_head(with_heads(population, asked.head), asked.correction)
    return with_centiles(population) if asked.smooth else population


def _made_by(record: Predictions) -> dict[str, str]:
    facts = {
        "nnseg": record.nnseg,
        "model": ", ".join(Path(path).name for path in record.model.get("paths", ())),
        "model's hash": str(record.model.get("key", "")),
        "predicted": record.made.replace("T", " ").replace("+00:00", " UTC"),
    }
    return {name: value for name, value in facts.items() if value}


def _unit(label_map: LabelMap) -> str:
    """What the volumes are in: ml, or voxels where the file gives no size of them."""
    unknown = label_map.source and not label_map.source.has_spacing
    return volume_name(label_map.source.shown_unit if label_map.source and unknown else "mm")


def _unit_note(label_map: LabelMap) -> tuple[str, ...]:
    """What the volumes are, where they are not just ml."""
    if label_map.source and not label_map.source.has_spacing:
        return (f"its file gives no voxel size: what stands for ml is {_unit(label_map)}",)
    thickness = label_map.grid.spacing[0]
    return (f"a single slice: its volumes are areas times {thickness:g} mm",) if label_map.grid.is_2d else ()


def _choose_cases(cases: Sequence[CaseVolumes]) -> list[CaseVolumes]:
    """Cases to show: the flagged ones, those with the lowest expected quality first, and a few others from worst to best."""
    done = sorted((c for c in cases if not c.failed), key=lambda c: (c.quality is None, c.quality or 0.0, c.name))
    flagged, others = [c for c in done if c.flags], [c for c in done if not c.flags]
    count = min(MOST_OTHERS, len(others))
    spread = [others[round(i * (len(others) - 1) / max(1, count - 1))] for i in range(count)]
    return [*flagged[: MOST_PREVIEWS - count], *spread]


def _caption(case: CaseVolumes) -> str:
    if case.flags:
        return "; ".join(case.flags)
    return "not flagged" + (f", expected Dice {case.quality:.3f}" if case.quality is not None else "")


def _read_images(options: VolumetryOptions, case: CaseVolumes) -> CaseImages | None:
    """A case to draw; None if its scan or label map cannot be read."""
    try:
        label_map, scan = read_case(options, case.name)
    except NnsegError as error:
        if error.is_fault:
            raise
        return None
    if scan is None:
        return None
    return CaseImages(
        name=case.name,
        caption=_caption(case),
        image=scan.image,
        grid=scan.grid,
        prediction=upright_label_map(label_map).labels,
        labels=options.labels,
        uncertainty=read_uncertainty(options, case.name, scan),
        notes=case.notes,
    )
