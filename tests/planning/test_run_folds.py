import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.errors import DatasetError, NnsegError, RunError
from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels
from nnseg.core.options import select_folds
from nnseg.planning.folds import make_folds
from nnseg.planning.run_folds import decide_folds
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
    with caplog.at_level(logging.DEBUG):
        folds = _decide(run, names)
    assert folds == make_folds(names, groups={name: name[:6] for name in names})
    assert "cases of one patient stay in one fold: 6 patients from the subjects of BIDS names" in caplog.text
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


COPY = "folds.before-1.json"


def _edit(run: Run, *folds: Fold) -> str:
    write_json(run.path / "folds.json", folds)
    return (run.path / "folds.json").read_text()


def _without(names: tuple[str, ...], *left_out: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


def test_cases_in_no_list_of_an_edited_file_are_neither_trained_on_nor_held_out(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    _decide(run, NAMES)
    edited = tuple(
        Fold(training=_without(f.training, "c1", "c5"), held_out=_without(f.held_out, "c1", "c5")) for f in run.folds.values()
    )
    text = _edit(run, *edited)
    with caplog.at_level(logging.INFO):
        assert _decide(run, NAMES) == edited
    assert "2 cases in no fold: neither trained on nor held out (cases c1, c5)" in caplog.text
    assert "folds.json were edited by hand and are kept" in caplog.text
    assert (run.path / "folds.json").read_text() == text
    assert _decide(run, NAMES) == edited


def test_new_cases_are_not_used_until_an_edited_file_lists_them(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    _decide(run, NAMES)
    edited = (Fold(training=NAMES[2:], held_out=NAMES[:2]),)
    text = _edit(run, *edited)
    with caplog.at_level(logging.INFO):
        assert _decide(run, (*NAMES, "c8", "c9")) == edited
    assert "2 cases in no fold: neither trained on nor held out (cases c8, c9)" in caplog.text
    assert (run.path / "folds.json").read_text() == text


def test_a_case_that_cannot_be_used_is_taken_out_of_an_edited_file_which_is_copied(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    _decide(run, NAMES)
    text = _edit(run, Fold(training=NAMES[2:], held_out=NAMES[:2]))
    assert decide_folds(run, _dataset(NAMES), _fingerprint(NAMES[:7])) == (Fold(training=NAMES[2:7], held_out=NAMES[:2]),)
    assert "case c7 cannot be used: taken out of" in caplog.text
    assert (run.path / COPY).read_text() == text


def test_a_name_that_is_no_case_is_named(run: Run) -> None:
    _decide(run, NAMES)
    _edit(run, Fold(training=(*NAMES[2:], "c77"), held_out=NAMES[:2]))
    with pytest.raises(RunError, match=r"folds\.json names case c77, not in the dataset; correct the names"):
        _decide(run, NAMES)


def test_another_division_replaces_an_edited_file_only_if_asked_for_and_keeps_a_copy(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    _decide(run, NAMES)
    for number in (1, 2):
        text = _edit(run, Fold(training=NAMES[number:], held_out=NAMES[:number]))
        folds = decide_folds(run, _dataset(NAMES), _fingerprint(NAMES), split=("blocks", "random")[number - 1])
        assert folds == make_folds(NAMES, split=("blocks", "random")[number - 1])
        assert (run.path / f"folds.before-{number}.json").read_text() == text
        assert f"the edited file is kept as folds.before-{number}.json" in caplog.text


def _every_case(run: Run, names: tuple[str, ...], every_case: bool | None) -> tuple[Fold, ...]:
    return decide_folds(run, _dataset(names), _fingerprint(names), every_case=every_case)


def test_a_fold_of_every_case_is_added_kept_and_follows_the_cases(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    before = _decide(run, NAMES)
    folds = _every_case(run, NAMES, True)
    assert folds == (*before, Fold(training=NAMES, held_out=()))
    assert _decide(run, NAMES) == folds  # the option is remembered
    assert not caplog.records
    assert _every_case(run, (*NAMES, "c8"), None)[-1] == Fold(training=(*NAMES, "c8"), held_out=())
    assert _every_case(run, NAMES, False) == before


def test_a_fold_of_every_case_is_added_to_an_edited_file_which_is_copied(run: Run) -> None:
    _decide(run, NAMES)
    edited = Fold(training=NAMES[2:7], held_out=NAMES[:2])
    text = _edit(run, edited)
    folds = _every_case(run, NAMES, True)
    assert folds == (edited, Fold(training=NAMES[:7], held_out=()))  # c7 is in no fold
    assert _decide(run, NAMES) == folds == tuple(run.folds.values())
    assert (run.path / COPY).read_text() == text


def test_own_folds_are_made_again_without_a_copy_where_cases_are_added(run: Run) -> None:
    _decide(run, NAMES[:6])
    assert _decide(run, NAMES) == make_folds(NAMES)
    assert not list(run.path.glob("folds.before*"))


def test_folds_of_an_earlier_version_that_were_edited_are_kept(run: Run) -> None:
    run.update_record(folds={"split": "auto", "group_by": None})
    edited = (Fold(training=NAMES[3:], held_out=NAMES[:2]),)
    _edit(run, *edited)
    assert _decide(run, NAMES) == edited
    _edit(run, *make_folds(NAMES[:6]))
    assert _decide(run, NAMES) == make_folds(NAMES)
    assert (run.path / COPY).exists()


def test_patients_are_noticed_and_kept_together(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    names = tuple(f"patient00{i}_{phase}" for i in range(6) for phase in ("ED", "ES"))
    with caplog.at_level(logging.DEBUG):
        folds = _decide(run, names)
    assert folds == make_folds(names, groups={name: name[:10] for name in names})
    assert "cases of one patient stay in one fold: 6 patients from names like patient000_ED" in caplog.text
    assert _decide(run, names, "none") == make_folds(names)
    assert _decide(run, names) == make_folds(names)
    assert _decide(run, names, "auto") == folds


def test_folds_on_file_that_divide_a_patient_are_warned_of(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    names = tuple(f"patient00{i}_{phase}" for i in range(6) for phase in ("ED", "ES"))
    edited = (Fold(training=names[1:], held_out=names[:1]),)
    _edit(run, *edited)
    assert _decide(run, names) == edited
    (message,) = caplog.messages
    assert "fold 0 holds out case patient000_ED and trains on case patient000_ES of the same patient (patient000)" in message


def test_groups_are_read_off_the_names_of_a_fingerprint_alone(run: Run) -> None:
    assert not _patients_on_both_sides(decide_folds(run, None, _fingerprint(TWO_EACH), group_by=PATIENTS))


def _with_images(fingerprint: Fingerprint, **images: str) -> Fingerprint:
    cases = tuple(case.model_copy(update={"image": images.get(case.name, case.name)}) for case in fingerprint.cases)
    return fingerprint.model_copy(update={"cases": cases})


def test_cases_of_one_image_stay_in_one_fold(run: Run) -> None:
    assert not any({"c1", "c2"} <= set(fold.held_out) for fold in make_folds(NAMES))
    folds = decide_folds(run, _dataset(NAMES), _with_images(_fingerprint(NAMES), c1="same", c2="same"))
    assert all(("c1" in fold.held_out) == ("c2" in fold.held_out) for fold in folds)
    assert sorted(name for fold in folds for name in fold.held_out) == list(NAMES)


def test_two_equal_slices_of_a_stack_leave_the_blocks(run: Run) -> None:
    folds = decide_folds(run, _dataset(NAMES), _with_images(_fingerprint(NAMES, slices=1), c1="same", c2="same"))
    assert [fold.held_out for fold in folds] == [("c0", "c1", "c2"), ("c3", "c4"), ("c5",), ("c6",), ("c7",)]


def _stating(parts: dict[str, str]) -> Dataset:
    dataset = _dataset(tuple(parts))
    return replace(dataset, cases=tuple(replace(case, split=parts[case.name]) for case in dataset.cases))


def test_the_division_of_the_dataset_is_used(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    dataset = _stating({"c0": "fold 0", "c1": "fold 1", "c2": "fold 1", "c3": "", "c4": "test"})
    with caplog.at_level(logging.INFO):
        folds = decide_folds(run, dataset, _fingerprint(NAMES[:5]))
    assert folds == (Fold(training=("c1", "c2", "c3"), held_out=("c0",)), Fold(training=("c0", "c3"), held_out=("c1", "c2")))
    assert "the division of the dataset is used: 2 folds, 1 test case set apart" in caplog.text
    assert "1 case in no fold: neither trained on nor held out (case c4)" in caplog.text


def test_test_cases_of_the_dataset_stay_apart_where_the_others_are_divided(run: Run) -> None:
    dataset, others = _stating(dict.fromkeys(NAMES, "") | {"c4": "test"}), _without(NAMES, "c4")
    assert decide_folds(run, dataset, _fingerprint(NAMES)) == make_folds(others)
    assert decide_folds(run, dataset, _fingerprint(NAMES), split="random") == make_folds(others)


def test_an_option_wins_over_the_division_of_the_dataset(run: Run) -> None:
    dataset = _stating({name: f"fold {i % 2}" for i, name in enumerate(NAMES)})
    assert len(decide_folds(run, dataset, _fingerprint(NAMES))) == 2
    assert decide_folds(run, dataset, _fingerprint(NAMES), split="random") == make_folds(NAMES)


def test_splits_final_beside_the_dataset_is_used_and_read_again_where_it_changes(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run.path / "data"
    folder.mkdir()
    dataset = replace(_dataset(NAMES), folder=folder)
    for held_out, training in ((NAMES[:2], NAMES[2:]), (NAMES[:3], NAMES[4:])):
        (folder / "splits_final.json").write_text(json.dumps([{"train": training, "val": held_out}]))
        assert decide_folds(run, dataset, _fingerprint(NAMES)) == (Fold(training=training, held_out=held_out),)
    assert "splits_final.json has changed: its folds are taken again" in caplog.text


def test_a_given_file_is_found_again_and_its_unusable_cases_left_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("case,fold\n" + "".join(f"{name},{i % 2 + 1}\n" for i, name in enumerate(NAMES)))
    folds = decide_folds(run, _dataset(NAMES), _fingerprint(NAMES[:7]), split="mine.csv")
    assert [fold.held_out for fold in folds] == [("c0", "c2", "c4", "c6"), ("c1", "c3", "c5")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert decide_folds(run, _dataset(NAMES), _fingerprint(NAMES[:7])) == folds
