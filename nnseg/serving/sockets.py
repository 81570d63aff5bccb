"""The images in the sockets of a case of grand-challenge.org, and the file that is answered. No torch is loaded here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnseg.core.errors import ScanError
from nnseg.core.names import match_names
from nnseg.storage.images.formats import folder_format, image_files

INPUTS = "inputs.json"
IMAGES = "images"
"""The folder in /input of sockets that hold images."""

RESULT = f"{IMAGES}/segmentation"
"""The socket of the label map, if no other is named."""


def result_file(target: Path, output: str = RESULT) -> Path:
    """The file of the label map, whose folder is made.

    Args:
        target: /output.
        output: path of the socket.
    """
    file = target / output / "output.mha"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def find_images(source: Path, channels: Sequence[str], inputs: Sequence[str] = ()) -> tuple[Path, ...]:
    """The image of each channel in a folder of inputs: a file, or a folder of DICOM slices.

    Args:
        source: /input.
        channels: names of those that the model needs.
        inputs: slugs of their sockets; by default they are told by their names.

    Raises:
        ScanError: there is no image for a channel, or it is not known which.
    """
    sockets = _sockets(source)
    wanted = tuple(inputs) or _of_channels(channels, sockets)
    if missing := [slug for slug in wanted if slug not in sockets]:
        raise ScanError.at(source, f"has no socket {missing[0]}", f"one of {', '.join(sockets) or 'none'}", "name it by --inputs")
    return tuple(_image(sockets[slug]) for slug in wanted)


def _sockets(source: Path) -> dict[str, Path]:
    """The folders of sockets that hold images, by slug: those that inputs.json lists, else all in images."""
    listed = source / INPUTS
    if not listed.is_file():
        return {folder.name: folder for folder in sorted((source / IMAGES).glob("*")) if folder.is_dir()}
    entries = json.loads(listed.read_text(encoding="utf-8"))
    about = [entry.get("socket") or entry.get("interface") or {} for entry in entries]  # the second in older cases
    held = [one for one in about if str(one.get("relative_path", "")).startswith(f"{IMAGES}/")]
    return {one["slug"]: source / one["relative_path"] for one in held}


def _of_channels(channels: Sequence[str], sockets: Mapping[str, Path]) -> tuple[str, ...]:
    """The slugs of sockets in the order of channels."""
    slugs = [*sockets]
    if len(channels) == len(slugs) == 1:
        return tuple(slugs)
    places = match_names(channels, slugs)
    known = [slugs[place] for place in places if place is not None]
    if len(known) < len(channels):
        found, expected = f"the sockets {', '.join(slugs) or '(none)'} are there", f"one for each of {', '.join(channels)}"
        raise ScanError(f"{found}; expected {expected}; name them in the order of channels by --inputs")
    return tuple(known)


def _image(folder: Path) -> Path:
    """The only image in the folder of a socket."""
    if folder.is_dir() and folder_format(folder):  # DICOM
        return folder
    files = image_files(folder) if folder.is_dir() else ()
    if len(files) != 1:
        raise ScanError.at(folder, f"holds {len(files)} images", "one", "check the socket")
    return files[0]
