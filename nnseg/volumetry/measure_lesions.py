"""The lesions of a predicted scan, and what became of those of the patient's visit before."""

from __future__ import annotations

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap, Scan
from nnseg.volumetry.alignment import align_visits
from nnseg.volumetry.find_lesions import find_lesions
from nnseg.volumetry.lesion_changes import STAYS, match_lesions
from nnseg.volumetry.lesions import LesionChanges, LesionMap
from nnseg.volumetry.predicted import VolumetryOptions, read_case, read_objects
from nnseg.volumetry.volumes import CaseVolumes


def with_lesions(
    options: VolumetryOptions, case: CaseVolumes, label_map: LabelMap, scan: Scan | None, before: str | None
) -> CaseVolumes:
    """A case with its lesions, and with what became of those at the visit before.

    Args:
        label_map, scan: of the case; no scan if it cannot be read.
        before: name of the earlier case; None if there is none.

    Raises:
        NnsegError: the label map of the earlier case, or numbers of objects, cannot be read.
    """
    found = _lesion_maps(options, case.name, label_map)
    case = case.model_copy(update={"lesions": tuple(lesion for own in found.values() for lesion in own.lesions)})
    if before is None:
        return case
    earlier_map, earlier_scan = read_case(options, before)
    earlier = _lesion_maps(options, before, earlier_map)
    motion, aligned, notes = STAYS, None, case.notes
    if options.asked.align:
        try:
            motion, aligned = align_visits(earlier_scan, scan)
        except ScanError as error:
            if error.is_fault:
                raise
            notes += (f"not aligned with {before}, lesions are matched where the headers place them: {error}",)
    changes = (one for label, own in found.items() for one in match_lesions(label, earlier[label], own, motion))
    since = LesionChanges(since=before, changes=tuple(changes), aligned=aligned)
    return case.model_copy(update={"lesion_changes": since, "notes": notes})


def _lesion_maps(options: VolumetryOptions, name: str, label_map: LabelMap) -> dict[str, LesionMap]:
    objects = read_objects(options, name, label_map)
    numbered = options.records[name].objects
    return {
        label: find_lesions(label_map, options.labels, label, objects if label in numbered else None)
        for label in options.asked.lesions
    }
