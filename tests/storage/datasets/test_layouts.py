"""Layouts of public datasets, as they are downloaded, and of people's own: cases, channels, labels, what is not used."""

import time
from pathlib import Path

import numpy as np
import pytest
from dicom_corpus import Volume, ramp, write_classic

from nnseg.core.dataset import Reading, describe_unused
from nnseg.core.errors import DatasetError
from nnseg.core.label_files import LabelFiles
from nnseg.core.labels import Labels
from nnseg.storage.datasets.items import FoundDataset
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.images.dicom_seg import write_dicom_seg
from nnseg.storage.images.read import read_scan


def make(root: Path, *paths: str) -> Path:
    """Empty files: layouts are found by names alone."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def grid(pattern: str, *values) -> list[str]:
    """All combinations of the values in the pattern."""
    paths = [pattern]
    for i, several in enumerate(values):
        paths = [path.replace(f"<{i}>", str(value)) for path in paths for value in several]
    return paths


def found(root: Path, **reading) -> FoundDataset:
    return find_layout(root, Reading(**reading))


def shape(dataset: FoundDataset, root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Images and label maps of each case, below the root."""

    def below(paths):
        return [path.relative_to(root).as_posix() for path in paths]

    return {c.name: (below(c.images), below(c.files[len(c.images) :])) for c in dataset.cases}


BRATS = ("t1c", "t1n", "t2f", "t2w")


def brats(cases: int, folder="BraTS-GLI-<0>-000/") -> list[str]:
    numbers = [f"{i:05d}" for i in range(cases)]
    return [p for n in numbers for p in grid(f"{folder}BraTS-GLI-<0>-000-<1>.nii.gz", [n], (*BRATS, "seg"))]


def test_brats_is_a_folder_of_channels_for_each_patient(tmp_path):
    dataset = found(make(tmp_path, *brats(3)))
    name = "BraTS-GLI-00001-000"
    assert [case.name for case in dataset.cases] == ["BraTS-GLI-00000-000", name, "BraTS-GLI-00002-000"]
    assert shape(dataset, tmp_path)[name] == ([f"{name}/{name}-{c}.nii.gz" for c in BRATS], [f"{name}/{name}-seg.nii.gz"])
    assert dataset.channels == BRATS
    assert dataset.inferred == (
        "channels t1c, t1n, t2f, t2w from the names */*-t1c.nii.gz, */*-t1n.nii.gz, */*-t2f.nii.gz, */*-t2w.nii.gz",
        "label maps from */*-seg.nii.gz",
        "3 cases, one in each folder",
    )
    assert (dataset.findings, dataset.unused) == ((), ())


@pytest.mark.parametrize(
    ("paths", "reading", "shown"),
    [
        (grid("<0>/p<1>.nii.gz", ["scans", "outlines"], range(3)), ("scans", "outlines"), "outlines/*.nii.gz"),
        (grid("p<0>/<1>.nii.gz", range(3), ["image", "wmh"]), ("*/image.nii.gz", "*/wmh.nii.gz"), "*/wmh.nii.gz"),
        (grid("<0>/p<1>.nii.gz", ["images", "liver", "tumour"], range(3)), ("", "liver,tumour"), "liver/*.nii.gz, tumour/*.nii.gz"),
    ],
)
def test_what_options_name_is_shown_as_it_was_named(tmp_path, paths, reading, shown):
    dataset = found(make(tmp_path, *paths), images=reading[0], labels=reading[1])
    assert f"label maps from {shown}" in dataset.inferred


def test_brats_of_earlier_years_and_in_one_folder_are_read_likewise(tmp_path):
    old = found(
        make(tmp_path / "old", *grid("<1>/B19_<0>_1/B19_<0>_1_<2>.nii.gz", range(3), ["HGG"], ["flair", "t1", "t1ce", "t2", "seg"]))
    )
    assert old.channels == ("flair", "t1", "t1ce", "t2")
    assert [case.name for case in old.cases] == ["B19_0_1", "B19_1_1", "B19_2_1"]
    flat = found(make(tmp_path / "flat", *brats(3, folder="")))
    assert (flat.channels, flat.cases[0].name) == (BRATS, "BraTS-GLI-00000-000")


def test_a_missing_channel_or_label_map_costs_its_case_alone(tmp_path):
    make(tmp_path, *brats(4))
    (tmp_path / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t2f.nii.gz").unlink()
    (tmp_path / "BraTS-GLI-00002-000" / "BraTS-GLI-00002-000-seg.nii.gz").unlink()
    dataset = found(tmp_path)
    assert [case.name for case in dataset.cases] == ["BraTS-GLI-00000-000", "BraTS-GLI-00003-000"]
    errors = {f.case: f.message for f in dataset.findings if f.level == "error"}
    assert "of t2f is missing; expected 4 files a case" in errors["BraTS-GLI-00001-000"]
    assert "has no label map" in errors["BraTS-GLI-00002-000"]
    assert len(errors) == 2


def test_channels_are_chosen_and_ordered(tmp_path):
    make(tmp_path, *brats(3))
    dataset = found(tmp_path, channels=("t1n", "FLAIR"))
    assert dataset.channels == ("t1n", "t2f")
    assert [path.name[-10:-7] for path in dataset.cases[0].images] == ["t1n", "t2f"]
    assert describe_unused(dataset.unused) == ("not used: another channel, which is not used (6 files)",)
    with pytest.raises(DatasetError, match="there is no channel adc; expected some of t1c, t1n, t2f, t2w"):
        found(tmp_path, channels=("adc",))


@pytest.mark.parametrize(
    ("labels", "used", "left"),
    [
        (["segmentation"], "segmentation", 0),
        (["segmentation", "instances/kidney_instance-1_annotation-1"], "segmentation", 1),
        (["aggregated_MAJ_seg", "aggregated_AND_seg", "segmentations/kidney_instance-1_annotation-2"], "aggregated_MAJ_seg", 2),
    ],
)
def test_kits_of_all_years(tmp_path, labels, used, left):
    dataset = found(make(tmp_path, *grid("case_0000<0>/<1>.nii.gz", range(3), ["imaging", *labels]), "kits.json"))
    assert shape(dataset, tmp_path) == {
        f"case_0000{i}": ([f"case_0000{i}/imaging.nii.gz"], [f"case_0000{i}/{used}.nii.gz"]) for i in range(3)
    }
    assert len(dataset.unused) == 3 * left + 1


def test_totalsegmentator_has_a_mask_of_each_organ(tmp_path):
    organs = ["aorta", "liver", "lung_left"]
    make(tmp_path, *grid("s000<0>/ct.nii.gz", range(3)), *grid("s000<0>/segmentations/<1>.nii.gz", range(3), organs))
    (tmp_path / "s0002" / "segmentations" / "aorta.nii.gz").unlink()
    dataset = found(tmp_path)
    assert dataset.labels.names == ("background", *organs)
    assert [case.name for case in dataset.cases] == ["s0000", "s0001", "s0002"]
    maps = [case.labels for case in dataset.cases]
    assert all(isinstance(one, LabelFiles) and one.coding == "masks" for one in maps)
    assert [path.stem for path in maps[0].paths] == ["aorta.nii", "liver.nii", "lung_left.nii"]
    assert maps[0].values == {"0": 1, "1": 2, "2": 3}
    assert maps[2].values == {"0": 2, "1": 3}  # the numbers are the same in all cases
    assert "3 labels from the names of masks: aorta, liver, lung_left" in dataset.inferred
    assert [str(f.message) for f in dataset.findings] == ["has no mask of aorta, which counts as absent; check it"]


def test_masks_take_their_values_from_a_dataset_json(tmp_path):
    make(tmp_path, *grid("s<0>/ct.nii.gz", range(2)), *grid("s<0>/segmentations/<1>.nii.gz", range(2), ["liver", "aorta"]))
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 5, "aorta": 7}, "channel_names": ["CT"]}')
    dataset = found(tmp_path)
    assert dataset.cases[0].labels.values == {"0": 7, "1": 5}
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 5}}')
    with pytest.raises(DatasetError, match='"labels" does not name aorta, of which there are masks'):
        found(tmp_path)


def test_amos_has_its_own_validation_part_and_test_scans_without_labels(tmp_path):
    make(tmp_path, *grid("<0>/amos_000<1>.nii.gz", ["imagesTr", "labelsTr"], range(3)))
    make(tmp_path, *grid("<0>/amos_001<1>.nii.gz", ["imagesVa", "labelsVa"], range(2)), *grid("imagesTs/a_<0>.nii.gz", range(4)))
    dataset = found(tmp_path)
    assert [case.split for case in dataset.cases] == ["", "", "", "validation", "validation"]
    assert dataset.layout == "pair of folders layout (imagesTr/ and labelsTr/)"
    assert describe_unused(dataset.unused) == ("not used: no label map: test scans (4 files)",)


def test_acdc_as_downloaded(tmp_path):
    for n in (1, 2):
        make(
            tmp_path,
            *grid("training/patient00<0>/patient00<0>_<1>.nii.gz", [n], ["4d", "frame01", "frame01_gt", "frame12", "frame12_gt"]),
        )
        make(tmp_path, f"training/patient00{n}/Info.cfg")
    make(tmp_path, "testing/patient101/patient101_frame01.nii.gz", "testing/patient101/patient101_frame01_gt.nii.gz")
    dataset = found(tmp_path)
    assert [(case.name, case.subject, case.split) for case in dataset.cases] == [
        *((f"patient00{n}_frame{f}", f"patient00{n}", "") for n in (1, 2) for f in ("01", "12")),
        ("patient101_frame01", "patient101", "test"),
    ]
    assert describe_unused(dataset.unused) == (
        "not used: a 4D series (2 files)",
        "not used: 2 files without image: .cfg (2)",
    )


PAIRS = ["scans masks", "Images Segmentations", "imgs gt", "data annotations", "volumes ground_truth", "raw manual", "img label"]
PAIRS += ["image contours", "train/images train/masks", "training/images training/1st_manual", "JPEGImages SegmentationClass"]
PAIRS += ["train train_masks", "images targets", "FLAIR labels", "imagesTr labelsTr", "Data/Images Data/GroundTruth"]


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_of_folders_by_any_usual_name(tmp_path, pair):
    images, labels = pair.split()
    dataset = found(make(tmp_path, *grid("<0>/c<1>.png", [images, labels], range(3))))
    assert shape(dataset, tmp_path) == {f"c{i}": ([f"{images}/c{i}.png"], [f"{labels}/c{i}.png"]) for i in range(3)}
    assert dataset.layout == f"pair of folders layout ({images}/ and {labels}/)"
    assert (dataset.findings, dataset.unused) == ((), ())


NAMES = {
    "img/img<0>.nii label/label<0>.nii": "img<0>",
    "x<0>_avg.nii x<0>_avg_seg.nii": "x<0>_avg",
    "x<0>_avg/x<0>_avg.nii x<0>_avg/x<0>_avg_seg.nii": "x<0>_avg",
    "training/images/2<0>_training.tif training/1st_manual/2<0>_manual1.gif": "2<0>_training",
    "Image_0<0>L.jpg Image_0<0>L_1stHO.png": "Image_0<0>L",
    "volume-<0>.nii segmentation-<0>.nii": "volume-<0>",
    "images/p<0>.nrrd labels/p<0>.seg.nrrd": "p<0>",
    "p<0>.nrrd p<0>.seg.nrrd": "p<0>",
    "case<0>/CT.nrrd case<0>/Segmentation.seg.nrrd": "case<0>",
    "case<0>/scan.nii.gz case<0>/tumour_mask.nii.gz": "case<0>",
    "benign/benign (<0>).png benign/benign (<0>)_mask.png": "benign (<0>)",
    "In_Training_Data/I_<0>.jpg In_Training_Part1_GroundTruth/I_<0>_segmentation.png": "I_<0>",
    "train/<0>.jpg train_masks/<0>_mask.gif": "<0>",
    "images/a<0>/im.png labels/a<0>/im.png": "a<0>_im",
    "images/s<0>.png masks/s<0>/m.png": "s<0>",
}


@pytest.mark.parametrize("names", NAMES)
def test_prefixes_suffixes_and_folders_of_cases(tmp_path, names):
    image, label = (part for part in names.replace(" (", "\0(").split())
    image, label = image.replace("\0", " "), label.replace("\0", " ")
    dataset = found(make(tmp_path, *grid(image, range(4)), *grid(label, range(4))))
    expected = {
        NAMES[names].replace("<0>", str(i)): ([image.replace("<0>", str(i))], [label.replace("<0>", str(i))]) for i in range(4)
    }
    assert shape(dataset, tmp_path) == expected
    assert (dataset.findings, dataset.unused) == ((), ())


def test_parts_of_a_split_in_folders_are_kept(tmp_path):
    dataset = found(make(tmp_path, *grid("<0>/<1>/<2>.png", ["train", "val", "test"], ["images", "masks"], range(2))))
    parts = {"test": "test", "training": "", "validation": "validation"}
    assert {case.name: case.split for case in dataset.cases} == {f"{part}_{i}": parts[part] for part in parts for i in range(2)}


def test_drive_as_downloaded_does_not_take_its_field_of_view_for_vessels(tmp_path):
    make(
        tmp_path,
        *grid(
            "training/<1>",
            [0],
            [
                f"{p}/2{i}_{s}"
                for i in range(3)
                for p, s in (("images", "training.tif"), ("1st_manual", "manual1.gif"), ("mask", "training_mask.gif"))
            ],
        ),
    )
    make(tmp_path, *grid("test/images/0<0>_test.tif", range(2)), *grid("test/mask/0<0>_test_mask.gif", range(2)))
    dataset = found(tmp_path)
    assert shape(dataset, tmp_path) == {
        f"2{i}_training": ([f"training/images/2{i}_training.tif"], [f"training/1st_manual/2{i}_manual1.gif"]) for i in range(3)
    }
    assert describe_unused(dataset.unused) == (
        "not used: no label map (2 files)",
        "not used: label map beside manual annotations (5 files)",
    )


def test_a_second_observers_label_maps_are_not_used(tmp_path):
    dataset = found(make(tmp_path, *grid("Image_0<0><1>", range(3), ["L.jpg", "L_1stHO.png", "L_2ndHO.png"])))
    assert [case.files[1].name for case in dataset.cases] == [f"Image_0{i}L_1stHO.png" for i in range(3)]
    assert describe_unused(dataset.unused) == ("not used: label map of another observer (3 files)",)


def test_masks_of_nuclei_are_objects(tmp_path):
    for name in ("a3f", "b77", "c00"):
        make(tmp_path, f"{name}/images/{name}.png", *grid("<0>/masks/<0><1>9f.png", [name], range(4)))
    dataset = found(tmp_path)
    assert [case.name for case in dataset.cases] == ["a3f", "b77", "c00"]
    assert {case.labels.coding for case in dataset.cases} == {"instances"}
    assert len(dataset.cases[0].labels.paths) == 4
    assert dataset.labels.names == ("background", "object")


def test_masks_of_several_organs_by_names_and_by_folders(tmp_path):
    trees = {
        "names": grid("p<0>/<1>.nii.gz", range(3), ["ct", "liver_mask", "spleen_mask"]),
        "folders": [*grid("images/x<0>.png", range(3)), *grid("masks/<1>/x<0>.png", range(3), ["liver", "spleen"])],
        "case folders": [*grid("images/x<0>.png", range(3)), *grid("masks/x<0>/<1>.png", range(3), ["liver", "spleen"])],
    }
    for name, paths in trees.items():
        dataset = found(make(tmp_path / name, *paths))
        assert dataset.labels.names == ("background", "liver", "spleen"), name
        assert len(dataset.cases) == 3


def test_channels_in_folders_of_their_own(tmp_path):
    dataset = found(make(tmp_path, *grid("images/<1>/x<0>.nii", range(3), ["t1", "t2"]), *grid("labels/x<0>.nii", range(3))))
    assert dataset.channels == ("t1", "t2")
    assert shape(dataset, tmp_path)["x1"] == (["images/t1/x1.nii", "images/t2/x1.nii"], ["labels/x1.nii"])


AMBIGUOUS = {
    "two folders of label maps": (
        grid("<1>/x<0>.png", range(3), ["images", "labels", "masks"]),
        r'2 label maps fit one image: labels/x0.png, masks/x0.png; expected one; choose with --labels, such as --labels "labels"',
    ),
    "an image and a copy of it": (
        grid("p<0>/<1>.nii", range(3), ["image", "image_cropped", "mask"]),
        r"2 images fit one label map, p0/mask.nii: p0/image.nii, p0/image_cropped.nii; .*--images \"\*\*/image.nii\"",
    ),
    "images of which one case alone has a second": (
        [*grid("p<0>/<1>.nii", range(2), ["ct", "mask"]), "p0/other.nii"],
        r"2 images fit one label map, p0/mask.nii: p0/ct.nii, p0/other.nii; .*--images",
    ),
    "contrasts with label maps of their own": (
        grid("p<0>/p<0>_<1>.nii", range(3), ["T1w", "T1w_seg", "T2w", "T2w_seg"]),
        r"images of different contrasts: t1 \(3\), t2 \(3\); expected one contrast; choose with --channels",
    ),
    "names without a word for label maps": (
        grid("p<0>/<1>.nii", range(9), ["a", "b"]),
        r"p0/, p1/, p2/ and 6 more and files: .nii \(18\); a.nii in 9 folders, b.nii in 9 folders.*--images .*--labels",
    ),
    "two segmentations of one scan": (
        ["CT.nrrd", "Segmentation.seg.nrrd", "SegmentationOverlapping.seg.nrrd"],
        r"2 label maps fit the image CT.nrrd: .*--labels",
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_with_the_options_that_decide(tmp_path, case):
    paths, words = AMBIGUOUS[case]
    with pytest.raises(DatasetError, match=words) as refused:
        found(make(tmp_path, *paths))
    assert len(str(refused.value)) < 700


def test_patterns_decide(tmp_path):
    make(tmp_path, *grid("p<0>/<1>.nii", range(3), ["pre/FLAIR", "pre/T1", "wmh"]))
    dataset = found(tmp_path, labels="*/wmh.nii")
    assert dataset.channels == ("FLAIR", "T1")
    assert shape(dataset, tmp_path)["p1"] == (["p1/pre/FLAIR.nii", "p1/pre/T1.nii"], ["p1/wmh.nii"])
    dataset = found(tmp_path, labels="*/wmh.nii", images="**/T1.nii")
    assert shape(dataset, tmp_path)["p1"] == (["p1/pre/T1.nii"], ["p1/wmh.nii"])
    assert describe_unused(dataset.unused) == ("not used: left out by --images and --labels (3 files)",)
    two = make(tmp_path / "two", *AMBIGUOUS["two folders of label maps"][0])
    assert found(two, labels="masks").cases[0].labels == two / "masks" / "x0.png"
    with pytest.raises(DatasetError, match='no image fits --labels "nowhere"'):
        found(two, labels="nowhere")


def test_a_layout_can_be_asked_for(tmp_path):
    make(tmp_path, *grid("<1>/x<0>.png", range(3), ["images", "labels"]))
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "images/x0.png", "label": "labels/x0.png"}]}')
    assert len(found(tmp_path).cases) == 1
    assert len(found(tmp_path, layout="names").cases) == 3
    with pytest.raises(DatasetError, match='no layout "brats"; write one of listed, bids, names'):
        found(tmp_path, layout="brats")


def test_what_lies_beside_is_named_and_counted(tmp_path):
    make(
        tmp_path,
        *grid("<1>/x<0>.nii", range(3), ["images", "labels"]),
        "atlas.nii",
        "notes/README.md",
        "a.tsv",
        ".hidden",
        "x.xyz",
        "b.czi",
    )
    make(tmp_path, *grid("images/x<0>_preview.png", range(2)))
    assert describe_unused(found(tmp_path).unused) == (
        "not used: in the microscope's own format; export it as OME-TIFF, for instance with Fiji or bfconvert (b.czi)",
        "not used: a preview (2 files)",
        "not used: lies beside the images and label maps (atlas.nii)",
        "not used: .xyz is no format that is read (x.xyz)",
        "not used: 2 files without image: .md (1), .tsv (1)",
        "not used: 1 hidden file",
    )


def test_folders_of_1251_patients_are_recognised_in_seconds(tmp_path):
    make(tmp_path, *brats(1251))
    start = time.process_time()
    assert len(found(tmp_path).cases) == 1251
    assert time.process_time() - start < 15


BIDS = [*grid("sub-0<0>/anat/sub-0<0>_<1>.nii.gz", range(1, 4), ["T1w", "FLAIR"]), "dataset_description.json"]


def test_bids_label_maps_of_a_session_take_all_its_contrasts_as_channels(tmp_path):
    make(tmp_path, *BIDS, *grid("derivatives/manual/sub-0<0>/anat/sub-0<0>_label-WMH_mask.nii.gz", range(1, 3)))
    others = ["desc-preproc_T1w", "desc-brain_mask", "dseg", "label-GM_probseg", "space-MNI152NLin6Asym_dseg"]
    make(tmp_path, *grid("derivatives/fmriprep/sub-0<0>/anat/sub-0<0>_<1>.nii.gz", [1, 2], others))
    dataset = found(tmp_path)
    assert dataset.layout == "BIDS layout"
    assert [(case.name, case.subject) for case in dataset.cases] == [("sub-01", "01"), ("sub-02", "02")]
    assert dataset.channels == ("FLAIR", "T1w")
    assert dataset.cases[0].labels.name == "sub-01_label-WMH_mask.nii.gz"
    assert describe_unused(dataset.unused) == (
        "not used: another derivative (2 files)",
        "not used: a map of probabilities (2 files)",
        "not used: in another space than the scan (2 files)",
        "not used: no label map (2 files)",
        "not used: label map beside manual annotations (4 files)",
        "not used: 1 file without image: .json (1)",
    )


def test_bids_masks_become_labels_and_sessions_cases(tmp_path):
    make(tmp_path, *grid("sub-0<0>/ses-<1>/anat/sub-0<0>_ses-<1>_T1w.nii.gz", [1, 2], [1, 2]))
    make(
        tmp_path,
        *grid("derivatives/x/sub-0<0>/ses-<1>/anat/sub-0<0>_ses-<1>_space-T1w_label-<2>_mask.nii.gz", [1, 2], [1, 2], ["GM", "WM"]),
    )
    dataset = found(tmp_path)
    assert [case.name for case in dataset.cases] == [f"sub-0{i}_ses-{k}" for i in (1, 2) for k in (1, 2)]
    assert dataset.labels.names == ("background", "GM", "WM")
    assert dataset.channels == ("T1w",)
    assert "4 cases of 2 patients" in dataset.inferred


def test_bids_label_maps_of_one_contrast_are_chosen_by_it(tmp_path):
    make(tmp_path, *BIDS, *grid("derivatives/labels/sub-0<0>/anat/sub-0<0>_<1>_seg-manual.nii.gz", range(1, 3), ["T1w", "FLAIR"]))
    with pytest.raises(DatasetError, match=r"contrasts: flair \(2\), t1 \(2\); expected one contrast; choose with --channels"):
        found(tmp_path)
    dataset = found(tmp_path, channels=("flair",))
    assert [case.images[0].name for case in dataset.cases] == ["sub-01_FLAIR.nii.gz", "sub-02_FLAIR.nii.gz"]
    assert dataset.channels == ("FLAIR",)


def test_bids_without_label_maps_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match="is a BIDS dataset without label maps"):
        found(make(tmp_path, *BIDS))


def test_real_axons_in_bids(shared_data):
    root = shared_data / "AXON_SEM_BIDS"
    dataset = found(root)
    assert len(dataset.cases) == 10
    assert dataset.labels.names == ("background", "axon", "myelin")
    assert dataset.channels == ("SEM",)
    assert {case.subject for case in dataset.cases} == {f"rat{i}" for i in range(1, 9)}
    assert shape(dataset, root)["sub-rat3_sample-data9"][0] == ["sub-rat3/micr/sub-rat3_sample-data9_SEM.png"]
    assert dataset.inferred == (
        "images from */micr/*.png",
        "label maps from derivatives/labels/*/micr/*.png",
        "2 labels from the names of masks: axon, myelin",
        "10 cases of 8 patients",
    )
    assert describe_unused(dataset.unused)[0] == "not used: the union of axon and myelin (10 files)"


@pytest.mark.parametrize(
    ("name", "cases"), [("DRIVE", 20), ("DSB2018", 468), ("ACDC", 160), ("ISBI2012_EM", 24), ("Task04_Hippocampus", 200)]
)
def test_real_datasets_are_recognised_as_they_lie(shared_data, name, cases):
    dataset = found(shared_data / name)
    assert len(dataset.cases) == cases
    assert [f for f in dataset.findings if f.level == "error"] == []
    assert [one for one in dataset.unused if one.suspect] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bids_ivadomed", r"3 label maps fit the image .*T2w.nii.gz: .*--labels"),
        ("totalsegmentator", r"4 images fit one label map, example_seg.nii.gz: .*--images"),
        ("slicer_seg_nrrd", r"2 label maps fit the image CTChest4.nrrd: .*--labels"),
    ],
)
def test_real_mixtures_of_examples_are_refused_by_what_was_found(shared_data, name, words):
    with pytest.raises(DatasetError, match=words):
        found(shared_data / "FORMATS" / name)


def test_real_mixtures_of_examples_are_read_with_the_options_that_the_refusals_name(shared_data):
    folder = shared_data / "FORMATS"
    spine = found(folder / "bids_ivadomed", channels=("T2w",), labels="derivatives/labels/**/*_seg-manual*")
    assert [case.name for case in spine.cases] == ["sub-unf01"]
    chest = found(folder / "slicer_seg_nrrd", labels="Segmentation.seg.nrrd")
    assert chest.cases[0].labels.name == "Segmentation.seg.nrrd"
    organs = found(folder / "totalsegmentator", images="example_ct.nii.gz", labels="example_seg_fast")
    assert len(organs.cases) == 1
    assert len(organs.labels.names) == 1 + len(list((folder / "totalsegmentator" / "example_seg_fast").glob("*.nii.gz")))


@pytest.mark.parametrize(
    ("series", "place"),
    [
        ("images/c<0>", "labels/c<0>.dcm"),
        ("images/c<0>", "images/c<0>/1.2.77.dcm"),
        ("images/c<0>", "images/c<0>/seg.dcm"),
        ("case_<0>", "case_<0>/seg.dcm"),
        ("images/Case-<0>_a", "images/Case-<0>_a/seg.dcm"),
    ],
)
def test_dicom_segmentations_are_label_maps(tmp_path, series, place):
    pytest.importorskip("highdicom")
    for i in range(2):
        files = write_classic(tmp_path / series.replace("<0>", str(i)), Volume(voxels=ramp(6)), SeriesInstanceUID=f"1.2.{i + 1}")
        scan = read_scan(files)
        values = np.zeros(scan.source.grid.shape, np.uint8)
        values[1:3, 1:3, 2:4] = 1
        target = tmp_path / place.replace("<0>", str(i))
        target.parent.mkdir(exist_ok=True)
        write_dicom_seg(values, target, like=scan.source, labels=Labels(names=("background", "liver"), values=(0, 1)))
    dataset = read_dataset(tmp_path)
    names = [Path(series.replace("<0>", str(i))).name for i in range(2)]
    assert [(case.name, case.images[0].name) for case in dataset.cases] == [(name, name) for name in names]
    assert dataset.labels.names == ("background", "liver")
    assert [finding for finding in dataset.findings if finding.level == "error"] == []
    assert dataset.unused == ()


def test_test_parts_of_nnunet_are_no_training_cases(tmp_path):
    make(tmp_path, *grid("imagesTr/c<0>_000<1>.nii", range(2), range(2)), *grid("labelsTr/c<0>.nii", range(2)))
    make(tmp_path, *grid("imagesTs/t<0>_000<1>.nii", range(2), range(2)))
    (tmp_path / "dataset.json").write_text('{"channel_names": ["T1", "T2"], "labels": {"background": 0, "a": 1}, "numTraining": 2}')
    dataset = found(tmp_path)
    assert (dataset.layout, [case.name for case in dataset.cases], dataset.findings) == ("nnU-Net raw layout", ["c0", "c1"], ())
    assert describe_unused(dataset.unused)[0] == "not used: no label map: test scans (4 files)"
    make(tmp_path, *grid("labelsTs/t<0>.nii", range(2)))
    dataset = found(tmp_path)
    assert [case.split for case in dataset.cases] == ["", "", "test", "test"]
    assert dataset.findings == ()


def test_a_second_image_in_one_case_of_many_costs_this_case(tmp_path):
    dataset = found(make(tmp_path, *grid("p<0>/<1>.nii", range(5), ["ct", "mask"]), "p3/other.nii"))
    assert [case.name for case in dataset.cases] == ["p0", "p1", "p2", "p4"]
    assert [f.case for f in dataset.findings] == ["p3"]
    assert "2 images fit one label map: ct.nii, other.nii; expected one as in the other cases" in dataset.findings[0].message
