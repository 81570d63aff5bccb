"""Digests of all that reading images and cases depends on, to notice changes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nnseg.core.dataset import Case
from nnseg.core.errors import ScanError
from nnseg.core.frozen import digest
from nnseg.core.label_files import LabelFiles
from nnseg.storage.files import file_hash
from nnseg.storage.images.formats import files_of
from nnseg.system.machine import total_ram_gb


def content_hash(files: Sequence[Path]) -> str:
    """A digest of all bytes that reading images depends on, in this order; names do not count, but those of volumes inside a file.

    Args:
        files: images, volumes in files, or folders of DICOM slices. A file that is read with an image (voxels of .mhd, spacing of
            TIFF) counts too.

    Raises:
        ScanError: a file is missing or cannot be read, or is larger than the machine's memory, so that no image is read from it.
    """
    digest, known = hashlib.blake2b(digest_size=16), dict[tuple[int, int], bytes]()
    for path in files:
        for part in files_of(path):
            digest.update(_digest_of(part, known))
        if path.parent.is_file():
            digest.update(path.name.encode())
    return digest.hexdigest()


def _digest_of(part: Path, known: dict[tuple[int, int], bytes]) -> bytes:
    """The digest of a file; of one that a header lists very many times, by whatever names, its bytes are read once.

    Args:
        known: digests by disk and number of the file; this one's is added.
    """
    try:
        state = part.stat()
        if state.st_size > 1e9 * total_ram_gb():  # a file without content may have terabytes
            found = f"has {state.st_size:,} bytes, more than this machine has memory"
            raise ScanError.at(part, found, "an image that fits into memory", "cut it", "NS-S037")
        place = (state.st_dev, state.st_ino)
        if place not in known:
            known[place] = bytes.fromhex(file_hash(part))
    except OSError as error:
        raise ScanError.at(part, f"cannot be read ({error.strerror})", "a file", "restore it") from error
    return known[place]


def case_key(case: Case, content: str = "") -> str:
    """A digest of all that reading a case depends on: the bytes of its files, what its label map's marks mean, a given spacing.

    Args:
        content: `content_hash` of its files, if it is known.

    Raises:
        ScanError: a file is missing or cannot be read.
    """
    content = content or content_hash(case.files)
    places = {"paths", "view", "outside", "objects"}
    marks = [case.labels.model_dump(mode="json", exclude=places)] if isinstance(case.labels, LabelFiles) else []
    given = [*marks, *([case.spacing] if case.spacing else [])]
    return digest([content, *given]) if given else content
