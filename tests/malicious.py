"""A corpus of files that announce, or unpack to, more than a machine has, or never end; all are small and made here.

`CORPUS` has for each what makes it, what reads it, and words of the error that it must give. Run as a program, this reads all of a
folder's, one after another in one process, and prints for each a line of JSON: the error, and the time and memory that it took.
"""

import gzip
import io
import json
import os
import resource
import signal
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import nibabel as nib
import numpy as np
import tifffile
from PIL import Image

MB = 1_000_000
ZEROS = zlib.compress(bytes(MB), 9)


class Malicious(NamedTuple):
    """A file: its name, what writes it at a path, the reader of `READERS`, words of its error."""

    name: str
    write: Callable[[Path], Any]
    reader: str
    words: str


def bomb(megabytes: int, *, before=b"", after=b"", form="zlib") -> bytes:
    """A stream of so many megabytes of zeros, between other bytes: one block of zeros, again and again. Its checksum is wrong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(before) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(4 * MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = start + block * (megabytes // 4) + packer.compress(after) + packer.flush()
    head = {"zlib": b"\x78\x9c", "gzip": b"\x1f\x8b\x08" + bytes(7), "raw": b""}[form]
    return head + body + bytes({"zlib": 4, "gzip": 8, "raw": 0}[form])


def nifti(shape, *, version=1, follows=b"", spacing=1.0, offset=None) -> bytes:
    header = nib.Nifti1Header() if version == 1 else nib.Nifti2Header()
    header.set_data_dtype(np.int16)
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    header["pixdim"][1:4] = spacing
    header["magic"] = b"n+1" if version == 1 else b"n+2\0\r\n\x1a\n"
    header["vox_offset"] = int(header["sizeof_hdr"]) + 4 if offset is None else offset
    return bytes(header.binaryblock) + bytes(4) + follows


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def mha(sizes="2000000 2000 2", *, dimensions="3", compressed=True, data=ZEROS, kind="MET_SHORT", file="LOCAL") -> bytes:
    text = f"ObjectType = Image\nNDims = {dimensions}\nBinaryData = True\nCompressedData = {compressed}\n"
    text += f"DimSize = {sizes}\nElementSpacing = 1 1 1\nElementType = {kind}\nElementDataFile = {file}\n"
    return text.encode() + data


def nrrd(sizes="2000000 2000 2", *, dimension="3", encoding="gzip", data=ZEROS, file="") -> bytes:
    where = f"data file: {file}\n" if file else ""
    text = f"NRRD0004\ntype: short\ndimension: {dimension}\nsizes: {sizes}\nendian: little\nencoding: {encoding}\n{where}\n"
    return text.encode() + data


def fields(text: str, *, encoding="gzip", data=ZEROS) -> bytes:
    """A small NRRD file with more fields."""
    return nrrd("8 8 8", encoding=encoding, data=data).replace(b"\n\n", f"\n{text}\n\n".encode(), 1)


def segment(text: str) -> bytes:
    """A small NRRD file with a segment."""
    return fields(f"Segment0_Name:=a\nSegment0_{text}", encoding="raw", data=bytes(1024))


def png(width: int, height: int, *, bits=8, colours=0, data=ZEROS) -> bytes:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def tiff(
    width: int, height: int, *, strip=ZEROS, compression=8, rows=None, tile=None, pages=1, bits=8, further=0, ring=False
) -> bytes:
    """A TIFF file whose pages share one strip or tile, and so many further pages whose places are in it.

    In a ring the last page is followed by the first.
    """
    place = {322: tile, 323: tile, 324: 8, 325: len(strip)} if tile else {273: 8, 278: rows or height, 279: len(strip)}
    tags = {256: width, 257: height, 258: bits, 259: compression, 262: 1, 277: 1} | place | ({330: 8} if further else {})
    content, first = b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip, 8 + len(strip)
    size = 6 + 12 * len(tags)
    parts = [content]
    for page in range(pages):
        following = first + size * (page + 1) if page < pages - 1 else first * ring
        counts = {330: further}
        entries = b"".join(struct.pack("<HHII", tag, 4, counts.get(tag, 1), value) for tag, value in sorted(tags.items()))
        parts.append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", following))
    return b"".join(parts)


def picture(kind: str, dtype: Any) -> bytes:
    """A picture of many pixels and few bytes, in one of the formats that a strip may have."""
    pixels = np.zeros((5000, 5000, 3) if kind == "webp" else (5000, 5000), dtype)
    options: dict[str, Any] = {"webp": {"lossless": True}, "jpegxl": {"lossless": True, "effort": 1}}
    encoded: bytes = getattr(imagecodecs, f"{kind}_encode")(pixels, **options.get(kind, {}))
    return encoded


def ome_tiff(more="", **sizes: str) -> bytes:
    """A TIFF file of one page whose description of OME announces planes, or has more elements."""
    axes = {"SizeX": "8", "SizeY": "8", "SizeT": "1", "Type": "uint8", "DimensionOrder": "XYZCT"} | sizes
    text = " ".join(f'{name}="{value}"' for name, value in axes.items())
    inside = f"<Image><Pixels {text}><TiffData/>{more}</Pixels></Image>"
    xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{inside}</OME>'
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((8, 8), np.uint8), description=xml, metadata=None, photometric="minisblack")
    return stream.getvalue()


def sparse(size: int, head=b"") -> Callable[[Path], None]:
    """What writes a file of so many bytes, of which the disk keeps the beginning."""

    def write(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, size)

    return write


def zarr(
    shape: str, chunks: str, chunk: bytes | Callable[[Path], Any] = ZEROS, *, method="zlib", **more: Any
) -> Callable[[Path], None]:
    """What writes a plain array of version 2, with one chunk."""
    write_chunk = chunk if callable(chunk) else writes(chunk)

    def write(path: Path) -> None:
        path.mkdir()
        about = {"zarr_format": 2, "dtype": "<i2", "fill_value": 0, "order": "C", "filters": None}
        about |= {"compressor": {"id": method, "level": 1} if method else None}
        (path / ".zarray").write_text(json.dumps(about | {"shape": json.loads(shape), "chunks": json.loads(chunks)} | more))
        (path / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["z", "y", "x"]}))
        write_chunk(path / "0.0.0")

    return write


def shards(path: Path) -> None:
    """An array of version 3 in one shard of one chunk, which unpacks to more than it should."""
    import zarr

    names = ["z", "y", "x"]
    zarr.create_array(
        path,
        shape=(8, 8, 8),
        chunks=(8, 8, 8),
        shards=(8, 8, 8),
        dtype="<i2",
        compressors=zarr.codecs.ZstdCodec(),
        dimension_names=names,
    )
    content: bytes = imagecodecs.zstd_encode(bytes(200 * MB))
    index = struct.pack("<QQ", 0, len(content))
    (path / "c" / "0" / "0").mkdir(parents=True)
    (path / "c" / "0" / "0" / "0").write_bytes(content + index + bytes(4))


def patched(form: str, values: dict[int | bytes, bytes]) -> bytes:
    """A small picture with other bytes at these places, or behind these markers."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(stream, form)
    content = bytearray(stream.getvalue())
    for place, value in values.items():
        at = place if isinstance(place, int) else content.index(place) + len(place)
        content[at : at + len(value)] = value
    return bytes(content)


def npy(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


def mgh(shape) -> bytes:
    return struct.pack(">iiiiiii", 1, *shape, 1, 4, 0).ljust(284, b"\0") + bytes(100)


def element(tag: int, kind: bytes, value: bytes) -> bytes:
    group, number = divmod(tag, 0x10000)
    long = kind in (b"OB", b"OW", b"SQ", b"UN")
    length = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + length + value


def text(tag: int, kind: bytes, value: str) -> bytes:
    return element(tag, kind, (value + ("\0" if kind == b"UI" else " ") * (len(value) % 2)).encode())


CT, DEFLATED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1.99"


def dicom(*, extra=b"", rows=16, columns=16, frames="", syntax="1.2.840.10008.1.2.1", pixels=bytes(512), deflate=0) -> bytes:
    meta = text(0x00020002, b"UI", CT) + text(0x00020010, b"UI", syntax)
    meta = element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta
    body = text(0x00080016, b"UI", CT) + text(0x00080018, b"UI", "1.2.3") + text(0x0020000E, b"UI", "1.2")
    body += text(0x00280008, b"IS", frames) if frames else b""
    for tag, value in ((0x280002, 1), (0x280010, rows), (0x280011, columns), (0x280100, 16), (0x280101, 16), (0x280102, 15)):
        body += element(tag, b"US", struct.pack("<H", value))
    body += text(0x00280004, b"CS", "MONOCHROME2") + extra
    if deflate:
        return bytes(128) + b"DICM" + meta + bomb(deflate, before=body, form="raw")
    return bytes(128) + b"DICM" + meta + body + element(0x7FE00010, b"OW", pixels)


def nested(depth: int, *, lengths: bool) -> bytes:
    """Sequences in sequences, with or without lengths."""
    inner = b""
    if not lengths:
        begin, end = b"\x40\x00\x75\x02SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0" + b"\xff" * 4, b"\xfe\xff\x0d\xe0" + bytes(4)
        return begin * depth + (end + b"\xfe\xff\xdd\xe0" + bytes(4)) * depth
    for _ in range(depth):
        inner = element(0x00400275, b"SQ", b"\xfe\xff\0\xe0" + struct.pack("<I", len(inner)) + inner)
    return inner


def sequence(tag: int, *items: bytes) -> bytes:
    return element(tag, b"SQ", b"".join(b"\xfe\xff\0\xe0" + struct.pack("<I", len(item)) + item for item in items))


def number(tag: int, value: int) -> bytes:
    return element(tag, b"US", struct.pack("<H", value))


def segmentation(segments: int, frames: str) -> bytes:
    """A DICOM-SEG whose segments have a frame of 8 x 8 pixels each, all of them set, all in one place."""
    kind = "1.2.840.10008.5.1.4.1.1.66.4"
    meta = text(0x00020002, b"UI", kind) + text(0x00020010, b"UI", "1.2.840.10008.1.2.1")
    body = text(0x00080016, b"UI", kind) + text(0x00280008, b"IS", frames) + text(0x00620001, b"CS", "BINARY")
    body += b"".join(
        number(tag, value) for tag, value in ((0x280002, 1), (0x280010, 8), (0x280011, 8), (0x280100, 1), (0x280101, 1))
    )
    body += sequence(0x00620002, *(number(0x00620004, i + 1) for i in range(segments)))
    place = sequence(0x00209116, text(0x00200037, b"DS", "1\\0\\0\\0\\1\\0"))
    place += sequence(0x00289110, text(0x00180050, b"DS", "1") + text(0x00280030, b"DS", "1\\1"))
    groups = (
        sequence(0x00209113, text(0x00200032, b"DS", "0\\0\\0")) + sequence(0x0062000A, number(0x0062000B, i + 1))
        for i in range(segments)
    )
    body += sequence(0x52009229, place) + sequence(0x52009230, *groups) + element(0x7FE00010, b"OW", b"\xff" * 8 * segments)
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta + body


def labels_json(**more: Any) -> str:
    return json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"} | more)


def safetensors(entries: str, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(entries) if size is None else size) + entries.encode()


def checkpoint(program: bytes, *, entries: int = 0, method=zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("a/data.pkl", program)
        for i in range(entries):
            archive.writestr(f"a/data/{i}", b"")
    return stream.getvalue()


def preprocessed(about: bytes, method=zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, archive.open("case.json", "w", force_zip64=True) as file:
        for _ in range(60):
            file.write(about)
    return stream.getvalue()


def encrypted() -> bytes:
    """An archive whose only member says that it is encrypted."""
    content = bytearray(preprocessed(b"{}", zipfile.ZIP_STORED))
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    return bytes(content)


def ring(path: Path) -> None:
    """Twelve folders, each with links to all others."""
    names = [f"folder_{i}" for i in range(12)]
    for name in names:
        (path / name).mkdir(parents=True)
        for other in names:
            if other != name:
                (path / name / other).symlink_to(path / other)


def writes(content: bytes | str | Callable[[], bytes | str]) -> Callable[[Path], None]:
    """What writes a content, which is made only then."""

    def write(path: Path) -> None:
        made = content() if callable(content) else content
        path.write_bytes(made.encode() if isinstance(made, str) else made)

    return write


def link_to_zero(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def beside(header: bytes) -> Callable[[Path], None]:
    """What writes a header whose voxels, zero.raw, are a device."""

    def write(path: Path) -> None:
        path.write_bytes(header)
        link_to_zero(path.with_name("zero.raw"))

    return write


def afni(voxels: bytes, *, dimensions="8 8 8", more="") -> Callable[[Path], None]:
    """What writes an AFNI header, and its voxels beside it."""
    attributes = {
        "BYTEORDER_STRING": "'LSB_FIRST~", "DATASET_RANK": "3 1 0 0 0 0 0 0", "DATASET_DIMENSIONS": f"{dimensions} 0 0",
        "BRICK_TYPES": "1", "BRICK_FLOAT_FACS": "0", "ORIENT_SPECIFIC": "0 3 4", "DELTA": "1 1 1", "ORIGIN": "0 0 0",
        "IJK_TO_DICOM_REAL": "1 0 0 0 0 1 0 0 0 0 1 0", "TAXIS_NUMS": "1 0 0 0 0 0 0 0",
    }  # fmt: skip
    kinds = {name: "string" if name == "BYTEORDER_STRING" else "float" if name[0] == "I" else "integer" for name in attributes}
    parts = [f"type = {kinds[name]}-attribute\nname = {name}\ncount = 1\n{text}\n" for name, text in attributes.items()]

    def write(path: Path) -> None:
        path.write_text("\n".join(parts) + more)
        path.with_suffix(".BRIK.gz").write_bytes(voxels)

    return write


def minc(dimensions: int, listed: bytes) -> Callable[[Path], None]:
    """What writes the beginning of a MINC 1 file, and zeros."""
    return writes(b"CDF\1" + struct.pack(">III", 0, 10, dimensions) + listed + bytes(20 * MB))


def analyze(orientation: Callable[[Path], None]) -> Callable[[Path], None]:
    """What writes a header of SPM, its voxels, and its file of the orientation."""

    def write(path: Path) -> None:
        header = nib.Spm2AnalyzeHeader()
        header.set_data_dtype(np.int16)
        header.set_data_shape((8, 8, 8))
        header.set_zooms((1, 1, 1))
        path.write_bytes(header.binaryblock)
        path.with_suffix(".img").write_bytes(bytes(1024))
        orientation(path.with_suffix(".mat"))

    return write


BIG, HUGE = (30_000, 30_000, 30_000), (2**40, 1, 1)
IMAGES = [
    ("nifti.nii", lambda: nifti(BIG), "announces 30000 x 30000 x 30000"),
    ("packed_nifti.nii.gz", lambda: packed(nifti(BIG)), "announces 30000 x 30000 x 30000"),
    ("nifti2.nii", lambda: nifti(HUGE, version=2), "announces 1099511627776"),
    ("nifti2_all_axes.nii.gz", lambda: packed(nifti((2**60,) * 3, version=2)), "1152921504606846976"),
    ("gzip_bomb.nii.gz", lambda: bomb(4000, before=nifti((8, 8, 8)), form="gzip"), "unpacks to more"),
    ("gzip_bomb_of_two.nii.gz", lambda: packed(nifti((8, 8, 8))) + bomb(4000, form="gzip"), "unpacks to more"),
    ("offset.nii", lambda: nifti((8, 8, 8), offset=2**40), "holds 0 bytes"),
    ("offset.nii.gz", lambda: packed(nifti((8, 8, 8), offset=2**40)), "stream"),
    ("bomb.mgz", lambda: bomb(4000, before=mgh((8, 8, 8)), form="gzip"), "unpacks to more"),
    ("large.mgh", lambda: mgh((30_000, 30_000, 3_000)), "announces 30000 x 30000 x 3000"),
    ("negative.mgh", lambda: mgh((-5, 8, 8)), "cannot be read"),
    ("announced.mha", mha, "announces 2000000 x 2000 x 2"),
    ("not_packed.mha", lambda: mha(compressed=False), "announces 2000000 x 2000 x 2"),
    ("bomb.mha", lambda: mha("8 8 8", data=bomb(4000)), "unpacks to more"),
    ("dimensions.mha", lambda: mha(dimensions="1000000000"), "announces 1000000000 dimensions"),
    ("dimensions.nrrd", lambda: nrrd(dimension="1000000000"), "announces 1000000000 dimensions"),
    *(
        (f"{name}.mha", lambda line=line: mha("8 8 8", data=b"").replace(b"DimSize", line.encode() + b"\nDimSize"), words)
        for name, line, words in (
            ("negative_axes", "NDims = -1", "announces -1 dimensions"),
            ("indented_axes", "\tNDims = 1e308", "announces 1e308 dimensions"),
            ("infinite", "TransformMatrix = 1 0 0 0 inf 0 0 0 1", 'has the direction "inf"'),
            ("large", "Rotation = 1 0 0 0 1 0 0 1e308 1", 'has the direction "1e308"'),
            ("name", "Name = " + "a" * 300, 'has the line "Name = aaaaaaaaaaaaa ..." of over 200 bytes'),
            ("key", "k" * 300 + " = 1", 'has the line "kkkkkkkkkkkkkkkkkkkk ..." of over'),
            ("value", "k = " + "v" * 40_000, 'has the line "k = vvvvvvvvvvvvvvvv ..." of over 4000 bytes'),
            ("hexadecimal", "Orientation = 0x1p1023 0 0 0 1 0 0 0 1", 'has the direction "0x1p1023"'),
        )
    ),
    *(
        (f"{name}_line.nrrd", lambda line=line: fields(line), "of over 900 bytes")
        for name, line in (
            ("unknown", "a" * 2000),
            ("labels", "labels: " + '"a" ' * 500),
            ("content", "content:" + "a" * 2000),
            ("file", "data  file: " + "a" * 2000),
            ("list", "data file: LIST " + "a" * 3000),
            ("hidden", "kinds: " + "domain " * 300 + ":=a"),
            ("first", "#a\r" + "space units: " + '"mm" ' * 300),
        )
    ),
    ("infinite.nrrd", lambda: fields("space directions: (inf,0,0) (0,1,0) (0,0,1)"), 'has the direction "inf"'),
    ("announced.nrrd", nrrd, "announces 2000000 x 2000 x 2"),
    ("raw.nrrd", lambda: nrrd(encoding="raw"), "announces 2000000 x 2000 x 2"),
    ("bomb.nrrd", lambda: nrrd("8 8 8", data=bomb(4000, form="gzip")), "unpacks to more"),
    ("files.nhdr", lambda: nrrd("8 8 8", file="a%d.raw 0 2000000000 1", data=b""), "data files"),
    ("width.nhdr", lambda: nrrd("8 8 8", file="a%2000000000d.raw 0 9 1", data=b""), "data files"),
    *(
        (f"{name}{end}", lambda text=text: mha("8 8 8", compressed=False, data=b"", file=text), "has the data files")
        for name, text in (
            ("writes", "a%n.raw 0 7 1"),
            ("wide", "a%2000000000d.raw 0 7 1"),
            ("step", "a%d.raw 0 7 0"),
            ("endless", "a%d.raw 7 7 -1"),
        )
        for end in (".mhd", ".mha")
    ),
    ("indented.mha", lambda: mha("8 8 8", data=b"").replace(b"ElementDataFile", b"  ElementDataFile"), "at the beginning of one"),
    ("late.mha", lambda: mha("8 8 8").replace(b"NDims", b"Comment = " + b"x" * 2**20 + b"\nNDims"), "header of over"),
    ("blanks.nhdr", lambda: nrrd("8 8 8", file="a%2000000d.raw  0 7 1", data=b""), "has the data files"),
    ("tabs.nrrd", lambda: nrrd("8 8 8", file="a%99999d.raw\t0\t7\t1", data=b""), "has the data files"),
    (
        "hidden.nrrd",
        lambda: nrrd("8 8 8", data=b"").replace(b"type", b"#\rdata file: a%99999d.raw  0 7 1\ntype"),
        "has the data files",
    ),
    ("backtracking.nhdr", lambda: nrrd("8 8 8", file="%d" * 400_000, data=b""), "has the data files"),
    ("numbers.nhdr", lambda: nrrd("8 8 8", file=f"a%d.raw 0 {'9' * 5000} 1", data=b""), "has the data files"),
    ("lines.nrrd", lambda: nrrd("8 8 8").replace(b"type", b"a:=b\n" * 90_000 + b"type"), "header of over"),
    ("members.nii.gz", lambda: packed(nifti((64, 64, 64))) + packed(b"") * 300_000, "streams of few bytes"),
    ("members.nrrd", lambda: nrrd("64 64 64", data=packed(b"") * 300_000), "streams of few bytes"),
    ("members.dcm", lambda: packed(b"") * 300_000, "streams of few bytes"),
    ("lines_skipped.nrrd", lambda: fields("line skip: 2000000000"), "cannot be read"),
    ("bytes_skipped.nrrd", lambda: fields("byte skip: 3900000000", data=bomb(4000, form="gzip")), "skips 3900000000 bytes"),
    ("digits_skipped.nrrd", lambda: fields("byte skip: " + "9" * 800), "skips 999999999999999999 bytes"),
    *(
        (f"series{suffix}", lambda: dicom(extra=nested(20_000, lengths=False)), words)
        for suffix, words in ((".mha", "over 4000 bytes"), (".nrrd", "over 900 bytes"), (".gipl", "cannot be read as an image"))
    ),
    ("colour.seg.nrrd", lambda: segment("Color:=inf 0 0"), "describes segment a"),
    ("value.seg.nrrd", lambda: segment("LabelValue:=" + "9" * 400), "a value of 400 digits"),
    ("announced.npy", lambda: npy("(30000, 30000, 30000)"), "cannot be read"),
    ("axes.npy", lambda: npy(f"({', '.join(['1'] * 3000)})"), "cannot be read"),
    ("deep.png", lambda: png(13_000, 13_000, bits=16), "13000 x 13000 pixels"),
    ("claim.png", lambda: png(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647 pixels"),
    ("deep_colours.png", lambda: png(13_000, 13_000, bits=16, colours=2), "13000 x 13000 pixels"),
    ("claim.bmp", lambda: b"BM" + struct.pack("<I4xIIiiHH24x", 100, 54, 40, 30_000, 30_000, 1, 8), "over 178,956,970"),
    ("claim.gif", lambda: patched("GIF", {6: struct.pack("<HH", 65_535, 65_535)}), "over 178,956,970"),
    ("claim.jpg", lambda: patched("JPEG", {b"\xff\xc0\0\x0b\x08": struct.pack(">HH", 65_500, 65_500)}), "over 178,956,970"),
    ("passes.jpg", lambda: patched("JPEG", {}) + b"\xff\xda" * 30_000, "30,001 passes over its pixels"),
    (
        "runs.bmp",
        lambda: b"BM" + struct.pack("<I4xIIiiHHI20x", 100, 54, 40, 4000, 4000, 1, 8, 1) + bytes(6 * MB),
        "of run lengths",
    ),
    ("chunks.png", lambda: png(8, 8)[:33] + (bytes(4) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))) * 20_000, "over 10,000"),
    ("segments.jpg", lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000, "over 10,000 parts"),
    ("filled.jpg", lambda: b"\xff\xd8" + b"\xff" * 20_000, "over 10,000 parts"),
    ("blocks.gif", lambda: b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b"\x21\xf9\4" + bytes(5 * MB), "bytes of a GIF"),
    ("text.pgm", lambda: b"P2 4000 4000 255\n" + b"1 " * 3 * MB, "numbers as text"),
    ("comments.pgm", lambda: b"P5\n" + b"#a\n" * MB + b"8 8 255\n" + bytes(64), "no complete header"),
    ("claim.ppm", lambda: b"P6 2000000000 2000000000 255\n", "over 178,956,970"),
    ("claim.tif", lambda: tiff(100_000, 100_000), "announces 100000 x 100000"),
    ("wide.tif", lambda: tiff(2**31 - 1, 1), "announces"),
    ("strip.tif", lambda: tiff(32, 32, strip=bomb(2000)), "INSUFFICIENT_SPACE"),
    ("rows.tif", lambda: tiff(32, 32, rows=2**31 - 1, strip=bomb(2000)), "INSUFFICIENT_SPACE"),
    ("tile.tif", lambda: tiff(32, 32, tile=32_768), "parts that are not much larger"),
    ("picture.tif", lambda: tiff(32, 32, compression=34_933, strip=png(20_000, 20_000, data=bomb(400))), "20000 x 20000 pixels"),
    *(
        (
            f"strip_{number}.tif",
            lambda kind=kind, number=number, dtype=dtype: tiff(32, 32, compression=number, strip=picture(kind, dtype)),
            "5000 x 5000",
        )
        for kind, number, dtype in (
            ("jpeg8", 7, np.uint8),
            ("jpeg8", 33007, np.uint16),
            ("webp", 50001, np.uint8),
            ("jpegxl", 50002, np.uint16),
            ("jpegxr", 34934, np.uint16),
            ("lerc", 34887, np.float32),
        )
    ),
    ("pages.tif", lambda: tiff(8, 8, strip=bytes(64), compression=1, pages=100_000), "20,001 pages or more"),
    *(
        (f"ring_{pages}.tif", partial(tiff, 8, 8, strip=bytes(64), compression=1, pages=pages, ring=True), "20,001 pages or more")
        for pages in (1, 3, 300)
    ),
    ("further.tif", lambda: tiff(8, 8, strip=bytes(400_000), compression=1, further=50_000), "50,000 further pages"),
    ("planes.ome.tif", lambda: ome_tiff(SizeZ="400000000", SizeC="1"), "400,000,000 planes"),
    ("elements.ome.tif", lambda: ome_tiff("<a/>" * 500_000), "250,00"),
    ("text.ome.tif", lambda: ome_tiff("<!--" + "a" * 17 * MB + "-->"), "has a description of 17,"),
    ("channels.ome.tif", lambda: ome_tiff(SizeZ="40000", SizeC="40000"), "1,600,000,000 planes"),
    ("unpacked.tif", lambda: tiff(60_000, 60_000, compression=1, strip=bytes(1000)), "expected 3600000000 bytes"),
    ("frames.dcm", lambda: dicom(frames="2000000000"), "announces 2,000,000,000 frames"),
    ("rows.dcm", lambda: dicom(rows=65_535, columns=65_535), "expected 17179344900 bytes"),
    ("nested.dcm", lambda: dicom(extra=nested(20_000, lengths=False)), "nested 65 deep or more"),
    ("nested_lengths.dcm", lambda: dicom(extra=nested(20_000, lengths=True)), "nested 65 deep or more"),
    ("deflated.dcm", lambda: dicom(syntax=DEFLATED, deflate=4000), "packed_dicom_bytes"),
    ("deflated_nested.dcm", lambda: dicom(extra=nested(20_000, lengths=False), syntax=DEFLATED, deflate=4), "nested 65 deep"),
    ("elements.dcm", lambda: dicom(extra=text(0x00100010, b"PN", "") * 1_500_000), "1,000,001 elements or more"),
    ("packed.dcm.gz", lambda: bomb(4000, before=dicom(), form="gzip"), "packed_dicom_bytes"),
]
TEXTS = [
    ("segments.dcm", lambda: segmentation(1001, "1001"), "segments", "1,001 segments that overlap"),
    ("segment_frames.dcm", lambda: segmentation(1, "300000"), "segments", "announces 300,000 frames"),
    ("entries.json", lambda: "[" + "0," * 5_000_000 + "0]", "description", "entries, at most"),
    ("bytes.json", lambda: '{"name": "' + "x" * 65 * MB + '"}', "description", "bytes, at most"),
    ("depth.json", lambda: "[" * 100_000, "description", "is not valid JSON"),
    ("digits.json", lambda: labels_json(name=1).replace('"name": 1', '"name": ' + "9" * 5000), "description", "is not valid JSON"),
    ("labels.json", lambda: labels_json(labels={f"label {i}": i for i in range(300_000)}), "description", "at most 10,000"),
    (
        "regions.json",
        lambda: labels_json(labels={"b": 0} | {f"{i}": [i, i + 1] for i in range(9000)}),
        "description",
        "at most 500",
    ),
    ("values.json", lambda: labels_json(labels={"background": 0, "a": 10**30}), "description", "64 bits"),
    ("negative.json", lambda: labels_json(labels={"background": 0, "a": -(10**4000)}), "description", "64 bits"),
    ("surrogates.json", lambda: labels_json(labels={"background": 0, "\ud800": 1}), "description", "surrogates not allowed"),
    ("half_name.json", lambda: labels_json(name="\udfff"), "nnunet", "surrogates not allowed"),
    ("long_label.json", lambda: labels_json(labels={"background": 0, "a" * 5 * MB: 1}), "description", "5,000,000 letters"),
    (
        "number_of_channels.json",
        lambda: labels_json(channel_names=2**70),
        "description",
        '"channel_names" is 1180591620717411303424',
    ),
    ("many_channels.json", lambda: labels_json(channel_names={f"x{i}": "" for i in range(90_000)}), "description", " ... "),
    ("long_channel.json", lambda: labels_json(channel_names={"0": "aA1" * MB}), "description", "3,000,000 letters"),
    ("hexadecimal.toml", lambda: "a = 0x" + "f" * 5000, "plan", "thousands of digits"),
    ("binary.toml", lambda: "a = 0b" + "1_" * 50_000 + "1", "recipe", "thousands of digits"),
    ("folds_final.json", lambda: json.dumps([{"train": ["a"], "val": []}] * 300_000), "split", "has 300,000 folds"),
    ("folds.json", lambda: json.dumps([{"training": ["a"], "held_out": []}] * 300_000), "folds", "has 300,000 folds"),
    ("run.json", lambda: "[" + "0," * 6_000_000 + "0]", "run", "entries, at most"),
    ("rows.csv", lambda: "case,fold\n" + "a,1\n" * 3_000_000, "table", "entries, at most"),
    ("columns.csv", lambda: "case," + ",".join(f"c{i}" for i in range(50_000)) + "\n" + "a,1\n" * 100, "groups", "5,000,100 cells"),
    ("doubled.csv", lambda: "case," + ",".join(f"c{i}" for i in range(200_000)) + ",c0\n", "groups", "two columns"),
    ("headless.csv", lambda: ",".join(f"c{i}" for i in range(200_000)) + "\n", "groups", "and 199980 more"),
    ("cell.csv", lambda: "case,fold\n" + "a" * 65 * MB, "table", "bytes, at most"),
    ("keys.toml", lambda: "\n".join(f"k{i} = 1" for i in range(300_000)), "plan", "entries, at most"),
    ("some_keys.toml", lambda: "\n".join(f"key_{i} = 1" for i in range(59_000)), "plan", "more"),
    ("long_key.toml", lambda: f"{'a' * 2 * MB} = 1", "plan", "is not a setting"),
    ("parts.toml", lambda: ".".join(["a"] * 20_000) + " = 1", "plan", "parts"),
    ("table.toml", lambda: "[" + ".".join(["a"] * 20_000) + "]\nb = 1", "plan", "parts"),
    ("quoted.toml", lambda: '"a" . ' * 20_000 + '"a" = 1', "plan", "parts"),
    ("digits.toml", lambda: "a = " + "9" * 5000, "plan", "thousands of digits"),
    ("depth.toml", lambda: "a = " + "[" * 20_000, "plan", "nested too deeply"),
    ("bytes.toml", lambda: "# " + "x" * 5 * MB, "recipe", "bytes, at most"),
    ("recipe_keys.toml", lambda: "[training]\n" + "\n".join(f"key_{i} = 1" for i in range(59_000)), "recipe", "more"),
    ("recipe_parts.toml", lambda: ".".join(["a"] * 20_000) + " = 1", "recipe", "parts"),
]
MODELS = [
    ("tensors.nnseg", lambda: safetensors("{" + '"a":{"dtype":"F32","shape":[1]},' * 270_000 + "}"), "too many tensors"),
    ("header.nnseg", lambda: safetensors("{}", 2**60), "longer than the file"),
    ("header_bytes.nnseg", lambda: safetensors(" " * 20 * MB), "longer than the file or than is allowed"),
    ("depth.nnseg", lambda: safetensors("[" * 15 * MB), "not one that nnseg writes"),
]
PROGRAMS = [
    ("steps.pth", lambda: checkpoint(b"\x80\x02" + b"}" * 3_000_000 + b"."), "over 200,000 steps"),
    ("bytes.pth", lambda: checkpoint(b"\x80\x02" + b"}" * 15_000_000 + b"."), "over 4000000"),
    ("tuples.pth", lambda: checkpoint(b"\x80\x02)" + b"\x85" * 3_000_000 + b"."), "over 200,000 steps"),
    ("memo.pth", lambda: checkpoint(b"\x80\x02]q\0" + b"h\0a" * 1_000_000 + b"."), "over 200,000 steps"),
    ("packed.pth", lambda: checkpoint(bytes(20 * MB), method=zipfile.ZIP_DEFLATED), "compressed"),
    ("entries.pth", lambda: checkpoint(b".", entries=40_000), "over 20000 entries"),
    ("digits.pth", lambda: checkpoint(b"L" + b"9" * 3_000_000 + b"L\n."), "no checkpoint"),
]
PIPES = {
    "image": (".nii.gz", ".mha", ".png", ".tif", ".npy", ".mgz", ".dcm"), "plan": (".toml",), "description": (".json",),
    "split": (".json",), "run": (".json",), "table": (".csv",), "nnunet": (".json",), "scores": (".json",),
}  # fmt: skip
DEVICES = {"image": (".nii", ".nrrd", ".jpg"), "model": (".nnseg",), "checkpoint": (".pth",)}
BESIDE = [("device.mhd", mha("8 8 8", compressed=False, data=b"", file="zero.raw")),
          ("device.nhdr", nrrd("8 8 8", encoding="raw", data=b"", file="zero.raw"))]  # fmt: skip
"""Headers whose voxels are in a link to a device."""
WRITTEN = [
    ("announced.zarr", zarr("[30000, 30000, 30000]", "[64, 64, 64]"), "30000 x 30000 x 30000"),
    ("chunks.zarr", zarr("[1000, 1000, 100]", "[1, 1, 1]"), "100,000,000 chunks"),
    ("chunk.zarr", zarr("[8, 8, 8]", "[30000, 30000, 30000]"), "not much larger than the image"),
    ("bomb.zarr", zarr("[8, 8, 8]", "[8, 8, 8]", bomb(4000)), "unpacks to more"),
    (
        "zstandard.zarr",
        zarr("[8, 8, 8]", "[8, 8, 8]", lambda path: path.write_bytes(imagecodecs.zstd_encode(bytes(200 * MB))), method="zstd"),
        "unpacks to more",
    ),
    ("twice.zarr", zarr("[8, 8, 8]", "[8, 8, 8]", filters=[{"id": "zlib"}]), "compressed once"),
    (
        "texts.zarr",
        zarr("[8, 8, 8]", "[8, 8, 8]", b"\0\0\0\x7f", method="", dtype="|O", filters=[{"id": "vlen-utf8"}]),
        "numbers, compressed once",
    ),
    (
        "texts_of_nothing.zarr",
        zarr("[8, 8, 8]", "[8, 8, 8]", lambda path: sparse(10**9, b"{}")(path.with_name(".zattrs"))),
        "has 1,000,000,000 bytes; expected at most 64,000,000",
    ),
    ("bomb.HEAD", afni(bomb(4000, form="gzip")), "unpacks to more"),
    ("dimensions.mnc", minc(2**30, b""), "has 1,073,741,824 dimensions"),
    ("announced.mnc", minc(3, b"".join(struct.pack(">I4sI", 1, b"x", 40_000) for _ in "zyx")), "40000 x 40000 x 40000"),
    ("announced.HEAD", afni(packed(bytes(1000)), dimensions="30000 30000 30000"), "30000 x 30000 x 30000"),
    ("text.HEAD", afni(packed(bytes(1024)), more="\n\n" + "a" * 20 * MB), "has 20,0"),
    ("orientation.hdr", analyze(lambda path: path.write_bytes(bytes(MB))), "has 1,000,000 bytes; expected at most 65,536"),
    ("pipe_orientation.hdr", analyze(os.mkfifo), "is a pipe"),
    ("zero_orientation.hdr", analyze(link_to_zero), "is a device"),
    ("shards.zarr", shards, "unpacks to more"),
    ("device.zarr", zarr("[8, 8, 8]", "[8, 8, 8]", link_to_zero), "is a device"),
    ("pipe.zarr", zarr("[8, 8, 8]", "[8, 8, 8]", os.mkfifo), "is a pipe"),
    ("sparse.zarr", zarr("[8, 8, 8]", "[8, 8, 8]", sparse(2**40), method=""), "has 1,099,511,627,776 bytes"),
    *(
        (f"sparse{suffix}", sparse(2**40, head), "has 1,099")
        for suffix, head in ((".jpg", b"\xff\xd8"), (".png", b"\x89PNG\r\n\x1a\n"), (".bmp", b"BM"))
    ),
]
CASES = [
    ("encrypted.case", encrypted),
    ("case.case", lambda: preprocessed(b" " * MB)),
    ("entries.case", lambda: checkpoint(b".", entries=40_000)),
]
CORPUS = [
    *(Malicious(name, writes(content), "image", words) for name, content, words in IMAGES),
    *(Malicious(name, writes(content), reader, words) for name, content, reader, words in TEXTS),
    *(Malicious(name, writes(content), "model", words) for name, content, words in MODELS),
    *(Malicious(name, writes(content), "checkpoint", words) for name, content, words in PROGRAMS),
    *(Malicious(name, writes(content), "case", "missing or damaged") for name, content in CASES),
    *(Malicious(name, write, "image", words) for name, write, words in WRITTEN),
    *(Malicious(name, beside(content), "image", "is a device") for name, content in BESIDE),
    *(Malicious(f"pipe_{reader}{suffix}", os.mkfifo, reader, "holds no scores" if reader == "scores" else "is a pipe")
      for reader, suffixes in PIPES.items() for suffix in suffixes),
    *(Malicious(f"zero_{reader}{suffix}", link_to_zero, reader, "is a device")
      for reader, suffixes in DEVICES.items() for suffix in suffixes),
    Malicious("ring", ring, "scans", "holds no scan"),
]  # fmt: skip


def _readers() -> dict[str, Callable[[Path], Any]]:
    from nnseg.commands.compare import read_scores
    from nnseg.core.dataset import Case
    from nnseg.interop.nnunet.checkpoint import open_checkpoint
    from nnseg.interop.nnunet.json import read_object
    from nnseg.network.bundle import load_model_file
    from nnseg.planning.recipe import load_recipe
    from nnseg.storage.cases import CaseStore
    from nnseg.storage.datasets.dataset_json import read_description
    from nnseg.storage.datasets.find_scans import find_scans
    from nnseg.storage.datasets.splits import read_split
    from nnseg.storage.files import read_json
    from nnseg.storage.images.formats import read_dicom_labels
    from nnseg.storage.images.raw import ReadOptions
    from nnseg.storage.images.read import read_scan
    from nnseg.storage.plan_folder import read_plan
    from nnseg.storage.run import read_folds
    from nnseg.storage.tables import read_case_table, read_rows

    def checkpoint_content(path: Path) -> None:
        with open_checkpoint(path):
            pass

    return {
        "image": lambda path: read_scan(path, repair=True),
        "description": read_description,
        "split": lambda path: read_split(path, [Case(name="a", images=())]),
        "folds": read_folds,
        "run": lambda path: read_json(path, list[int]),
        "table": read_rows,
        "groups": read_case_table,
        "segments": lambda path: read_dicom_labels(path, ReadOptions()),
        "plan": read_plan,
        "recipe": lambda path: load_recipe(str(path)),
        "model": load_model_file,
        "checkpoint": checkpoint_content,
        "scores": read_scores,
        "nnunet": read_object,
        "case": lambda path: CaseStore(path.parent).read(path.stem),
        "scans": lambda path: find_scans(path, channels=1),
    }


def _peak_mb() -> float:
    """The most memory of this process since the last call of `_forget_peak`."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000


def _size_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MB


def read_all(folder: Path, seconds: int) -> None:
    """Read each file of the corpus that lies in a folder, and print what came of it."""
    from nnseg.core.errors import NnsegError
    from nnseg.storage.images.read import read_scan

    readers = _readers()
    for one in sorted(folder.glob("warm/*")):
        read_scan(one, repair=True)
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 3000 * MB, virtual + 3000 * MB))
    signal.signal(signal.SIGALRM, _give_up)
    for one in CORPUS:
        path = folder / one.name
        if not os.path.lexists(path):
            continue
        Path("/proc/self/clear_refs").write_text("5")
        before, start, kind, message = _size_mb(), time.process_time(), "none", ""
        signal.alarm(seconds)
        try:
            readers[one.reader](path)
        except NnsegError as error:
            kind, message = "nnseg", str(error)
        except BaseException as error:
            kind, message = type(error).__name__, str(error)[:500]
        signal.alarm(0)
        row = {
            "name": one.name,
            "kind": kind,
            "message": message,
            "seconds": time.process_time() - start,
            "mb": _peak_mb() - before,
        }
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def _give_up(*_: Any) -> None:
    raise TimeoutError("it takes too long")


if __name__ == "__main__":
    read_all(Path(sys.argv[1]), int(sys.argv[2]))
