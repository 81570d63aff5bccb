"""DICOM series made for tests."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

TILT = [1, 0, 0, 0, np.cos(0.2), np.sin(0.2)]
UPRIGHT = [1, 0, 0, 0, 1, 0]


def write_slice(
    path: Path, pixels: np.ndarray, *, position, orientation=UPRIGHT, series="1.2.3", number=1, kind=MRImageStorage, **tags
) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.SeriesNumber, ds.Modality = series, "1.2", number, "MR"
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
    ds.ImageOrientationPatient = [f"{v:.10f}" for v in orientation]
    ds.PixelSpacing, ds.SliceThickness = [0.7, 0.5], 5  # rows, columns
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    for key, value in tags.items():
        setattr(ds, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path, *, slices=5, step=(0.0, 0.0, 3.0), start=(10.0, 20.0, 30.0), name="{:02d}.dcm", **options
) -> np.ndarray:
    """Slices whose file names run against their order in space; returns their pixels in spatial order."""
    voxels = np.arange(slices * 4 * 6).reshape(slices, 4, 6)
    for i in range(slices):
        position = np.asarray(start) + i * np.asarray(step)
        write_slice(folder / name.format(slices - i), voxels[i], position=position, **options)
    return voxels
