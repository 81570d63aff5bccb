"""RT Structure Set: the labels of a DICOM series as contours, for treatment planning.

Source: DICOM PS3.3, A.19 and C.8.8.5, C.8.8.6, C.8.8.8 (structure set, contours, observations). A hole is joined to the contour
around it by a channel without width, as C.8.8.6.3 describes it: readers know it, whichever rule they fill by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage
from scipy.spatial import cKDTree
from skimage.measure import find_contours, points_in_poly

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import Integers, Source
from nnseg.core.labels import Labels
from nnseg.storage.files import write_aside
from nnseg.storage.images.codes import VALUE_TEXT, find_codes
from nnseg.storage.images.dicom_derived import coded, derived_object, item
from nnseg.storage.images.dicom_headers import quiet
from nnseg.storage.images.dicom_references import Behind, References, about_source, position_of, read_references

Points = npt.NDArray[np.float64]

STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Of the study in RTReferencedStudySequence: retired, and still what all readers expect."""

BEND = 0.2113
"""How far a channel is bent, in voxels: not by a simple fraction, so that it meets no centre."""

DIGITS = 4
"""Decimals of coordinates in mm."""


def write_rtstruct(labels_ZYX: Integers, path: str | Path, *, like: Source, labels: Labels, when: datetime | None = None) -> None:
    """Write a label map as RT Structure Set: an ROI for each label or region, with contours halfway between voxels.

    Args:
        labels_ZYX: stored values, in the stored order of the scan (`nnseg.storage.images.write.to_stored_order`).
        path: a complete file appears under this name, or none.
        like: the scan, read from DICOM.
        when: date and time; now by default. The same input and time give the same bytes.

    Raises:
        ScanError: the scan was not read from DICOM, or no file says where its slices lie in the patient.
        RunError: the folder cannot be written to.
    """
    references = read_references(like)
    if not references.frame_of_reference:
        raise ScanError.at(like.files[0], "does not say where its slices lie", "positions in the patient", "write DICOM-SEG")
    with quiet():
        structures = _structure_set(references, like.grid, labels_ZYX, labels, when or datetime.now())
        with write_aside(Path(path)) as aside:
            structures.save_as(aside, enforce_file_format=True)


def _structure_set(references: References, grid: Grid, labels_ZYX: Integers, labels: Labels, when: datetime) -> pydicom.FileDataset:
    content = hashlib.blake2b(np.ascontiguousarray(labels_ZYX).tobytes()).hexdigest()
    seed = [*(i.uid for i in references.instances), content, str(labels.foreground_values), when.isoformat(), "contours"]
    found = derived_object(
        about_source(references), seed, when, sop_class=RTStructureSetStorage, modality="RTSTRUCT", description="nnseg contours"
    )
    found.update(
        item(
            OperatorsName="",
            FrameOfReferenceUID=references.frame_of_reference,
            PositionReferenceIndicator="",
            StructureSetLabel="NNSEG",
            StructureSetName="nnseg contours",
            StructureSetDate=found.InstanceCreationDate,
            StructureSetTime=found.InstanceCreationTime,
            ApprovalStatus="UNAPPROVED",
            ReferencedFrameOfReferenceSequence=[_frame_of_reference(references)],
        )
    )
    behind, values = references.behind(grid), labels.foreground_values
    found.StructureSetROISequence = [
        item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=references.frame_of_reference,
            ROIName=name[:64],
            ROIDescription=VALUE_TEXT.format(values[name][0]),
            ROIGenerationAlgorithm="AUTOMATIC",
        )
        for number, name in enumerate(values, 1)
    ]
    found.ROIContourSequence = [
        _roi_contours(number, np.isin(labels_ZYX, values[name]), grid, behind) for number, name in enumerate(values, 1)
    ]
    found.RTROIObservationsSequence = [
        item(
            ObservationNumber=number,
            ReferencedROINumber=number,
            RTROIIdentificationCodeSequence=[coded(find_codes(name).kind)],
            RTROIInterpretedType="",
            ROIInterpreter="",
        )
        for number, name in enumerate(values, 1)
    ]
    return found


def _frame_of_reference(references: References) -> Dataset:
    """The frame of reference with the images of the series of the first file."""
    series = references.instances[0].series if references.instances else ""
    images = [
        item(ReferencedSOPClassUID=i.sop_class, ReferencedSOPInstanceUID=i.uid) for i in references.instances if i.series == series
    ]
    of_series = item(SeriesInstanceUID=series, ContourImageSequence=images)
    study = item(
        ReferencedSOPClassUID=STUDY_CLASS, ReferencedSOPInstanceUID=references.study, RTReferencedSeriesSequence=[of_series]
    )
    return item(FrameOfReferenceUID=references.frame_of_reference, RTReferencedStudySequence=[study])


def _roi_contours(number: int, mask_ZYX: npt.NDArray[np.bool_], grid: Grid, behind: Sequence[Sequence[Behind]]) -> Dataset:
    found = item(ReferencedROINumber=number, ROIDisplayColor=list(colour_of(number - 1)))
    contours = [
        _contour(points, grid, z, behind[z])
        for z in np.flatnonzero(mask_ZYX.any(axis=(1, 2))).tolist()
        for points in outlines(mask_ZYX[z])
    ]
    if contours:
        found.ContourSequence = contours
    return found


def _contour(points_YX: Points, grid: Grid, z: int, behind: Sequence[Behind]) -> Dataset:
    start = np.asarray(position_of(behind, grid, z))
    world = np.round(start + points_YX @ grid.steps[1:], DIGITS) + 0.0
    found = item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(world),
        ContourData=[f"{value:.{DIGITS}f}" for value in world.ravel()],
    )
    if behind:
        instance, frame = behind[0].instance, behind[0].frame
        image = item(ReferencedSOPClassUID=instance.sop_class, ReferencedSOPInstanceUID=instance.uid)
        image.update(item(ReferencedFrameNumber=frame) if frame else Dataset())
        found.ContourImageSequence = [image]
    return found


def outlines(mask_YX: npt.NDArray[np.bool_]) -> Iterator[Points]:
    """The closed outlines of a mask, (n, 2) positions (y, x) in voxels, halfway between voxels in and out, with their holes.

    The centres of exactly the voxels in the mask lie inside by the even-odd rule.
    """
    rows, columns = (np.flatnonzero(mask_YX.any(axis=axis)) for axis in (1, 0))
    corner = np.array([rows[0], columns[0]])
    part = np.pad(mask_YX[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    rings = [_corners(ring[:-1]) + corner - 1 for ring in find_contours(part.astype(np.float32), 0.5)]
    outer, holes = [r for r in rings if _area(r) > 0], [r for r in rings if _area(r) < 0]
    inside: list[list[Points]] = [[] for _ in outer]
    for hole in holes:
        around = [i for i, ring in enumerate(outer) if points_in_poly(hole[:1], ring)[0]]
        inside[min(around, key=lambda i: _area(outer[i]))].append(hole)
    for ring, own in zip(outer, inside, strict=True):
        yield _with_holes(ring, own)


def _area(ring: Points) -> float:
    """Area of a ring, negative for one around a hole, by the direction in which scikit-image runs along contours."""
    following = np.roll(ring, -1, axis=0)
    return float(np.sum(ring[:, 1] * following[:, 0] - ring[:, 0] * following[:, 1])) / 2


def _corners(ring: Points) -> Points:
    """A ring without the points on straight lines."""
    back, ahead = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[np.abs(back[:, 0] * ahead[:, 1] - back[:, 1] * ahead[:, 0]) > 0]


def _with_holes(ring: Points, holes: Sequence[Points]) -> Points:
    """A ring with its holes, the nearest first, each joined to the nearest point: no channel crosses another hole."""
    for hole in sorted(holes, key=lambda hole: float(cKDTree(ring).query(hole)[0].min())):
        distances, places = cKDTree(ring).query(hole)
        start = int(np.argmin(distances))
        place = int(places[start])
        around = np.roll(hole, -start, axis=0)
        bend = _bend(ring[place], around[0])
        ring = np.concatenate([ring[: place + 1], bend, around, around[:1], bend, ring[place:]])
    return ring


def _bend(start: Points, end: Points) -> Points:
    """The middle of a channel, (1, 2), beside the straight line: on that centres of voxels may lie, where readers differ."""
    along = end - start
    across = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    return np.asarray(((start + end) / 2 + BEND * across)[None])
