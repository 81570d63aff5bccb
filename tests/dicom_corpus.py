"""DICOM files of all kinds, made for tests, each with the volumes it must give, in any transfer syntax."""

import io
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, generate_uid

STORAGE = "1.2.840.10008.5.1.4.1.1."
CT, MR, ENHANCED_CT, ENHANCED_MR, DOSE, NUCLEAR = (STORAGE + k for k in ("2", "4", "2.1", "4.1", "481.2", "20"))
PET, CAPTURE, CLIP, SLIDE = (STORAGE + k for k in ("128", "7", "7.4", "77.1.6"))

SYNTAXES = {
    "implicit": pydicom.uid.ImplicitVRLittleEndian,
    "explicit": pydicom.uid.ExplicitVRLittleEndian,
    "big": pydicom.uid.ExplicitVRBigEndian,
    "deflated": pydicom.uid.DeflatedExplicitVRLittleEndian,
    "rle": pydicom.uid.RLELossless,
    "jpeg-ls": pydicom.uid.JPEGLSLossless,
    "jpeg": pydicom.uid.JPEGLosslessSV1,
    "j2k": pydicom.uid.JPEG2000Lossless,
}
"""Transfer syntaxes, all lossless."""

AXIAL = np.diag([3.0, 0.7, 0.5])[:, ::-1]
"""(3, 3) mm, from slice to slice, row to row, column to column, in components (x, y, z)."""

_TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
OBLIQUE = AXIAL @ (_TURN @ np.array([[1, 0, 0], [0, np.cos(0.4), -np.sin(0.4)], [0, np.sin(0.4), np.cos(0.4)]])).T
TILTED = AXIAL + np.array([[0, 0.8, 0], [0, 0, 0], [0, 0, 0]])
DESCENDING = AXIAL * [[-1], [1], [1]]
START = np.array([-10.0, 20.0, 30.0])


@dataclass(frozen=True, kw_only=True)
class Volume:
    """What a volume must hold.

    Args:
        voxels: (Z, Y, X), rescaled.
        steps: (3, 3) mm from voxel to voxel along these axes; row 0 is that of slices.
        start: mm (x, y, z) of the first voxel.
    """

    voxels: np.ndarray
    steps: np.ndarray = field(default_factory=lambda: AXIAL)
    start: np.ndarray = field(default_factory=lambda: START)

    def position(self, k: float) -> list[float]:
        return [round(float(v), 9) for v in self.start + k * self.steps[0]]

    @property
    def orientation(self) -> list[float]:
        return [round(float(v), 12) for row in (self.steps[2], self.steps[1]) for v in row / np.linalg.norm(row)]

    @property
    def pixel_spacing(self) -> list[float]:
        return [round(float(np.linalg.norm(row)), 9) for row in self.steps[1:]]

    def assert_holds(self, voxels: np.ndarray, grid) -> None:
        """Each voxel (Z, Y, X) on a grid, in whatever order, is the one of this volume at its place."""
        index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
        world = np.asarray(grid.origin) + (index * np.asarray(grid.spacing)) @ np.asarray(grid.direction)
        place = (world - self.start) @ np.linalg.inv(self.steps)
        whole = np.rint(place).astype(int)
        assert voxels.size == self.voxels.size
        assert np.abs(place - whole).max() < 0.01
        assert np.allclose(voxels, self.voxels[tuple(np.moveaxis(whole, -1, 0))], rtol=1e-6, atol=1e-4)


def ramp(slices: int = 5, rows: int = 4, columns: int = 6, start: int = 0) -> np.ndarray:
    return start + np.arange(slices * rows * columns).reshape(slices, rows, columns)


def save(path: Path, kind: str, pixels: np.ndarray, syntax: str, *, preamble: bool = True, **tags) -> Path:
    """A file of frames (F, Y, X[, 3])."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(kind), generate_uid()
    meta.TransferSyntaxUID = SYNTAXES[syntax]
    ds = FileDataset(
        path, {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=syntax == "implicit", is_little_endian=syntax != "big"
    )
    ds.SOPClassUID, ds.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SeriesNumber = "1.2", "1.2.3", 5
    ds.FrameOfReferenceUID = "1.2.9"
    ds.Modality = {CT: "CT", ENHANCED_CT: "CT", DOSE: "RTDOSE", NUCLEAR: "NM", PET: "PT"}.get(kind, "MR")
    ds.Rows, ds.Columns = pixels.shape[1:3]
    ds.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        ds.PlanarConfiguration = 0
    if len(pixels) > 1:
        ds.NumberOfFrames = len(pixels)
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    for key, value in tags.items():
        if isinstance(value, tuple):  # a private tag: (number, VR, value)
            ds.add_new(*value)
        else:
            setattr(ds, key, value)
    _put_pixels(ds, pixels, syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    if not preamble:
        path.write_bytes(path.read_bytes().removeprefix(bytes(128) + b"DICM"))
    return path


def _put_pixels(ds: FileDataset, pixels: np.ndarray, syntax: str) -> None:
    order = ">" if syntax == "big" else "<"
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    if syntax in ("rle", "jpeg-ls"):
        ds.file_meta.TransferSyntaxUID = SYNTAXES["explicit"]
        ds.compress(SYNTAXES[syntax], generate_instance_uid=False)
    elif syntax in ("jpeg", "j2k"):
        ds.PixelData = encapsulate([_compressed(frame, syntax) for frame in pixels])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True


def _compressed(frame: np.ndarray, syntax: str) -> bytes:
    """A frame as JPEG 2000 by Pillow, or as lossless JPEG by GDCM."""
    if syntax == "j2k":
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG2000", no_jp2=True, irreversible=False, num_resolutions=1)
        return file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "frame.dcm")
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(path)
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.GetImageFromArray(np.ascontiguousarray(frame)[None], isVector=frame.ndim == 3))
        written = pydicom.dcmread(path)
        assert written.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
        return next(generate_frames(written.PixelData, number_of_frames=1))


def write_classic(
    folder: Path,
    volume: Volume,
    syntax: str = "explicit",
    *,
    kind: str = MR,
    name: str = "{:03d}.dcm",
    first: int = 0,
    of_slice: Callable[[int], dict] = lambda k: {},
    skip: tuple[int, ...] = (),
    **tags,
) -> list[Path]:
    """A file for each slice, named against their order in space."""
    count = len(volume.voxels)
    spacing = {"PixelSpacing": volume.pixel_spacing, "ImageOrientationPatient": volume.orientation, "SliceThickness": 5}
    return [
        save(
            folder / name.format(first + count - k),
            kind,
            _stored(volume.voxels[k][None], own := {**spacing, "InstanceNumber": first + count - k, **tags, **of_slice(k)}),
            syntax,
            ImagePositionPatient=volume.position(k),
            **own,
        )
        for k in range(count)
        if k not in skip
    ]


def _stored(values: np.ndarray, tags: dict) -> np.ndarray:
    """Integers that the tags' slope and intercept turn into these values."""
    plain = (values - tags.get("RescaleIntercept", 0)) / tags.get("RescaleSlope", 1)
    return np.rint(plain).astype(np.int16 if plain.min() < 0 else np.uint16)


def item(**tags) -> Dataset:
    ds = Dataset()
    for key, value in tags.items():
        setattr(ds, key, value)
    return ds


def frame_item(volume: Volume, k: int, *, rescale: tuple[float, float] | None = None, **groups) -> tuple[Dataset, np.ndarray]:
    """The functional groups of a frame, and its stored pixels."""
    slope, intercept = rescale or (1.0, 0.0)
    if rescale:
        groups["PixelValueTransformationSequence"] = [item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")]
    group = item(
        PlanePositionSequence=[item(ImagePositionPatient=volume.position(k))],
        PlaneOrientationSequence=[item(ImageOrientationPatient=volume.orientation)],
        **groups,
    )
    return group, np.rint((volume.voxels[k] - intercept) / slope).astype(np.uint16)


def write_enhanced(
    path: Path,
    frames: list[tuple[Dataset, np.ndarray]],
    syntax: str = "explicit",
    *,
    kind: str = ENHANCED_MR,
    spacing=(0.7, 0.5),
    **tags,
) -> Path:
    """A file of many frames with functional groups."""
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=list(spacing), SliceThickness=3)]) if spacing else item()
    return save(
        path,
        kind,
        np.stack([pixels for _, pixels in frames]),
        syntax,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[group for group, _ in frames],
        **tags,
    )


def csa_header(values: dict[str, list[str]]) -> bytes:
    """A CSA image header of type 2 with these entries."""
    packed = b"SV10\4\3\2\1" + struct.pack("<2I", len(values), 77)
    for name, texts in values.items():
        packed += struct.pack("<64si4s3i", name.encode(), 0, b"US" if texts[0].isdigit() else b"FD", 3, 6, 77)
        for i in range(6):
            text = texts[i].encode() + b"\0" if i < len(texts) else b""
            packed += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return packed


def write_mosaic(path: Path, volume: Volume, syntax: str = "explicit", *, csa: bool = True, **tags) -> Path:
    """All slices as tiles of one picture, placed as Siemens do."""
    count, rows, columns = volume.voxels.shape
    side = int(np.ceil(np.sqrt(count)))
    picture = np.zeros((side * rows, side * columns), np.uint16)
    for k in range(count):
        y, x = k // side * rows, k % side * columns
        picture[y : y + rows, x : x + columns] = volume.voxels[k]
    corner = volume.start - volume.steps[2] * (side - 1) * columns / 2 - volume.steps[1] * (side - 1) * rows / 2
    normal = volume.steps[0] / np.linalg.norm(volume.steps[0])
    entries = {"NumberOfImagesInMosaic": [str(count)], "SliceNormalVector": [f"{v:.8f}" for v in normal]}
    private = {
        "csa_creator": (0x00290010, "LO", "SIEMENS CSA HEADER"),
        "csa": (0x00291010, "OB", csa_header(entries)),
        "mr_creator": (0x00190010, "LO", "SIEMENS MR HEADER"),
        "tiles": (0x0019100A, "US", count),
    }
    return save(
        path,
        MR,
        picture[None],
        syntax,
        ImagePositionPatient=[float(v) for v in corner],
        ImageOrientationPatient=volume.orientation,
        PixelSpacing=volume.pixel_spacing,
        SpacingBetweenSlices=float(np.linalg.norm(volume.steps[0])),
        SliceThickness=2,
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        Manufacturer="SIEMENS",
        **(private if csa else {}),
        **tags,
    )
