"""OME-Zarr, versions 0.1 to 0.5, and plain Zarr arrays: folders, read through zarr, which the extra ``zarr`` installs.

Source: ngff.openmicroscopy.org, versions 0.4 and 0.5: "multiscales", "axes", "coordinateTransformations", "bioformats2raw.layout",
"plate".
"""

from __future__ import annotations

import io
import lzma
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np

from nnseg.core.errors import ScanError
from nnseg.core.geometry import as_vector
from nnseg.core.limits import check_limit, limit
from nnseg.storage.images.array_axes import arranged, find_array_axes
from nnseg.storage.images.raw import READ_DEFAULTS, RawImage, ReadOptions, StatedSize, check_size, errors_of_file, placeholder
from nnseg.storage.images.units import to_mm, unit_of
from nnseg.storage.images.unpack import SLACK, unpack_parts
from nnseg.system.extras import has_extra, how_to_install
from nnseg.system.regular import check_regular, files_below, open_regular

DESCRIPTIONS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""Files in the folder of a group or an array."""

TEXTS = (*DESCRIPTIONS, ".zmetadata")
"""Files that are read as a whole, as JSON."""

LARGEST_FILE = 2**31
"""Bytes of a chunk. Source: Blosc's README_CHUNK_FORMAT, whose lengths have 32 bits with a sign."""

LARGEST_CHUNK = 64
"""A chunk has at most so many times the bytes of the image; the last ones reach beyond its end."""

EMPTY = 2**64 - 1
"""Offset of a chunk that is not in its shard."""

OLD_AXES: Final = "TCZYX"
"""Of versions 0.1 and 0.2, which do not state them."""

NO_VOXEL_SIZE = "holds no voxel size in a unit of length; lengths are in voxels"


def missing_zarr() -> str:
    """The command that installs what reading Zarr needs; "" if it is installed."""
    return "" if has_extra("zarr") else how_to_install("zarr")


def is_store(folder: Path) -> bool:
    """True for the folder of a Zarr group or array."""
    return any((folder / name).is_file() for name in DESCRIPTIONS)


def store_files(folder: Path) -> tuple[Path, ...]:
    """All files in the folder of a Zarr group or array, by name; () for another folder."""
    return tuple(sorted(files_below(folder))) if is_store(folder) else ()


def read_store(source: Path | Sequence[Path], options: ReadOptions = READ_DEFAULTS) -> RawImage:
    """The finest image of an OME-Zarr folder, or a plain array; a chunk that is not there is filled, as the format says.

    Raises:
        ScanError: zarr is not installed; or the folder is damaged, holds several images, time points, or axes that are not stated.
    """
    path = source if isinstance(source, Path) else source[0].parent
    if command := missing_zarr():
        raise ScanError.at(path, "is Zarr, and zarr is not installed", "it", f"run {command}")
    import zarr  # noqa: PLC0415

    with errors_of_file(path, "a complete OME-Zarr image"):
        node = zarr.open(store=_regular_store(path), mode="r")
        return (_read_image if isinstance(node, zarr.Group) else _read_array)(path, node, options)


def _regular_store(path: Path) -> Any:
    """The store of a folder, which opens regular files only, and none that is longer than a chunk can be."""
    from zarr.storage import LocalStore  # noqa: PLC0415

    class RegularStore(LocalStore):  # type: ignore[misc,unused-ignore]
        async def get(self, key: str, *args: Any, **more: Any) -> Any:
            with suppress(FileNotFoundError, NotADirectoryError):
                check_regular(file := self.root / key)
                most = limit("text_bytes") if file.name in TEXTS else LARGEST_FILE
                if file.stat().st_size > most:
                    raise ScanError.at(file, f"has {file.stat().st_size:,} bytes", f"at most {most:,}", "save it anew")
            return await super().get(key, *args, **more)

    return RegularStore(path, read_only=True)


def _read_array(path: Path, array: Any, options: ReadOptions) -> RawImage:
    named = [
        str(name).upper() for name in array.metadata.to_dict().get("dimension_names") or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    ]
    stated = "".join(named) if all(len(name) == 1 for name in named) else ""
    axes, notes = find_array_axes(path, array.shape, stated)
    if not options.only_header:
        _check_chunks(path, array)
    return _arranged(array, axes, StatedSize(), options, notes)


def _read_image(path: Path, group: Any, options: ReadOptions) -> RawImage:
    # array.path counts from the folder that was opened, which is `path` also where the image is a group in it
    about = dict(group.attrs.get("ome") or group.attrs)  # 0.5 puts all below "ome"
    if "plate" in about:
        raise ScanError.at(path, "is a plate of many images", "one image", "name the folder of one of its fields")
    if "multiscales" not in about:
        images = sorted(p.name for p in (path / group.path).iterdir() if p.name.isdigit() and is_store(p))
        if len(images) == 1:
            return _read_image(path, group[images[0]], options)
        found = f"holds {len(images)} images" if images else "holds no image of OME-Zarr"
        raise ScanError.at(path, found, "one", f"name one, such as {path.name}/{images[0]}" if images else "export it again")
    scales = about["multiscales"]
    first, finest = scales[0], scales[0]["datasets"][0]
    array = group[finest["path"]]
    if not options.only_header:
        _check_chunks(path, array)
    axes = _axes(first.get("axes"), array.ndim)
    known = _voxel_size(axes, [*finest.get("coordinateTransformations", ()), *first.get("coordinateTransformations", ())])
    notes = [f"holds {len(scales)} images, of which the first is read [NS-S025]"] if len(scales) > 1 else []
    if labels := _label_images(group):
        notes.append(f"holds label images ({', '.join(labels)}), which are not read [NS-S025]")
    return _arranged(_one_time_point(path, array, axes), "".join(axes).replace("T", ""), known, options, notes)


def _axes(stated: Sequence[Any] | None, dimensions: int) -> dict[str, str | None]:
    """The letters of axes, with their units of length."""
    if not stated:
        return dict.fromkeys(OLD_AXES[-dimensions:])
    named = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in stated]
    return {str(axis["name"]).upper(): unit_of(axis.get("unit")) for axis in named}


def _voxel_size(axes: Mapping[str, str | None], transformations: Sequence[Mapping[str, Any]]) -> StatedSize:
    """The voxel size, if it is in a unit of length along all axes of space."""
    scales = [np.asarray(t["scale"], float) for t in transformations if t.get("type") == "scale"]
    if not scales:
        return StatedSize()
    sizes = dict(zip(axes, np.prod(scales, axis=0), strict=True))
    units = {axis: axes[axis] for axis in "ZYX" if axis in axes}
    lengths = [to_mm(float(sizes[axis]), unit) for axis, unit in units.items() if unit]
    if len(lengths) < len(units) or not all(np.isfinite(v) and v > 0 for v in lengths):
        return StatedSize()
    return StatedSize(spacing=as_vector([*([1.0] * (3 - len(lengths))), *lengths]), unit=units["X"] or "mm")


def _label_images(group: Any) -> list[str]:
    labels = group.get("labels")
    return [] if labels is None else list((labels.attrs.get("ome") or labels.attrs).get("labels", ()))


def _one_time_point(path: Path, array: Any, axes: Mapping[str, Any]) -> Any:
    """The array, of whose axis of time, if it has one, only one point is read."""
    place = list(axes).index("T") if "T" in axes else None
    if place is None:
        return array
    if array.shape[place] > 1:
        raise ScanError.at(path, f"has {array.shape[place]} time points", "one", "export them as images of their own")
    return _FirstOf(array, place)


class _FirstOf:
    """An array without one of its axes, which has length 1; read when it is indexed."""

    def __init__(self, array: Any, axis: int) -> None:
        self._array, self._axis = array, axis
        self.shape, self.dtype = (*array.shape[:axis], *array.shape[axis + 1 :]), array.dtype

    def __getitem__(self, index: Any) -> Any:
        return np.squeeze(self._array[index], self._axis)


def _check_chunks(path: Path, array: Any) -> None:
    """Raise ScanError for an image that cannot be read in memory, and for chunks that are cut or unpack to more than they should.

    Source: Blosc's README_CHUNK_FORMAT: bytes 4 to 7 of a chunk are the length of its content, 12 to 15 its own. Blosc does not
    check it, and would read beyond the end.
    """
    check_size(path, array.shape, array.dtype)
    count = math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
    check_limit("chunks", count, path, "has {:,} chunks", ScanError, "save it anew")
    most = math.prod(array.chunks) * array.dtype.itemsize
    if most > LARGEST_CHUNK * array.nbytes + SLACK:
        found = f"has chunks of {' x '.join(map(str, array.chunks))} in an image of {' x '.join(map(str, array.shape))}"
        raise ScanError.at(path, found, "chunks that are not much larger than the image", "save it anew")
    codecs = [type(codec).__name__.lower() for codec in (*array.filters, *array.compressors)]
    checks = [check for codec in codecs for kind, check in CHECKS.items() if kind in codec]
    if array.dtype.kind not in "biufc" or len(checks) > 1 or any("sharding" in codec for codec in codecs):
        found = f"holds {array.dtype} by {' and '.join(codecs)}"
        raise ScanError.at(path, found, "numbers, compressed once", "save it anew")
    for chunk in store_files(path / array.path) if checks else ():
        if chunk.name not in DESCRIPTIONS:
            with open_regular(chunk) as file:
                for part in _packed_parts(array, file.read()):
                    checks[0](chunk, part[: len(part) - 4 * codecs[-1].startswith("crc32c")], most)


def _packed_parts(array: Any, content: bytes) -> Iterator[bytes]:
    """The compressed chunks in the content of a file: itself, or those that the index of a shard names.

    Source: Zarr, sharding codec 1.0: pairs of offset and length, of 64 bits each, and four bytes of CRC32C.
    """
    if not getattr(array, "shards", None):
        yield content
        return
    count = math.prod(shard // chunk for shard, chunk in zip(array.shards, array.chunks, strict=True))
    at_start = str(array.metadata.codecs[0].index_location).endswith("start")
    first = 0 if at_start else len(content) - 16 * count - 4
    for offset, size in struct.iter_unpack("<QQ", content[first : first + 16 * count]):
        if offset != EMPTY:
            yield content[offset : offset + size]


def _check_blosc(chunk: Path, data: bytes, most: int) -> None:
    content, promised = (int.from_bytes(data[i : i + 4], "little") for i in (4, 12))
    if len(data) != promised:
        raise ScanError.at(chunk, f"has {len(data)} bytes", f"{promised}, as its header says", "copy the image again")
    _check_unpacked(chunk, content, most)


def _check_unpacked(chunk: Path, content: int, most: int) -> None:
    if content > most + SLACK:
        raise ScanError.at(chunk, f"unpacks to {content} bytes", f"{most}, as its image says", "copy the image again")


def _check_deflated(chunk: Path, data: bytes, most: int) -> None:
    for _ in unpack_parts(chunk, io.BytesIO(data), most=most):
        pass


def _check_zstandard(chunk: Path, data: bytes, most: int) -> None:
    """Unpack into memory of the size that it may have, since the length in the header is optional."""
    try:
        imagecodecs.zstd_decode(data, out=most + SLACK)
    except imagecodecs.ZstdError as error:
        found = f"unpacks to more than {most} bytes, or is damaged ({error})"
        raise ScanError.at(chunk, found, f"{most} bytes", "copy the image again") from error


def _check_lz4(chunk: Path, data: bytes, most: int) -> None:
    _check_unpacked(chunk, int.from_bytes(data[:4], "little"), most)


def _check_lzma(chunk: Path, data: bytes, most: int) -> None:
    _check_unpacked(chunk, len(lzma.LZMADecompressor().decompress(data, most + SLACK + 1)), most)


CHECKS: dict[str, Callable[[Path, bytes, int], None]] = {
    "blosc": _check_blosc,
    "gzip": _check_deflated,
    "zlib": _check_deflated,
    "bz2": _check_deflated,
    "zstd": _check_zstandard,
    "lz4": _check_lz4,
    "lzma": _check_lzma,
}
"""What checks a chunk, by a part of the codec's name: (file, compressed bytes, bytes that it may unpack to)."""


def _arranged(array: Any, axes: str, known: StatedSize, options: ReadOptions, notes: list[str]) -> RawImage:
    if not {"Y", "X"} <= set(axes) <= set("CZYX"):
        raise ValueError(f"axes {axes} are none of a volume")
    voxels = placeholder(array.shape, array.dtype) if options.only_header else np.asarray(array[...])
    raw = arranged(voxels, axes, known, options, is_2d="Z" not in axes or array.shape[axes.index("Z")] == 1)
    of_size = [] if raw.has_spacing or raw.is_2d else [NO_VOXEL_SIZE]
    return replace(raw, notes=(*notes, *of_size))
