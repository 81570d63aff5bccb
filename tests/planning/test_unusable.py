"""What is said where no case of a dataset can be used."""

from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.labels import Labels
from nnseg.planning.unusable import explain_unusable

FOLDER = Path("/data/set")
NOTE = Finding(level="note", message="labels were taken from the label maps")


def _dataset(*names: str) -> Dataset:
    cases = tuple(Case(name=n, images=(FOLDER / n / "scan.nii",), labels=FOLDER / n / f"{n}_seg.nii") for n in names)
    labels = Labels(names=("background", "organ"), values=(0, 1))
    return Dataset(name="d", folder=FOLDER, layout="", cases=cases, channels=("CT",), labels=labels, suffix=".nii")


def _error(name: str, message: str, file: str = "") -> Finding:
    return Finding(level="error", message=message, case=name, file=file)


def test_the_first_error_is_named_and_not_the_first_note() -> None:
    error, lines = explain_unusable(_dataset("a", "b"), [NOTE, _error("a", "is cut"), _error("b", "is empty")])
    assert str(error) == "/data/set: none of 2 cases can be used; the first problem: case a: is cut"
    assert lines == ("case a: is cut", "case b: is empty")


def test_one_kind_of_problem_is_said_once() -> None:
    errors = [
        _error(n, f"/data/set/{n}/{n}_seg.nii: has shape ({i}, 9); its image scan.nii has (8, 9)") for i, n in enumerate("abc")
    ]
    error, lines = explain_unusable(_dataset("a", "b", "c"), [NOTE, *errors])
    assert str(error) == f"/data/set: none of 3 cases can be used; the same in all; the first: {errors[0]}"
    assert lines == ()


def test_several_kinds_are_said_once_each_with_their_cases() -> None:
    names = [f"case_{i}" for i in range(9)]
    errors = [_error(n, f"{n}.nii: is cut after {i} bytes" if i % 2 else "has no label map") for i, n in enumerate(names)]
    error, lines = explain_unusable(_dataset(*names[:5]), errors)  # the others were left out by the layout
    assert "none of 9 cases can be used; the first problem: case case_0: has no label map" in str(error)
    assert lines == (
        "case case_0: has no label map; the same in cases case_2, case_4, case_6, case_8",
        "case case_1: case_1.nii: is cut after 1 bytes; the same in cases case_3, case_5, case_7",
    )


def test_a_folder_without_any_case_is_named() -> None:
    assert str(explain_unusable(_dataset(), [])[0]) == "/data/set: none of 0 cases can be used"
