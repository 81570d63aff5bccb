"""Datasets in nnU-Net v2's layout, and its names of the networks' parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nnseg.core.dataset import Case, Dataset
from nnseg.core.errors import DatasetError, RunError
from nnseg.network.nnunet_names import nnunet_name
from nnseg.storage.files import write_text
from nnseg.storage.images.formats import suffix_of
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.storage.images.write import write_label_map
from nnseg.system.regular import resolved


def write_raw_dataset(dataset: Dataset, folder: Path) -> Path:
    """Write a dataset in nnU-Net's raw layout, its images as links to the originals; returns the folder.

    Label maps are links too, or written on the grid of their image where their values are not the labels' values.

    Args:
        dataset: one file per channel, all with one suffix, and labels 0, 1, 2, ..., as nnU-Net needs them.
        folder: to create; nnU-Net expects the name ``DatasetXXX_Name``.

    Raises:
        DatasetError: nnU-Net could not read such a dataset.
        RunError: the folder exists.
    """
    if folder.exists():
        raise RunError(f"{folder} is there already; choose another folder")
    _check(dataset)
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for case in dataset.cases:
        for number, image in enumerate(case.images):
            (folder / "imagesTr" / f"{case.name}_{number:04d}{dataset.suffix}").symlink_to(resolved(image))
        _put_label_map(case, folder / "labelsTr" / f"{case.name}{dataset.suffix}", dataset)
    write_text(folder / "dataset.json", json.dumps(_description(dataset), indent=1) + "\n")
    return folder


def _put_label_map(case: Case, path: Path, dataset: Dataset) -> None:
    if isinstance(case.labels, Path) and suffix_of(case.labels) == dataset.suffix:
        path.symlink_to(resolved(case.labels))
        return
    assert case.labels is not None
    scan = read_scan(case.images)
    write_label_map(read_labels_of(case.labels, scan), path, like=scan.source, labels=dataset.labels)


def from_nnunet(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """nnU-Net's weights under our names, without the copies that it stores under ``all_modules`` and ``decoder.encoder``.

    Args:
        state: of a PlainConvUNet or ResidualEncoderUNet.
        ours: the ``state_dict`` of the equal network built by `nnseg.network.build.build_network`.

    Raises:
        KeyError: a weight of ours is not in ``state``.
    """
    return {name: state[nnunet_name(name)] for name in ours}


def _check(dataset: Dataset) -> None:
    labels, files = dataset.labels, [file for case in dataset.cases for file in case.images]
    suffixes = {suffix_of(file) for file in files}
    if labels.values != tuple(range(len(labels.values))) or labels.ignore not in (None, len(labels.values)):
        raise DatasetError(f"nnU-Net needs labels 0, 1, 2, ... and then the ignore value, not {labels.values} and {labels.ignore}")
    if suffixes != {dataset.suffix}:
        raise DatasetError(f"nnU-Net needs one suffix for all files, not {', '.join(sorted(suffixes))}")
    if any(len(case.images) != len(dataset.channels) or case.labels is None for case in dataset.cases):
        raise DatasetError("nnU-Net needs one file for each channel, and a label map, of each case")


def _description(dataset: Dataset) -> dict[str, Any]:
    """The content of dataset.json."""
    labels = dataset.labels
    named: dict[str, Any] = {region.name: list(region.values) for region in labels.regions}
    named = named or labels.named
    described: dict[str, Any] = {
        "channel_names": {str(i): name for i, name in enumerate(dataset.channels)},
        "labels": {"background": 0, **named, **({} if labels.ignore is None else {"ignore": labels.ignore})},
        "numTraining": len(dataset.cases),
        "file_ending": dataset.suffix,
    }
    if labels.regions:
        described["regions_class_order"] = [region.paint for region in labels.regions]
    return described
