import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnseg.core.errors import DatasetError, RunError
from nnseg.core.label_files import LabelFiles, label_paths
from nnseg.core.labels import Labels, Region
from nnseg.interop.nnunet.dataset import write_raw_dataset
from nnseg.network.nnunet_names import nnunet_name
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case


def test_names_of_parameters_in_nnunet_by_hand():
    pairs = {
        "encoder.stages.1.0.conv.weight": "encoder.stages.1.0.convs.0.conv.weight",
        "encoder.stages.2.1.norm.bias": "encoder.stages.2.0.convs.1.norm.bias",
        "encoder.stem.conv.bias": "encoder.stem.convs.0.conv.bias",
        "encoder.stages.3.2.first.conv.weight": "encoder.stages.3.blocks.2.conv1.conv.weight",
        "encoder.stages.3.2.second.norm.weight": "encoder.stages.3.blocks.2.conv2.norm.weight",
        "encoder.stages.1.0.skip.1.norm.weight": "encoder.stages.1.blocks.0.skip.1.norm.weight",
        "decoder.ups.0.bias": "decoder.transpconvs.0.bias",
        "decoder.stages.0.1.conv.weight": "decoder.stages.0.convs.1.conv.weight",
        "decoder.heads.2.bias": "decoder.seg_layers.2.bias",
    }
    assert {ours: nnunet_name(ours) for ours in pairs} == pairs


def test_a_dataset_written_for_nnunet_is_read_back_the_same(ball_dataset: Path, tmp_path: Path) -> None:
    dataset = read_dataset(ball_dataset)
    back = read_dataset(write_raw_dataset(dataset, tmp_path / "Dataset001_Balls"))
    assert back.labels == dataset.labels
    assert back.channels == dataset.channels
    assert [case.name for case in back.cases] == [case.name for case in dataset.cases]
    for before, after in zip(dataset.cases, back.cases, strict=True):
        first, second = (read_case(c, channels=1, labels=dataset.labels) for c in (before, after))
        assert (first.scan.image == second.scan.image).all()
        assert (first.label_map.labels == second.label_map.labels).all()


def test_regions_and_ignore_are_described_as_nnunet_reads_them(ball_dataset: Path, tmp_path: Path) -> None:
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    labels = Labels(names=("background", "1", "2"), values=(0, 1, 2), ignore=3, regions=regions)
    folder = write_raw_dataset(replace(read_dataset(ball_dataset), labels=labels), tmp_path / "Dataset002_Regions")
    described = json.loads((folder / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    assert described["regions_class_order"] == [1, 2]
    assert read_dataset(folder).labels.regions == regions


def test_label_map_whose_values_are_no_labels_is_written_with_those_of_the_labels(ball_dataset: Path, tmp_path: Path) -> None:
    dataset = read_dataset(ball_dataset)
    sources = [LabelFiles(paths=label_paths(case.labels), coding="instances", values={"object": 1}) for case in dataset.cases]
    numbered = replace(dataset, cases=tuple(replace(c, labels=s) for c, s in zip(dataset.cases, sources, strict=True)))
    folder = write_raw_dataset(numbered, tmp_path / "Dataset003_Objects")
    for before, after in zip(dataset.cases, read_dataset(folder).cases, strict=True):
        first, second = (read_case(c, channels=1, labels=dataset.labels).label_map.labels for c in (before, after))
        assert ((first > 0) == second).all()
        assert not label_paths(after.labels)[0].is_symlink()


def test_what_nnunet_could_not_read_is_not_written(ball_dataset: Path, tmp_path: Path) -> None:
    dataset = read_dataset(ball_dataset)
    gaps = replace(dataset, labels=Labels(names=("background", "ball"), values=(0, 255)))
    with pytest.raises(DatasetError, match="255"):
        write_raw_dataset(gaps, tmp_path / "gaps")
    with pytest.raises(RunError, match="there already"):
        write_raw_dataset(dataset, ball_dataset)
