"""Two folders of label maps as people have them: what is paired, what values mean, and what is noticed."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import zarr
from dicom_series import write_series
from PIL import Image

from nnseg.core.errors import EvaluationError
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels, Region
from nnseg.core.scores import Scores
from nnseg.evaluation.case_score import Measures
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.folders import evaluate_folders, pair_folders
from nnseg.evaluation.pairs import FilePair, read_pair
from nnseg.storage.images.dicom_seg import write_dicom_seg
from nnseg.storage.images.read import read_scan
from nnseg.storage.images.write import write_label_map
from nnseg.storage.predictions import PredictionsWriter

VOLUME = np.zeros((4, 6, 8), np.uint8)
VOLUME[1:3, 1:3, 1:5], VOLUME[1:3, 4:, 6:] = 1, 2


def write(path, voxels=VOLUME, **metadata) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    for key, text in metadata.items():
        image.SetMetaData(key, text)
    sitk.WriteImage(image, str(path))


def mask_of(number):
    return np.where(VOLUME == number, 1, 0).astype(np.uint8)  # noqa: SIM300


def scored(tmp_path, **options):
    found = pair_folders(tmp_path / "made", tmp_path / "given", **options)
    return found, evaluate(found.pairs, found.labels, failed=found.failed)


def record(folder, labels: Labels) -> None:
    folder.mkdir(exist_ok=True)
    with PredictionsWriter(folder, model={}, labels=labels):
        pass


ORGANS = Labels(names=("background", "liver", "spleen"), values=(0, 1, 2))


def test_labels_are_those_of_predictions_and_references_together(tmp_path):
    write(tmp_path / "made" / "a.nii.gz", np.where(VOLUME == 2, 3, VOLUME).astype(np.uint8))
    write(tmp_path / "given" / "a.nii.gz")
    found, scores = scored(tmp_path)
    assert scores.labels == ("label 1", "label 2", "label 3")
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 0.0, 0.0]
    assert [mask.fp for mask in scores.cases[0].labels.values()] == [0, 0, 8]
    assert found.notes == (
        "labels found in the label maps: label 1=1, label 2=2, label 3=3; --labels or a dataset.json can name them",
        "no reference shows label 3 (3): all that is predicted of it is false positive",
    )


def test_names_are_those_on_record_and_further_values_are_added(tmp_path):
    record(tmp_path / "made", Labels(names=("background", "liver"), values=(0, 1)))
    write(tmp_path / "made" / "a.nii.gz", np.where(VOLUME == 2, 0, VOLUME).astype(np.uint8))
    write(tmp_path / "given" / "a.nii.gz")
    found, scores = scored(tmp_path)
    assert scores.labels == ("liver", "label 2")
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 0.0]
    assert found.notes == (f"labels by {tmp_path / 'made' / 'predictions.json'}: liver=1, label 2=2",)


def test_a_label_on_record_that_no_reference_shows_is_said_to_be_false_positive(tmp_path):
    record(tmp_path / "made", ORGANS)
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.nii.gz", np.where(VOLUME == 2, 0, VOLUME).astype(np.uint8))
    found, scores = scored(tmp_path)
    assert scores.labels == ("liver", "spleen")
    assert found.notes[1] == "no reference shows spleen (2): all that is predicted of it is false positive"


def test_a_value_that_both_name_differently_is_refused(tmp_path):
    record(tmp_path / "made", ORGANS)
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.nii.gz")
    names = {"background": 0, "spleen": 1, "liver": 2}
    (tmp_path / "given" / "dataset.json").write_text(json.dumps({"labels": names}))
    with pytest.raises(EvaluationError, match=r"1 is liver by .*predictions.json, but 1 is spleen by .*dataset.json; .* --labels"):
        pair_folders(tmp_path / "made", tmp_path / "given")
    assert pair_folders(tmp_path / "made", tmp_path / "given", ORGANS).labels == ORGANS
    (tmp_path / "given" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Liver": 1, "ignore": 2}}))
    with pytest.raises(EvaluationError, match=r"2 is spleen by .*, but 2 is the ignore value by"):
        pair_folders(tmp_path / "made", tmp_path / "given")
    (tmp_path / "given" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Liver": 1, "pancreas": 5}}))
    assert pair_folders(tmp_path / "made", tmp_path / "given").labels == Labels(
        names=("background", "Liver", "pancreas", "spleen"), values=(0, 1, 5, 2)
    )


def test_regions_on_record_are_scored_and_further_values_become_regions(tmp_path):
    whole, core = Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)
    record(tmp_path / "made", Labels(names=("background", "edema", "core"), values=(0, 1, 2), regions=(whole, core)))
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.nii.gz", VOLUME + (np.arange(8) == 0).astype(np.uint8) * 7)
    _, scores = scored(tmp_path)
    assert scores.labels == ("whole", "core", "label 7")
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 1.0, 0.0]


def test_one_foreground_value_on_either_side_is_one_label(tmp_path):
    mask = (VOLUME > 0).astype(np.uint8)
    write(tmp_path / "made" / "a.png", mask[1])
    write(tmp_path / "given" / "a.png", mask[1] * 255)
    found, scores = scored(tmp_path)
    assert scores.labels == ("foreground",)
    assert scores.cases[0].labels["foreground"].dice == 1.0
    assert found.notes[1] == "predictions have the value 1, references 255: both are taken for foreground"
    record(tmp_path / "made", Labels(names=("background", "vessel"), values=(0, 1)))
    found, scores = scored(tmp_path)
    assert (scores.labels, scores.cases[0].labels["vessel"].dice) == (("vessel",), 1.0)


def test_values_that_have_nothing_in_common_are_refused(tmp_path):
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.nii.gz", VOLUME * 100)
    said = (
        r"predictions show label 1 \(1\), label 2 \(2\) and references label 100 \(100\), label 200 \(200\), and nothing in common"
    )
    with pytest.raises(EvaluationError, match=said):
        pair_folders(tmp_path / "made", tmp_path / "given")


def test_references_of_nothing_but_background_are_refused(tmp_path):
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.nii.gz", VOLUME * 0)
    with pytest.raises(EvaluationError, match=r"no reference in .*given has any label but background"):
        pair_folders(tmp_path / "made", tmp_path / "given")


SLICER = {"Segment0_Name": "liver", "Segment0_LabelValue": "1", "Segment1_Name": "spleen", "Segment1_LabelValue": "2"}
SWAPPED = SLICER | {"Segment0_LabelValue": "2", "Segment1_LabelValue": "1"}


def test_segments_are_matched_by_their_names_not_by_their_values(tmp_path):
    write(tmp_path / "made" / "a.nrrd", **SLICER)
    write(tmp_path / "given" / "a.seg.nrrd", np.array([0, 2, 1], np.uint8)[VOLUME], **SWAPPED)
    found, scores = scored(tmp_path)
    assert sorted(scores.labels) == ["liver", "spleen"]
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 1.0]
    assert found.notes[0].endswith(": label names from the headers of 1 label map")
    assert found.notes[2] == "labels found in the label maps: liver=1, spleen=2; --labels or a dataset.json can name them"


def test_segments_meet_values_by_the_record_or_by_their_header(tmp_path):
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.seg.nrrd", np.array([0, 2, 1], np.uint8)[VOLUME], **SWAPPED)
    _, scores = scored(tmp_path)  # nothing but the header tells what 1 and 2 are
    assert {name: mask.dice for name, mask in scores.cases[0].labels.items()} == {"liver": 0.0, "spleen": 0.0}
    record(tmp_path / "made", ORGANS)
    _, scores = scored(tmp_path)
    assert {name: mask.dice for name, mask in scores.cases[0].labels.items()} == {"liver": 1.0, "spleen": 1.0}
    _, scores = scored(tmp_path, labels=ORGANS)
    assert {name: mask.dice for name, mask in scores.cases[0].labels.items()} == {"liver": 1.0, "spleen": 1.0}


def test_a_mask_for_each_label_meets_one_label_map_by_names(tmp_path):
    for number, label in enumerate(("Liver", "spleen", "kidney"), 1):
        write(tmp_path / "made" / "a" / f"{label}.nii.gz", mask_of(number) * 255)
    write(tmp_path / "given" / "a.nii.gz")
    with pytest.raises(EvaluationError, match=r"nothing says which of the values 1, 2 are kidney, Liver, spleen; .* --labels"):
        pair_folders(tmp_path / "made", tmp_path / "given")
    (tmp_path / "given" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "spleen": 2}}))
    found, scores = scored(tmp_path)
    assert scores.labels == ("liver", "spleen", "kidney")
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 1.0, None]
    assert "no reference shows kidney (3)" in found.notes[-1]
    _, scores = scored(tmp_path, labels=ORGANS)
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 1.0]


def test_masks_on_both_sides_are_matched_by_names(tmp_path):
    for folder in ("made", "given"):
        for case in ("a", "b"):
            for number, label in enumerate(("liver", "spleen"), 1):
                write(tmp_path / folder / case / f"{label}.nii.gz", mask_of(number))
    _, scores = scored(tmp_path)
    assert (scores.labels, [case.mean_dice for case in scores.cases]) == (("liver", "spleen"), [1.0, 1.0])


@pytest.mark.parametrize("side", ["made", "given"])
def test_scans_given_for_label_maps_are_noticed(tmp_path, side):
    noise = np.random.default_rng(0).normal(100, 40, VOLUME.shape)
    for kind in ("float", "int16"):
        for folder in ("made", "given"):
            write(
                tmp_path / folder / "a.nii.gz",
                noise.astype(np.float32 if kind == "float" else np.int16) if folder == side else VOLUME,
            )
        said = "no whole numbers" if kind == "float" else r"\d+ different values, -?\d+ to \d+, in no areas"
        with pytest.raises(
            EvaluationError, match=rf"{side} holds scans, not label maps: a.nii.gz has .*{said}; give the folder with"
        ):
            pair_folders(tmp_path / "made", tmp_path / "given")


def test_with_declared_labels_the_values_of_a_scan_are_not_all_listed(tmp_path):
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.nii.gz", np.arange(VOLUME.size, dtype=np.int16).reshape(VOLUME.shape))
    _, scores = scored(tmp_path, labels=ORGANS)
    assert scores.failed[0].reason.startswith("reference has values [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ...] (189; is it a scan?)")


def test_a_reference_that_cannot_be_read_fails_alone_and_all_of_them_together(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "made" / f"{name}.nii.gz")
        write(tmp_path / "given" / f"{name}.nii.gz")
    (tmp_path / "given" / "a.nii.gz").write_bytes(b"no image")
    assert [case.name for case in scored(tmp_path)[1].cases] == ["b"]
    (tmp_path / "given" / "b.nii.gz").write_bytes(b"no image")
    with pytest.raises(EvaluationError, match=r"none of 2 label maps in .*given can be read; the first: .*is not a NIfTI file"):
        pair_folders(tmp_path / "made", tmp_path / "given")


def test_swapped_and_equal_folders_are_noticed(tmp_path, caplog):
    write(tmp_path / "made" / "a.nii.gz")
    write(tmp_path / "given" / "a.nii.gz", np.roll(VOLUME, 1, axis=2))
    record(tmp_path / "given", ORGANS)
    assert "given for references, was predicted by nnseg" in pair_folders(tmp_path / "made", tmp_path / "given").doubts[0]
    assert pair_folders(tmp_path / "given", tmp_path / "made").doubts == ()
    one = pair_folders(tmp_path / "made", tmp_path / "made")
    assert one.doubts == (f"{tmp_path / 'made'} is given for predictions and for references: all scores are perfect",)
    write(tmp_path / "copy" / "a.nii.gz")
    assert evaluate_folders(tmp_path / "made", tmp_path / "copy").cases[0].mean_dice == 1.0
    assert "all predictions in" in caplog.text
    assert "are the same files as the references" in caplog.text


def test_a_large_prediction_is_compared_where_headers_are_rounded_to_a_thousandth(tmp_path):
    drawn = np.zeros((3, 300, 300), np.uint8)
    drawn[1, 5:9, 5:9], drawn[1, 20:24, 5:9] = 1, 2
    for folder, spacing in (("made", 1.0), ("given", 1.0009)):
        image = sitk.GetImageFromArray(drawn)
        image.SetSpacing((spacing, spacing, 1.0))
        (tmp_path / folder).mkdir()
        sitk.WriteImage(image, str(tmp_path / folder / "a.nii.gz"))
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given", ORGANS)
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 1.0]


def test_a_prediction_on_another_grid_is_refused_with_what_to_do(tmp_path):
    write(tmp_path / "given" / "crop.nii.gz")
    for name, place in (("crop", (slice(1, 3), slice(0, 6), slice(2, 8))), ("moved", ...), ("coarse", ...), ("apart", ...)):
        write(tmp_path / "given" / f"{name}.nii.gz")
        image = sitk.GetImageFromArray(VOLUME[place])
        image.SetOrigin({"crop": (2.0, 0.0, 1.0), "moved": (3.0, 0.0, 0.0), "apart": (99.5, 0.0, 0.0)}.get(name, (0.0, 0.0, 0.0)))
        image.SetSpacing((1.0, 1.0, 1.2) if name == "coarse" else (1.0, 1.0, 1.0))
        (tmp_path / "made").mkdir(exist_ok=True)
        sitk.WriteImage(image, str(tmp_path / "made" / f"{name}.nii.gz"))
    reasons = {failure.name: failure.reason for failure in evaluate_folders(tmp_path / "made", tmp_path / "given", ORGANS).failed}
    assert reasons["crop"] == (
        "the prediction has 2 x 6 x 6 voxels (z, y, x), the reference 4 x 6 x 8; "
        "the prediction is the part [1:3, 0:6, 2:8] of the reference's grid: put it there, with background around it"
    )
    assert "lie up to 3 mm apart; they have the same voxels, +0 x +0 x +3 apart (z, y, x): crop or pad one" in reasons["moved"]
    assert "resample the prediction to the reference's grid with nearest neighbour" in reasons["coarse"]
    assert "they hardly overlap: check that both are of the same scan" in reasons["apart"]


def test_a_reference_that_is_cropped_to_its_segments_lies_in_its_place(tmp_path):
    write(tmp_path / "made" / "a.nii.gz")
    image = sitk.GetImageFromArray(VOLUME[1:3, 1:, 1:])
    image.SetOrigin((1.0, 1.0, 1.0))
    for key, text in SLICER.items():
        image.SetMetaData(key, text)
    (tmp_path / "given").mkdir()
    sitk.WriteImage(image, str(tmp_path / "given" / "a.seg.nrrd"))
    record(tmp_path / "made", ORGANS)
    _, scores = scored(tmp_path)
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 1.0]


def squares(rows: int, gap: int, numbered: bool) -> np.ndarray:
    """A row of squares of 4 x 4 pixels, one after the other."""
    mask = np.zeros((6 * rows, 6 * 12), np.uint8)
    for i in range(rows * 10):
        y, x = divmod(i, 10)
        mask[6 * y + 1 : 6 * y + 5, (4 + gap) * x + 1 : (4 + gap) * x + 5] = i + 1 if numbered else 1
    return mask


def test_numbers_of_objects_are_foreground_and_objects_that_touch_stay_apart(tmp_path):
    for i, rows in enumerate((1, 2, 3)):
        write(tmp_path / "given" / f"{i}.png", squares(rows, 0, numbered=True))
        write(tmp_path / "made" / f"{i}.png", squares(rows, 0, numbered=True))
    found, scores = scored(tmp_path)
    assert (found.labels.names, found.instances) == (("background", "object"), ("object",))
    assert found.notes[0].endswith(": values number the objects of each label map (10 to 30): all are object")
    assert [case.mean_dice for case in scores.cases] == [1.0, 1.0, 1.0]
    lesions = evaluate(found.pairs, found.labels, measures=Measures(instances=found.instances)).cases[1].labels["object"].lesions
    assert (lesions.reference, lesions.predicted, lesions.panoptic_quality) == (20, 20, 1.0)


def test_numbers_of_objects_meet_masks(tmp_path):
    for i, rows in enumerate((1, 2, 3)):
        write(tmp_path / "given" / f"{i}.png", squares(rows, 1, numbered=True))
        write(tmp_path / "made" / f"{i}.png", squares(rows, 1, numbered=False) * 255)
    found, scores = scored(tmp_path)
    assert (scores.labels, [case.mean_dice for case in scores.cases]) == (("object",), [1.0, 1.0, 1.0])
    lesions = evaluate(found.pairs, found.labels, measures=Measures(instances=found.instances)).cases[1].labels["object"].lesions
    assert (lesions.reference, lesions.predicted, lesions.panoptic_quality) == (20, 20, 1.0)


def test_names_may_differ_in_words_that_mark_label_maps_and_contrasts(tmp_path):
    names = {
        "sub-01_T1w": "sub-01_T1w_dseg",
        "sub-02_ses-1_T1w": "sub-02_ses-1_dseg",
        "img0003": "label0003",
        "patient004_frame01": "patient004_frame01_gt",
        "case5_prediction": "case5-seg",
        "case6": "case6",
    }
    for made, given in names.items():
        write(tmp_path / "made" / f"{made}.nii.gz")
        write(tmp_path / "given" / f"{given}.nii.gz")
    found = pair_folders(tmp_path / "made", tmp_path / "given")
    assert {pair.name: pair.reference.name.removesuffix(".nii.gz") for pair in found.pairs} == names
    assert (found.failed, found.notes[0]) == (
        (),
        "5 names of references differ from those of predictions, such as case5-seg for case5_prediction",
    )


def test_names_that_fit_several_cases_are_not_matched(tmp_path):
    for made in ("sub-01_T1w", "sub-01_T2w", "b"):
        write(tmp_path / "made" / f"{made}.nii.gz")
    for given in ("sub-01_dseg", "b"):
        write(tmp_path / "given" / f"{given}.nii.gz")
    found = pair_folders(tmp_path / "made", tmp_path / "given")
    assert [pair.name for pair in found.pairs] == ["b"]
    assert [failure.name for failure in found.failed] == ["sub-01_T1w", "sub-01_T2w", "sub-01_dseg"]


LESION = Labels(names=("background", "lesion", "organ"), values=(0, 3, 7))


def write_seg(path, series, labels_ZYX) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom_seg(labels_ZYX, path, like=read_scan(series).source, labels=LESION)


def test_dicom_seg_is_read_by_the_names_of_its_segments_on_either_side(tmp_path):
    write_series(tmp_path / "scan", slices=6)
    drawn, other = np.zeros((6, 4, 6), np.uint8), np.zeros((6, 4, 6), np.uint8)
    drawn[2:4, 1:3, 1:5], drawn[3, 3] = 3, 7
    other[1:3, 1:3, 1:5], other[3, 3] = 3, 7
    write_seg(tmp_path / "made" / "a.dcm", tmp_path / "scan", drawn)
    write_seg(tmp_path / "given" / "a" / "export.dcm", tmp_path / "scan", other)  # each has the slices with segments alone
    _, scores = scored(tmp_path)
    assert sorted(scores.labels) == ["lesion", "organ"]
    assert {name: mask.dice for name, mask in scores.cases[0].labels.items()} == {"lesion": 0.5, "organ": 1.0}
    assert scores.cases[0].labels["lesion"].reference_ml == pytest.approx(16 * 0.7 * 0.5 * 3 / 1000)
    scan = read_scan(tmp_path / "scan")
    (tmp_path / "nifti").mkdir()
    write_label_map(LabelMap(labels=other, grid=scan.grid), tmp_path / "nifti" / "a.nii.gz", like=scan.source)
    found = pair_folders(tmp_path / "made", tmp_path / "nifti", LESION)
    assert [mask.dice for mask in evaluate(found.pairs, LESION).cases[0].labels.values()] == [0.5, 1.0]
    found = pair_folders(tmp_path / "nifti", tmp_path / "given", LESION)
    assert [mask.dice for mask in evaluate(found.pairs, LESION).cases[0].labels.values()] == [1.0, 1.0]


def test_a_dicom_image_is_no_label_map(tmp_path):
    write_series(tmp_path / "scan", slices=2)
    write_seg(tmp_path / "made" / "a.dcm", tmp_path / "scan", np.full((2, 4, 6), 3, np.uint8))
    (tmp_path / "given").mkdir()
    (tmp_path / "scan" / "01.dcm").rename(tmp_path / "given" / "a.dcm")
    with pytest.raises(EvaluationError, match=r"none of 1 label map in .*given can be read; the first: .*a.dcm"):
        pair_folders(tmp_path / "made", tmp_path / "given")


@pytest.mark.parametrize("drawn", ["upright", "stored"])
def test_a_prediction_for_a_turned_photo_is_compared_with_masks_drawn_upright_or_on_stored_pixels(tmp_path, drawn):
    data = Image.Exif()
    data[274] = 6
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "photo.jpg", exif=data)
    scan = read_scan(tmp_path / "photo.jpg")
    labels = np.zeros((1, 9, 6), np.uint8)
    labels[0, :4, :2] = 1
    write_label_map(LabelMap(labels=labels, grid=scan.grid), tmp_path / "p.png", like=scan.source)
    Image.fromarray(labels[0] if drawn == "upright" else np.rot90(labels[0])).save(tmp_path / "r.png")
    pair = FilePair(name="a", prediction=tmp_path / "p.png", reference=tmp_path / "r.png")
    prediction, reference = read_pair(pair, Labels(names=("background", "organ"), values=(0, 1)))
    assert np.array_equal(prediction.labels, labels)
    assert np.array_equal(reference.labels, labels)


def test_masks_of_labels_that_are_not_declared_are_left_out_and_named(tmp_path):
    write(tmp_path / "made" / "a.nii.gz")
    for number, label in ((1, "Liver"), (2, "spleen"), (2, "aorta")):
        write(tmp_path / "given" / "a" / f"{label}.nii.gz", mask_of(number))
    found, scores = scored(tmp_path, labels=ORGANS)
    assert [mask.dice for mask in scores.cases[0].labels.values()] == [1.0, 1.0]
    assert "masks of aorta are left out, since --labels declares no such labels" in found.notes[-1]
    with pytest.raises(EvaluationError, match="has masks of Liver, aorta, spleen for a; the labels are lung; rename"):
        pair_folders(tmp_path / "made", tmp_path / "given", Labels(names=("background", "lung"), values=(0, 1)))


def test_how_files_were_read_is_logged_once_for_all_cases_and_kept_in_the_scores(tmp_path, caplog):
    caplog.set_level("INFO", logger="nnseg")
    for name in ("a", "b"):
        write(tmp_path / "made" / f"{name}.nii.gz")
        image = sitk.GetImageFromArray(VOLUME[1:3])
        image.SetOrigin((0.0, 0.0, 1.0))
        (tmp_path / "given").mkdir(exist_ok=True)
        sitk.WriteImage(image, str(tmp_path / "given" / f"{name}.nii.gz"))
    scores = evaluate_folders(tmp_path / "made", tmp_path / "given")
    assert [case.mean_dice for case in scores.cases] == [1.0, 1.0]
    assert scores.notes == (
        "labels found in the label maps: label 1=1, label 2=2; --labels or a dataset.json can name them",
        "cases a, b: reference covers a part of the grid, whole voxels away; the rest is taken for background",
    )
    assert tuple(caplog.messages) == scores.notes
    assert Scores.model_validate_json(scores.model_dump_json()) == scores


def test_a_note_that_several_files_of_a_case_give_names_the_case_once(tmp_path):
    volume = np.zeros((20, 20, 20), np.uint8)
    volume[:4], volume[10:] = 1, 2
    write(tmp_path / "made" / "a.nii.gz", volume)
    for number, label in ((1, "liver"), (2, "spleen")):
        mask = np.where(volume == number, 255, 0).astype(np.uint8)
        mask[6, 0, 0] = 100
        write(tmp_path / "given" / "a" / f"{label}.nii.gz", mask)
    _, scores = scored(tmp_path, labels=ORGANS)
    noted = "case a: reference 1 voxel (0.00013 of all) lies between 0 and 255; the mask was divided at the half [NS-L015]"
    assert [note for note in scores.notes if "divided at the half" in note] == [noted]


def test_a_mask_that_fits_a_turned_photo_twice_is_said_to_be_taken_upright(tmp_path):
    data = Image.Exif()
    data[274] = 3
    (tmp_path / "made").mkdir()
    Image.fromarray(VOLUME[1]).save(tmp_path / "made" / "a.png", exif=data)
    write(tmp_path / "given" / "a.png", VOLUME[1])
    (note,) = evaluate_folders(tmp_path / "made", tmp_path / "given", measures=Measures(tolerances=())).notes[1:]
    assert note.startswith("case a: reference is taken as drawn on the upright picture")


def test_folders_of_ome_zarr_are_label_maps(tmp_path):
    for side in ("made", "given"):
        group = zarr.open_group(tmp_path / side / "a.ome.zarr", mode="w", zarr_format=2)
        group.create_array("0", data=VOLUME)
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        scale = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [2.0, 1.0, 1.0]}]}
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [scale]}]
    _, scores = scored(tmp_path)
    assert [(case.name, case.mean_dice, case.length_unit) for case in scores.cases] == [("a", 1.0, "um")]
