"""Volumes of the labels in predicted scans, their percentiles and asymmetries, and flags on doubtful cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from nnseg.core.errors import split_code
from nnseg.core.frozen import FrozenModel
from nnseg.core.labels import find_side_pairs
from nnseg.core.names import FileName
from nnseg.core.population import Age, Percentile, Population, Sex
from nnseg.core.trust import Confidence, FolderDice
from nnseg.core.validation import NotNegative, Number, Probability, Range, Shares
from nnseg.volumetry.lesions import Lesion, LesionChanges
from nnseg.volumetry.visits import MeasuredVolume, Visit, VolumeChange

ML = "ml"

UNLIKE = "NS-S032"
"""Code of what is different in a foreign scan."""

VOLUMES = "volumes.json"
"""Name of the file with the volumes of a folder of scans."""


class Patient(FrozenModel):
    """Age, sex and head size of a patient, None where they are unknown.

    Args:
        age: years.
        head_ml: intracranial volume.
    """

    age: Age | None = None
    sex: Sex | None = None
    head_ml: NotNegative | None = Field(default=None, exclude_if=lambda ml: ml is None)


class LabelVolume(FrozenModel):
    """One label or region of one scan.

    Args:
        ml: its volume.
        corrected: ml in a head of average size, which the population's are compared with; None if nothing was corrected.
        percentile: in the population; None without one.
        asymmetry: of a label with a counterpart on the other side, 200 (left - right) / (left + right) in percent; None if
            it has none, or both are empty.
        expected_dice: None if the label is empty, or uncertainty was not estimated.
        dice_interval: which holds for 90 % of scans; None too where few cases were held out, and in a foreign scan.
        interval: of the true volume, in ml, likewise.
        objects: number of them, where the model tells them apart.
    """

    ml: NotNegative
    corrected: NotNegative | None = Field(default=None, exclude_if=lambda ml: ml is None)
    percentile: Percentile | None = None
    asymmetry: Number | None = None
    expected_dice: Probability | None = None
    dice_interval: Shares | None = None
    interval: Range | None = None
    objects: int | None = Field(default=None, ge=0, exclude_if=lambda count: count is None)

    @property
    def compared(self) -> float:
        """The volume that the population's are compared with."""
        return self.ml if self.corrected is None else self.corrected


def length_of(unit: str) -> str:
    """The unit of lengths beside one of volumes: "mm" beside "ml", "pixels" beside "1000 pixels"."""
    return "mm" if unit == ML else unit.removeprefix("1000 ")


class CaseVolumes(FrozenModel):
    """One scan.

    Args:
        name: of the case.
        patient: age and sex.
        labels: by name, in the model's order; empty if it failed.
        quality: expected mean Dice; None if uncertainty was not estimated.
        flags: reasons to check the case, in one line each.
        notes: on the prediction.
        failed: why there are no volumes; empty if it did not fail.
        unit: what stands for ml in volumes, where the label map's file gives no voxel size.
        lesions: objects of the labels whose objects were asked for.
        lesion_changes: since the patient's visit before, if there is one.
    """

    name: str
    patient: Patient = Patient()
    labels: dict[str, LabelVolume] = Field(default_factory=dict)
    quality: Probability | None = None
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failed: str = ""
    unit: str = ML
    lesions: tuple[Lesion, ...] = Field(default=(), exclude_if=lambda found: not found)
    lesion_changes: LesionChanges | None = Field(default=None, exclude_if=lambda found: found is None)

    @property
    def unusual(self) -> dict[str, str]:
        """ "low" or "high" for each label whose volume lies outside of the population's middle 90 %."""
        return {name: v.percentile.unusual for name, v in self.labels.items() if v.percentile and v.percentile.unusual}


class Volumetry(FrozenModel):
    """A folder of scans.

    Args:
        format: of this record.
        made_by: version, model and its hash, in words.
        population: that volumes were compared with; empty without one.
        names: of labels or regions.
        cases: sorted by name.
        expected: mean Dice; None if uncertainty was not estimated.
        visits: patient and day of each scan, by the case's name, where they were given.
        changes: of volumes between the visits of a patient.
        lesions: labels whose objects were measured one by one.
        files: hashes of the report's other files, by name, without the sheets; empty if an earlier version wrote it.
    """

    format: Literal[1] = 1
    made_by: dict[str, str] = Field(default_factory=dict)
    population: str = ""
    names: tuple[str, ...]
    cases: tuple[CaseVolumes, ...]
    expected: FolderDice | None = None
    visits: dict[str, Visit] = Field(default_factory=dict)
    changes: tuple[VolumeChange, ...] = ()
    lesions: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    files: dict[FileName, str] = Field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What all volumes are in; ml if that differs between cases, whose notes say it."""
        units = {case.unit for case in self.cases if not case.failed}
        return units.pop() if len(units) == 1 else ML


def volumes_at(case: CaseVolumes, visit: Visit) -> dict[str, MeasuredVolume]:
    """The volume of each label of a case as measured at a visit."""
    return {
        name: MeasuredVolume(case=case.name, date=visit.date, ml=of.ml, interval=of.interval) for name, of in case.labels.items()
    }


def asymmetries(volumes: Mapping[str, float]) -> dict[str, float]:
    """Asymmetry in percent of each label with a counterpart on the other side, the same for both; none of pairs that are empty.

    Source: the asymmetry index of morphometry, 200 (left - right) / (left + right).

    Example:
        ``asymmetries({"Left Kidney": 300.0, "Right Kidney": 200.0}) == {"Left Kidney": 40.0, "Right Kidney": 40.0}``
    """
    names, found = list(volumes), {}
    for left, right in find_side_pairs(names):
        of_left, of_right = volumes[names[left]], volumes[names[right]]
        if of_left + of_right > 0:
            found[names[left]] = found[names[right]] = 200.0 * (of_left - of_right) / (of_left + of_right)
    return found


def describe_volumes(
    name: str,
    volumes: Mapping[str, float],
    *,
    patient: Patient | None = None,
    population: Population | None = None,
    confidence: Confidence | None = None,
    objects: Mapping[str, int] | None = None,
    notes: tuple[str, ...] = (),
    unit: str = ML,
) -> CaseVolumes:
    """Volumes of a case with percentiles, asymmetries, expected quality and flags.

    Args:
        name: of the case.
        volumes: ml, by label.
        population: to compare with.
        confidence: expected quality of the label map.
        objects: number of objects, by label.
        notes: on the prediction.
        unit: see `CaseVolumes`.
    """
    patient, asymmetry = patient or Patient(), asymmetries(volumes)
    expected = confidence.expected_dice if confidence else {}
    dice_intervals = confidence.dice_intervals if confidence else {}
    factors = confidence.volume_factors if confidence else {}
    correction = population.correction if population else None
    corrected = {label: correction.corrected(label, ml, patient.head_ml) if correction else None for label, ml in volumes.items()}
    if correction and patient.head_ml is None:
        notes = (*notes, "its head size is not known, so that its volumes are not compared with others")
    if reason := population.why_no_centiles(patient.age, patient.sex) if population else "":
        notes = (*notes, reason)
    labels = {
        label: LabelVolume(
            ml=ml,
            corrected=corrected[label],
            percentile=_percentile(population, label, corrected[label] if correction else ml, patient),
            asymmetry=asymmetry.get(label),
            expected_dice=expected.get(label),
            dice_interval=dice_intervals.get(label),
            interval=(ml * factors[label][0], ml * factors[label][1]) if label in factors else None,
            objects=(objects or {}).get(label),
        )
        for label, ml in volumes.items()
    }
    differences = [text for text, code in map(split_code, notes) if code == UNLIKE] if confidence is None else confidence.unlike
    flags = [*_quality_flags(confidence), *(f"foreign scan: {text}" for text in differences), *_missing_labels(labels)]
    return CaseVolumes(
        name=name,
        patient=patient,
        labels=labels,
        quality=confidence.quality if confidence else None,
        flags=tuple(flags),
        notes=tuple(note for note in notes if split_code(note)[0] not in differences),
        unit=unit,
    )


def _percentile(population: Population | None, label: str, ml: float | None, patient: Patient) -> Percentile | None:
    if population is None or ml is None:
        return None
    return population.percentile(label, ml, age=patient.age, sex=patient.sex)


def _quality_flags(confidence: Confidence | None) -> list[str]:
    return [f"low expected quality, Dice {confidence.quality:.2f}"] if confidence and confidence.flagged else []


def _missing_labels(labels: Mapping[str, LabelVolume]) -> list[str]:
    """One line on the labels that are empty although 95 % of the population have them."""
    missing = [name for name, v in labels.items() if v.percentile and v.ml == 0 and v.percentile.band[0] > 0]
    return [f"{', '.join(missing)} not found"] if missing else []
