"""What `nnseg check` says of bad input: each kind of it by its code, all in one pass, and no more cases lost than must be."""

import gzip
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from nnseg.cli import main
from nnseg.commands.measure import measure_dataset
from nnseg.core.dataset import Dataset, Finding, Reading, findings_of
from nnseg.core.errors import DatasetError
from nnseg.core.fingerprint import Fingerprint
from nnseg.planning.dataset_summary import summarize_dataset
from nnseg.planning.measure import refuse
from nnseg.planning.measure_folder import measure_folder
from nnseg.planning.unlike_cases import find_unlike_cases
from nnseg.storage.run import Run

SHAPE, CASES = (9, 8, 7), 5


def voxels(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def drawn(value: int = 1, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, np.uint16)
    labels[2:5, 2:5, 2:5] = value
    return labels


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def image(folder: Path, case: int = 0, channel: int = 0) -> Path:
    return folder / f"imagesTr/c{case}_{channel:04d}.nii.gz"


def label_map(folder: Path, case: int = 0) -> Path:
    return folder / f"labelsTr/c{case}.nii.gz"


def describe(folder: Path, labels: dict[str, int], channels: tuple[str, ...] = ("MRI",), count: int = CASES) -> None:
    about = {"channel_names": dict(enumerate(channels)), "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five small cases in nnU-Net's raw layout, all in order."""
    for case in range(CASES):
        save(image(tmp_path, case), voxels(case))
        save(label_map(tmp_path, case), drawn())
    describe(tmp_path, {"background": 0, "organ": 1})
    return tmp_path


def look(folder: Path, **reading: object) -> tuple[Dataset, Fingerprint]:
    return measure_folder(folder, reading=Reading.model_validate(reading))


def found(fingerprint: Fingerprint, code: str) -> list[Finding]:
    return [finding for finding in fingerprint.findings if finding.code == code]


def patch(path: Path, offset: int, content: bytes) -> None:
    """Overwrite bytes of a compressed header."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[offset : offset + len(content)] = content
    path.write_bytes(gzip.compress(bytes(data)))


def edit_header(path: Path, change: Callable[[nib.Nifti1Image], object]) -> None:
    stored = nib.load(path)
    copy = nib.Nifti1Image(np.asarray(stored.dataobj), stored.affine)
    change(copy)
    nib.save(copy, path)


def turned(degrees: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(degrees), -np.sin(degrees)], [np.sin(degrees), np.cos(degrees)]]
    return affine


def reorder(folder: Path) -> None:
    stored = nib.load(label_map(folder))
    turn = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt("LIP"))
    reordered = stored.as_reoriented(turn)
    save(label_map(folder), np.asarray(reordered.dataobj), reordered.affine)


def cut(folder: Path) -> None:
    image(folder).write_bytes(image(folder).read_bytes()[:900])


def scaled(slope: float) -> Callable[[Path], None]:
    return lambda folder: patch(image(folder), 112, struct.pack("<ff", slope, 0))


def sized(size: float, *, sform: bool) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if not sform:
            edit_header(image(folder), lambda one: one.set_sform(np.eye(4), 0))
        patch(image(folder), 80, struct.pack("<f", size))

    return change


def shrunk(spacing: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        affine = np.diag([spacing, spacing, spacing, 1])
        save(image(folder), voxels(), affine)
        save(label_map(folder), drawn(), affine)

    return change


def two_forms(folder: Path) -> None:
    away = np.eye(4)
    away[0, 3] = 9
    edit_header(image(folder), lambda one: (one.set_sform(np.eye(4), 1), one.set_qform(away, 1)))


def nearly_whole(folder: Path) -> None:
    save(label_map(folder), drawn().astype(np.int16))
    patch(label_map(folder), 112, struct.pack("<ff", 0.9999, 0))


ROWS = {
    "a file that ends early": (cut, "NS-S002", "case rejected"),
    "a slope of 0": (scaled(0.0), "NS-S010", "fixed and noted"),
    "a slope of infinity": (scaled(np.inf), "NS-S010", "fixed and noted"),
    "a slope that is no number": (scaled(np.nan), "NS-S010", "fixed and noted"),
    "labels that are nearly whole": (nearly_whole, "NS-L003", "fixed and noted"),
    "a value that is not declared": (lambda f: save(label_map(f), drawn(7)), "NS-L004", "case rejected"),
    "an interpolated value": (lambda f: save(label_map(f), drawn().astype(np.float32) * 0.37), "NS-L002", "case rejected"),
    "an empty label map": (lambda f: save(label_map(f), drawn(0)), "NS-L007", "warning"),
    "no background": (lambda f: save(label_map(f), np.ones(SHAPE, np.uint8)), "NS-L008", "fixed and noted"),
    "another order of voxels": (reorder, "NS-L012", "fixed and noted"),
    "a negative spacing": (sized(-1.0, sform=False), "NS-S012", "case rejected"),
    "a spacing of 0": (sized(0.0, sform=False), "NS-S012", "case rejected"),
    "a negative pixdim beside an sform": (sized(-1.0, sform=True), "NS-S013", "fixed and noted"),
    "voxels of a micrometre": (shrunk(0.001), "NS-S014", "warning"),
    "voxels of a metre": (shrunk(999.0), "NS-S014", "warning"),
    "sform against qform": (two_forms, "NS-S015", "warning"),
    "NaN": (lambda f: save(image(f), np.where(drawn() > 0, np.nan, voxels())), "NS-S006", "case rejected"),
    "a constant image": (lambda f: save(image(f), np.ones(SHAPE, np.float32)), "NS-S008", "case rejected"),
    "an image under two names": (lambda f: image(f).write_bytes(image(f, 1).read_bytes()), "NS-D018", "warning"),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_case_is_named_by_its_code_and_costs_no_other(folder: Path, row: str):
    change, code, severity = ROWS[row]
    change(folder)
    _, fingerprint = look(folder)
    (finding,) = found(fingerprint, code)
    assert finding.severity == severity
    assert len(fingerprint.cases) == CASES - (severity == "case rejected")
    told = finding.explain()
    assert all(told[key] for key in ("severity", "found", "expected", "advice"))
    if code != "NS-D018":
        assert (told["case"], Path(told["file"]).name.split(".")[0].split("_")[0]) == ("c0", "c0")


def test_a_dataset_in_order_has_no_finding(folder: Path):
    assert look(folder)[1].findings == ()


@pytest.mark.parametrize(("shape", "limit"), [((64, 64, 4), 0.06), ((512, 512, 3), 0.6)])
@pytest.mark.parametrize("affine", [turned(9e-4), np.diag([1.0009, 1.0009, 1.0009, 1])], ids=["direction", "spacing"])
def test_headers_that_agree_within_a_thousandth_lie_at_one_place_whatever_the_size(
    folder: Path, shape: tuple[int, int, int], limit: float, affine: np.ndarray
):
    save(image(folder), voxels(shape=shape))
    save(label_map(folder), drawn(shape=shape), affine)
    apart = np.linalg.norm((affine[:3, :3] - np.eye(3)) @ (np.array(shape) - 1))
    assert apart > 0.9 * limit
    fingerprint = look(folder)[1]
    assert (len(fingerprint.cases), [f for f in fingerprint.findings if f.case]) == (CASES, [])


@pytest.mark.parametrize("affine", [turned(3e-3), np.diag([1.003, 1.003, 1.003, 1])], ids=["direction", "spacing"])
def test_headers_that_differ_by_more_are_refused_where_corners_lie_apart(folder: Path, affine: np.ndarray):
    save(image(folder), voxels(shape=(300, 300, 2)))
    save(label_map(folder), drawn(shape=(300, 300, 6))[..., 2:4], affine)
    (finding,) = found(look(folder)[1], "NS-L010")
    assert finding.case == "c0"


def test_a_shift_is_no_rounding_though_directions_agree(folder: Path):
    affine = turned(5e-4)
    affine[0, 3] = 0.5
    save(label_map(folder), drawn(), affine)
    assert found(look(folder)[1], "NS-L010")


def test_one_kind_of_finding_in_many_files_is_one_line_on_the_screen(folder: Path):
    for case in range(CASES):
        save(label_map(folder, case), np.ones(SHAPE, np.uint8))
        patch(image(folder, case), 112, struct.pack("<ff", np.nan, 0))
    lines = "\n".join(summarize_dataset(*look(folder)))
    assert (lines.count("NS-L008"), lines.count("NS-S010")) == (1, 1)
    assert "5 cases: its scl_slope is nan" in lines


def test_findings_of_all_kinds_come_in_one_pass(folder: Path):
    cut(folder)
    save(label_map(folder, 1), drawn(7))
    describe(folder, {"background": 0, "organ": 1, "ghost": 2}, count=9)
    codes = {finding.code for finding in look(folder)[1].findings}
    assert codes == {"NS-S002", "NS-L004", "NS-D014", "NS-D021", "NS-D022"}


def test_a_value_that_is_not_declared_becomes_a_label_on_request(folder: Path):
    for case in (1, 3):
        both = drawn()
        both[0, 0, :3] = 7
        save(label_map(folder, case), both)
    assert {f.case for f in found(look(folder)[1], "NS-L004")} == {"c1", "c3"}
    dataset, fingerprint = look(folder, auto_labels=True)
    assert (dataset.labels.values, dataset.labels.names) == ((0, 1, 7), ("background", "organ", "label 7"))
    assert [case.voxels["label 7"] for case in fingerprint.cases] == [0, 3, 0, 3, 0]
    assert "7 in cases c1, c3" in found(fingerprint, "NS-D036")[0].message


def test_a_declared_label_in_no_case_refuses_the_run_unless_it_is_allowed(folder: Path):
    describe(folder, {"background": 0, "organ": 1, "ghost": 2})
    fingerprint = look(folder)[1]
    with pytest.raises(DatasetError, match=r"label ghost \(2\).*--allow NS-D014 goes on") as refused:
        refuse(fingerprint, (), folder)
    assert refused.value.coded.endswith("[NS-D014]")
    allowed = refuse(fingerprint, ("NS-D014",), folder)
    assert [f.level for f in found(allowed, "NS-D014")] == ["warning"]


def test_masks_of_0_and_255_are_the_declared_label(folder: Path):
    for case in range(CASES):
        save(label_map(folder, case), drawn(255))
    fingerprint = look(folder)[1]
    assert [case.voxels for case in fingerprint.cases] == [{"background": 9 * 8 * 7 - 27, "organ": 27}] * CASES
    assert [f.severity for f in found(fingerprint, "NS-L014")] == ["fixed and noted"]


@pytest.mark.parametrize(("count", "lost"), [(1, "none can be held out"), (2, "at most 2 folds"), (4, "at most 4 folds")])
def test_few_cases_are_warned_of_with_what_is_lost(folder: Path, count: int, lost: str):
    for case in range(count, CASES):
        image(folder, case).unlink()
        label_map(folder, case).unlink()
    (finding,) = found(look(folder)[1], "NS-D021")
    assert (finding.level, lost in finding.message) == ("warning", True)


def test_two_files_of_one_name_refuse_the_run(folder: Path):
    (folder / "imagesTr/c0_0000.nii").write_bytes(gzip.decompress(image(folder).read_bytes()))
    assert [f.severity for f in found(look(folder)[1], "NS-D009")] == ["run refused"]


def test_names_that_differ_in_case_only_refuse_the_run(folder: Path):
    save(folder / "imagesTr/C0_0000.nii.gz", voxels(9))
    save(folder / "labelsTr/C0.nii.gz", drawn())
    (finding,) = found(look(folder)[1], "NS-D010")
    assert (finding.severity, "C0_0000.nii.gz and c0_0000.nii.gz differ" in finding.message) == ("run refused", True)


@pytest.mark.parametrize("declared", [True, False])
def test_cases_read_as_channels_of_one_are_refused_with_what_was_meant(tmp_path: Path, declared: bool):
    for case in range(CASES):
        save(tmp_path / f"imagesTr/case_{case:04d}.nii.gz", voxels(case))
    save(tmp_path / "labelsTr/case.nii.gz", drawn())
    if declared:
        describe(tmp_path, {"background": 0, "organ": 1})
    with pytest.raises(DatasetError, match=r"1 case with 5 channels, (1|none) declared .*if they are 5 cases") as refused:
        refuse(look(tmp_path)[1], (), tmp_path)
    assert refused.value.kind == "NS-D012"


def test_names_that_may_show_patients_are_warned_of(tmp_path: Path):
    for patient in range(3):
        for visit in "ab":
            save(tmp_path / f"imagesTr/pat{patient}{visit}_0000.nii.gz", voxels(patient + 5 * (visit == "b")))
            save(tmp_path / f"labelsTr/pat{patient}{visit}.nii.gz", drawn())
    (finding,) = found(look(tmp_path)[1], "NS-D020")
    assert (finding.level, '--group-by "(.+\\d)[A-Za-z]"' in finding.message) == ("warning", True)


def test_a_channel_on_another_grid_is_resampled_and_one_beside_the_first_is_refused(folder: Path):
    half, away = np.diag([2.0, 2, 2, 1]), np.eye(4)
    half[:3, 3], away[0, 3] = 0.5, 50
    for case in range(CASES):
        save(image(folder, case, 1), voxels(case + 9))
    save(image(folder, 0, 1), voxels(shape=(5, 4, 4)), half)
    save(image(folder, 1, 1), voxels(), away)
    describe(folder, {"background": 0, "organ": 1}, channels=("T1", "T2"))
    fingerprint = look(folder)[1]
    assert [(f.case, f.severity) for f in found(fingerprint, "NS-S022")] == [("c0", "fixed and noted")]
    assert [(f.case, f.severity) for f in found(fingerprint, "NS-S023")] == [("c1", "case rejected")]


def test_a_tiff_of_unequal_pages_is_refused_and_thumbnails_are_not(tmp_path: Path):
    for name, second in (("one", (15, 16)), ("two", (4, 4))):
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "images").mkdir(exist_ok=True)
        with tifffile.TiffWriter(tmp_path / f"images/{name}.tif") as file:
            file.write(voxels(shape=(16, 16)))
            file.write(voxels(shape=second))
        labels = np.zeros((16, 16), np.uint8)
        labels[2:5, 2:5] = 1
        tifffile.imwrite(tmp_path / f"labels/{name}.tif", labels)
    fingerprint = look(tmp_path)[1]
    assert [(f.case, f.severity) for f in found(fingerprint, "NS-S026")] == [("one", "case rejected")]
    assert [(f.case, f.severity) for f in found(fingerprint, "NS-S025")] == [("two", "warning")]


def ct(seed: int) -> np.ndarray:
    body = np.full(SHAPE, -1000.0)
    body[1:7, 1:7, 1:6] = np.random.default_rng(seed).normal(40, 10, (6, 6, 5))
    return body.round()


@pytest.mark.parametrize(
    ("channel", "content", "said"),
    [
        ("MR", ct, "like Hounsfield units in 5 of 5 cases .* normalized by zscore"),
        ("CT", voxels, "no values below 0 in 5 of 5 cases .* normalized by ct"),
        ("CT", ct, ""),
        ("MR", voxels, ""),
    ],
)
def test_values_of_another_modality_are_warned_of_with_the_normalization(
    folder: Path, channel: str, content: Callable[[int], np.ndarray], said: str
):
    for case in range(CASES):
        save(image(folder, case), content(case).astype(np.int16))
    describe(folder, {"background": 0, "organ": 1}, channels=(channel,))
    messages = [finding.message for finding in found(look(folder)[1], "NS-D023")]
    assert len(messages) == bool(said)
    assert not said or re.search(said, messages[0])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda stored: stored + 1024, {"air", "foreground"}),
        (lambda stored: stored.astype(np.int16).view(np.uint16), {"air"}),
        (lambda stored: stored + 10, set()),
    ],
    ids=["offset", "unsigned", "as others vary"],
)
def test_a_ct_on_another_scale_than_the_others_is_warned_of(
    folder: Path, change: Callable[[np.ndarray], np.ndarray], what: set[str]
):
    for case in range(CASES):
        save(image(folder, case), ct(case).astype(np.int16))
    stored = change(ct(0))
    save(image(folder), stored if stored.dtype == np.uint16 else stored.astype(np.int16))
    describe(folder, {"background": 0, "organ": 1}, channels=("CT",))
    findings = found(look(folder)[1], "NS-D024")
    assert {finding.case for finding in findings} <= {"c0"}
    assert {word for word in ("air", "foreground") if any(f"the {word} lies" in f.message for f in findings)} == what


def test_a_scan_of_extreme_size_is_warned_of_with_its_memory_and_time(make_fingerprint: Callable[..., Fingerprint]):
    usual = make_fingerprint((100, 512, 512), count=4).cases
    large = usual[0].model_copy(update={"name": "large", "shape": (1500, 1500, 1500)})
    (finding,) = find_unlike_cases(("CT",), [*usual, large])
    assert (finding.code, finding.case) == ("NS-S028", "large")
    assert "1500 x 1500 x 1500 voxels, 129 times the median: about 94.5 GB and 675 s to preprocess" in finding.message


def test_findings_are_in_the_records_of_a_run_which_a_refused_one_keeps_too(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    scaled(0.0)(folder)
    describe(folder, {"background": 0, "organ": 1, "ghost": 2})
    run = Run(tmp_path_factory.mktemp("run"))
    with pytest.raises(DatasetError, match="--allow NS-D014"):
        measure_dataset(run, folder, 0)
    assert [f.severity for f in found(run.fingerprint, "NS-D014")] == ["run refused"]
    measure_dataset(run, folder, 0, allow=("NS-D014",))
    assert [f.severity for f in found(run.fingerprint, "NS-D014")] == ["warning"]
    assert [(f.case, f.level) for f in found(run.fingerprint, "NS-S010")] == [("c0", "note")]
    measure_dataset(run, folder, 0)  # allowed once


def test_check_ends_with_the_code_of_a_refusal_after_it_has_printed_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    scaled(0.0)(folder)
    describe(folder, {"background": 0, "organ": 1, "ghost": 2})
    monkeypatch.setattr("sys.argv", ["nnseg", "check", str(folder), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capfd.readouterr()
    assert end.value.code == 2
    assert {one["code"] for one in json.loads(shown.out)["findings"]} == {"NS-D014", "NS-S010"}
    assert shown.err.rstrip().endswith("[NS-D014]")


def test_a_folder_that_is_no_dataset_is_told_to_programs_too(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DatasetError) as refused:
        measure_folder(tmp_path)
    (told,) = [one.explain() for one in findings_of(refused.value)]
    assert (told["code"], told["severity"], told["file"]) == ("NS-D003", "run refused", str(tmp_path))


def test_all_cases_that_cannot_be_used_are_told_where_none_can(folder: Path):
    for case in range(CASES):
        image(folder, case).write_bytes(b"" if case else b"no image" * 99)
    with pytest.raises(DatasetError) as refused:
        measure_folder(folder)
    assert [one.code for one in findings_of(refused.value)] == ["NS-D002", "NS-S004", *["NS-S003"] * 4]
