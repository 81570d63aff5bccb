"""Files of DICOM that hold label maps: segmentations, and contours, with the series that these were drawn on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnseg.core.errors import ScanError
from nnseg.storage.images.dicom_headers import dicom_files, is_dicom, no_scan, open_dataset, quiet, read_header
from nnseg.storage.images.dicom_values import item_of, text_of, value_of

_SEGMENTATIONS = ("Segmentation", "Label Map Segmentation")
_CONTOURS = "RT Structure Set"
"""The standard's names of the SOP classes."""


def is_dicom_seg(path: Path) -> bool:
    """True for a DICOM file that holds a segmentation."""
    return path.is_file() and is_dicom(path) and no_scan(path) in _SEGMENTATIONS


def is_dicom_labels(path: Path) -> bool:
    """True for a DICOM file that holds a segmentation or contours."""
    return path.is_file() and is_dicom(path) and no_scan(path) in (*_SEGMENTATIONS, _CONTOURS)


def find_label_file(path: Path) -> Path:
    """The file itself if it is a DICOM-SEG or RT Structure Set, or the only one in a folder.

    Raises:
        ScanError: there is none, or several.
    """
    files = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else [path]
    found = [file for file in files if is_dicom_labels(file)]
    if len(found) == 1:
        return found[0]
    if found:
        what = f"holds {len(found)} DICOM label maps: {', '.join(file.name for file in found)}"
        raise ScanError.at(path, what, "one", "name the file")
    kinds = sorted({no_scan(file) or "images" for file in files if file.is_file() and is_dicom(file)})
    what = f"{'holds' if path.is_dir() else 'is'} DICOM {' and '.join(kinds)}, no segmentation"
    advice = "convert it to DICOM-SEG or NIfTI, for instance with 3D Slicer"
    raise ScanError.at(path, what, "a DICOM-SEG or RT Structure Set as label map", advice)


def find_series_of_contours(path: Path) -> tuple[Path, ...]:
    """The files of the series that the contours of a file were drawn on: in its folder, in a folder there, or in one beside it.

    Raises:
        ScanError: the series is none of these, or the file cannot be read.
    """
    with quiet():
        dataset = open_dataset(path, specific_tags=["SOPClassUID", "ReferencedFrameOfReferenceSequence"])
    study = item_of(item_of(dataset, "ReferencedFrameOfReferenceSequence"), "RTReferencedStudySequence")
    series = text_of(item_of(study, "RTReferencedSeriesSequence"), "SeriesInstanceUID")
    if found := next((files for files in _files_near(path, series) if files), ()):
        return found
    what = f"holds contours on the series {series or 'without UID'}, which is not near it"
    raise ScanError.at(path, what, "its images in the same folder, or one beside it", "put them there")


def note_other_frame(path: Path, scan: Path) -> tuple[str, ...]:
    """A remark if labels have another frame of reference than a file of the scan; () if not, or if one of them has none.

    Source: DICOM PS3.3, C.7.4.1: positions in different frames of reference cannot be compared.
    """
    if not is_dicom(scan):
        return ()
    header = read_header(path, ["SOPClassUID", "FrameOfReferenceUID", "StructureSetROISequence"])
    rois = value_of(header, "StructureSetROISequence") or ()
    stated = {text_of(roi, "ReferencedFrameOfReferenceUID") for roi in rois} - {""} or {text_of(header, "FrameOfReferenceUID")}
    own = text_of(read_header(scan, ["SOPClassUID", "FrameOfReferenceUID"]), "FrameOfReferenceUID")
    others = sorted(stated - {own, ""}) if own else ()
    return tuple(f"was drawn in another frame of reference ({uid}) than the scan's ({own}), so may lie elsewhere" for uid in others)


def _files_near(path: Path, series: str) -> Iterator[tuple[Path, ...]]:
    """The files of a series in the folder of a file, and in folders in it and beside it, which hold one series each."""
    yield tuple(file for file in dicom_files(path.parent) if _series_of(file) == series)
    for above in (path.parent, path.parent.parent):
        for folder in sorted(other for other in above.iterdir() if other.is_dir() and other != path.parent):
            files = dicom_files(folder)
            yield files if files and _series_of(files[0]) == series else ()


def _series_of(file: Path) -> str:
    """The UID of a file's series; "" if it cannot be read."""
    try:
        return text_of(read_header(file, ["SOPClassUID", "SeriesInstanceUID"]), "SeriesInstanceUID")
    except ScanError:
        return ""
