"""Label maps as a derivative dataset of BIDS.

Source: Brain Imaging Data Structure 1.10, "Derived dataset and pipeline description" and "Imaging derivatives: Segmentations".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nnseg.core.colours import hex_colour_of
from nnseg.core.errors import RunError
from nnseg.interop.conversion.converted_scan import ConvertedScan
from nnseg.storage.datasets.bids import parse_name
from nnseg.storage.files import write_json, write_text
from nnseg.storage.images.write import write_label_map
from nnseg.system.machine import versions

VERSION = "1.10.0"
"""Of BIDS."""

ENTITIES = ("sub", "ses", "acq", "ce", "rec", "run")
"""Of anatomical images, in the order that they have in names."""


def bids_name(case: str) -> str:
    """The begin of the names of a case's files: its own entities, or a subject named after it.

    Example:
        ``bids_name("sub-01_ses-2_run-1_T1w") == "sub-01_ses-2_run-1"`` and ``bids_name("liver_012") == "sub-liver012"``.
    """
    own = {key: _plain(value) for key, value in parse_name(case).entities.items()}
    known = {key: own[key] for key in ENTITIES if own.get(key)}
    entities = known if "sub" in known else {"sub": _plain(case)}
    return "_".join(f"{key}-{value}" for key, value in entities.items())


def check_bids_names(cases: Sequence[str]) -> None:
    """Raise RunError for cases whose files would have one name, or none."""
    seen: dict[str, str] = {}
    for case in cases:
        name = bids_name(case)
        if name == "sub-":
            raise RunError(f'the case "{case}" has no letter or digit of which BIDS could make the name of a subject; rename it')
        if name in seen:
            raise RunError(f"the cases {seen[name]} and {case} would both be {name} in BIDS; rename one of them")
        seen[name] = case


def write_bids(scan: ConvertedScan, folder: Path) -> tuple[Path, ...]:
    """The files that are written: the label map ``sub-01/anat/sub-01_dseg.nii.gz``, and beside it the table of its labels.

    Raises:
        RunError: the folder cannot be written to.
    """
    name = bids_name(scan.name)
    folders = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
    place = folder.joinpath(*folders, "anat")
    rows = [f"{value}\t{label}\t{hex_colour_of(i)}" for i, (label, value) in enumerate(scan.labels.named.items())]
    table, about = place / f"{name}_dseg.tsv", place / f"{name}_dseg.json"
    written = write_label_map(scan.label_map, place / f"{name}_dseg.nii.gz", like=scan.source)
    write_text(table, "\n".join(["index\tname\tcolor", *rows]) + "\n")
    write_json(about, {"Description": "Label map predicted by nnseg", "Manual": False, "SpatialReference": "orig"})
    return (*written, table, about)


def write_description(folder: Path, ignored: Sequence[str]) -> tuple[Path, ...]:
    """The files that are written: what makes a folder a derivative dataset.

    Args:
        ignored: names of files in it that are not of BIDS.
    """
    made_by = {"Name": "nnseg", "Version": versions()["nnseg"], "Description": "nnseg predict, nnseg convert"}
    about = {"Name": "Segmentations", "BIDSVersion": VERSION, "DatasetType": "derivative", "GeneratedBy": [made_by]}
    files = folder / "dataset_description.json", folder / ".bidsignore"
    write_json(files[0], about)
    write_text(files[1], "".join(f"{name}\n" for name in ignored))
    return files


def _plain(text: str) -> str:
    """The letters and digits of ASCII in a text: all that values of entities may have."""
    return re.sub(r"[^A-Za-z0-9]", "", text)
