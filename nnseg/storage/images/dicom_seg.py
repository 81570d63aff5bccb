"""DICOM-SEG: the label map of a DICOM series as DICOM, for archives and viewers.

Source: DICOM PS3.3, A.51 and C.8.20 (Segmentation), C.7.6.16 (functional groups) and C.7.6.17 (dimensions).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage, generate_uid

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import Integers, Source
from nnseg.core.labels import Labels
from nnseg.storage.files import write_aside
from nnseg.storage.images.cielab import to_cielab
from nnseg.storage.images.codes import VALUE_TEXT, find_codes, standard_code
from nnseg.storage.images.dicom_derived import coded, decimal, derived_object, item, software_version
from nnseg.storage.images.dicom_headers import quiet
from nnseg.storage.images.dicom_references import (
    Behind,
    References,
    about_source,
    allowed_value,
    position_of,
    read_references,
)
from nnseg.storage.images.dicom_values import text_of, value_of

_STACK = "1"


def write_dicom_seg(labels_ZYX: Integers, path: str | Path, *, like: Source, labels: Labels, when: datetime | None = None) -> None:
    """Write a label map as DICOM-SEG: one coded segment a label, each frame in its slice's place, the source images named.

    Args:
        labels_ZYX: stored values, in the stored order of the scan (`nnseg.storage.images.write.to_stored_order`).
        path: a complete file appears under this name, or none.
        like: the scan, read from DICOM.
        when: date and time of the segmentation; now by default. The same input and time give the same bytes.

    Raises:
        ScanError: the scan was not read from DICOM, or a value is no label.
        RunError: the folder cannot be written to.
    """
    unknown = labels.undeclared(labels_ZYX)
    if unknown:
        raise ScanError(f"{path}: the label map contains {unknown}, which are no labels of the model; predict again")
    segments = label_segments(labels)
    numbers = _segment_numbers(labels_ZYX, list(segments.values()))
    with quiet():
        segmentation = _segmentation(read_references(like), like.grid, numbers, segments, when or datetime.now())
        with write_aside(Path(path)) as aside:
            segmentation.save_as(aside, enforce_file_format=True)


def label_segments(labels: Labels) -> dict[str, int]:
    """Names and values of the segments: all labels but the background, or those that label maps of regions have."""
    if not labels.regions:
        return labels.named
    names = labels.by_value
    names |= {region.paint: names.get(region.paint, region.name) for region in labels.regions}
    return {names[value]: value for value in labels.painted}


def _segment_numbers(labels_ZYX: Integers, values: Sequence[int]) -> npt.NDArray[Any]:
    """The number of each voxel's segment, from 1 in the order of the values; 0 for none."""
    lowest = int(labels_ZYX.min())
    table = np.zeros(int(labels_ZYX.max()) - lowest + 1, np.uint8 if len(values) < 256 else np.uint16)
    for number, value in enumerate(values, 1):
        if 0 <= value - lowest < len(table):
            table[value - lowest] = number
    numbers: npt.NDArray[Any] = table[labels_ZYX.astype(np.int64) - lowest if lowest else labels_ZYX]
    return numbers


def _segmentation(
    references: References, grid: Grid, numbers: npt.NDArray[Any], segments: dict[str, int], when: datetime
) -> pydicom.FileDataset:
    """The DICOM object.

    Args:
        grid: of the scan, as stored.
        numbers: (Z, Y, X), of segments, 0 where there is none.
        segments: values of labels by name.
        when: date and time of the segmentation.
    """
    seed = [*(i.uid for i in references.instances), hashlib.blake2b(numbers.tobytes()).hexdigest(), str(segments), when.isoformat()]
    placed = bool(references.frame_of_reference)
    frames = _frames(numbers, len(segments))
    about = about_source(references)
    found = derived_object(about, seed, when, sop_class=SegmentationStorage, modality="SEG", description="nnseg segmentation")
    found.update(
        item(
            ContentLabel="SEGMENTATION",
            ContentDescription="",
            ContentCreatorName="",
            ContentDate=found.InstanceCreationDate,
            ContentTime=found.InstanceCreationTime,
            ImageType=["DERIVED", "PRIMARY"],
            SegmentationType="BINARY",
            SegmentsOverlap="NO",
        )
    )
    if placed:
        found.FrameOfReferenceUID = references.frame_of_reference
        found.PositionReferenceIndicator = text_of(references.first, "PositionReferenceIndicator")
    else:
        found.PatientOrientation = value_of(references.first, "PatientOrientation") or ""
    found.update(_compression(references.first))
    found.update(_image_pixels(grid, numbers, frames))
    found.SegmentSequence = [_segment(number, name, segments[name]) for number, name in enumerate(segments, 1)]
    found.update(_dimensions(generate_uid(entropy_srcs=[*seed, "dimensions"]), placed=placed))
    found.SharedFunctionalGroupsSequence = [_shared_groups(references.first, grid) if placed else Dataset()]
    found.PerFrameFunctionalGroupsSequence = list(_frame_groups(references, grid, frames, placed=placed))
    found.update(_referenced_series(references))
    return found


def _frames(numbers: npt.NDArray[Any], segments: int) -> list[tuple[int, int]]:
    """Segment number and slice of each frame: all that are not empty, and one in the first and one in the last slice.

    With these two the object extends as far as the scan; whoever reads it needs no series to know the grid.
    """
    present = {(int(number), z) for z, plane in enumerate(numbers) for number in np.flatnonzero(np.bincount(plane.ravel()))}
    frames = {(number, z) for number, z in present if 0 < number <= segments}
    ends = {0, len(numbers) - 1} - {z for _, z in frames}
    return sorted(frames | {(1, z) for z in ends})


def _compression(first: Any) -> Dataset:
    """What the standard wants to know if the scan was compressed lossily; the label map is not."""
    keywords = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
    if text_of(first, "LossyImageCompression") == "01" and all(text_of(first, keyword) for keyword in keywords):
        return item(LossyImageCompression="01", **{keyword: first.get(keyword) for keyword in keywords})
    return item(LossyImageCompression="00")


def _image_pixels(grid: Grid, numbers: npt.NDArray[Any], frames: Sequence[tuple[int, int]]) -> Dataset:
    masks = (numbers[z] == number for number, z in frames)
    _, rows, columns = grid.shape
    pixels = b"".join(_packed(masks))
    return item(
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        NumberOfFrames=len(frames),
        Rows=rows,
        Columns=columns,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelRepresentation=0,
        PixelData=pixels + bytes(len(pixels) % 2),
    )


def _packed(masks: Iterator[npt.NDArray[np.bool_]]) -> Iterator[bytes]:
    """The bits of masks one after the other: those of eight masks are always whole bytes."""
    while eight := [mask.ravel() for _, mask in zip(range(8), masks, strict=False)]:
        yield np.packbits(np.concatenate(eight), bitorder="little").tobytes()


def _segment(number: int, name: str, value: int) -> Dataset:
    words = find_codes(name)
    kind = coded(words.kind)
    found = item(
        SegmentNumber=number,
        SegmentLabel=name[:64],
        SegmentDescription=VALUE_TEXT.format(value),
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName="nnseg",
        SegmentationAlgorithmIdentificationSequence=[
            item(
                AlgorithmFamilyCodeSequence=[coded(standard_code("DCM", "ArtificialIntelligence"))],
                AlgorithmName="nnseg",
                AlgorithmVersion=software_version(),
            )
        ],
        SegmentedPropertyCategoryCodeSequence=[coded(words.category)],
        SegmentedPropertyTypeCodeSequence=[kind],
        RecommendedDisplayCIELabValue=list(to_cielab(colour_of(number - 1))),
    )
    if words.organ is not None:
        kind = coded(words.organ)
        found.AnatomicRegionSequence = [kind]
    if words.side is not None:
        modifier = "AnatomicRegionModifierSequence" if words.organ else "SegmentedPropertyTypeModifierCodeSequence"
        setattr(kind, modifier, [coded(words.side)])
    return found


def _dimensions(uid: str, *, placed: bool) -> Dataset:
    """What tells frames apart: their segment, and their position or else their number in the stack."""
    place = ("PlanePositionSequence", "ImagePositionPatient") if placed else ("FrameContentSequence", "InStackPositionNumber")
    pairs = (("SegmentIdentificationSequence", "ReferencedSegmentNumber"), place)
    return item(
        DimensionOrganizationSequence=[item(DimensionOrganizationUID=uid)],
        DimensionIndexSequence=[
            item(
                DimensionOrganizationUID=uid,
                DimensionIndexPointer=Tag(pointer),
                FunctionalGroupPointer=Tag(group),
                DimensionDescriptionLabel=pointer,
            )
            for group, pointer in pairs
        ],
    )


def _shared_groups(first: Any, grid: Grid) -> Dataset:
    """Orientation and measures of all frames, by the grid of the scan; headers may round or contradict them."""
    normal = np.cross(grid.direction[2], grid.direction[1])
    between = abs(float(grid.steps[0] @ normal))
    thickness = float(allowed_value(first, "SliceThickness") or 0)
    measures = item(
        SliceThickness=decimal(thickness if thickness > 0 else between),
        SpacingBetweenSlices=decimal(between),
        PixelSpacing=[decimal(step) for step in grid.spacing[1:]],
    )
    orientation = [decimal(cosine) for axis in (2, 1) for cosine in grid.direction[axis]]
    return item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=orientation)],
        PixelMeasuresSequence=[measures],
    )


def _frame_groups(references: References, grid: Grid, frames: Sequence[tuple[int, int]], *, placed: bool) -> Iterator[Dataset]:
    """The functional groups of each frame; groups of one slice are the same objects for all of its segments."""
    of_slices = [_slice_groups(grid, z, behind, placed=placed) for z, behind in enumerate(references.behind(grid))]
    for number, z in frames:
        content = item(DimensionIndexValues=[number, z + 1], StackID=_STACK, InStackPositionNumber=z + 1)
        yield item(
            FrameContentSequence=[content],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
            **of_slices[z],
        )


def _slice_groups(grid: Grid, z: int, behind: Sequence[Behind], *, placed: bool) -> dict[str, list[Dataset]]:
    groups = {}
    if placed:
        position = [decimal(v) for v in position_of(behind, grid, z)]
        groups["PlanePositionSequence"] = [item(ImagePositionPatient=position)]
    images = [
        item(
            ReferencedSOPClassUID=image.instance.sop_class,
            ReferencedSOPInstanceUID=image.instance.uid,
            **({"ReferencedFrameNumber": image.frame} if image.frame else {}),
            PurposeOfReferenceCodeSequence=[coded(standard_code("DCM", "SourceImageForImageProcessingOperation"))],
        )
        for image in behind
    ]
    if images:
        derivation = item(DerivationCodeSequence=[coded(standard_code("DCM", "Segmentation"))], SourceImageSequence=images)
        groups["DerivationImageSequence"] = [derivation]
    return groups


def _referenced_series(references: References) -> Dataset:
    """All source files by their series, apart from those of other studies."""
    studies: dict[str, dict[str, list[Dataset]]] = {}
    for instance in references.instances:
        named = item(ReferencedSOPClassUID=instance.sop_class, ReferencedSOPInstanceUID=instance.uid)
        studies.setdefault(instance.study, {}).setdefault(instance.series, []).append(named)
    series = {
        study: [item(SeriesInstanceUID=uid, ReferencedInstanceSequence=named) for uid, named in of_study.items()]
        for study, of_study in studies.items()
    }
    own = series.pop(references.study, [])
    others = [item(StudyInstanceUID=study, ReferencedSeriesSequence=of_study) for study, of_study in series.items()]
    return item(
        **({"ReferencedSeriesSequence": own} if own else {}),
        **({"StudiesContainingOtherReferencedInstancesSequence": others} if others else {}),
    )
