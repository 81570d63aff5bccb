import json
import os
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import nnseg.planning.measure as module
from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.errors import DatasetError, ScanError
from nnseg.core.fingerprint import Fingerprint, Intensity
from nnseg.core.geometry import Grid, Shape, Vector
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels
from nnseg.planning.intensity import ForegroundSample, pool_intensities
from nnseg.planning.measure import SAMPLE_SIZE, measure, measure_case
from nnseg.planning.measure_folder import measure_folder
from nnseg.storage.datasets.read import read_dataset

LABELS = Labels(names=("background", "organ", "tumour"), values=(0, 1, 2), ignore=9)


@dataclass(frozen=True)
class Read:
    """What reading a case gives."""

    scan: Scan
    label_map: LabelMap
    findings: tuple[Finding, ...] = ()


def made(labels: Iterable[object], *, image: object = None, spacing: Vector = (2.0, 1.0, 1.0)) -> Read:
    """A case in memory: a label map, and an image that equals it plus one unless given."""
    values = np.array(labels, np.uint8)
    voxels = np.asarray(values + 1.0 if image is None else image, np.float32)[None]
    grid = Grid(shape=values.shape, spacing=spacing)
    return Read(Scan(image=voxels, grid=grid, source=Source(files=(), grid=grid)), LabelMap(labels=values, grid=grid))


Measure = Callable[..., Fingerprint]


@pytest.fixture
def measure_made(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Measure a dataset of cases in memory; None stands for a case that cannot be read."""

    def run(cases: dict[str, Read | None], **changes: object) -> Fingerprint:
        def read_case(case: Case, *, channels: int, labels: Labels) -> Read:
            read = cases[case.name]
            if read is None:
                raise ScanError(f"case {case.name}: {case.name}.nii.gz is truncated")
            return read

        monkeypatch.setattr(module, "read_case", read_case)
        monkeypatch.setattr(module, "case_key", lambda case: f"hash of {case.images[0].name}")
        listed = tuple(Case(name=n, images=(Path(f"{n}.nii.gz"),), labels=Path(f"l_{n}.nii.gz")) for n in cases)
        content = {"layout": "made up", "channels": ("MRI",), "labels": LABELS, "suffix": ".nii.gz", **changes}
        return measure(Dataset(name="made", folder=Path("made"), cases=listed, **content))

    return run


def test_case_is_measured_by_hand():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 2:5] = (1, 2, 2)
    labels[0, 0, 0] = 9
    image = np.zeros((4, 5, 6))
    image[1:3, 1:4, 2:6] = 5.0
    read = made(labels, image=image)
    case = measure_case(read.scan, read.label_map, labels=LABELS, name="a", key="k").case
    assert (case.shape, case.spacing, case.cropped_shape) == ((4, 5, 6), (2.0, 1.0, 1.0), (2, 3, 4))
    assert case.voxels == {"background": 116, "organ": 1, "tumour": 2}
    assert case.structures == {"organ": (1, 1, 1), "tumour": (1, 1, 2)}


def test_structure_is_the_largest_component_in_voxels_not_the_longest():
    labels = np.zeros((9, 9, 20), np.uint8)
    labels[0:3, 0:3, 0:3] = 1  # 27 voxels
    labels[6, 6, :] = 1  # 20 voxels, longer
    labels[8, 0, 0] = 9  # ignored
    read = made(labels)
    assert measure_case(read.scan, read.label_map, labels=LABELS, name="a").case.structures == {"organ": (3, 3, 3)}


def test_structure_is_connected_across_corners():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[range(4), range(1, 5), range(2, 6)] = 2
    read = made(labels)
    assert measure_case(read.scan, read.label_map, labels=LABELS, name="a").case.structures == {"tumour": (4, 4, 4)}


@pytest.mark.parametrize(("fine", "slack"), [(10_000, 0), (1000, 2), (100, 6)])
def test_structure_in_a_large_box_is_exact_to_a_block_at_either_end(monkeypatch: pytest.MonkeyPatch, fine: int, slack: int):
    monkeypatch.setattr(module, "MOST_VOXELS", fine)
    labels = np.zeros((1, 40, 50), np.uint8) + np.zeros((3, 1, 1), np.uint8)
    labels[:, 3:32, 4:30] = 1
    labels[1, 39, 49] = 1
    read = made(labels)
    shape = measure_case(read.scan, read.label_map, labels=LABELS, name="a").case.structures["organ"]
    assert shape[0] == 3
    assert 29 <= shape[1] <= 29 + slack
    assert 26 <= shape[2] <= 26 + slack


@pytest.mark.parametrize("spacing", [(1e-6, 1e-6, 1e-6), (1e6, 1e-6, 1.0), (1e6, 1e6, 1e6)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (2, 2, 2), (300, 1, 1)])
@pytest.mark.parametrize("value", [0.0, 3.4e38])
def test_absurd_cases_are_measured_in_finite_numbers(measure_made: Measure, spacing: Vector, shape: Shape, value: float):
    fingerprint = measure_made({"a": made(np.ones(shape), image=np.full(shape, value), spacing=spacing)})
    written = json.loads(fingerprint.model_dump_json(), parse_constant=pytest.fail)
    assert Fingerprint.model_validate(written) == fingerprint  # which a NaN, written as null, would not be
    assert fingerprint.cases[0].cropped_shape == shape
    assert fingerprint.largest_structure_mm == tuple(np.multiply(shape, spacing))
    assert fingerprint.intensities[0].std == 0.0


def test_ignored_voxels_are_not_foreground():
    read = made([[[0, 1, 9]]], image=[[[10.0, 20.0, 900.0]]])
    foreground = measure_case(read.scan, read.label_map, labels=LABELS, name="a").foreground
    assert foreground is not None
    assert foreground.sample.tolist() == [[20.0]]


def test_failed_case_becomes_a_finding_and_the_others_go_on(measure_made: Measure):
    cases = {"a": made([[[0, 1], [2, 0]]] * 2), "b": None, "c": made([[[1, 1], [2, 0]]] * 2)}
    fingerprint = measure_made(cases, findings=(Finding(level="note", message="of the folder"),))
    assert [c.name for c in fingerprint.cases] == ["a", "c"]
    assert [str(f) for f in fingerprint.findings][:2] == ["of the folder", "case b: b.nii.gz is truncated [NS-S001]"]
    assert fingerprint.unusable == {"b": "hash of b.nii.gz"}


def test_each_case_is_read_once(measure_made: Measure, monkeypatch: pytest.MonkeyPatch):
    reads: list[str] = []
    made_case = made([[[0, 1], [2, 0]]] * 2)

    class Counting(dict):  # type: ignore[type-arg]
        def __getitem__(self, name: str) -> Read:
            reads.append(name)
            return made_case

    measure_made(Counting(a=made_case, b=made_case))
    assert sorted(reads) == ["a", "b"]


@pytest.mark.parametrize(("count", "kept"), [(3, 300), (30, 300), (600, 600)])  # 600: one voxel of each, less than its own record
def test_sample_does_not_grow_with_the_number_of_cases(
    measure_made: Measure, monkeypatch: pytest.MonkeyPatch, count: int, kept: int
):
    sizes: list[int] = []

    def counting(cases: list[ForegroundSample]) -> tuple[Intensity, ...]:
        sizes.extend(c.sample.size for c in cases)
        return pool_intensities(cases)

    monkeypatch.setattr(module, "SAMPLE_SIZE", 300)
    monkeypatch.setattr(module, "pool_intensities", counting)
    measure_made(dict.fromkeys((f"case{i}" for i in range(count)), made(np.ones((4, 5, 6)))))
    assert sum(sizes) == kept


def test_measuring_takes_no_more_than_thrice_the_memory_of_the_scan():
    rng = np.random.default_rng(1)
    shape = (64, 256, 256)
    labels = np.ones(shape, np.uint8)  # all foreground is the worst
    labels[:, :, 200:] = 2
    read = made(labels, image=rng.normal(size=shape))
    tracemalloc.start()
    try:
        measure_case(read.scan, read.label_map, labels=LABELS, name="a", sample=SAMPLE_SIZE // 100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * read.scan.image.nbytes


def test_no_usable_case_is_an_error_that_names_the_first_problem(measure_made: Measure):
    with pytest.raises(DatasetError, match=r"none of 2 cases can be used; .* case a: a.nii.gz is truncated"):
        measure_made({"a": None, "b": None})


def test_no_foreground_anywhere_is_an_error(measure_made: Measure):
    empty = made(np.zeros((2, 3, 3)))
    with pytest.raises(DatasetError, match="no foreground voxel in 41 cases"):
        measure_made({f"case{i}": empty for i in range(41)})


def test_only_ignored_voxels_are_no_foreground(measure_made: Measure):
    with pytest.raises(DatasetError, match="no foreground voxel in 1 cases"):
        measure_made({"a": made([[[0, 9], [9, 9]]] * 2)})


def test_single_slices_among_volumes_are_an_error_with_both_lists(measure_made: Measure):
    volume, image = made([[[0, 1], [2, 0]]] * 2), made([[[0, 1], [2, 0]]])
    with pytest.raises(DatasetError, match=r"1 in 2D \(case b\), 2 in 3D \(cases a, c\)"):
        measure_made({"a": volume, "b": image, "c": volume})


def test_label_that_never_occurs_is_warned_of(measure_made: Measure):
    fingerprint = measure_made({n: made([[[0, 1], [1, 0]]] * 2, image=[[[i, 1], [1, 0]]] * 2) for i, n in enumerate("abc")})
    assert [(f.level, f.message) for f in fingerprint.findings if f.code != "NS-D021"] == [
        ("warning", "label tumour (2) is declared but occurs in none of 3 cases, so it cannot be learned")
    ]


@pytest.mark.parametrize(("holders", "named"), [(1, "1 of 5 cases (case c0)"), (2, "2 of 5 cases (cases c0, c1)"), (3, "")])
def test_label_in_one_or_two_cases_is_warned_of(measure_made: Measure, holders: int, named: str):
    both, one = made([[[0, 1], [2, 0]]] * 2), made([[[0, 1], [1, 0]]] * 2)
    fingerprint = measure_made({f"c{i}": both if i < holders else one for i in range(5)})
    warning = [f"label tumour (2) occurs in only {named}, too few to learn"] if named else []
    assert [f.message for f in fingerprint.findings if "tumour" in f.message] == warning


def write_pairs(folder: Path, count: int, suffix: str = ".nii.gz") -> None:
    """A plain pair of folders of small NIfTI volumes."""
    rng = np.random.default_rng(3)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        labels = rng.integers(0, 3, (6, 7, 8)).astype(np.uint8)
        for name, voxels in (("images", rng.normal(labels, 0.1).astype(np.float32)), ("labels", labels)):
            sitk.WriteImage(sitk.GetImageFromArray(voxels), folder / name / f"case{i}{suffix}")


def test_the_number_of_workers_changes_nothing(tmp_path: Path):
    write_pairs(tmp_path, 4)
    (tmp_path / "images" / "case2.nii.gz").write_bytes(b"not gzip")
    dataset = read_dataset(tmp_path)
    one = measure(dataset)
    assert one == measure(dataset, workers=1) == measure(dataset, workers=2)
    assert [c.name for c in one.cases] == ["case0", "case1", "case3"]
    assert any(f.level == "error" and f.case == "case2" for f in one.findings)


def test_key_does_not_follow_the_order_of_cases(tmp_path: Path):
    write_pairs(tmp_path, 3)
    dataset = read_dataset(tmp_path)
    one, other = measure(dataset), measure(replace(dataset, cases=dataset.cases[::-1]))
    assert one.key == other.key
    assert one.intensities[0].median == other.intensities[0].median


@pytest.mark.parametrize("changed", ["images", "labels"])
def test_changed_content_of_the_same_size_and_time_changes_the_key(tmp_path: Path, changed: str):
    write_pairs(tmp_path, 2, suffix=".nii")
    dataset = read_dataset(tmp_path)
    before, file = measure(dataset), tmp_path / changed / "case1.nii"
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = measure(dataset)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert after.key != before.key
    assert [a.key == b.key for a, b in zip(after.cases, before.cases, strict=True)] == [True, False]


def test_constant_image_becomes_a_finding(tmp_path: Path):
    write_pairs(tmp_path, 2)
    sitk.WriteImage(sitk.Image(8, 7, 6, sitk.sitkFloat32), tmp_path / "images" / "case1.nii.gz")
    fingerprint = measure(read_dataset(tmp_path))
    assert [c.name for c in fingerprint.cases] == ["case0"]
    assert any(f.case == "case1" and "constant" in f.message for f in fingerprint.findings)


@pytest.fixture(scope="module")
def hippocampus(shared_data: Path) -> Dataset:
    """The 200 cases of Task04_Hippocampus at hand."""
    return read_dataset(shared_data / "Task04_Hippocampus")


def test_hippocampus_is_measured_as_nnunet_does(hippocampus: Dataset):
    fingerprint = measure(hippocampus)
    assert np.median(fingerprint.cropped_shapes, axis=0).tolist() == [36, 50, 35]
    assert {c.spacing for c in fingerprint.cases} == {(1.0, 1.0, 1.0)}
    assert fingerprint.relative_size_after_cropping == 1.0
    assert all(c.voxels[name] > 0 for c in fingerprint.cases for name in ("Anterior", "Posterior"))
    # dataset_fingerprint.json of nnUNetv2_plan_and_preprocess (nnunetv2 2.8.1) on these 200 cases, 500 000 draws of each.
    theirs = {
        "max": 486420.21875,
        "mean": 24455.701171875,
        "median": 374.5248107910156,
        "min": 0.0,
        "percentile_00_5": 29.0,
        "percentile_99_5": 279070.75,
        "std": 62776.25390625,
    }
    assert fingerprint.intensities[0].model_dump() == pytest.approx(theirs, rel=0.002)
    assert all(10 < mm < 60 for mm in fingerprint.largest_structure_mm or ())


def test_hippocampus_percentiles_from_few_voxels_are_exact_to_half_a_percent_of_the_range(
    hippocampus: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "SAMPLE_SIZE", 50 * 300)  # a tenth of the foreground
    some = replace(hippocampus, cases=hippocampus.cases[::4])
    (of,) = measure(some).intensities
    volumes = [foreground(case) for case in some.cases]
    exact = np.percentile(
        np.concatenate(volumes),
        [0.5, 50, 99.5],
        weights=np.concatenate([np.full(v.size, 1 / v.size) for v in volumes]),
        method="inverted_cdf",
    )
    drawn = np.array([of.percentile_00_5, of.median, of.percentile_99_5])
    assert np.abs(drawn - exact).max() < 0.005 * (of.max - of.min)


def foreground(case: Case) -> np.ndarray:
    """All labelled voxels, read by ITK."""
    image, labels = (sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (case.images[0], case.labels))
    return image[labels > 0].astype(np.float64)


def test_nothing_planned_depends_on_cases_that_the_dataset_sets_apart_for_testing(tmp_path: Path):
    write_pairs(tmp_path, 3)
    dataset = read_dataset(tmp_path)
    *others, last = dataset.cases
    without = measure(replace(dataset, cases=tuple(others)))
    apart = measure(replace(dataset, cases=(*others, replace(last, split="test"))))
    assert [case.is_test for case in apart.cases] == [False, False, True]
    assert apart.intensities == without.intensities != measure(dataset).intensities
    assert apart.spacings.tolist() == without.spacings.tolist()
    assert apart.largest_structure_mm == without.largest_structure_mm


@pytest.mark.parametrize("listed", [False, True], ids=["labels told by values", "labels declared"])
def test_cases_that_a_given_division_names_for_testing_are_left_out_too(tmp_path: Path, listed: bool):
    folder, table = tmp_path / "data", tmp_path / "split.csv"
    write_pairs(folder, 3)
    if listed:
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1, "tumour": 2}}))
    *_, last = names = [case.name for case in read_dataset(folder).cases]
    table.write_text("case,fold\n" + "".join(f"{name},{'test' if name == last else i}\n" for i, name in enumerate(names)))
    dataset, fingerprint = measure_folder(folder, split=str(table))
    assert [case.is_test for case in fingerprint.cases] == [False, False, True]
    apart = measure(replace(dataset, cases=(*dataset.cases[:-1], replace(dataset.cases[-1], split="test"))))
    assert fingerprint.intensities == apart.intensities != measure_folder(folder)[1].intensities
    table.write_text(table.read_text() + "no_such_case,test\n")
    with pytest.raises(DatasetError, match="no_such_case"):
        measure_folder(folder, split=str(table))
