from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import nnseg.planning.fingerprint as module
from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.errors import DatasetError, ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels
from nnseg.planning.fingerprint import Fingerprint, measure, measure_case
from nnseg.storage.datasets import read_dataset

LABELS = Labels(names=("background", "organ", "tumour"), values=(0, 1, 2), ignore=9)


@dataclass(frozen=True)
class Read:
    """What reading a case gives."""

    scan: Scan
    label_map: LabelMap
    findings: tuple[Finding, ...] = ()


def made(labels: Iterable[object], *, image: object = None) -> Read:
    """A case in memory: a label map, and an image that equals it plus one unless given."""
    values = np.array(labels, np.uint8)
    voxels = np.asarray(values + 1.0 if image is None else image, np.float32)[None]
    grid = Grid(shape=values.shape, spacing=(2.0, 1.0, 1.0))
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
        monkeypatch.setattr(module, "content_hash", lambda files: f"hash of {files[0].name}")
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


def test_ignored_voxels_are_not_foreground():
    read = made([[[0, 1, 9]]], image=[[[10.0, 20.0, 900.0]]])
    foreground = measure_case(read.scan, read.label_map, labels=LABELS, name="a").foreground
    assert foreground is not None
    assert foreground.sample.tolist() == [[20.0]]


def test_failed_case_becomes_a_finding_and_the_others_go_on(measure_made: Measure):
    cases = {"a": made([[[0, 1], [2, 0]]] * 2), "b": None, "c": made([[[1, 1], [2, 0]]] * 2)}
    fingerprint = measure_made(cases, findings=(Finding(level="note", message="of the folder"),))
    assert [c.name for c in fingerprint.cases] == ["a", "c"]
    assert [str(f) for f in fingerprint.findings] == ["of the folder", "case b: b.nii.gz is truncated"]
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
    with pytest.raises(DatasetError, match=r"1 in 2D \(b\), 2 in 3D \(a, c\)"):
        measure_made({"a": volume, "b": image, "c": volume})


def test_label_that_never_occurs_is_warned_of(measure_made: Measure):
    fingerprint = measure_made({n: made([[[0, 1], [1, 0]]] * 2) for n in "abc"})
    assert [(f.level, f.message) for f in fingerprint.findings] == [
        ("warning", "label tumour (2) is declared but occurs in none of 3 cases, so it cannot be learned")
    ]


@pytest.mark.parametrize(("holders", "warned"), [(1, True), (2, True), (3, False)])
def test_label_in_one_or_two_cases_is_warned_of(measure_made: Measure, holders: int, warned: bool):
    both, one = made([[[0, 1], [2, 0]]] * 2), made([[[0, 1], [1, 0]]] * 2)
    fingerprint = measure_made({f"c{i}": both if i < holders else one for i in range(5)})
    assert [f.message for f in fingerprint.findings if "tumour" in f.message] == (
        [f"label tumour (2) occurs in only {holders} of 5 cases ({', '.join(f'c{i}' for i in range(holders))}), too few to learn"]
        if warned
        else []
    )


def test_key_follows_content_and_meaning(measure_made: Measure):
    case = made([[[0, 1], [2, 0]]] * 2)
    one = measure_made({"a": case, "b": case, "c": case})
    assert one.key == measure_made({"a": case, "b": case, "c": case}, layout="elsewhere").key
    assert one.key != measure_made({"a": case, "b": case, "d": case}).key
    assert one.key != measure_made({"a": case, "b": case, "c": case}, channels=("CT",)).key
    renamed = LABELS.model_copy(update={"names": ("background", "organ", "cyst")})
    assert one.key != measure_made({"a": case, "b": case, "c": case}, labels=renamed).key


def test_fingerprint_survives_json(measure_made: Measure):
    fingerprint = measure_made({"a": made([[[0, 1], [2, 0]]] * 2), "b": None})
    assert Fingerprint.model_validate_json(fingerprint.model_dump_json()) == fingerprint


def write_pairs(folder: Path, count: int) -> None:
    """A plain pair of folders of small NIfTI volumes."""
    rng = np.random.default_rng(3)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        labels = rng.integers(0, 3, (6, 7, 8)).astype(np.uint8)
        for name, voxels in (("images", rng.normal(labels, 0.1).astype(np.float32)), ("labels", labels)):
            sitk.WriteImage(sitk.GetImageFromArray(voxels), folder / name / f"case{i}.nii.gz")


def test_one_and_two_workers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nnseg.core.parallel.WORTH_A_POOL", 0.0)  # else so little work never leaves this process
    write_pairs(tmp_path, 4)
    (tmp_path / "images" / "case2.nii.gz").write_bytes(b"not gzip")
    dataset = read_dataset(tmp_path)
    one = measure(dataset, workers=1)
    assert one == measure(dataset, workers=2)
    assert [c.name for c in one.cases] == ["case0", "case1", "case3"]
    assert any(f.level == "error" and f.case == "case2" for f in one.findings)


def test_hippocampus_has_the_measures_known_of_it(shared_data: Path):
    dataset = read_dataset(shared_data / "Task04_Hippocampus")
    some = measure(replace(dataset, cases=dataset.cases[:40]))
    assert not some.is_2d
    assert np.median(some.cropped_shapes, axis=0) == pytest.approx([36, 50, 35], abs=1)
    assert {c.spacing for c in some.cases} == {(1.0, 1.0, 1.0)}
    assert all(c.voxels[name] > 0 for c in some.cases for name in ("Anterior", "Posterior"))
