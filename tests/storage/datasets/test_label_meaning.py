"""What label maps mean whose values are not the labels', and that one pass over the files gives what two give."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from nnseg.core.errors import DatasetError
from nnseg.core.labels import Region
from nnseg.planning.measure import measure
from nnseg.planning.measure_folder import measure_folder
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.read_case import read_case

SHAPE = (4, 6, 8)


def texts_of(folder):
    """All that was found in a dataset."""
    return " ".join(map(str, read_dataset(folder).findings))


def picture(path: Path, pixels, mode: str | None = None, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels), mode)
    if palette:
        image.putpalette(palette)
    image.save(path)


def volume(path: Path, voxels, *, vector: bool = False, **metadata: str) -> None:
    image = sitk.GetImageFromArray(np.asarray(voxels), isVector=vector)
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def scan(folder: Path, name: str, shape=SHAPE, suffix: str = ".nrrd") -> None:
    voxels = np.random.default_rng(len(name)).integers(1, 200, shape)
    if len(shape) == 2:
        picture(folder / "images" / f"{name}{suffix}", voxels.astype(np.uint8))
    else:
        volume(folder / "images" / f"{name}{suffix}", voxels.astype(np.int16))


def segmented(folder: Path, name: str, *segments: tuple[str, int, tuple[slice, ...]], layers: int = 1) -> None:
    """A case with a Slicer segmentation: name, value, place of each segment; the last ``layers - 1`` have their own layers."""
    scan(folder, name)
    voxels, header = np.zeros((*SHAPE, layers), np.uint8), {}
    for i, (title, value, place) in enumerate(segments):
        layer = max(0, layers - len(segments) + i)
        voxels[(*place, layer)] = value
        header |= {f"Segment{i}_Name": title, f"Segment{i}_LabelValue": str(value), f"Segment{i}_Layer": str(layer)}
    volume(folder / "labels" / f"{name}.seg.nrrd", voxels if layers > 1 else voxels[..., 0], vector=layers > 1, **header)


LIVER, SPLEEN = np.s_[0:2, 0:2, 0:2], np.s_[2:4, 3:6, 4:8]
"""8 and 24 voxels."""


def volumes(folder: Path) -> dict[str, list[int]]:
    """Voxels of each label, by its name, in all cases; from one pass, which gives what two passes give."""
    dataset, fingerprint = measure_folder(folder)
    again = read_dataset(folder)
    assert dataset == again
    two = measure(again)
    assert [c.model_copy(update={"label_map": ""}) for c in two.cases] == [
        c.model_copy(update={"label_map": ""}) for c in fingerprint.cases
    ]
    assert (two.findings, two.intensities, two.unusable) == (fingerprint.findings, fingerprint.intensities, fingerprint.unusable)
    read = [
        read_case(case, channels=len(dataset.channels), labels=dataset.labels)
        for case in dataset.cases
        if case.name not in two.unusable
    ]
    for name in dataset.labels.foreground:
        mask = [int(dataset.labels.mask(name, one.label_map.labels).sum()) for one in read]
        if not dataset.labels.regions:
            assert mask == [case.voxels[name] for case in fingerprint.cases]
    return {
        name: [int(dataset.labels.mask(name, one.label_map.labels).sum()) for one in read] for name in dataset.labels.foreground
    }


def describe(folder: Path, **content) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


def test_organ_whose_value_is_swapped_in_half_the_cases_is_read_by_name(tmp_path):
    for i in range(4):
        values = (1, 2) if i < 3 else (2, 1)
        segmented(tmp_path, f"p{i}", ("liver", values[0], LIVER), ("spleen", values[1], SPLEEN))
    assert volumes(tmp_path) == {"liver": [8] * 4, "spleen": [24] * 4}
    dataset = read_dataset(tmp_path)
    assert dataset.labels.describe() == "liver=1, spleen=2"
    assert dataset.inferred[-1:] == (
        "label names from the headers of 4 label maps; liver, spleen had other values in some and were mapped by name",
    )
    assert isinstance(dataset.cases[0].labels, Path)
    assert [case.name for case in dataset.cases] == ["p0", "p1", "p2", "p3"]  # of p0.nrrd and p0.seg.nrrd


def test_names_that_dataset_json_declares_are_read_by_name(tmp_path):
    segmented(tmp_path, "a", ("Liver", 2, LIVER), ("spleen", 1, SPLEEN))
    segmented(tmp_path, "b", ("liver", 1, LIVER), ("spleen", 2, SPLEEN))
    describe(tmp_path, labels={"background": 0, "liver": 1, "spleen": 2})
    assert volumes(tmp_path) == {"liver": [8, 8], "spleen": [24, 24]}
    assert read_dataset(tmp_path).inferred[-1].startswith("segments of case a have other values than dataset.json")


def test_values_count_where_no_name_is_declared_and_that_is_said(tmp_path):
    segmented(tmp_path, "a", ("Segment_1", 1, LIVER), ("Segment_2", 2, SPLEEN))
    describe(tmp_path, labels={"background": 0, "liver": 1, "spleen": 2})
    assert volumes(tmp_path) == {"liver": [8], "spleen": [24]}
    assert "names of segments in case a are not those of dataset.json; their values are used" in texts_of(tmp_path)


def test_header_that_contradicts_dataset_json_is_refused_with_both_named(tmp_path):
    segmented(tmp_path, "good", ("liver", 1, LIVER), ("spleen", 2, SPLEEN))
    segmented(tmp_path, "a", ("liver", 2, LIVER), ("kidney", 1, SPLEEN))
    describe(tmp_path, labels={"background": 0, "liver": 1, "spleen": 2})
    errors = [str(f) for f in read_dataset(tmp_path).findings if f.level == "error"]
    assert len(errors) == 1
    assert "a.seg.nrrd describes segment kidney (1), which dataset.json does not name; expected liver, spleen" in errors[0]
    assert volumes(tmp_path) == {"liver": [8], "spleen": [24]}


def test_label_map_without_names_is_refused_where_values_differ_between_files(tmp_path):
    segmented(tmp_path, "a", ("liver", 1, LIVER), ("spleen", 2, SPLEEN))
    segmented(tmp_path, "b", ("liver", 2, LIVER), ("spleen", 1, SPLEEN))
    segmented(tmp_path, "c", ("liver", 1, LIVER), ("spleen", 2, SPLEEN))
    plain = np.zeros(SHAPE, np.uint8)
    plain[LIVER] = 1
    scan(tmp_path, "d")
    volume(tmp_path / "labels" / "d.nrrd", plain)
    assert [str(f)[:6] for f in read_dataset(tmp_path).findings if f.level == "error"] == ["case d"]
    assert volumes(tmp_path) == {"liver": [8] * 3, "spleen": [24] * 3}


def test_layers_that_overlap_become_regions(tmp_path):
    ball = np.s_[1:3, 1:4, 1:6]
    for name in "ab":
        segmented(tmp_path, name, ("liver", 1, LIVER), ("spleen", 2, SPLEEN), ("ball", 1, ball), layers=2)
    assert volumes(tmp_path) == {"liver": [8, 8], "spleen": [24, 24], "ball": [2 * 3 * 5] * 2}
    labels = read_dataset(tmp_path).labels
    assert labels.names == ("background", "liver", "spleen", "ball", "liver+ball", "spleen+ball")
    assert labels.regions == (
        Region(name="ball", values=(3, 4, 5), paint=3),
        Region(name="liver", values=(1, 4), paint=1),
        Region(name="spleen", values=(2, 5), paint=2),
    )


def test_regions_that_overlap_in_part_are_painted_by_their_combination(tmp_path):
    segmented(tmp_path, "a", ("liver", 1, LIVER), ("spleen", 2, SPLEEN), ("ball", 1, np.s_[1:3, 1:4, 1:6]), layers=2)
    labels = read_dataset(tmp_path).labels
    of = {name: i for i, name in enumerate(labels.heads)}
    probabilities = np.zeros((3, 1, 1, 5))
    for voxel, heads in enumerate([("ball",), ("liver",), ("ball", "liver"), ("ball", "spleen"), ()]):
        for head in heads:
            probabilities[of[head], 0, 0, voxel] = 0.9
    assert labels.decide(probabilities).tolist() == [[[3, 1, 4, 5, 0]]]


def save_masks(folder: Path, name: str, *masks) -> None:
    scan(folder, name)
    volume(folder / "labels" / f"{name}.nrrd", np.stack(masks, -1).astype(np.uint8), vector=True)


def boxes(*places) -> list:
    masks = []
    for place in places:
        masks.append(np.zeros(SHAPE, bool))
        masks[-1][place] = True
    return masks


def test_one_hot_label_map_is_merged_with_the_first_channel_as_background(tmp_path):
    liver, spleen = boxes(LIVER, SPLEEN)
    for name in "ab":
        save_masks(tmp_path, name, ~(liver | spleen), liver, spleen)
    assert volumes(tmp_path) == {"label 1": [8, 8], "label 2": [24, 24]}
    assert read_dataset(tmp_path).inferred[-1].endswith("(3); the first is the background, since they exclude each other")


def test_one_hot_nifti_of_four_axes_is_merged(tmp_path):
    liver, spleen = boxes(LIVER, SPLEEN)
    for name in "ab":
        scan(tmp_path, name, suffix=".nii.gz")
        channels = np.stack([~(liver | spleen), liver, spleen], -1).astype(np.uint8).transpose(2, 1, 0, 3)
        affine = nib.load(tmp_path / "images" / f"{name}.nii.gz").affine
        (tmp_path / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(channels, affine), tmp_path / "labels" / f"{name}.nii.gz")
    describe(tmp_path, labels={"background": 0, "liver": 1, "spleen": 2})
    assert volumes(tmp_path) == {"liver": [8, 8], "spleen": [24, 24]}


def test_channels_without_background_are_labels_in_their_order(tmp_path):
    for name in "ab":
        save_masks(tmp_path, name, *boxes(LIVER, SPLEEN))
    describe(tmp_path, labels={"background": 0, "liver": 3, "spleen": 1})
    assert volumes(tmp_path) == {"spleen": [8, 8], "liver": [24, 24]}  # in the order of values, not of the file
    assert read_dataset(tmp_path).labels.describe() == "spleen=1, liver=3"


def test_nested_channels_become_regions(tmp_path):
    whole, core, enhancing = boxes(np.s_[0:4, 0:5, 0:6], np.s_[1:3, 1:4, 1:5], np.s_[1:2, 2:3, 2:4])
    for name in "ab":
        save_masks(tmp_path, name, whole, core, enhancing)
    assert volumes(tmp_path) == {"label 1": [120, 120], "label 2": [24, 24], "label 3": [2, 2]}
    labels = read_dataset(tmp_path).labels
    assert labels.values == (0, 1, 2, 3)
    assert [(r.values, r.paint) for r in labels.regions] == [((1, 2, 3), 1), ((2, 3), 2), ((3,), 3)]


def test_channels_that_are_all_the_same_are_read_as_those_of_other_cases(tmp_path):
    whole, core = boxes(np.s_[0:4, 0:5, 0:6], np.s_[1:3, 1:4, 1:5])
    save_masks(tmp_path, "a", whole, core)
    save_masks(tmp_path, "b", core, core)
    save_masks(tmp_path, "c", core * 0, core * 0)
    assert volumes(tmp_path) == {"label 1": [120, 24, 0], "label 2": [24, 24, 0]}


def test_channels_that_dataset_json_does_not_count_are_refused(tmp_path):
    save_masks(tmp_path, "a", *boxes(LIVER, SPLEEN))
    describe(tmp_path, labels={"background": 0, "liver": 1})
    with pytest.raises(DatasetError, match=r"has label maps of 2 channels; expected the 1 of dataset.json"):
        read_dataset(tmp_path)


COLOURS = np.array([[0, 0, 0]] * 40 + [[255, 0, 16]] * 16 + [[0, 128, 0]] * 8, np.uint8).reshape(8, 8, 3)


@pytest.mark.parametrize("name", ["labelmap.txt", "classes.csv", "colors.json"])
def test_colours_are_named_by_a_legend(tmp_path, name):
    for case in "ab":
        scan(tmp_path, case, (8, 8), ".png")
        picture(tmp_path / "labels" / f"{case}.png", COLOURS)
    entries = {"background": (0, 0, 0), "vein": (0, 128, 0), "artery": (255, 0, 16), "nerve": (1, 1, 1)}
    with (tmp_path / name).open("w") as file:
        if name.endswith(".txt"):
            file.write("# label:color_rgb:parts:actions\n" + "".join(f"{n}:{r},{g},{b}::\n" for n, (r, g, b) in entries.items()))
        elif name.endswith(".csv"):
            csv.writer(file).writerows([("name", "r", "g", "b"), *((n, *c) for n, c in entries.items())])
        else:
            json.dump(entries, file)
    assert volumes(tmp_path) == {"vein": [8, 8], "artery": [16, 16]}
    assert read_dataset(tmp_path).inferred[-1:] == (
        f"labels from colours, by {name}: #000000=0 background, #008000=1 vein, #ff0010=2 artery",
    )


def test_colours_without_a_legend_are_numbered(tmp_path):
    for case in "ab":
        scan(tmp_path, case, (8, 8), ".png")
        picture(tmp_path / "labels" / f"{case}.png", COLOURS)
    assert volumes(tmp_path) == {"#008000": [8, 8], "#ff0010": [16, 16]}
    assert "numbered in the order of their codes" in read_dataset(tmp_path).inferred[-1]


def test_colour_outside_the_legend_costs_only_its_case(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "labelmap.txt").write_text("background:0,0,0::\nartery:255,0,16::\nvein:0,128,0::\n")
    other = COLOURS.copy()
    other[0, 0] = 77
    other[0, 0, 0] = 78
    for case, pixels in (("a", COLOURS), ("b", other)):
        scan(tmp_path, case, (8, 8), ".png")
        picture(tmp_path / "labels" / f"{case}.png", pixels)
    assert volumes(tmp_path) == {"artery": [16], "vein": [8]}
    assert "b.png has 1 voxels of the colour #4e4d4d; expected the colours of" in " ".join(
        map(str, read_dataset(tmp_path).findings)
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "vein:green::\n"),
        ("labelmap.txt", "vein\n"),
        ("colors.json", '[{"x": 1}]'),
        ("colors.json", '{"a": [1e999, 0, 0]}'),
        pytest.param("colors.json", "[" * 90_000, id="deep"),
    ],
)
def test_legend_that_cannot_be_read_is_named(tmp_path, name, text):
    scan(tmp_path, "a", (8, 8), ".png")
    picture(tmp_path / "labels" / "a.png", COLOURS)
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=f"{name}: is no legend of colours"):
        read_dataset(tmp_path)


def test_indices_of_palettes_are_named_by_a_legend(tmp_path):
    for case in "ab":
        scan(tmp_path, case, (8, 8), ".png")
        indices = np.repeat([0, 1, 2], [40, 16, 8]).astype(np.uint8).reshape(8, 8)
        picture(tmp_path / "labels" / f"{case}.png", indices, "P", [0, 0, 0, 255, 0, 16, 0, 128, 0])
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nartery:255,0,16::\nvein:0,128,0::\n")
    assert volumes(tmp_path) == {"artery": [16, 16], "vein": [8, 8]}
    assert isinstance(read_dataset(tmp_path).cases[0].labels, Path)


def test_palettes_that_differ_between_files_are_read_by_colour(tmp_path):
    indices = np.repeat([0, 1, 2], [40, 16, 8]).astype(np.uint8).reshape(8, 8)
    for case, palette in (("a", [0, 0, 0, 255, 0, 16, 0, 128, 0]), ("b", [0, 0, 0, 0, 128, 0, 255, 0, 16])):
        scan(tmp_path, case, (8, 8), ".png")
        picture(tmp_path / "labels" / f"{case}.png", indices, "P", palette)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nartery:255,0,16::\nvein:0,128,0::\n")
    assert volumes(tmp_path) == {"artery": [16, 8], "vein": [8, 16]}
    assert "palettes differ between label maps, so that colours count, not values" in read_dataset(tmp_path).inferred


def test_empty_picture_among_coloured_ones_is_empty(tmp_path):
    for case, pixels in (("a", COLOURS), ("b", COLOURS * 0), ("c", COLOURS)):
        scan(tmp_path, case, (8, 8), ".png")
        picture(tmp_path / "labels" / f"{case}.png", pixels)
    assert volumes(tmp_path) == {"#008000": [8, 0, 8], "#ff0010": [16, 0, 16]}


def numbered(folder: Path, name: str, count: int) -> None:
    """An image with so many objects of four pixels."""
    scan(folder, name, (32, 32), ".png")
    pixels = np.zeros((32, 32), np.uint16)
    for i in range(count):
        pixels[3 * (i // 10) : 3 * (i // 10) + 2, 3 * (i % 10) : 3 * (i % 10) + 2] = i + 1
    picture(folder / "labels" / f"{name}.png", pixels)


def test_numbered_objects_are_recognised_and_said(tmp_path):
    for name, count in (("a", 12), ("b", 30), ("c", 5), ("d", 0)):
        numbered(tmp_path, name, count)
    assert volumes(tmp_path) == {"object": [48, 120, 20, 0]}
    dataset = read_dataset(tmp_path)
    assert (dataset.labels.describe(), dataset.instances) == ("object=1", ("object",))
    assert dataset.inferred[-1:] == ("values number the objects of each label map (0 to 30): all are object",)
    assert (dataset.numbered, dataset.findings) == (("object",), ())


def test_numbered_objects_that_dataset_json_names_are_that_label(tmp_path):
    for name, count in (("a", 2), ("b", 3)):
        numbered(tmp_path, name, count)
    describe(tmp_path, labels={"background": 0, "nucleus": 1}, instances=["nucleus"])
    assert volumes(tmp_path) == {"nucleus": [8, 12]}


def test_numbered_objects_that_dataset_json_does_not_call_so_are_refused_with_advice(tmp_path):
    numbered(tmp_path, "a", 12)
    describe(tmp_path, labels={"background": 0, "nucleus": 1})
    with pytest.raises(DatasetError, match=r'if values number objects, write "instances": \["nucleus"\] into dataset.json'):
        measure_folder(tmp_path)


@pytest.mark.parametrize(
    "sets",
    [
        [range(1, 13)] * 4,  # every organ in every case
        [(1, 2, 3), (1, 2), (1,), (1, 2, 3)],  # lesions by kind
        [range(1, 13), range(1, 13), range(3, 12), range(5, 13)],  # organs, some outside the scan
        [(7, 9, 12), (7, 9), (3, 9, 12), (1, 2, 3, 4, 5, 6, 7, 8, 9)],
    ],
)
def test_organs_are_not_taken_for_numbered_objects(tmp_path, sets):
    for i, values in enumerate(sets):
        numbered(tmp_path, f"p{i}", 12)
        path = tmp_path / "labels" / f"p{i}.png"
        pixels = np.asarray(Image.open(path)).astype(np.uint8)
        picture(path, np.where(np.isin(pixels, list(values)), pixels, 0).astype(np.uint8))
    dataset = read_dataset(tmp_path)
    assert dataset.instances == ()
    assert dataset.labels.values == (0, *sorted(set().union(*sets)))


@pytest.mark.parametrize(("kind", "highest"), [(np.uint8, 255), (np.uint16, 60000)])
def test_images_in_place_of_label_maps_are_refused(tmp_path, kind, highest):
    for name in "ab":
        scan(tmp_path, name, (32, 32), ".png")
        picture(tmp_path / "labels" / f"{name}.png", np.random.default_rng(1).integers(0, highest, (32, 32)).astype(kind))
    with pytest.raises(DatasetError, match=r"each of them all over the image, as intensities are|different values"):
        measure_folder(tmp_path)


def test_masks_with_values_between_are_divided_and_said(tmp_path):
    for name in "abc":
        scan(tmp_path, name, (64, 64), ".png")
        pixels = np.zeros((64, 64), np.uint8)
        pixels[:, 32:] = 255
        if name == "c":
            pixels[:10, 32] = range(240, 250)
            pixels[:10, 31] = range(10)
        picture(tmp_path / "labels" / f"{name}.png", pixels)
    assert volumes(tmp_path) == {"foreground": [2048] * 3}
    dataset, fingerprint = measure_folder(tmp_path)
    assert dataset.inferred[-1:] == ("label maps are masks of 0 and 255; 1 with values between are divided at the half",)
    assert "c.png: 19 voxels (0.0046 of all) lie between 0 and 255" in " ".join(map(str, fingerprint.findings))


def test_void_border_of_many_classes_is_no_noise(tmp_path):
    for name in "ab":
        scan(tmp_path, name, (64, 64), ".png")
        pixels = np.zeros((64, 64), np.uint8)
        pixels[0, :20] = range(1, 21)
        pixels[32:] = 255
        picture(tmp_path / "labels" / f"{name}.png", pixels)
    assert read_dataset(tmp_path).labels.values == (*range(21), 255)


def test_one_pass_reads_each_label_map_once(tmp_path, monkeypatch):
    from nnseg.storage.images import formats
    from nnseg.storage.images import read as module

    for i in range(3):
        segmented(tmp_path, f"p{i}", ("liver", 1, LIVER), ("spleen", 2, SPLEEN))
    reads: list[str] = []
    read = formats.read_raw_file
    for place in (formats, module):
        monkeypatch.setattr(place, "read_raw_file", lambda path, options: reads.append(path.name) or read(path, options))
    measure_folder(tmp_path)
    assert sorted(reads) == sorted(f"p{i}{suffix}" for i in range(3) for suffix in (".nrrd", ".seg.nrrd"))


def test_broken_label_maps_and_images_cost_only_their_case(tmp_path):
    for i in range(4):
        segmented(tmp_path, f"p{i}", ("liver", 1, LIVER), ("spleen", 2, SPLEEN))
    (tmp_path / "labels" / "p1.seg.nrrd").write_bytes(b"broken")
    (tmp_path / "images" / "p2.nrrd").write_bytes(b"broken")
    assert volumes(tmp_path) == {"liver": [8, 8], "spleen": [24, 24]}
    _, fingerprint = measure_folder(tmp_path)
    assert [f.case for f in fingerprint.findings if f.level == "error"] == ["p1", "p2"]


def test_real_nuclei_are_numbered_objects(shared_data, tmp_path):
    source = shared_data / "DSB2018"
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for path in sorted((source / folder).iterdir())[:12]:
            (tmp_path / folder / path.name).symlink_to(path)
    dataset, fingerprint = measure_folder(tmp_path)
    assert (dataset.instances, dataset.labels.describe()) == (("object",), "object=1")
    pixels = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "labels").iterdir())]
    assert [case.voxels["object"] for case in fingerprint.cases] == [int((p > 0).sum()) for p in pixels]


@pytest.mark.parametrize(("values", "warned"), [((1, 15, 255), True), ((255,), False), ((128, 255), False), ((1, 2), False)])
def test_a_value_255_far_above_the_others_may_be_what_was_not_annotated(tmp_path, values, warned):
    scan(tmp_path, "a", shape=(8, 8), suffix=".png")
    labels = np.zeros((8, 8), np.uint8)
    labels[2:6, 2 : 2 + len(values)] = values
    picture(tmp_path / "labels" / "a.png", labels)
    said = [finding.message for finding in read_dataset(tmp_path).findings if finding.level == "warning"]
    assert any("the value 255 is learned as a label" in message for message in said) == warned
