"""``nnseg audit``: whether scores or labels depend on properties of the scans that should not matter, and same scans."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
from scipy.cluster import hierarchy

from nnseg.commands.cohorts import DICOM, find_cohorts
from nnseg.core.audit import Association, Audit, SameScan, Subgroup
from nnseg.core.dataset import Case, Finding, list_some, listed
from nnseg.core.errors import EvaluationError, RunError, suppress_unless_fault
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.frozen import FrozenModel
from nnseg.core.scores import Scores
from nnseg.evaluation.audit_same_scans import CELLS, FEW_CELLS, Cells, ScanDetails, describe, find_same_scans, measure_details
from nnseg.evaluation.audit_tests import Values, find_associations
from nnseg.evaluation.audit_traits import ScanTraits, measure_traits
from nnseg.evaluation.groups import cohorts_of, group_scores
from nnseg.planning.folds import merge_groups
from nnseg.planning.run_folds import patients_of_run
from nnseg.storage.datasets.read_case import read_case_scan
from nnseg.storage.files import write_text
from nnseg.storage.images.dicom_headers import may_be_dicom
from nnseg.storage.run import Run
from nnseg.storage.tables import csv_text
from nnseg.system.parallel import map_items

log = logging.getLogger(__name__)

SIGNIFICANT = 0.01
"""Chance of any false alarm in an audit."""

BANDS = 3
"""Bands of intensities: clusters of the scans' percentiles."""

DICE = "Dice"


class AuditedRun(FrozenModel):
    """What ``nnseg audit`` finds.

    Args:
        audit: as in ``audit.json``.
    """

    audit: Audit

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What should be looked at."""
        return self.audit.findings


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What is measured of one scan."""

    traits: ScanTraits
    details: ScanDetails


def audit(run: Run, *, groups: str = "", workers: int = 0) -> Audit:
    """The audit of a run, written to ``audit.json``; groups that keep same scans in one fold to ``audit_groups.csv``.

    Args:
        run: with its dataset; without scores only what the labels depend on is tested.
        groups: further properties of the cases, as `find_cohorts` takes them; "" for DICOM headers, if there are.
        workers: processes that read scans.

    Raises:
        RunError: the folder holds no run with a dataset, none of its scans can be read, or the disk does not give one.
        EvaluationError: the groups cannot be used.
        DatasetError: their table cannot be read.
    """
    if not run.exists or not run.has_dataset:
        raise RunError(f"{run.path} holds no run with a dataset; give the folder that nnseg run made")
    with run.locked():
        fingerprint, scores, patients = run.fingerprint, run.scores, patients_of_run(run)
        cohorts = _find_cohorts(run, groups)
        read, unread = _read_scans(run, fingerprint, workers)
        measures = [case for case in fingerprint.cases if case.name in read]
        predictors = list_predictors(measures, {name: one.traits for name, one in read.items()}, cohorts)
        associations = associate(fingerprint, measures, scores, predictors, patients)
        same = tuple(_compare(run, {name: one.details for name, one in read.items()}, patients))
        together = merge_groups(sorted(run.cases), patients, [one.cases for one in same]) if same else {}
        found = Audit(
            cases=len(read),
            scored=sum(case.name in read for case in scores.cases) if scores else 0,
            associations=associations,
            subgroups=tuple(_list_subgroups(scores, predictors, associations)) if scores else (),
            same_scans=same,
            groups=together,
            unread=unread,
            findings=(*_find_same(same), *_find_dependent(associations)),
        )
        run.audit = found
        if together:
            write_text(run.audit_groups_file, csv_text(("case", "group"), list(together.items())))
        else:
            run.audit_groups_file.unlink(missing_ok=True)
    return found


def _find_cohorts(run: Run, source: str) -> dict[str, dict[str, str]]:
    """The recorded properties of the cases; those of DICOM headers where nothing else is given, and there are any."""
    if source:
        return find_cohorts(set(run.cases), source, run)
    if any(case.images[0].is_dir() or may_be_dicom(case.images[0]) for case in run.dataset.cases[:1] if case.images[0].exists()):
        with suppress_unless_fault(EvaluationError):  # headers without the tags
            return find_cohorts(set(run.cases), DICOM, run)
    return {}


def _read_scans(run: Run, fingerprint: Fingerprint, workers: int) -> tuple[dict[str, _Read], dict[str, str]]:
    """What is measured of each usable scan, and why others cannot be read."""
    cases = [run.cases[case.name] for case in fingerprint.cases if case.name in run.cases]
    cells = [Cells.of(fingerprint.cases, most) for most in (CELLS, FEW_CELLS)]
    measure = partial(_measure, fine=cells[0], coarse=cells[1])
    outcomes = {one.item.name: one for one in map_items(measure, cases, workers=workers, label="reading scans")}
    if lost := next((one for one in outcomes.values() if one.is_fault), None):
        raise RunError(f"case {lost.item.name}: {lost.reason}")  # the disk does not give it now, so that nothing is known of it
    read = {case.name: outcomes[case.name].result for case in cases}
    unread = {case.name: outcomes[case.name].reason or "" for case in cases if read[case.name] is None}
    for name, reason in unread.items():
        log.warning("case %s: %s", name, reason)
    if len(unread) == len(cases):
        why = f": {next(iter(unread.values()))}" if unread else ""
        raise RunError(f"none of the scans of {run.path} can be read{why}; are they where they were, {run.dataset.folder}?")
    return {name: one for name, one in read.items() if one is not None}, unread


def _measure(case: Case, *, fine: Cells, coarse: Cells) -> _Read:
    scan = read_case_scan(case, None)
    return _Read(traits=measure_traits(scan), details=measure_details(scan, fine, coarse))


def list_predictors(
    measures: Sequence[CaseMeasure], traits: Mapping[str, ScanTraits], cohorts: Mapping[str, Mapping[str, str]]
) -> dict[str, Values]:
    """The value of each property for each case, by name; categories are texts."""
    found: dict[str, Values] = {**cohorts, "stored orientation": {name: one.orientation for name, one in traits.items()}}
    found[BAND] = _intensity_bands(traits)
    found[BRIGHTNESS] = {name: one.border_brightness for name, one in traits.items()}
    found["constant border"] = {name: one.border_constant for name, one in traits.items()}
    for corner in sorted({corner for one in traits.values() for corner in one.marks}):
        found[f"mark in the corner {corner}"] = {name: float(corner in one.marks) for name, one in traits.items()}
    found["mark in a corner"] = {name: float(bool(one.marks)) for name, one in traits.items()}
    for axis, letter in enumerate("zyx"):
        found[f"{SPACING} along {letter}"] = {case.name: case.spacing[axis] for case in measures}
        found[f"{SIZE} along {letter}"] = {case.name: case.shape[axis] * case.spacing[axis] for case in measures}
    return found


SPACING, SIZE, BAND, BRIGHTNESS = "spacing", "size", "intensity band", "brightness of the border"
"""Names of predictors begin with these that depend on volumes themselves: a scan is as large as the patient, and a bright organ
brightens it. They are tested against the Dice only."""


def _intensity_bands(traits: Mapping[str, ScanTraits]) -> dict[str, str]:
    """The band of each scan: clusters by Ward's rule of the percentiles of all channels, each standardized; "1" is the darkest."""
    values = np.array([np.ravel(one.percentiles) for one in traits.values()])
    spread = values.std(0)
    standardized = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
    if len(values) <= BANDS or not spread.any():
        return dict.fromkeys(traits, "1")
    band = hierarchy.fcluster(hierarchy.ward(standardized), BANDS, "maxclust")
    level = {number: float(standardized[band == number].mean()) for number in set(band.tolist())}
    ordered = {number: str(rank) for rank, number in enumerate(sorted(level, key=lambda number: level[number]), 1)}
    return {name: ordered[number] for name, number in zip(traits, band.tolist(), strict=True)}


def associate(
    fingerprint: Fingerprint,
    measures: Sequence[CaseMeasure],
    scores: Scores | None,
    predictors: Mapping[str, Values],
    patients: Mapping[str, str],
) -> tuple[Association, ...]:
    """The association of the predictors with the Dice of held-out cases, and with the volume of each label in all cases."""
    known = {case.name for case in measures}
    dice = {case.name: case.mean_dice for case in (scores.cases if scores else ()) if case.name in known}
    of_scores = {DICE: {name: value for name, value in dice.items() if value is not None}}
    volumes = {f"volume of {label}": _volumes(measures, parts) for label, parts in fingerprint.labels.parts().items()}
    apart = {name: of for name, of in predictors.items() if not name.startswith((SPACING, SIZE, BAND, BRIGHTNESS))}
    families = [
        find_associations(predictors, of_scores, patients),
        find_associations(apart, {name: of for name, of in volumes.items() if of}, patients),
    ]
    tested = sum(map(bool, families))
    every = [
        one.model_copy(update={"p_adjusted": min(1.0, tested * one.p_adjusted)})  # Bonferroni's correction for the two families
        for family in families
        for one in family
    ]
    return tuple(sorted(every, key=lambda one: (one.p_adjusted, -one.explained)))


def _volumes(measures: Sequence[CaseMeasure], parts: Sequence[str]) -> dict[str, float]:
    """The volume of a label or region in each case in which it was annotated, in ml."""
    return {
        case.name: sum(case.voxels.get(part, 0) for part in parts) * prod(case.spacing) / 1000
        for case in measures
        if case.annotated is None or set(parts) <= set(case.annotated)
    }


def _list_subgroups(scores: Scores, predictors: Mapping[str, Values], associations: Sequence[Association]) -> Iterator[Subgroup]:
    """Mean Dice by each category, and by parts of the numbers that the Dice depends on."""
    named = {case.name for case in scores.cases}
    flagged = {one.predictor for one in associations if one.outcome == DICE and one.p_adjusted <= SIGNIFICANT}
    texts = {
        name: {case: value if isinstance(value, str) else f"{value:g}" for case, value in of.items() if case in named}
        for name, of in predictors.items()
        if name in flagged or any(isinstance(value, str) for value in of.values())
    }
    cohorts = {name: of for name, of in cohorts_of(texts).items() if len(set(of.values())) > 1}
    of_dice = scores.model_copy(update={"metrics": ("dice",)})
    for group in group_scores(of_dice, cohorts) if cohorts else ():
        dice = group.averages["dice"]
        yield Subgroup(predictor=group.by, value=group.value, n=group.n, dice=dice.mean, interval=dice.interval)


def _compare(run: Run, details: Mapping[str, ScanDetails], patients: Mapping[str, str]) -> Iterator[SameScan]:
    """Same scans of cases that are not known to be of one patient."""
    names, folds = list(details), run.folds.values() if Run.folds.path(run).exists() else ()
    for one in find_same_scans(list(details.values())):
        first, second = names[one.first], names[one.second]
        if patients.get(first, first) == patients.get(second, second):
            continue
        divided = any({first, second} & set(fold.held_out) and {first, second} & set(fold.training) for fold in folds)
        how = describe(details[first], details[second], one)
        yield SameScan(cases=(first, second), how=how, correlation=round(one.correlation, 4), divided=divided)


def _find_same(same: Sequence[SameScan]) -> Iterator[Finding]:
    for one in same:
        how = f" ({one.how})" if one.how else ""
        divided = "a fold trains on one of them and holds out the other" if one.divided else "no fold divides them"
        found = f"{listed(one.cases)} show the same scan{how}, and {divided}"
        yield Finding.of("NS-A001", f"{found}; expected different scans; keep one of them, or both in one fold with --group-by")


def _find_dependent(associations: Sequence[Association]) -> Iterator[Finding]:
    """A warning for each predictor of the Dice, and for each one of volumes."""
    significant = [one for one in associations if one.p_adjusted <= SIGNIFICANT]
    for one in significant:
        if one.outcome == DICE:
            found = f"the Dice depends on the {one.predictor}: {_strength(one)}"
            yield Finding.of(
                "NS-A002", f"{found}; expected scores that do not; look at its subgroups in the report, add such cases"
            )
    for predictor in dict.fromkeys(one.predictor for one in significant if one.outcome != DICE):
        those = [one for one in significant if one.predictor == predictor and one.outcome != DICE]
        found = f"the {list_some([one.outcome for one in those])} goes with the {predictor}: {_strength(those[0])}"
        advice = "a network may learn the one from the other: remove it from the scans, or add cases without it"
        yield Finding.of("NS-A003", f"{found}; expected volumes that do not; {advice}")


def _strength(one: Association) -> str:
    return (
        f"it explains {one.explained:.0%} of the variance of ranks (n = {one.n}, p = {one.p_adjusted:.2g} for all that was tested)"
    )
