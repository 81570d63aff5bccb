"""The archive of a submission."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nnseg.storage.files import write_aside

FIRST_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time that an archive can state: equal files give equal archives."""


def write_archive(folder: Path, path: Path) -> None:
    """Pack all files below a folder; paths in the archive begin below it.

    Raises:
        WriteError: the archive cannot be written.
    """
    with write_aside(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), FIRST_TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with file.open("rb") as content, archive.open(entry, "w", force_zip64=True) as packed:
                while part := content.read(2**20):
                    packed.write(part)
