"""Every file that pydicom and pydicom-data bring along is read as pydicom reads it, or refused by name."""

import gzip
import io
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut

from nnseg.core.errors import ScanError
from nnseg.storage.images.read import read_header, read_scan

REFUSED = {
    "charset_files/chr[JK]*Multi*.dcm": "has no pixels",
    "charset_files/chrSQEncoding*.dcm": r"cannot be read as DICOM \(no tag of an image in it\)",
    "palettes/*.dcm": "is a DICOM Color Palette without pixels",
    "test_files/ExplVR_*EndNoMeta.dcm": "is a DICOM RT Ion Plan",
    "test_files/MR_truncated.dcm": r"cannot be decoded \(The number of bytes of pixel data is less than expected",
    "test_files/JPEG2000-embedded-sequence-delimiter.dcm": "cannot be decoded",
    "test_files/badVR.dcm": 'has the NumberOfFrames "1A"',
    "dicomdirtests/DICOMDIR*": "is a Media Storage Directory",
    "TINY_ALPHA/DICOMDIR": "is a Media Storage Directory",
    "SE000000/IM0000*": "is a DICOM CT Image without pixels",
    "*/*frame.dcm": r"is a clip of 2 colour frames \((Secondary Capture|Ultrasound).*Image\)|is a DICOM Segmentation",
    "test_files/examples_ybr_color.dcm": "is a clip of 30 frames in time",
    "test_files/reportsi*.dcm": "is a DICOM Basic Text SR",
    "test_files/test-SR.dcm": "is a DICOM Comprehensive SR",
    "test_files/rtplan*.dcm": "is a DICOM RT Plan",
    "test_files/rtstruct.dcm": "is a DICOM RT Structure Set",
    "test_files/waveform_ecg.dcm": "is a DICOM 12-lead ECG Waveform",
    "data/liver*.dcm": "is a DICOM Segmentation",
    "data/color3d_jpeg_baseline.dcm": "is a clip of 120 frames in time",
    "data/emri_small*.dcm": r"has 10 frames without positions \(Enhanced MR Image\)",
    **dict.fromkeys(
        (
            *("test_files/UN_sequence.dcm", "test_files/*priv_SQ.dcm", "test_files/empty_charset_LEI.dcm"),
            *("test_files/meta_missing_tsyntax.dcm", "test_files/no_meta*.dcm"),
        ),
        r"cannot be read as DICOM \(no tag of an image in it\)|has the unknown suffix",
    ),
}
"""Files, by folder and name, that are no scans or damaged, and what is said of them."""

READ_DESPITE = ("rtdose*_1frame.dcm", "SC_rgb_*1frame.dcm")
"""Of the files above, those with a single frame that is read."""

LARGE = 500_000
"""Bytes of files that are read in the long tests alone."""

FOLDERS = (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent / "data")
NO_DICOM = (".py", ".pyc", ".pyi", ".json", ".txt", ".icc", ".dump", ".md", ".typed", ".xml", ".toml", "")
FILES = [
    path
    for folder in FOLDERS
    for path in sorted(folder.rglob("*"))
    if path.is_file() and (path.suffix not in NO_DICOM or (path.suffix == "" and path.name != "README"))
]
PARAMETERS = [pytest.param(p, marks=pytest.mark.slow) if p.stat().st_size > LARGE else p for p in FILES]
LOSSY = {"1.2.840.10008.1.2.4.50": 2.5, "1.2.840.10008.1.2.4.51": 1.5}
"""Differences of decoders by transfer syntax: JPEG baseline and extended."""


def _reason(path: Path) -> str | None:
    """The pattern of the message with which a file must be refused; None if it must be read."""
    if any(path.match(name) for name in READ_DESPITE):
        return None
    return next((why for name, why in REFUSED.items() if path.match(name)), None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, on odd headers
@pytest.mark.parametrize("path", PARAMETERS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_bundled_file_is_read_as_pydicom_reads_it_or_refused_by_name(path):
    reason = _reason(path)
    if reason is not None:
        with pytest.raises(ScanError, match=f"(?s){path.name}: ({reason})"):
            read_scan(path, repair=True)
        return
    scan = read_scan(path, repair=True)
    assert read_header(path, repair=True).grid == scan.grid
    stored = scan.source.grid.canonical().inverse().apply(scan.image)
    ds = _dataset(path)
    expected = _pixels(ds)
    if expected is not None:
        assert np.abs(stored - expected).max() <= LOSSY.get(ds.file_meta.TransferSyntaxUID, 0)
    _check_positions(ds, scan.source.grid)


def _dataset(path: Path):
    content = path.read_bytes()
    ds = pydicom.dcmread(io.BytesIO(gzip.decompress(content) if path.suffix == ".gz" else content), force=True)
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if ds.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian
        )
    return ds


def _pixels(ds):
    """(C, Z, Y, X) by pydicom; None where it has no decoder."""
    if not pydicom.pixels.get_decoder(ds.file_meta.TransferSyntaxUID).is_available:
        return None
    try:
        values = ds.pixel_array
    except RuntimeError:  # 12 bits of JPEG by Pillow
        return None
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, ds)
        values = colours >> 8 if values.itemsize < colours.itemsize else colours
    elif ds.PhotometricInterpretation == "MONOCHROME1":
        values = 2**ds.BitsStored - 1 - values.astype(np.int64)
    shared = ds.get("SharedFunctionalGroupsSequence", [pydicom.Dataset()])[0]
    if "PixelValueTransformationSequence" in shared:
        rescale = shared.PixelValueTransformationSequence[0]
        ds.RescaleSlope, ds.RescaleIntercept = rescale.RescaleSlope, rescale.RescaleIntercept
    values = apply_modality_lut(values, ds).astype(np.float64) * float(ds.get("DoseGridScaling") or 1)
    frames = int(ds.get("NumberOfFrames") or 1)
    colours = values.shape[-1] if values.ndim == 4 or (values.ndim == 3 and frames == 1) else 1
    return np.moveaxis(values.reshape(frames, ds.Rows, ds.Columns, colours), -1, 0).astype(np.float32)


def _check_positions(ds, grid) -> None:
    """Each frame's first pixel, and the way to its next ones, are where the header says."""
    groups = ds.get("PerFrameFunctionalGroupsSequence")
    if groups and "PlanePositionSequence" in groups[0]:
        places = [group.PlanePositionSequence[0].ImagePositionPatient for group in groups]
    elif ds.get("ImagePositionPatient") and ds.get("ImageOrientationPatient"):
        along = np.cross(ds.ImageOrientationPatient[:3], ds.ImageOrientationPatient[3:])
        offsets = ds.get("GridFrameOffsetVector") if int(ds.get("NumberOfFrames") or 1) > 1 else [0]
        places = [np.asarray(ds.ImagePositionPatient, float) + float(o) * along for o in offsets]
    else:
        return
    for k, place in enumerate(places):
        assert np.allclose(grid.world((k, 0, 0)), np.asarray(place, float), atol=1e-3)
    if ds.get("PixelSpacing") and ds.get("ImageOrientationPatient"):
        rows, columns = map(float, ds.PixelSpacing)
        step = (
            np.asarray(ds.ImageOrientationPatient[:3], float) * columns + np.asarray(ds.ImageOrientationPatient[3:], float) * rows
        )
        assert np.allclose(np.subtract(grid.world((0, 1, 1)), grid.world((0, 0, 0))), step, atol=1e-3)


def test_most_of_the_bundled_files_are_scans():
    assert len(FILES) > 250
    assert sum(_reason(path) is None for path in FILES) > 140
