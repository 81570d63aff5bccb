"""What ITK leaves out of NRRD headers: the unit of space, and the files in which the voxels of a detached header lie.

Source: teem.sourceforge.net/nrrd/format.html, sections 3 ("detached headers"), 5 ("data file") and 6 ("space units", "units").
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnseg.core.errors import ScanError
from nnseg.core.limits import limit
from nnseg.storage.images.units import unit_of
from nnseg.system.regular import open_regular

NRRD = (".nrrd", ".nhdr")
"""Suffixes; 3D Slicer puts ".seg" before them in names of label maps: p.seg.nrrd belongs to p.nrrd."""

HEADER_BYTES = 2**20

NUMBERED = re.compile(r"%\d*[du]")
"""In a name: the place of a number, for which NRRD takes no other use of the percent sign."""

_SHORT = re.compile(r"-?\d{1,9}")


def nrrd_header(path: Path) -> dict[str, str]:
    """The fields of a header by name, in lower case; "" as the name of the lines that follow ``data file: LIST``."""
    with open_regular(path) as file:
        text = re.split(rb"\r?\n\r?\n", file.read(HEADER_BYTES), maxsplit=1)[0]
    fields: dict[str, str] = {}
    files: list[str] = []
    for line in os.fsdecode(text).splitlines()[1:]:
        if fields.get("data file", "").startswith("LIST"):
            files.append(line.strip())
        elif not line.startswith("#") and re.match(r"[^:]+: ", line):
            name, value = line.split(": ", 1)
            fields["data file" if name.lower() == "datafile" else name.lower()] = value.strip()
    return fields | {"": "\n".join(files)}


def nrrd_files(path: Path) -> tuple[Path, ...]:
    """The files in which the voxels of a header lie; none if they follow in the header's own file."""
    fields = nrrd_header(path)
    name = fields.get("data file", "")
    if not name:
        return ()
    if name.startswith("LIST"):
        return tuple(path.parent / other for other in fields[""].splitlines() if other)
    if NUMBERED.search(name):
        return numbered_files(path, name)
    return (path.parent / name,)


def numbered_files(path: Path, text: str, *, meta: bool = False) -> tuple[Path, ...]:
    """The files that a header names by a pattern: ``slice%03d.raw 1 20 1`` has the name, first and last number, and the step.

    The libraries that read the voxels give the name to C's printf: what is not one short number would read and write their memory.

    Args:
        meta: the pattern of MetaImage, whose numbers may be missing, and whose step is positive; as many files as slices count.

    Raises:
        ScanError: it is no such pattern, or of too many files.
    """
    name, *numbers = text.split() or [""]
    whole = re.fullmatch(r"[^%]*%\d{0,2}[du][^%]*", name) and all(map(_SHORT.fullmatch, numbers))
    if not whole or not 3 * (not meta) <= len(numbers) <= 4:
        raise _wrong_pattern(path, text)
    first, last, step = map(int, (*numbers, *("0", "0", "1")[len(numbers) :])[:3])
    found = range(first, last + (1 if step > 0 else -1), step or 1)
    if step == 0 or (meta and step < 0) or (not meta and len(found) > limit("data_files")):
        raise _wrong_pattern(path, text)
    return () if meta else tuple(path.parent / (name % number) for number in found)


def _wrong_pattern(path: Path, text: str) -> ScanError:
    expected = f"a name with one %d, first number, last and step, and at most {limit('data_files')} files"
    return ScanError.at(path, f'has the data files "{text[:100]}"', expected, "export it again")


def nrrd_unit(path: Path) -> str:
    """The unit of lengths that a header states; mm if it states none.

    Raises:
        ScanError: it states several.
    """
    fields = nrrd_header(path)
    texts = re.findall(r'"([^"]*)"', fields.get("space units") or fields.get("units") or "")
    units = {unit for text in texts if (unit := unit_of(text))}
    if len(units) > 1:
        raise ScanError.at(path, f"has lengths in {' and '.join(sorted(units))}", "one unit", "export it again")
    return next(iter(units), "mm")


def state_unit(path: Path, unit: str) -> None:
    """Write the unit of lengths into the header of a three-dimensional NRRD file that ITK has written."""
    content = path.read_bytes()
    end = content.index(b"\n\n")
    line = "space units: " + " ".join([f'"{unit}"'] * 3)
    path.write_bytes(content[:end] + b"\n" + line.encode() + content[end:])
