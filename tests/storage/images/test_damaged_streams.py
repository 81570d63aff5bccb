"""Damage of compressed voxels is refused, by checksum and length, for every format with a checksum."""

import bz2
import gzip
import io
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnseg.core.errors import ScanError
from nnseg.storage.images.formats import read_raw_labels
from nnseg.storage.images.unpack import SLACK, unpack

PACKERS = {"zlib": zlib.compress, "gzip": gzip.compress, "bzip2": bz2.compress}


def _labels():
    """Label map (Z, Y, X) of boxes and scattered voxels."""
    rng = np.random.default_rng(0)
    labels = (rng.random((6, 24, 20)) < 0.05).astype(np.uint8) * 3
    labels[2:5, 6:20, 4:12] = 1
    return labels


def _with_itk(path):
    sitk.WriteImage(sitk.GetImageFromArray(_labels()), str(path), useCompression=True)


def _afni(path):
    """A file .HEAD with gzipped voxels: nibabel's own example."""
    for name in ("example4d+orig.HEAD", "example4d+orig.BRIK.gz"):
        source = Path(nib.__file__).parent / "tests" / "data" / name
        path.with_name(name).write_bytes(source.read_bytes())


# what writes a file, its name, and the name of the file with the voxels
WRITERS = {
    "MetaImage": (_with_itk, "a.mha", "a.mha"),
    "MetaImage in two files": (_with_itk, "a.mhd", "a.zraw"),
    "NRRD": (_with_itk, "a.nrrd", "a.nrrd"),
    "NRRD in two files": (_with_itk, "a.nhdr", "a.raw.gz"),
    "MGZ": (lambda path: nib.MGHImage(_labels().T, np.eye(4)).to_filename(path), "a.mgz", "a.mgz"),
    "NIfTI": (lambda path: nib.Nifti1Image(_labels().T, np.eye(4)).to_filename(path), "a.nii.gz", "a.nii.gz"),
    "AFNI": (_afni, "example4d+orig.HEAD", "example4d+orig.BRIK.gz"),
    "PNG": (lambda path: Image.fromarray(_labels()[3]).save(path), "a.png", "a.png"),
    "TIFF": (lambda path: tifffile.imwrite(path, _labels()[3], compression="zlib", photometric="minisblack"), "a.tif", "a.tif"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_no_flipped_bit_of_compressed_voxels_gives_another_label_map(tmp_path, kind):
    write, name, voxel_name = WRITERS[kind]
    write(tmp_path / name)
    voxel_file = tmp_path / voxel_name
    good, content = read_raw_labels(tmp_path / name).voxels.copy(), voxel_file.read_bytes()
    first, refused = len(content) // 2, 0  # beyond every header, which have no checksum
    if kind == "TIFF":
        with tifffile.TiffFile(voxel_file) as file:
            first = file.pages.first.dataoffsets[0]
    places = range(first, len(content), max(1, (len(content) - first) // 60))
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        voxel_file.write_bytes(damaged)
        try:
            assert np.array_equal(read_raw_labels(tmp_path / name).voxels, good)  # padding, or the name in a gzip header
        except ScanError as error:
            assert str(tmp_path) in str(error)
            refused += 1
    assert refused > 0.6 * len(places)


@pytest.mark.parametrize("kind", WRITERS)
def test_voxels_that_end_early_are_refused(tmp_path, kind):
    write, name, voxel_name = WRITERS[kind]
    write(tmp_path / name)
    content = (tmp_path / voxel_name).read_bytes()
    for length in (len(content) // 2, len(content) - 30 if kind != "TIFF" else len(content) // 3):
        (tmp_path / voxel_name).write_bytes(content[:length])
        with pytest.raises(ScanError):
            read_raw_labels(tmp_path / name)


def test_meta_image_without_the_size_of_its_stream_is_read_right(tmp_path):
    header = "ObjectType = Image\nNDims = 3\nCompressedData = True\nBinaryDataByteOrderMSB = True\nDimSize = 4 3 2\n"
    voxels = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    content = f"{header}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + zlib.compress(voxels.tobytes())
    (tmp_path / "a.mha").write_bytes(content)
    assert np.array_equal(read_raw_labels(tmp_path / "a.mha").voxels[0], voxels)


def test_nrrd_that_skips_lines_and_bytes_is_verified_where_its_voxels_are(tmp_path):
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 3 2\nencoding: gzip\nline skip: 1\nbyte skip: 5\ndata file: a.gz\n\n"
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.nhdr").write_text(header)
    packed = gzip.compress(b"12345" + voxels.tobytes())
    (tmp_path / "a.gz").write_bytes(b"a line\n" + packed)
    assert np.array_equal(read_raw_labels(tmp_path / "a.nhdr").voxels[0], voxels)
    (tmp_path / "a.gz").write_bytes(b"a line\n" + packed[:-5] + bytes(5))
    with pytest.raises(ScanError, match="gzip stream"):
        read_raw_labels(tmp_path / "a.nhdr")


def test_a_png_of_deep_colours_whose_chunk_is_damaged_is_refused(tmp_path):
    import imagecodecs

    content = bytearray(imagecodecs.png_encode(np.arange(48, dtype=np.uint16).reshape(4, 4, 3)))
    content[content.index(b"IHDR") + 15] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ScanError, match=r"a\.png"):
        read_raw_labels(tmp_path / "a.png")


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_streams_unpack_to_what_was_packed(pack):
    for content in (b"abc", bytes(3_000_000), np.random.default_rng(0).bytes(1_100_000)):
        assert unpack(Path("a"), io.BytesIO(pack(content)), len(content)) == content
        two = pack(content[:2]) + pack(content[2:])
        assert unpack(Path("a"), io.BytesIO(two + bytes(600))) == content


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_a_stream_of_more_or_less_than_was_announced_is_refused(pack):
    packed = pack(bytes(2 * SLACK))
    with pytest.raises(ScanError, match="unpacks to more than"):
        unpack(Path("a"), io.BytesIO(packed), 100)
    with pytest.raises(ScanError, match=f"unpacks to {2 * SLACK} bytes; expected {3 * SLACK}"):
        unpack(Path("a"), io.BytesIO(packed), 3 * SLACK)
    with pytest.raises(ScanError, match=r"ends early|is damaged"):
        unpack(Path("a"), io.BytesIO(packed[:-1]))
