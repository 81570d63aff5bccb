"""Divisions that users give, in each of their forms."""

import json
from pathlib import Path

import pytest

from nnseg.core.dataset import Case, Fold
from nnseg.core.errors import DatasetError
from nnseg.storage.datasets.splits import read_split, split_of_cases, split_of_parts

CASES = tuple(Case(name=f"c{i}", images=(Path(f"/data/imagesTr/c{i}_0000.nii.gz"),)) for i in range(6))


def _write(folder: Path, content: object, name: str = "splits_final.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(("training", "held_out"), [("train", "val"), ("training", "held_out")])
@pytest.mark.parametrize("form", ["{}", "{}.nii.gz", "{}_0000.nii.gz", "imagesTr/{}_0000.nii.gz"])
def test_a_list_of_folds_is_read_however_cases_are_written(tmp_path: Path, training: str, held_out: str, form: str) -> None:
    parts = [(("c2", "c3"), ("c0", "c1")), (("c0", "c1", "c3"), ("c2",))]
    content = [{training: [form.format(n) for n in of], held_out: [form.format(n) for n in out]} for of, out in parts]
    given = read_split(_write(tmp_path, content), CASES)
    assert given.folds == tuple(Fold(training=of, held_out=out) for of, out in parts)
    assert given.describe().endswith("splits_final.json is used: 2 folds")


def _entry(number: int, **more: object) -> dict[str, object]:
    return {"image": f"./imagesTr/c{number}_0000.nii.gz", "label": f"./labelsTr/c{number}.nii.gz", **more}


def test_a_datalist_gives_folds_and_test_cases(tmp_path: Path) -> None:
    content = {"training": [_entry(i, fold=i % 2) for i in range(4)], "testing": [_entry(4)]}
    given = read_split(_write(tmp_path, content, "dataset_0.json"), CASES)
    assert given.folds == (
        Fold(training=("c1", "c3"), held_out=("c0", "c2")),
        Fold(training=("c0", "c2"), held_out=("c1", "c3")),
    )
    assert given.test == ("c4",)


def test_a_datalist_gives_one_fold_for_its_validation(tmp_path: Path) -> None:
    content = {"training": [_entry(i) for i in range(3)], "validation": [_entry(3)], "test": ["imagesTr/c5_0000.nii.gz"]}
    given = read_split(_write(tmp_path, content), CASES)
    assert given.folds == (Fold(training=("c0", "c1", "c2"), held_out=("c3",)),)
    assert given.test == ("c5",)


@pytest.mark.parametrize(
    "text",
    [
        "case,fold\nc0,0\nc1,1\nc2,train\nc3,test\n",
        "case,fold,test\nc0,0,\nc1,1,no\nc2,train,0\nc3,1,yes\n",
        "Case;Split\nc0;fold_0\nc1;Fold 1\nc2;Training\nc3;testing\n",
        "c0,0\nc1,1\nc2,train\nc3,test\n",
    ],
)
def test_a_table_gives_the_fold_of_each_case(tmp_path: Path, text: str) -> None:
    given = read_split(_write(tmp_path, text, "folds.csv"), CASES)
    assert given.folds == (Fold(training=("c1", "c2"), held_out=("c0",)), Fold(training=("c0", "c2"), held_out=("c1",)))
    assert given.test == ("c3",)


def test_folds_are_in_the_order_of_their_numbers() -> None:
    folds = split_of_parts({"a": "fold 10", "b": "fold 2", "c": "validation"}, source="x").folds
    assert [fold.held_out for fold in folds] == [("b",), ("a",), ("c",)]


def test_cases_without_a_part_state_no_division() -> None:
    assert split_of_cases(CASES) is None


def test_cases_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    path = _write(tmp_path, [{"train": ["c0", "lost"], "val": ["c1"]}, {"train": ["lost"], "val": ["c0"]}])
    assert read_split(path, CASES, unusable={"lost"}).without({"lost"}).folds == (Fold(training=("c0",), held_out=("c1",)),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"train": ["c0", "c9"], "val": ["c1"]}], r'names "c9", which is no case of the dataset; expected names like c0'),
        ([{"train": ["c0", "c1"], "val": ["c1"]}], "fold 0 trains on case c1 and holds it out"),
        ([{"train": ["c0"], "val": ["c1"]}, {"train": ["c0"], "val": ["c1"]}], "fold 1 holds out case c1 again"),
        ([{"train": [], "val": ["c1"]}], "fold 0 has no case to train on"),
        ([{"train": ["c0"]}], "has another form"),
        ([], "has another form"),
        ({"labels": {}}, "has another form"),
        ({"testing": ["c0"]}, "puts all cases into the test set"),
        ({"validation": ["c0"]}, "puts all cases into validation"),
        ("not json", "is no readable JSON"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"splits_final\.json: .*{message}"):
        read_split(_write(tmp_path, content), CASES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,fold\nc0,0\nc1,\n", 'line 3, column "fold": is empty; write the number of a fold'),
        ("case,fold\nc0,first\n", 'line 2, column "fold": holds "first"'),
        ("case,age\nc0,50\n", 'has the columns case, age; one called "fold" is expected'),
        ("case,fold\nc0,0\nc0,1\n", "c0 is in line 2 already"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_split(_write(tmp_path, text, "folds.csv"), CASES)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.json: there is no such file"):
        read_split(Path("nowhere.json"), CASES)


def test_a_number_of_a_fold_that_is_none_is_refused_or_a_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='column "fold": holds "9999'):
        read_split(_write(tmp_path, f"case,fold\nc0,{'9' * 5000}\n", "folds.csv"), CASES)
    given = read_split(_write(tmp_path, {"training": [_entry(0, fold="9" * 5000), _entry(1, fold=1)]}), CASES)
    assert given.folds == (Fold(training=("c0",), held_out=("c1",)), Fold(training=("c1",), held_out=("c0",)))
