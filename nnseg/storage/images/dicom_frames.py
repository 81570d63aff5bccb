"""Frames of DICOM files: where each lies and what tells it from others at its place, from classic and enhanced headers alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnseg.core.errors import ScanError
from nnseg.core.limits import check_limit
from nnseg.storage.images import dicom_headers as headers
from nnseg.storage.images.dicom_frame import DicomFile, Frame
from nnseg.storage.images.dicom_headers import whole_number
from nnseg.storage.images.dicom_marks import MARK_TAGS, classic_marks, dimension_of, group_marks
from nnseg.storage.images.dicom_mosaic import MOSAIC_TAGS, TILES, Tile, mosaic_tiles
from nnseg.storage.images.dicom_values import UNREADABLE, item_of, number_of, numbers_of, tag_of, text_of, value_of

_IDENTITY = (
    *("SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ConcatenationUID", "Modality", "ImageType"),
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "Manufacturer"),
)
_GEOMETRY = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(
        "FrameIncrementPointer",
        "FrameTime",
        "FrameTimeVector",
        "CineRate",
        "SliceVector",
        "GridFrameOffsetVector",
        "DetectorInformationSequence",
        "SequenceOfUltrasoundRegions",
    ),
    *("DimensionIndexSequence", "TotalPixelMatrixRows", "TotalPixelMatrixColumns"),
)
_VALUES = ("RescaleSlope", "RescaleIntercept", "RescaleType", "DoseGridScaling", "DoseUnits")
HEADER_TAGS: tuple[str | int, ...] = (*_IDENTITY, *_GEOMETRY, *_VALUES, *MARK_TAGS, *MOSAIC_TAGS)
"""All that is read of a header to place its frames."""

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Tags of the pixel spacing: in the patient, at the detector, and as scanned from film."""

_TIMES = (0x00181063, 0x00181065)
"""FrameTime and FrameTimeVector: frames that follow in time."""

_PALETTE = "PALETTE COLOR"
_CENTIMETRES = 3
"""PhysicalUnitsXDirection of ultrasound regions."""


def read_file(path: Path) -> DicomFile:
    """The frames of a file, by its header.

    Raises:
        ScanError: it cannot be read, is no image, or its header is malformed.
    """
    with headers.quiet():
        dataset = headers.open_dataset(path, specific_tags=list(map(tag_of, HEADER_TAGS)), stop_before_pixels=True)
        try:
            return _read_file(path, dataset)
        except UNREADABLE as error:
            found, advice = f"cannot be read as DICOM ({error})", "export the series again, or remove the file"
            raise ScanError.at(path, found, "a header without errors", advice) from error


def _read_file(path: Path, dataset: Any) -> DicomFile:
    kind = text_of(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    _check_is_image(path, dataset, kind)
    image_type = text_of(dataset, "ImageType").upper().split("\\")
    frames = _frames(path, dataset, kind, image_type)
    concatenation = text_of(dataset, "ConcatenationUID")
    return DicomFile(
        path=path,
        uid=text_of(dataset, "SeriesInstanceUID"),
        number=text_of(dataset, "SeriesNumber"),
        description=text_of(dataset, "SeriesDescription"),
        modality=text_of(dataset, "Modality"),
        kind=kind,
        stack=concatenation or (str(path) if len(frames) > 1 and not frames[0].marks.get("mosaic") else ""),
        is_localiser="LOCALIZER" in image_type,
        in_time=_is_in_time(dataset),
        frames=frames,
    )


def _check_is_image(path: Path, dataset: Any, kind: str) -> None:
    if kind.startswith(headers.NO_IMAGES) or not (value_of(dataset, "Rows") and value_of(dataset, "Columns")):
        found = f"is a DICOM {headers.kind_name(kind)}" + ("" if kind.startswith(headers.NO_IMAGES) else " without pixels")
        raise ScanError.at(path, found, "images", "name the series of images instead, or export it again")


def _frames(path: Path, dataset: Any, kind: str, image_type: list[str]) -> tuple[Frame, ...]:
    count = whole_number(path, dataset, "NumberOfFrames", 1)
    check_limit("frames", count, path, "announces {:,} frames", ScanError, "divide it", "NS-S037")
    plain = _plain_frame(path, dataset, image_type)
    groups = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if groups and "MOSAIC" in image_type:
        found, advice = "is an enhanced file of mosaics, whose slices have no positions", "export it with a frame for each slice"
        raise ScanError.at(path, found, "a position of each slice", advice)
    if groups and kind.startswith(headers.WHOLE_SLIDE):
        return _copies(plain, count)
    if groups:
        if len(groups) != count:
            found = f"has {count} frames and {len(groups)} functional groups"
            raise ScanError.at(path, found, "one group per frame", "export it again")
        return _grouped_frames(plain, dataset, groups)
    if "MOSAIC" in image_type:
        return tuple(
            _moved(plain, 0, position, size=size, depth=depth, corner=corner, marks={**plain.marks, "mosaic": True})
            for corner, size, position, depth in _tiles(path, dataset, plain)
        )
    if count > 1:
        return _stacked_frames(plain, dataset, kind, count)
    return (plain,)


def _tiles(path: Path, dataset: Any, plain: Frame) -> Iterator[Tile]:
    given = value_of(dataset, TILES)
    if isinstance(given, bytes):  # implicit VR: an unsigned short without its type
        given = int.from_bytes(given[:2], "little")
    placed = bool(plain.position and plain.orientation and plain.spacing)
    return mosaic_tiles(
        path,
        dataset,
        count=int(given or 0) if isinstance(given, int) else 0,
        step=plain.depth,
        corner=(plain.position, plain.orientation, plain.spacing) if placed else None,
    )


def _plain_frame(path: Path, dataset: Any, image_type: list[str]) -> Frame:
    """The only frame of a file, or what all of its frames have in common."""
    slope, intercept = (number_of(dataset, key) for key in ("RescaleSlope", "RescaleIntercept"))
    scaling = number_of(dataset, "DoseGridScaling")
    depth = number_of(dataset, "SpacingBetweenSlices") or number_of(dataset, "SliceThickness")
    return Frame(
        path=path,
        size=(int(dataset.Rows), int(dataset.Columns)),
        colours=3 if text_of(dataset, "PhotometricInterpretation") == _PALETTE else int(number_of(dataset, "SamplesPerPixel") or 1),
        position=_several(numbers_of(dataset, "ImagePositionPatient"), 3),
        orientation=_orientation(numbers_of(dataset, "ImageOrientationPatient")),
        spacing=_pixel_spacing(dataset),
        depth=abs(depth) if depth else None,
        slope=scaling or (1.0 if slope is None else slope),
        intercept=intercept or 0.0,
        rescale_type=text_of(dataset, "RescaleType") or text_of(dataset, "DoseUnits"),
        marks=classic_marks(dataset, image_type),
    )


def _pixel_spacing(dataset: Any) -> tuple[float, ...]:
    for key in _SPACINGS:
        pair = numbers_of(dataset, key)
        if len(pair) == 2 and min(pair) > 0:
            return pair
    regions = value_of(dataset, "SequenceOfUltrasoundRegions") or ()
    pairs = {_region_spacing(region) for region in regions}
    return pairs.pop() if len(pairs) == 1 else ()


def _region_spacing(region: Any) -> tuple[float, ...]:
    """mm between rows and columns of a region of an ultrasound picture; () if they are not said in centimetres."""
    units = {number_of(region, f"PhysicalUnits{axis}Direction") for axis in "XY"}
    pair = tuple(abs(number_of(region, f"PhysicalDelta{axis}") or 0.0) * 10 for axis in "YX")
    return pair if units == {_CENTIMETRES} and all(pair) else ()


def _grouped_frames(plain: Frame, dataset: Any, groups: Any) -> tuple[Frame, ...]:
    """The frames of an enhanced object: each functional group is the frame's own, or else the one that all share."""
    shared = item_of(dataset, "SharedFunctionalGroupsSequence")
    pointers = [dimension_of(item) for item in value_of(dataset, "DimensionIndexSequence") or ()]
    constant = {name: item_of(shared, name) for name in _MACROS}
    frames = []
    for index, group in enumerate(groups):
        macros = {name: item_of(group, name) or common for name, common in constant.items()}
        measures, rescale = macros["PixelMeasuresSequence"], macros["PixelValueTransformationSequence"]
        position = numbers_of(macros["PlanePositionSequence"], "ImagePositionPatient")
        orientation = numbers_of(macros["PlaneOrientationSequence"], "ImageOrientationPatient")
        depth = number_of(measures, "SpacingBetweenSlices") or number_of(measures, "SliceThickness") or plain.depth
        slope, intercept = (number_of(rescale, key) for key in ("RescaleSlope", "RescaleIntercept"))
        frames.append(
            Frame(
                path=plain.path,
                index=index,
                size=plain.size,
                colours=plain.colours,
                position=_several(position or numbers_of(macros["PlanePositionVolumeSequence"], "ImagePositionVolume"), 3),
                orientation=_orientation(
                    orientation or numbers_of(macros["PlaneOrientationVolumeSequence"], "ImageOrientationVolume")
                ),
                spacing=_pixel_spacing(measures) if measures is not None else plain.spacing,
                depth=abs(depth) if depth else None,
                slope=plain.slope if slope is None else slope,
                intercept=plain.intercept if intercept is None else intercept,
                rescale_type=text_of(rescale, "RescaleType") or plain.rescale_type,
                marks=group_marks(macros, pointers),
            )
        )
    return tuple(frames)


_MACROS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PlanePositionVolumeSequence", "PlaneOrientationVolumeSequence"),
    *("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameContentSequence", "MREchoSequence"),
    *("MRDiffusionSequence", "MRModifierSequence", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence"),
    *("PETFrameTypeSequence", "CardiacSynchronizationSequence", "TemporalPositionSequence"),
)
"""Functional groups that are read (PS3.3, C.7.6.16)."""


def _stacked_frames(plain: Frame, dataset: Any, kind: str, count: int) -> tuple[Frame, ...]:
    """Frames above one another without functional groups: dose distributions and reconstructed slices of nuclear medicine.

    Source: DICOM PS3.3, C.8.8.3 (GridFrameOffsetVector) and C.8.4.15 (the sign of SpacingBetweenSlices is that of the stacking).
    """
    offsets: Sequence[float] = ()
    if kind == headers.DOSE:
        given = numbers_of(dataset, "GridFrameOffsetVector")
        offsets = [o - given[0] for o in given] if len(given) == count else ()
    elif kind == headers.NUCLEAR and "RECON TOMO" in text_of(dataset, "ImageType").upper().split("\\"):
        detector = item_of(dataset, "DetectorInformationSequence")
        plain = _moved(
            plain,
            0,
            plain.position or _several(numbers_of(detector, "ImagePositionPatient"), 3),
            orientation=plain.orientation or _orientation(numbers_of(detector, "ImageOrientationPatient")),
        )
        step = number_of(dataset, "SpacingBetweenSlices")
        slices = numbers_of(dataset, "SliceVector") or tuple(range(1, count + 1))
        offsets = [(i - 1) * step for i in slices] if step and len(set(slices)) == count else ()
    if not (offsets and plain.position and plain.orientation):
        return _copies(_moved(plain, 0, (), orientation=()), count)
    normal = np.cross(plain.orientation[:3], plain.orientation[3:])
    return tuple(_moved(plain, i, tuple(np.asarray(plain.position) + o * normal)) for i, o in enumerate(offsets))


def _copies(plain: Frame, count: int) -> tuple[Frame, ...]:
    return tuple(_moved(plain, i, plain.position) for i in range(count))


def _moved(frame: Frame, index: int, position: tuple[float, ...], **changes: Any) -> Frame:
    return Frame(**{**frame.__dict__, "index": index, "position": position, **changes})


def _is_in_time(dataset: Any) -> bool:
    if any(number_of(dataset, key) for key in ("FrameTime", "FrameTimeVector", "CineRate")):
        return True
    pointer = value_of(dataset, "FrameIncrementPointer")
    pointers = pointer if isinstance(pointer, list | tuple) or type(pointer).__name__ == "MultiValue" else [pointer]
    return any(p is not None and int(p) in _TIMES for p in pointers)


def _several(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """The values if there are as many, all finite, else ()."""
    return values if len(values) == count and bool(np.isfinite(values).all()) else ()


def _orientation(values: tuple[float, ...]) -> tuple[float, ...]:
    """Six cosines if they are two unit vectors at right angles, nearly, else ()."""
    if not _several(values, 6):
        return ()
    axes = np.asarray(values).reshape(2, 3)
    return values if np.allclose(axes @ axes.T, np.eye(2), atol=0.05) else ()
