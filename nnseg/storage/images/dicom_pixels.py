"""Pixels of DICOM frames: decoded, and rescaled as each frame's header says.

pydicom decodes what is stored plainly, by run lengths or deflated; GDCM, which comes with SimpleITK, decodes the JPEG families.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels

from nnseg.core.errors import ScanError
from nnseg.core.image import Floats
from nnseg.storage.images.dicom_frame import Frame
from nnseg.storage.images.dicom_headers import open_dataset, quiet
from nnseg.storage.images.dicom_values import UNREADABLE, number_of, text_of, value_of
from nnseg.storage.images.itk_messages import itk_message, no_itk_warnings

_BY_GDCM = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91))
"""Transfer syntaxes that GDCM decodes: JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000."""

_CAPTURES = {8: "1.2.840.10008.5.1.4.1.1.7.2", 16: "1.2.840.10008.5.1.4.1.1.7.3", 3: "1.2.840.10008.5.1.4.1.1.7.4"}
"""SOP classes of frames without a position, by bits or colours."""

_JPEG_FRAMES = (*range(0xC0, 0xC4), 0xF7)
"""Markers of a frame of JPEG and JPEG-LS."""

_OF_PIXELS = (
    *("SamplesPerPixel", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PhotometricInterpretation"),
)


def read_planes(frames: Sequence[Frame]) -> Floats:
    """(C, Z, Y, X): the frames in this order, each rescaled.

    Raises:
        ScanError: a file cannot be decoded.
    """
    volume = np.empty((frames[0].colours, len(frames), *frames[0].size), np.float32)
    places: dict[Path, dict[int, list[int]]] = {}
    for z, frame in enumerate(frames):
        places.setdefault(frame.path, {}).setdefault(frame.index, []).append(z)
    with quiet():  # here, not where frames are decoded one at a time: a generator would end it late
        for path, wanted in places.items():
            for index, values in zip(wanted, _decoded(path, list(wanted)), strict=True):
                _check_shape(values, frames[wanted[index][0]])
                for z in wanted[index]:
                    volume[:, z] = _plane(values, frames[z])
    return volume


def _check_shape(values: npt.NDArray[Any], frame: Frame) -> None:
    """Raise ScanError for pixels of a frame that are not as many as its header says."""
    colours = values.shape[2:] or (1,)
    if colours != (frame.colours,) or any(given < needed for given, needed in zip(values.shape, frame.size, strict=False)):
        expected = f"{frame.size[0]} x {frame.size[1]} of {frame.colours} colours, as its header says"
        raise ScanError.at(frame.path, f"has pixels of shape {values.shape}", expected, "export the series again")


def _plane(values: npt.NDArray[Any], frame: Frame) -> npt.NDArray[Any]:
    """(C, Y, X): a frame's part of the values (rows, columns[, colours]), rescaled."""
    (row, column), (rows, columns) = frame.corner, frame.size
    part = values[row : row + rows, column : column + columns]
    if (frame.slope, frame.intercept) != (1.0, 0.0):
        part = part.astype(np.float64) * frame.slope + frame.intercept
    return np.moveaxis(part, -1, 0) if part.ndim == 3 else part[None]


def _decoded(path: Path, indices: list[int]) -> Iterator[npt.NDArray[Any]]:
    """Values (rows, columns[, colours]) of the frames with these numbers, in their order."""
    dataset = open_dataset(path)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ScanError.at(path, "has no pixels", "a slice with pixels", "export the series again, or remove the file")
    decode, plain = (_by_gdcm, False) if syntax in _BY_GDCM else (_by_pydicom, True)
    try:
        for values in decode(dataset, indices):
            yield _finished(values, dataset, plain=plain)
    except UNREADABLE as error:
        reason = itk_message(error) if isinstance(error, RuntimeError) and syntax in _BY_GDCM else str(error)
        found = f"cannot be decoded ({_first_sentence(reason)}; {pydicom.uid.UID(syntax, pydicom.config.IGNORE).name})"
        raise ScanError.at(path, found, "readable pixels", "export the series again, uncompressed") from error


def _by_pydicom(dataset: Any, indices: list[int]) -> Iterator[npt.NDArray[Any]]:
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    if not decoder.is_available:
        raise NotImplementedError("no decoder is installed")
    if len(indices) == 1 == int(number_of(dataset, "NumberOfFrames") or 1):
        yield decoder.as_array(dataset)[0]
        return
    yield from iter_pixels(dataset, indices=indices)


def _by_gdcm(dataset: Any, indices: list[int]) -> Iterator[npt.NDArray[Any]]:
    """Frames through a file of their own without geometry and slope, so that GDCM returns stored values."""
    found = _encoded_frames(dataset, set(indices))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frame.dcm"
        for index in indices:
            _check_jpeg_size(found[index], dataset)
            _capture(dataset, found[index]).save_as(file, enforce_file_format=True)
            try:
                with no_itk_warnings():
                    values = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))[0]
            except RuntimeError:
                decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
                if not decoder.is_available:
                    raise
                values = decoder.as_array(dataset, index=index)[0]
            yield values


def _encoded_frames(dataset: Any, wanted: set[int]) -> dict[int, bytes]:
    """The compressed bytes of frames, by index."""
    offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in dataset else None
    count = int(number_of(dataset, "NumberOfFrames") or 1)
    frames = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    found = {index: frame for index, frame in enumerate(frames) if index in wanted}
    if len(found) < len(wanted):
        raise ValueError(f"{len(found)} of {len(wanted)} frames are there")
    return found


def _check_jpeg_size(frame: bytes, dataset: Any) -> None:
    """Raise ValueError for a frame of JPEG or JPEG-LS of another size than the header says: GDCM would read beyond its memory.

    Source: ISO/IEC 10918-1, B.2.2: a frame's marker, length, bits, rows and columns.
    """
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 < len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker in _JPEG_FRAMES:
            bits, rows, columns = frame[at + 4], *(int.from_bytes(frame[at + i : at + i + 2], "big") for i in (5, 7))
            if not 2 <= bits <= 16 or (rows, columns) != (dataset.Rows, dataset.Columns):
                raise ValueError(f"its JPEG header says {rows} x {columns} pixels of {bits} bits")
            return
        at += 2 + length


def _capture(dataset: Any, frame: bytes) -> Dataset:
    """A data set of one compressed frame and what is needed to decode it."""
    capture = Dataset()
    capture.file_meta = FileMetaDataset()
    capture.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bits = 8 if dataset.BitsAllocated == 8 else 16
    capture.SOPClassUID = _CAPTURES[3 if (number_of(dataset, "SamplesPerPixel") or 1) > 1 else bits]
    capture.SOPInstanceUID = pydicom.uid.generate_uid()
    for name in _OF_PIXELS:
        if (value := value_of(dataset, name)) is not None:
            setattr(capture, name, value)
    if str(capture.PhotometricInterpretation) in ("MONOCHROME1", "PALETTE COLOR"):
        capture.PhotometricInterpretation = "MONOCHROME2"
    capture.NumberOfFrames = 1
    capture.PixelData = encapsulate([frame])
    capture["PixelData"].VR = "OB"
    capture["PixelData"].is_undefined_length = True
    return capture


def _finished(values: npt.NDArray[Any], dataset: Any, *, plain: bool) -> npt.NDArray[Any]:
    """Stored values as measured, before slope and intercept: unused bits dropped, palettes and lookup tables applied."""
    photometric = text_of(dataset, "PhotometricInterpretation")
    if plain and values.dtype.kind in "iu" and values.ndim == 2:
        values = _without_unused_bits(values, dataset)
    if photometric == "PALETTE COLOR":
        colours = np.asarray(apply_color_lut(values, dataset))
        return colours >> 8 if (values.itemsize, colours.itemsize) == (1, 2) else colours  # as deep as the pixels
    if photometric == "MONOCHROME1":
        signed, bits = bool(number_of(dataset, "PixelRepresentation")), int(dataset.BitsStored)
        values = (-1 if signed else 2**bits - 1) - values.astype(np.int64)
    return np.asarray(apply_modality_lut(values, dataset)) if value_of(dataset, "ModalityLUTSequence") else values


def _without_unused_bits(values: npt.NDArray[Any], dataset: Any) -> npt.NDArray[Any]:
    """Values of the stored bits alone; the others may hold overlays."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated != values.dtype.itemsize * 8 or not 0 < stored < allocated:
        return values
    high = int(number_of(dataset, "HighBit") or stored - 1)
    return (values << (allocated - 1 - high)) >> (allocated - stored)


def _first_sentence(text: str) -> str:
    """The first line of a message, without addresses of memory."""
    return " ".join(text.split(" - ", maxsplit=1)[0].split())[:200] or "no reason given"
