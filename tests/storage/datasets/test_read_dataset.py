"""Datasets: every layout gives the same cases, and what is wrong with one case costs no other."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from nnseg.core.dataset import Case, Dataset
from nnseg.core.errors import DatasetError, ScanError
from nnseg.core.labels import Labels, Region
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case
from nnseg.storage.images.read import read_scan

LABELS = Labels(names=("background", "a", "b"), values=(0, 1, 2))


def volume(path: Path, voxels=None, affine=None) -> Path:
    """A NIfTI file; noise unless voxels are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32) if voxels is None else voxels
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def labels(path: Path, *values: int, affine=None) -> Path:
    """A label map that shows each value once, and otherwise 0."""
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels.flat[: len(values)] = values
    return volume(path, voxels, affine)


def picture(path: Path, pixels=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6) if pixels is None else pixels).save(path)
    return path


def describe(folder: Path, **content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content, indent=1))


def names(dataset: Dataset) -> list[str]:
    return [c.name for c in dataset.cases]


def messages(dataset: Dataset, level: str) -> list[str]:
    return [str(f) for f in dataset.findings if f.level == level]


def decathlon(folder: Path, *cases: str, **content) -> Path:
    for case in cases:
        volume(folder / "imagesTr" / f"{case}.nii.gz")
        labels(folder / "labelsTr" / f"{case}.nii.gz", 1, 2)
    entries = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    given = {"name": "D", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "2": "b"}, "training": entries}
    describe(folder, **{**given, **content})
    return folder


def nnunet(folder: Path, *cases: str, channels: int = 2, **content) -> Path:
    for case in cases:
        for i in range(channels):
            volume(folder / "imagesTr" / f"{case}_{i:04d}.nii.gz")
        labels(folder / "labelsTr" / f"{case}.nii.gz", 1, 2)
    given = {"channel_names": {str(i): f"c{i}" for i in range(channels)}, "labels": {"background": 0, "a": 1, "b": 2}}
    describe(folder, **{**given, "numTraining": len(cases), "file_ending": ".nii.gz", **content})
    return folder


def pair(folder: Path, *cases: str, suffixes=(".png", ".png"), values=(0, 255)) -> Path:
    for case in cases:
        picture(folder / "images" / (case + suffixes[0]))
        picture(folder / "labels" / (case + suffixes[1]), np.resize(np.array(values, np.uint8), (5, 6)))
    return folder


def test_decathlon_layout_is_read(tmp_path):
    dataset = read_dataset(decathlon(tmp_path, "b_001", "a_002"))
    assert dataset.describe() == "Medical Segmentation Decathlon layout, 2 cases, 1 channel (MRI), labels a=1, b=2"
    assert names(dataset) == ["a_002", "b_001"]
    assert dataset.cases[0].images == (tmp_path / "imagesTr" / "a_002.nii.gz",)
    assert (dataset.name, dataset.suffix, dataset.findings) == ("D", ".nii.gz", ())


def test_what_the_makers_say_of_a_dataset_is_kept(tmp_path):
    said = {"license": "CC-BY 4.0", "reference": "Somebody\n  2018", "relase": 1.0, "description": "", "tensorImageSize": "3D"}
    about = read_dataset(decathlon(tmp_path, "c1", **said)).about
    assert about == {"licence": "CC-BY 4.0", "reference": "Somebody 2018", "release": "1.0"}
    assert len(read_dataset(decathlon(tmp_path / "long", "c1", licence="x" * 9999)).about["licence"]) == 500


def test_decathlon_of_nnunets_first_version_finds_its_channel_files(tmp_path):
    folder = decathlon(tmp_path, "x", modality={"0": "T1", "1": "T2"})
    (tmp_path / "imagesTr" / "x.nii.gz").rename(tmp_path / "imagesTr" / "x_0000.nii.gz")
    volume(tmp_path / "imagesTr" / "x_0001.nii.gz")
    dataset = read_dataset(folder)
    assert [p.name for p in dataset.cases[0].images] == ["x_0000.nii.gz", "x_0001.nii.gz"]
    assert dataset.findings == ()


def test_decathlon_finds_everything_wrong_in_one_pass(tmp_path):
    folder = decathlon(tmp_path, "a", "b", "c", numTraining=9)
    (tmp_path / "imagesTr" / "a.nii.gz").unlink()
    (tmp_path / "labelsTr" / "b.nii.gz").unlink()
    volume(tmp_path / "imagesTr" / "new.nii.gz")
    labels(tmp_path / "labelsTr" / "old.nii.gz", 1)
    volume(tmp_path / "imagesTr" / "._c.nii.gz")
    dataset = read_dataset(folder)
    assert names(dataset) == ["c"]
    errors, warnings, notes = (messages(dataset, level) for level in ("error", "warning", "note"))
    assert [e.split(" is ")[0] for e in errors] == [
        f"case a: image {tmp_path}/imagesTr/a.nii.gz",
        f"case b: label map {tmp_path}/labelsTr/b.nii.gz",
    ]
    assert any("image" in w and "new.nii.gz is not listed" in w for w in warnings)
    assert any("label map" in w and "old.nii.gz is not listed" in w for w in warnings)
    assert len(warnings) == 2
    assert len(notes) == 1
    assert "numTraining is 9" in notes[0]


def test_unusable_entries_of_a_list_cost_only_themselves(tmp_path):
    folder = decathlon(tmp_path, "a")
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] += ["text", {"label": "x"}, {"image": 7}, {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]
    describe(folder, **content)
    dataset = read_dataset(folder)
    assert names(dataset) == ["a"]
    errors = messages(dataset, "error")
    assert [f'entry {i} of "training"' in e for i, e in zip((2, 3, 4), errors, strict=False)] == [True] * 3
    assert "listed twice" in errors[3]


def test_files_of_one_name_in_different_folders_are_different_cases(tmp_path):
    entries = []
    for patient in ("p1", "p2"):
        volume(tmp_path / patient / "image.nii")
        labels(tmp_path / patient / "seg.nii", 1)
        entries.append({"image": f"{patient}/image.nii", "label": f"{patient}/seg.nii"})
    describe(tmp_path, training=entries, labels={"0": "background", "1": "a"}, modality={"0": "CT"})
    assert names(read_dataset(tmp_path)) == ["p1_seg", "p2_seg"]


def test_nnunet_layout_is_read(tmp_path):
    dataset = read_dataset(nnunet(tmp_path / "Dataset001_X", "a", "b"))
    assert dataset.describe() == "nnU-Net raw layout, 2 cases, 2 channels (c0, c1), labels a=1, b=2"
    assert [p.name for p in dataset.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert dataset.name == "Dataset001_X"
    assert dataset.findings == ()


def test_nnunet_channels_are_accepted_both_ways_round(tmp_path):
    for i, given in enumerate(({"0": "R", "1": "G"}, {"R": 0, "G": 1}, ["R", "G"])):
        assert read_dataset(nnunet(tmp_path / str(i), "a", channel_names=given)).channels == ("R", "G")


def test_nnunet_regions_and_ignore_are_understood(tmp_path):
    given = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    found = read_dataset(nnunet(tmp_path, "a", labels=given, regions_class_order=[1, 2, 3])).labels
    assert found.names == ("background", "label 1", "label 2", "enhancing")
    assert found.values == (0, 1, 2, 3)
    assert found.ignore == 4
    assert found.regions == (
        Region(name="whole", values=(1, 2, 3), paint=1),
        Region(name="core", values=(2, 3), paint=2),
        Region(name="enhancing", values=(3,), paint=3),
    )


@pytest.mark.parametrize("order", [None, [3, 1, 2]])
def test_regions_are_painted_from_the_outside_in_whatever_order_they_are_named_in(tmp_path, order):
    given = {"background": 0, "enhancing": 3, "whole": [1, 2, 3], "core": [2, 3]}
    more = {} if order is None else {"regions_class_order": order}
    regions = read_dataset(nnunet(tmp_path, "a", labels=given, **more)).labels.regions
    assert [(region.name, region.paint) for region in regions] == [("whole", 1), ("core", 2), ("enhancing", 3)]


def test_nnunet_table_of_files_is_read(tmp_path):
    volume(tmp_path / "far" / "one.nii")
    volume(tmp_path / "far" / "two.nii")
    labels(tmp_path / "away" / "seg.nii", 1)
    table = {"case7": {"images": ["far/one.nii", "far/two.nii"], "label": "away/seg.nii"}, "case8": {"images": []}}
    describe(tmp_path, dataset=table, channel_names={"0": "x", "1": "y"}, labels={"background": 0, "a": 1}, file_ending=".nii")
    dataset = read_dataset(tmp_path)
    assert dataset.cases[0].name == "case7"
    assert [p.name for p in dataset.cases[0].images] == ["one.nii", "two.nii"]
    assert ["case8" in e and "names no image" in e for e in messages(dataset, "error")] == [True]


def test_nnunet_finds_everything_wrong_in_one_pass(tmp_path):
    folder = nnunet(tmp_path, "a", "b", "c", "d", "e")
    (folder / "imagesTr" / "a_0001.nii.gz").unlink()
    (folder / "labelsTr" / "b.nii.gz").unlink()
    for i in range(2):
        (folder / "imagesTr" / f"c_{i:04d}.nii.gz").unlink()
    volume(folder / "imagesTr" / "d_0002.nii.gz")
    volume(folder / "imagesTr" / "notes_0000.nii")
    volume(folder / "imagesTr" / "notes_0000.nii.gz")
    dataset = read_dataset(folder)
    assert names(dataset) == ["e"]
    by_case = {f.case: f.message for f in dataset.findings if f.level == "error"}
    assert "channel file a_0001 is missing" in by_case["a"]
    assert "b_0000.nii.gz has no label map" in by_case["b"]
    assert "labelsTr/c.nii.gz has no image" in by_case["c"]
    assert "d_0002.nii.gz is one channel too many" in by_case["d"]
    assert "notes_0000.nii and notes_0000.nii.gz share one name" in by_case["notes"]


def test_one_file_may_hold_all_channels_of_a_case(tmp_path):
    for case in ("a", "b"):
        picture(tmp_path / "imagesTr" / f"{case}_0000.png", np.arange(90, dtype=np.uint8).reshape(5, 6, 3))
        picture(tmp_path / "labelsTr" / f"{case}.png", np.eye(5, 6, dtype=np.uint8))
    describe(tmp_path, channel_names={"0": "R", "1": "G", "2": "B"}, labels={"background": 0, "a": 1}, file_ending=".png")
    dataset = read_dataset(tmp_path)
    assert names(dataset) == ["a", "b"]
    assert read_case(dataset.cases[0], channels=3, labels=dataset.labels).scan.image.shape == (3, 1, 5, 6)


def test_pair_of_folders_takes_its_labels_from_the_files(tmp_path):
    dataset = read_dataset(pair(tmp_path, "x", "y", suffixes=(".jpg", ".png")))
    assert dataset.layout == "pair of folders layout (images/ and labels/)"
    assert dataset.labels == Labels(names=("background", "foreground"), values=(0, 255))
    assert (dataset.channels, dataset.suffix, names(dataset)) == (("image",), ".jpg", ["x", "y"])
    assert ["0 background, 255 foreground" in n for n in messages(dataset, "note")] == [True]


def test_pair_of_folders_with_many_values_names_them_by_value(tmp_path):
    pair(tmp_path, "x", values=(0, 4))
    pair(tmp_path, "y", values=(0, 205))
    assert read_dataset(tmp_path).labels == Labels(names=("background", "label 4", "label 205"), values=(0, 4, 205))


def test_pair_of_folders_gives_the_same_for_any_number_of_workers(tmp_path):
    pair(tmp_path, "x", "y", "z")
    assert read_dataset(tmp_path, workers=1) == read_dataset(tmp_path, workers=2)


def test_pair_of_folders_respects_a_dataset_json_beside_it(tmp_path):
    pair(tmp_path, "x")
    describe(tmp_path, channel_names=["EM"], labels={"background": 0, "cell": 255})
    dataset = read_dataset(tmp_path)
    assert (dataset.channels, dataset.labels.names, dataset.findings) == (("EM",), ("background", "cell"), ())


def test_numbered_slices_are_not_taken_for_channels(tmp_path):
    dataset = read_dataset(pair(tmp_path, "slice_0000", "slice_0001", "slice_0002"))
    assert names(dataset) == ["slice_0000", "slice_0001", "slice_0002"]


def test_channel_numbers_are_understood_without_a_dataset_json(tmp_path):
    folder = nnunet(tmp_path, "a", "b")
    (folder / "dataset.json").unlink()
    dataset = read_dataset(folder)
    assert names(dataset) == ["a", "b"]
    assert dataset.channels == ("channel 0", "channel 1")


def test_label_maps_that_cannot_be_read_cost_only_their_case(tmp_path):
    pair(tmp_path, "a", "b")
    (tmp_path / "labels" / "a.png").write_bytes(b"no picture")
    dataset = read_dataset(tmp_path)
    assert names(dataset) == ["b"]
    assert ["case a" in e and "a.png: is not an image" in e for e in messages(dataset, "error")] == [True]


def test_folder_is_never_written_to(tmp_path):
    folder = pair(tmp_path / "data", "a", "b")
    before = {p: p.stat().st_mtime_ns for p in [folder, *folder.rglob("*")]}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        dataset = read_dataset(folder)
        read_case(dataset.cases[0], channels=1, labels=dataset.labels)
        assert {p: p.stat().st_mtime_ns for p in [folder, *folder.rglob("*")]} == before
    finally:
        for path in before:
            path.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"labels": {"0": "background",\n "1": "a",}}', r"dataset.json, line 2, column \d+: is not valid JSON"),
        ("[1, 2]", "holds a list; expected an object"),
        ('{"labels": {"a": "x"}}', r'"labels" has .a.: .x.'),
        ('{"labels": {"background": 0, "a": 1.5}}', '"labels" has'),
        ('{"labels": {"background": 0}}', "at least one label besides the background"),
        ('{"labels": {"background": 0, "a": 1, "b": 1}}', "gives the value 1 to a, b"),
        ('{"labels": {"background": 0, "a": [1, 2, 3], "b": 3}}', "regions_class_order.*2 label values"),
        ('{"channel_names": {"0": "a", "2": "b"}}', "numbers from 0"),
        ('{"training": 3}', '"training" is no list'),
    ],
)
def test_malformed_dataset_json_is_refused_with_what_is_wrong(tmp_path, text, words):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=words):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("image_values", "label_values", "words"),
    [
        (None, (1, 7, 7), r"label map has the value 7 \(2 voxels\); expected the declared 0, 1, 2"),
        (np.full((4, 5, 6), 3.0), (1,), "channel 0 is constant: every voxel is 3"),
        (np.random.default_rng(0).normal(size=(4, 5, 7)), (1,), r"shape \(6, 5, 4\).*image a.nii has \(7, 5, 4\)"),
        (np.random.default_rng(0).normal(size=(4, 5, 6, 2)), (1,), "has 2 channels in 1 files"),
    ],
)
def test_case_whose_parts_do_not_fit_is_refused(tmp_path, image_values, label_values, words):
    case = Case(name="a", images=(volume(tmp_path / "a.nii", image_values),), labels=labels(tmp_path / "b.nii", *label_values))
    with pytest.raises(ScanError, match=words):
        read_case(case, channels=1, labels=LABELS)


@pytest.mark.parametrize(("shift", "expected"), [(0.005, 0), (0.1, 1)])
def test_label_map_a_little_beside_its_image_is_taken_with_a_note(tmp_path, shift, expected):
    affine = np.eye(4)
    affine[0, 3] = shift
    case = Case(name="a", images=(volume(tmp_path / "a.nii"),), labels=labels(tmp_path / "b.nii", 1, affine=affine))
    read = read_case(case, channels=1, labels=LABELS)
    assert [f.level for f in read.findings] == ["note"] * expected
    assert read.label_map.grid == read.scan.grid


def test_label_map_far_from_its_image_is_refused_with_the_distance(tmp_path):
    affine = np.eye(4)
    affine[0, 3] = 50
    case = Case(name="a", images=(volume(tmp_path / "a.nii"),), labels=labels(tmp_path / "b.nii", 1, affine=affine))
    with pytest.raises(ScanError, match=r"b.nii: label map lies up to 50 mm away"):
        read_case(case, channels=1, labels=LABELS)


def test_label_map_stored_in_another_voxel_order_is_turned_onto_its_image(tmp_path):
    voxels = np.zeros((4, 5, 6), np.float32)
    voxels[3, 1, 2] = 1
    stored = nib.Nifti1Image(voxels.astype(np.uint8), np.eye(4)).as_reoriented([[2, -1], [0, 1], [1, -1]])
    nib.save(stored, tmp_path / "b.nii")
    case = Case(name="a", images=(volume(tmp_path / "a.nii", voxels),), labels=tmp_path / "b.nii")
    read = read_case(case, channels=1, labels=LABELS)
    assert np.array_equal(read.label_map.labels, read.scan.image[0])
    assert [(finding.level, finding.code) for finding in read.findings] == [("note", "NS-L012")]


def test_label_map_without_positions_takes_those_of_its_scan(tmp_path):
    pixels = np.zeros((5, 6), np.uint8)
    pixels[1, 2] = 1
    turned = nib.Nifti1Image(pixels.T[:, :, None].astype(np.float32), np.diag([0.5, 0.5, 2, 1]))  # RAS: both axes flip on reading
    nib.save(turned, tmp_path / "a.nii")
    case = Case(name="a", images=(tmp_path / "a.nii",), labels=picture(tmp_path / "b.png", pixels))
    read = read_case(case, channels=1, labels=LABELS)
    assert np.array_equal(read.label_map.labels, read.scan.image[0])


def test_empty_label_map_is_a_warning(tmp_path):
    case = Case(name="a", images=(volume(tmp_path / "a.nii"),), labels=labels(tmp_path / "b.nii"))
    findings = read_case(case, channels=1, labels=LABELS).findings
    assert [(f.level, f.case, Path(f.file).name) for f in findings] == [("warning", "a", "b.nii")]


def scan_names(folder: Path, channels: int) -> list[tuple[str, int]]:
    return [(c.name, len(c.images)) for c in find_scans(folder, channels=channels).cases]


def test_scans_are_found_whatever_their_suffix_and_folder(tmp_path):
    volume(tmp_path / "a.nii.gz")
    volume(tmp_path / "deep" / "er" / "b.nii")
    picture(tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("hello")
    volume(tmp_path / "._a.nii.gz")
    assert scan_names(tmp_path, 1) == [("a", 1), ("c", 1), ("deep_er_b", 1)]


def test_channel_files_are_grouped_for_a_model_of_several_channels(tmp_path):
    for name in ("a_0000", "a_0001", "b_0000", "both"):
        volume(tmp_path / f"{name}.nii.gz")
    assert scan_names(tmp_path, 2) == [("a", 2), ("b", 1), ("both", 1)]


def test_first_channels_number_is_dropped_for_a_model_of_one_channel(tmp_path):
    for name in ("a_0000", "b_0000"):
        volume(tmp_path / f"{name}.nii.gz")
    assert scan_names(tmp_path, 1) == [("a", 1), ("b", 1)]


def test_numbered_slices_are_scans_of_their_own_for_a_model_of_one_channel(tmp_path):
    for i in range(3):
        picture(tmp_path / f"s_{i:04d}.png")
    assert scan_names(tmp_path, 1) == [("s_0000", 1), ("s_0001", 1), ("s_0002", 1)]


def test_a_single_file_is_a_scan_with_the_channels_beside_it(tmp_path):
    first, _ = volume(tmp_path / "a_0000.nii.gz"), volume(tmp_path / "a_0001.nii.gz")
    assert [(c.name, len(c.images)) for c in find_scans(first, channels=2).cases] == [("a", 2)]
    assert [(c.name, len(c.images)) for c in find_scans(first, channels=1).cases] == [("a", 1)]


def test_scans_of_one_name_are_told_apart_by_their_suffix(tmp_path):
    volume(tmp_path / "a.nii")
    volume(tmp_path / "a.nii.gz")
    assert scan_names(tmp_path, 1) == [("a_nii", 1), ("a_nii_gz", 1)]


@pytest.mark.parametrize("what", ["missing", "folder", "file"])
def test_where_there_is_no_scan_the_suffixes_found_are_listed(tmp_path, what):
    (tmp_path / "notes.docx").write_text("hello")
    path = {"missing": tmp_path / "nowhere", "folder": tmp_path, "file": tmp_path / "notes.docx"}[what]
    with pytest.raises(
        DatasetError, match="no such file or folder" if what == "missing" else r"docx.*expected OME-Zarr, DICOM or one of \.nii"
    ):
        find_scans(path, channels=1)


def test_link_that_leads_in_circles_is_followed_once(tmp_path):
    volume(tmp_path / "in" / "a.nii")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert scan_names(tmp_path, 1) == [("in_a", 1)]


def test_content_hash_tells_bytes_and_order_apart_but_not_names(tmp_path):
    one, same, other = (tmp_path / n for n in ("one", "same", "other"))
    one.write_bytes(b"x")
    same.write_bytes(b"x")
    other.write_bytes(b"y")
    assert content_hash([one]) == content_hash([same]) != content_hash([other])
    assert content_hash([one, other]) != content_hash([other, one])
    with pytest.raises(ScanError, match="gone"):
        content_hash([tmp_path / "gone"])


META = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = "


@pytest.mark.parametrize("named", ["s1.raw", "LIST\ns0.raw\ns1.raw\n", "s%d.raw 0 1 1"])
def test_content_hash_of_a_metaimage_changes_with_its_voxels(tmp_path, named):
    path, data = tmp_path / "a.mhd", tmp_path / "s1.raw"
    path.write_text(META + named)
    (tmp_path / "s0.raw").write_bytes(bytes(4))
    data.write_bytes(bytes(8 if named == "s1.raw" else 4))
    before, scan = content_hash([path]), read_scan(path)
    data.write_bytes(bytes(len(data.read_bytes()) - 1) + b"\1")
    assert read_scan(path).image.sum() == scan.image.sum() + 1
    assert content_hash([path]) != before
    data.unlink()
    if "%" not in named:
        with pytest.raises(ScanError, match=r"s1\.raw: cannot be read"):
            content_hash([path])


@pytest.mark.parametrize("name", ["a.mhd", "a.tif", "a.nii.gz"])
def test_content_hash_of_a_missing_image_names_its_file(tmp_path, name):
    with pytest.raises(ScanError, match=f"{name}: cannot be read"):
        content_hash([tmp_path / name])


def test_content_hash_of_a_metaimage_with_its_voxels_in_it_is_that_of_its_bytes(tmp_path):
    path, copy = tmp_path / "a.mhd", tmp_path / "copy"
    path.write_bytes(f"{META}LOCAL\n".encode() + bytes(8))
    assert read_scan(path).image.shape == (1, 2, 2, 2)
    copy.write_bytes(path.read_bytes())
    assert content_hash([path]) == content_hash([copy])


def test_content_hash_of_a_tiff_changes_with_the_spacing_beside_it(tmp_path):
    picture(tmp_path / "a_0001.tif", np.eye(5, dtype=np.uint8))
    bare = content_hash([tmp_path / "a_0001.tif"])
    (tmp_path / "b.json").write_text('{"spacing": [2, 2]}')
    assert content_hash([tmp_path / "a_0001.tif"]) == bare
    hashes = {bare}
    for spacing in (2, 3):
        (tmp_path / "a.json").write_text(f'{{"spacing": [1, {spacing}, {spacing}]}}')
        hashes.add(content_hash([tmp_path / "a_0001.tif"]))
    assert len(hashes) == 3


def test_scans_that_would_have_one_name_are_refused_with_both(tmp_path):
    for path in (tmp_path / "x_y.nii", tmp_path / "x" / "y.nii"):
        volume(path)
    with pytest.raises(ScanError, match=r"x_y\.nii and .*x/y\.nii would both be called x_y_nii"):
        find_scans(tmp_path, channels=1)


def test_a_folder_that_cannot_be_looked_into_is_a_case_that_fails(tmp_path, monkeypatch):
    volume(tmp_path / "a.nii")
    (tmp_path / "locked").mkdir()

    def denied(look):
        def listed(folder):
            if Path(folder).name == "locked":
                raise PermissionError(13, "Permission denied")
            return look(folder)

        return listed

    for place, name in ((Path, "iterdir"), (os, "scandir")):
        monkeypatch.setattr(place, name, denied(getattr(place, name)))
    assert scan_names(tmp_path, 1) == [("a", 1), ("locked", 1)]
    for use in (read_scan, content_hash):
        with pytest.raises(ScanError, match=r"locked: cannot be listed \(Permission denied\)"):
            use([tmp_path / "locked"])


def test_real_decathlon_is_read(shared_data):
    dataset = read_dataset(shared_data / "Task04_Hippocampus")
    wanted = "Medical Segmentation Decathlon layout, 200 cases, 1 channel (MRI), labels Anterior=1, Posterior=2"
    assert dataset.describe() == wanted
    assert dataset.findings == ()


def test_real_microscopy_is_read(shared_data):
    dataset = read_dataset(shared_data / "ISBI2012_EM")
    assert dataset.labels.values == (0, 255)
    assert len(dataset.cases) == 24
    assert read_case(dataset.cases[0], channels=1, labels=dataset.labels).scan.image.shape == (1, 1, 512, 512)
