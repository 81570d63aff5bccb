"""Scans at addresses, of a web server or a bucket of S3: paths that stand for them, and copies while they are worked on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnseg.core.errors import ScanError
from nnseg.core.limits import check_limit, limit
from nnseg.storage.hub_files import open_range, parts_of

SCHEMES = ("s3", "https", "http")


def path_of(text: str, folder: Path) -> Path:
    """The path of a file: of one with an address, "s3://BUCKET/KEY", such as no file has, else from a folder on.

    Example:
        >>> path_of("s3://scans/a.nii.gz", Path("/data")), path_of("a.nii.gz", Path("/data"))
        (PosixPath('/s3:/scans/a.nii.gz'), PosixPath('/data/a.nii.gz'))
    """
    scheme, found, rest = text.partition("://")
    return Path("/", f"{scheme}:", rest) if found and scheme in SCHEMES else folder / text


def address_of(path: Path) -> str:
    """The address that a path stands for; "" for that of a file."""
    scheme = path.parts[1].removesuffix(":") if len(path.parts) > 2 else ""
    return f"{scheme}://{'/'.join(path.parts[2:])}" if scheme in SCHEMES and path.parts[1] == f"{scheme}:" else ""


def fetch(paths: Sequence[Path], folder: Path) -> tuple[Path, ...]:
    """The paths of files, those at addresses copied into a folder.

    Raises:
        ScanError: one cannot be read, or is too large.
    """
    return tuple(
        _fetch(address, folder / f"{number}") if (address := address_of(path)) else path for number, path in enumerate(paths)
    )


def _fetch(address: str, folder: Path) -> Path:
    place, _, name = address.rpartition("/")
    folder.mkdir()
    try:
        with open_range(place, name) as (_, source), (folder / name).open("wb") as file:
            for part in parts_of(source, limit("upload_bytes")):
                file.write(part)
    except OSError as error:
        raise ScanError.at(address, f"cannot be read ({error.strerror or error})", "a file", "check the address") from error
    check_limit("upload_bytes", (folder / name).stat().st_size, address, "has {:,} bytes or more", ScanError, "divide it")
    return folder / name
