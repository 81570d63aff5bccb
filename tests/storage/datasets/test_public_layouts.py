"""Public datasets as they are downloaded, by the names of their files alone."""

from pathlib import Path

import pytest
from test_layouts import found, grid, make, shape

from nnseg.core.dataset import Dataset, describe_unused
from nnseg.core.errors import DatasetError
from nnseg.core.labels import Labels
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.datasets.patients import find_patients
from nnseg.storage.datasets.read import read_dataset

DATASET = {
    "name": "d", "folder": Path("d"), "layout": "", "channels": ("image",), "suffix": ".tif",
    "labels": Labels(names=("a", "b"), values=(0, 1)),
}  # fmt: skip

MRI = ("flair", "t1", "t1ce", "t2")


def test_scans_of_a_validation_set_without_label_maps_are_no_errors(tmp_path):
    make(tmp_path, *grid("MICCAI_BraTS2020_TrainingData/B_<0>/B_<0>_<1>.nii", ["001", "002"], (*MRI, "seg")))
    make(tmp_path, *grid("MICCAI_BraTS2020_ValidationData/V_<0>/V_<0>_<1>.nii", ["001", "002"], MRI))
    dataset = found(tmp_path)
    assert [case.name for case in dataset.cases] == ["B_001", "B_002"]
    assert not dataset.findings
    assert describe_unused(dataset.unused) == ("not used: no label map: validation scans (8 files)",)


def test_parts_of_promise12_and_medt_are_known_by_words_beside_others(tmp_path):
    make(tmp_path / "p", *grid("TrainingData/Case0<0>.nii", [0, 1]), *grid("TrainingData/Case0<0>_segmentation.nii", [0, 1]))
    assert not found(make(tmp_path / "p", *grid("TestData/Case3<0>.nii", [0, 1]))).findings
    dataset = found(make(tmp_path / "m", *grid("<0>_folder/<1>/<2>.png", ("train", "val"), ("img", "labelcol"), (1, 2))))
    assert {case.name: case.split for case in dataset.cases} == {
        "training_1": "", "training_2": "", "validation_1": "validation", "validation_2": "validation",
    }  # fmt: skip


def test_a_label_map_of_another_name_is_its_folders(tmp_path):
    make(tmp_path, *grid("B_<0>/B_<0>_<1>.nii", ["001", "002", "003"], (*MRI, "seg")))
    (tmp_path / "B_003" / "B_003_seg.nii").rename(tmp_path / "B_003" / "W39_1998.09.19_Segm.nii")
    dataset = found(tmp_path)
    assert dataset.channels == MRI
    assert [case.name for case in dataset.cases] == ["B_001", "B_002", "B_003"]
    assert dataset.cases[2].labels.name == "W39_1998.09.19_Segm.nii"


def test_folders_of_classes_and_sites_are_no_patients(tmp_path):
    make(
        tmp_path,
        *grid("<0>/<0> (<1>).png", ("benign", "normal"), (1, 2)),
        *grid("<0>/<0> (<1>)_mask.png", ("benign", "normal"), (1, 2)),
    )
    dataset = found(tmp_path)
    assert len(dataset.cases) == 4
    assert {case.subject for case in dataset.cases} == {""}


def test_masks_of_the_brain_are_no_channel_and_no_label(tmp_path):
    make(tmp_path, *grid("p<0>/p<0>_<1>.nii", (1, 2), ("FLAIR", "T1W", "brainmask", "consensus_gt")))
    dataset = found(tmp_path)
    assert dataset.channels == ("FLAIR", "T1W")
    assert dataset.cases[0].labels.name == "p1_consensus_gt.nii"
    assert describe_unused(dataset.unused) == ("not used: a mask of the brain (2 files)",)


def test_pascal_voc_has_its_classes_beside_objects(tmp_path):
    make(tmp_path, *grid("JPEGImages/<0>.jpg", (1, 2)), *grid("Segmentation<0>/<1>.png", ("Class", "Object"), (1, 2)))
    dataset = found(tmp_path)
    assert [case.labels for case in dataset.cases] == [tmp_path / "SegmentationClass" / f"{i}.png" for i in (1, 2)]
    assert describe_unused(dataset.unused) == ("not used: numbers of objects beside classes (2 files)",)


def test_exports_of_labelme_have_pictures_beside_arrays(tmp_path):
    make(tmp_path, *grid("JPEGImages/<0>.jpg", (1, 2)), *grid("SegmentationClass/<0>.npy", (1, 2)))
    make(tmp_path, *grid("SegmentationClassPNG/<0>.png", (1, 2)), *grid("SegmentationClassVisualization/<0>.jpg", (1, 2)))
    assert [case.labels for case in found(tmp_path).cases] == [tmp_path / "SegmentationClassPNG" / f"{i}.png" for i in (1, 2)]


def test_volumes_of_radiotherapy_are_label_maps(tmp_path):
    make(tmp_path / "hecktor", *grid("CHGJ00<0>_<1>.nii.gz", (7, 8), ("ct", "pt", "gtvt")))
    dataset = found(tmp_path / "hecktor")
    assert dataset.channels == ("ct", "pt")
    assert dataset.cases[0].labels.name == "CHGJ007_gtvt.nii.gz"
    dataset = found(make(tmp_path / "men", *grid("M-000<0>-1/M-000<0>-1_<1>.nii.gz", (1, 2), ("t1c", "gtv"))))
    assert [case.labels.name for case in dataset.cases] == ["M-0001-1_gtv.nii.gz", "M-0002-1_gtv.nii.gz"]


def test_scans_of_a_target_domain_are_no_label_maps(tmp_path):
    make(tmp_path, *grid("source_training/ldn_<0>_<1>.nii.gz", (1, 2), ("ceT1", "Label")))
    make(tmp_path, *grid("target_<0>/ldn_<1>_hrT2.nii.gz", ("training", "validation"), (3, 4)))
    dataset = found(tmp_path)
    assert shape(dataset, tmp_path)["ldn_1_ceT1"] == (["source_training/ldn_1_ceT1.nii.gz"], ["source_training/ldn_1_Label.nii.gz"])
    assert len(dataset.cases) == 2


def test_folders_of_structures_are_masks_of_labels(tmp_path):
    make(tmp_path, *grid("05<0>/img.nrrd", (1, 2)), *grid("05<0>/structures/<1>.nrrd", (1, 2), ("Chiasm", "Mandible")))
    assert found(tmp_path).labels.names == ("background", "Chiasm", "Mandible")


def test_numbers_of_masks_that_all_cases_have_may_be_observers(tmp_path):
    make(tmp_path, *grid("t<0>/orig/t<0>_01_<1>.nii", ("01", "02"), ("flair", "t2")))
    make(tmp_path, *grid("t<0>/masks/t<0>_01_mask<1>.nii", ("01", "02"), (1, 2)))
    with pytest.raises(DatasetError, match=r'2 label maps fit the image t01/.*--labels "\*\*/\*1.nii"'):
        found(tmp_path)
    dataset = found(tmp_path, labels="**/*mask1.nii")
    assert dataset.channels == ("flair", "t2")
    assert [case.labels.name for case in dataset.cases] == ["t01_01_mask1.nii", "t02_01_mask1.nii"]


def test_isles_is_bids_in_a_folder_with_images_of_diffusion(tmp_path):
    scan = "ISLES-2022/sub-strokecase000<0>/ses-0001/<1>/sub-strokecase000<0>_ses-0001_<2>.nii.gz"
    make(tmp_path, *grid(scan, (1, 2), ("dwi",), ("dwi", "adc")), *grid(scan, (1, 2), ("anat",), ("FLAIR",)))
    make(tmp_path, *grid("ISLES-2022/derivatives/sub-strokecase000<0>/ses-0001/sub-strokecase000<0>_ses-0001_msk.nii.gz", (1, 2)))
    dataset = found(tmp_path)
    assert dataset.layout == "BIDS layout"
    assert dataset.channels == ("adc", "dwi", "FLAIR")
    assert [case.name for case in dataset.cases] == ["sub-strokecase0001_ses-0001", "sub-strokecase0002_ses-0001"]
    scans = find_scans(tmp_path, channels=3, names=dataset.channels).cases
    assert [case.images for case in scans] == [case.images for case in dataset.cases]


def test_series_of_diffusion_with_b_values_are_no_scans(tmp_path):
    make(
        tmp_path,
        *grid("d/sub-0<0>/dwi/sub-0<0>_dwi.<1>", (1, 2), ("nii.gz", "bval")),
        *grid("d/sub-0<0>/anat/sub-0<0>_T1w.nii", (1, 2)),
    )
    make(tmp_path, *grid("d/derivatives/sub-0<0>/anat/sub-0<0>_dseg.nii", (1, 2)))
    assert found(tmp_path).channels == ("T1w",)


def test_verse_is_three_bids_datasets_that_are_parts_of_a_split(tmp_path):
    for folder, number in (("01training", 1), ("02validation", 2), ("03test", 3)):
        make(tmp_path, f"dataset-{folder}/rawdata/sub-verse00{number}/sub-verse00{number}_ct.nii.gz")
        make(tmp_path, f"dataset-{folder}/derivatives/sub-verse00{number}/sub-verse00{number}_seg-vert_msk.nii.gz")
        make(tmp_path, f"dataset-{folder}/derivatives/sub-verse00{number}/sub-verse00{number}_seg-vert_snp.png")
    dataset = found(tmp_path)
    assert [(case.name, case.split) for case in dataset.cases] == [
        ("sub-verse001", ""), ("sub-verse002", "validation"), ("sub-verse003", "test"),
    ]  # fmt: skip
    assert dataset.cases[0].labels.name == "sub-verse001_seg-vert_msk.nii.gz"
    assert describe_unused(dataset.unused) == ("not used: a preview (3 files)",)


def test_atlas_has_label_maps_beside_the_scans_of_subjects(tmp_path):
    name = "<0>/R00<1>/sub-r00<1>s<2>/ses-1/anat/sub-r00<1>s<2>_ses-1_space-MNI_<3>.nii.gz"
    make(tmp_path, *grid(name, ("Training",), (1, 2), ("001", "002"), ("T1w", "label-L_desc-T1lesion_mask")))
    make(tmp_path, *grid(name, ("Testing",), (3,), ("001",), ("T1w",)))
    dataset = found(tmp_path)
    assert [case.subject for case in dataset.cases] == ["r001s001", "r001s002", "r002s001", "r002s002"]
    assert dataset.channels == ("T1w",)
    assert describe_unused(dataset.unused) == ("not used: no label map (sub-r003s001_ses-1_space-MNI_T1w.nii.gz)",)


def test_numbers_pair_images_and_label_maps_of_other_names(tmp_path):
    dataset = found(make(tmp_path, *grid("DATA/DATA_00<0>.nrrd", (1, 2, 3)), *grid("MASK/MASK_0<0>.nrrd", (1, 2))))
    assert shape(dataset, tmp_path) == {
        "DATA_001": (["DATA/DATA_001.nrrd"], ["MASK/MASK_01.nrrd"]),
        "DATA_002": (["DATA/DATA_002.nrrd"], ["MASK/MASK_02.nrrd"]),
    }
    assert dataset.inferred[0] == "pairs by the numbers in names, such as DATA_001.nrrd and MASK_01.nrrd"


def test_the_cell_tracking_challenge_has_a_folder_of_numbered_frames_for_each_sequence(tmp_path):
    make(tmp_path, *grid("C/0<0>/t00<1>.tif", (1, 2), (0, 1)), *grid("C/0<0>_GT/SEG/man_seg00<1>.tif", (1, 2), (0, 1)))
    dataset = found(make(tmp_path, *grid("C/0<0>_GT/TRA/man_track00<1>.tif", (1, 2), (0, 1))))
    assert shape(dataset, tmp_path)["02_t001"] == (["C/02/t001.tif"], ["C/02_GT/SEG/man_seg001.tif"])
    assert [case.name for case in dataset.cases] == ["01_t000", "01_t001", "02_t000", "02_t001"]
    assert find_patients(Dataset(cases=dataset.cases, **DATASET)).of["02_t001"] == "02"


def test_numbered_frames_are_no_channels(tmp_path):
    make(tmp_path, *grid("p<0>/t0<1>.tif", (1, 2), (0, 1, 2)), *grid("p<0>/gt.tif", (1, 2)))
    with pytest.raises(DatasetError, match="3 images fit one label map"):
        found(tmp_path)


def test_numbers_pair_nothing_where_most_label_maps_have_no_image(tmp_path):
    with pytest.raises(DatasetError, match="has no usable case"):
        found(make(tmp_path, *grid("DATA/DATA_<0>.nrrd", (1, 2)), *grid("MASK/MASK_<0>.nrrd", (2, 3, 4))))
    more = found(make(tmp_path / "more", *grid("DATA/DATA_<0>.nrrd", (1, 2)), *grid("MASK/MASK_<0>.nrrd", (1, 2, 3))))
    assert [finding.case for finding in more.findings] == ["MASK_3"]


def test_a_png_beside_each_jpeg_of_the_same_name_is_its_label_map(tmp_path):
    dataset = found(make(tmp_path, *grid("<0>.<1>", (1, 2), ("jpg", "png"))))
    assert shape(dataset, tmp_path) == {"1": (["1.jpg"], ["1.png"]), "2": (["2.jpg"], ["2.png"])}
    assert [case.images[0].name for case in find_scans(tmp_path, channels=3).cases] == ["1.jpg", "2.jpg"]
    with pytest.raises(DatasetError, match="has no known layout"):
        found(make(tmp_path, "3.png"))
    assert len(find_scans(tmp_path, channels=3).cases) == 5


def test_a_table_with_a_column_of_the_split_tells_parts(tmp_path):
    make(tmp_path, *grid("s000<0>/ct.nii.gz", range(4)), *grid("s000<0>/segmentations/<1>.nii.gz", range(4), ("aorta", "liver")))
    table = "image_id;age;split\ns0000;5;train\ns0001;5;train\ns0002;5;val\ns0003;5;test\ns0009;5;test\n"
    (tmp_path / "meta.csv").write_text(table)
    dataset = found(tmp_path)
    assert [case.split for case in dataset.cases] == ["", "", "validation", "test"]
    assert dataset.inferred[0] == "meta.csv puts 2 cases in training, 1 case in test, 1 case in validation"
    (tmp_path / "meta.csv").write_text(table.replace("s0001", "s0007"))
    assert {case.split for case in found(tmp_path).cases} == {""}


@pytest.mark.parametrize("name", ["annotations/instances.json", "1.json", "Annotations/1.xml"])
def test_outlines_are_refused_with_what_to_export(tmp_path, name):
    make(tmp_path, "images/1.jpg" if "/" in name else "1.jpg", name, name.replace("1.", "2.").replace("instances", "more"))
    with pytest.raises(DatasetError, match=r"(\.json|\.xml) .*outlines in \.json or \.xml are not read"):
        found(tmp_path)


def test_label_maps_of_which_none_can_be_read_are_no_empty_ones(tmp_path):
    make(tmp_path, *grid("<0>/<1>.png", ("images", "masks"), (1, 2)))
    with pytest.raises(DatasetError, match=r"none of 2 label maps can be read; the first: case 1: .*masks/1.png"):
        read_dataset(tmp_path)


def test_examinations_in_folders_of_patients_are_those_of_one_patient(tmp_path):
    make(tmp_path, *grid("PETCT_00<0>/0<1>-2003/<2>.nii.gz", (1, 2, 3), (1, 2), ("CTres", "SUV", "SEG")))
    assert [case.subject for case in found(tmp_path).cases] == ["PETCT_001"] * 2 + ["PETCT_002"] * 2 + ["PETCT_003"] * 2
    sites = make(tmp_path / "sites", *grid("R00<0>/p<0><1>/<2>.nii.gz", (1, 2), range(4), ("CTres", "SUV", "SEG")))
    assert len({case.subject for case in found(sites).cases}) == 8


def test_idrid_numbers_its_folders_and_has_a_folder_of_masks_for_each_finding(tmp_path):
    parts = (("a. Training Set", 1), ("b. Testing Set", 2))
    for part, number in parts:
        make(tmp_path, f"1. Original Images/{part}/IDRiD_0{number}.jpg")
        make(tmp_path, *grid(f"2. All Segmentation Groundtruths/{part}/<0>_<0>/IDRiD_0{number}_<0>.tif", ("MA", "EX")))
    dataset = found(tmp_path)
    assert {case.name: case.split for case in dataset.cases} == {"IDRiD_01": "", "IDRiD_02": "test"}
    assert len(dataset.labels.names) == 3
