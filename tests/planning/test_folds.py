import json
import logging
from pathlib import Path

import pytest

from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.errors import DatasetError, NnsegError, RunError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels, Region
from nnseg.core.options import select_folds
from nnseg.planning.folds import decide_folds, find_labels, make_folds
from nnseg.storage.files import write_json
from nnseg.storage.run import Run

LABELS = Labels(names=("background", "organ", "tumour"), values=(0, 1, 2))
NAMES = tuple(f"c{i}" for i in range(8))
PATIENTS = r"(p\d)"
TWO_EACH = tuple(f"p{i}_{visit}" for i in range(6) for visit in "ab")


def _dataset(names: tuple[str, ...], labels: Labels = LABELS) -> Dataset:
    folder = Path("/data")
    cases = tuple(Case(name=name, images=(folder / f"{name}.nii.gz",)) for name in names)
    return Dataset(name="d", folder=folder, layout="", cases=cases, channels=("CT",), labels=labels, suffix=".nii.gz")


def _fingerprint(
    names: tuple[str, ...], *, tumour: tuple[str, ...] | None = None, slices: int = 9, labels: Labels = LABELS
) -> Fingerprint:
    """Of cases that all show the organ, and the tumour too, or only the cases named."""
    cases = tuple(
        CaseMeasure(
            name=name,
            key=name,
            shape=(slices, 9, 9),
            spacing=(1.0, 1.0, 1.0),
            cropped_shape=(slices, 9, 9),
            voxels={"background": 50, "organ": 9, "tumour": 5 if tumour is None or name in tumour else 0},
        )
        for name in names
    )
    return Fingerprint(dataset="d", layout="", channels=("CT",), labels=labels, cases=cases, intensities=())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def _decide(run: Run, names: tuple[str, ...], group_by: str | None = None) -> tuple[Fold, ...]:
    return decide_folds(run, _dataset(names), _fingerprint(names), group_by=group_by)


def _patients_on_both_sides(folds: tuple[Fold, ...]) -> set[str]:
    return set().union(*({n[:2] for n in f.held_out} & {n[:2] for n in f.training} for f in folds))


def test_folds_are_written_and_kept(run: Run) -> None:
    folds = _decide(run, NAMES)
    assert folds == make_folds(NAMES) == tuple(run.folds.values())
    assert _decide(run, NAMES) == folds


@pytest.mark.parametrize(("count", "folds"), [(1, 1), (2, 2), (3, 3), (4, 4), (7, 5)])
def test_any_number_of_cases_gives_folds_to_train(run: Run, count: int, folds: int) -> None:
    made = _decide(run, NAMES[:count])
    assert select_folds(None, len(made)) == tuple(range(folds))
    assert all(f.training for f in made)
    with pytest.raises(NnsegError, match=f"there is no fold {folds}"):
        select_folds((folds,), len(made))


@pytest.mark.parametrize(("names", "cases"), [(("p1_a",), "(1 case)"), (("p1_a", "p1_b"), "(2 cases of one group)")])
def test_a_warning_is_logged_if_no_case_is_held_out(
    run: Run, caplog: pytest.LogCaptureFixture, names: tuple[str, ...], cases: str
) -> None:
    assert _decide(run, names, PATIENTS) == (Fold(training=names, held_out=()),)
    (message,) = caplog.messages
    assert message.startswith(f"warning: one model is trained on all cases {cases} and none is held out")


def test_groups_asked_for_are_never_divided(run: Run) -> None:
    assert _patients_on_both_sides(make_folds(TWO_EACH))
    folds = _decide(run, TWO_EACH, PATIENTS)
    assert not _patients_on_both_sides(folds)
    assert sorted(len(f.held_out) for f in folds) == [2, 2, 2, 2, 4]


def test_bids_subjects_stay_together_unless_each_case_is_taken_for_itself(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    names = tuple(f"sub-{name}" for name in TWO_EACH)
    with caplog.at_level(logging.INFO):
        folds = _decide(run, names)
    assert folds == make_folds(names, groups={name: name[:6] for name in names})
    assert "cases of one subject in BIDS names stay in one fold" in caplog.text
    assert _decide(run, names, "(.+)") == make_folds(names)


def test_folds_edited_by_hand_are_kept(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    _decide(run, TWO_EACH, PATIENTS)
    edited = (Fold(training=TWO_EACH[2:], held_out=TWO_EACH[:2]), Fold(training=TWO_EACH[:2], held_out=TWO_EACH[2:]))
    write_json(run.path / "folds.json", edited)
    assert _decide(run, TWO_EACH, PATIENTS) == _decide(run, TWO_EACH) == edited
    assert not caplog.messages


def test_folds_edited_so_that_a_patient_leaks_are_refused(run: Run) -> None:
    _decide(run, TWO_EACH, PATIENTS)
    write_json(run.path / "folds.json", (Fold(training=TWO_EACH[1:], held_out=TWO_EACH[:1]),))
    with pytest.raises(RunError, match=r"fold 0 holds out case p0_a and trains on case p0_b of the same group \(p0\)"):
        _decide(run, TWO_EACH)


@pytest.mark.parametrize(
    ("folds", "wrong"),
    [
        ([{"training": ["c0", "c1"], "held_out": ["c1"]}], "c1"),
        ([{"training": ["c0"], "held_out": ["c1"]}, {"training": ["c0"], "held_out": ["c1"]}], "c1"),
    ],
)
def test_folds_that_leak_are_refused(run: Run, folds: list[dict[str, list[str]]], wrong: str) -> None:
    (run.path / "folds.json").write_text(json.dumps(folds))
    with pytest.raises(RunError, match=f"case {wrong} must be held out once"):
        _ = run.folds


def test_other_options_give_new_folds_and_are_recorded(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    _decide(run, TWO_EACH)
    grouped = _decide(run, TWO_EACH, PATIENTS)
    assert not _patients_on_both_sides(grouped)
    assert "the options of the folds have changed" in caplog.text
    assert _decide(run, TWO_EACH) == grouped
    more = (*TWO_EACH, "p6_a", "p6_b", "p7_a")
    assert not _patients_on_both_sides(_decide(run, more))
    assert "the cases have changed" in caplog.text


def test_a_table_is_found_again_from_another_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patients.csv").write_text("".join(f"{name},{name[:2]}\n" for name in TWO_EACH))
    monkeypatch.chdir(tmp_path)
    grouped = _decide(run, TWO_EACH, "patients.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert _decide(run, TWO_EACH) == grouped == make_folds(TWO_EACH, groups={name: name[:2] for name in TWO_EACH})


def test_options_that_fail_leave_the_folds_unchanged(run: Run) -> None:
    folds = _decide(run, NAMES)
    with pytest.raises(DatasetError, match="case c0"):
        _decide(run, NAMES, PATIENTS)
    assert _decide(run, NAMES) == folds


def test_the_dataset_is_read_from_the_run_where_it_is_not_at_hand(run: Run) -> None:
    run.dataset = _dataset(TWO_EACH)
    assert not _patients_on_both_sides(decide_folds(run, None, _fingerprint(TWO_EACH), group_by=PATIENTS))


def test_slices_of_a_stack_are_divided_in_blocks(run: Run) -> None:
    dataset, stack = _dataset(NAMES), _fingerprint(NAMES, slices=1)
    assert decide_folds(run, dataset, stack) == make_folds(NAMES, split="blocks")
    assert decide_folds(run, dataset, stack, split="random") == make_folds(NAMES)
    assert decide_folds(run, dataset, stack) == make_folds(NAMES)
    assert decide_folds(run, dataset, stack, split="blocks") == make_folds(NAMES, split="blocks")


def test_labels_are_spread_over_training_parts_and_named_where_they_cannot_be(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    together = make_folds(NAMES)[0].held_out
    folds = decide_folds(run, _dataset(NAMES), _fingerprint(NAMES, tumour=together))
    assert all(set(together) & set(fold.training) for fold in folds)
    assert not caplog.messages
    single = Run(run.path / "single")
    folds = decide_folds(single, _dataset(NAMES), _fingerprint(NAMES, tumour=together[:1]))
    number = next(i for i, fold in enumerate(folds) if together[0] in fold.held_out)
    (message,) = caplog.messages
    assert message.startswith(f"warning: label tumour occurs only in case {together[0]}, which fold {number} holds out")


def test_labels_of_a_case_are_its_foreground_labels_or_regions() -> None:
    assert find_labels(_fingerprint(("a", "b"), tumour=("b",))) == {"a": {"organ"}, "b": {"organ", "tumour"}}
    whole, core = Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)
    regions = LABELS.model_copy(update={"regions": (whole, core)})
    assert find_labels(_fingerprint(("a", "b"), tumour=("b",), labels=regions)) == {"a": {"whole"}, "b": {"whole", "core"}}
