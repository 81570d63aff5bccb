"""Options that are wrong whatever the dataset is: they are refused before it is measured, and a finished run stays as it is."""

import shutil
from pathlib import Path

import pytest
from warm import nnseg

from nnseg import pipeline
from nnseg.commands.measure import find_dataset
from nnseg.commands.plan import check_options
from nnseg.core.errors import NnsegError
from nnseg.core.options import Options
from nnseg.storage.run import Run

WRONG = {
    "no recipe of this name": {"recipe": "foo"},
    'there is no plan "4d"': {"kinds": ("2d", "4d")},
    "there is no model none.nnseg": {"init": Path("none.nnseg")},
    "none.json: there is no such file": {"split": "none.json"},
    "none.csv: there is no such file": {"group_by": "none.csv"},
    "nor a regular expression": {"group_by": "(p"},
}


@pytest.mark.parametrize(("message", "wrong"), WRONG.items())
def test_what_does_not_exist_is_refused_without_a_dataset(message, wrong):
    with pytest.raises(NnsegError, match=message):
        check_options(Options(**wrong))
    check_options(Options(split="blocks", group_by="(p[0-9]+)_"))


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(ball_dataset: Path, tmp_path: Path):
    for wrong in ({"device": "cuda:77"}, {"devices": ("cpu", "cuda:77")}):
        with pytest.raises(NnsegError, match='there is no device "cuda:77"'):
            pipeline.run(ball_dataset, tmp_path / "run", Options(**wrong))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"folds": (7,)}, "there is no fold 7: this run has folds 0 to 4; write some of these, or all"),
        ({"folds": (0, 5)}, "there is no fold 5"),
        ({"folds": (6,), "every_case": True}, "there is no fold 6: this run has folds 0 to 5"),
        ({"group_by": r"(p\d)"}, "finds no group in its name"),
        ({"group_by": "("}, "nor a regular expression"),
        ({"group_by": "(b)(a)"}, "2 pairs of parentheses"),
        ({"group_by": "(ball)", "folds": (1,)}, "this run has fold 0 alone"),
        ({"group_by": r"_0([0-2]?)", "folds": (3,)}, "finds no group"),
        ({"group_by": "TABLE"}, "does not list cases"),
        ({"split": "TABLE", "folds": (1,)}, "this run has fold 0 alone"),
        ({"images": "none/*"}, "no image fits"),
    ],
)
def test_options_that_do_not_fit_the_cases_names_are_refused_before_one_is_read(ball_dataset: Path, tmp_path: Path, wrong, message):
    dataset, table = Path(shutil.copytree(ball_dataset, tmp_path / "balls")), tmp_path / "table.csv"
    for file in dataset.rglob("*.nii.gz"):
        file.write_bytes(b"")
    table.write_text("case,fold,group\nball_00,0,a\nball_01,train,b\n")
    options = Options(**{name: str(table) if value == "TABLE" else value for name, value in wrong.items()})
    with pytest.raises(NnsegError, match=message):
        pipeline.run(dataset, tmp_path / "runs" / "run", options)
    assert not (tmp_path / "runs").exists()


def test_folds_that_there_will_be_are_accepted(ball_dataset: Path, tmp_path: Path):
    for right in ({"folds": (4,)}, {"folds": (5,), "every_case": True}, {"folds": (0,), "group_by": "(ball)"}, {"folds": None}):
        assert len(find_dataset(Run(tmp_path), ball_dataset, Options(**right)).cases) == 6


def test_what_is_refused_by_plan_leaves_no_folder(ball_dataset: Path, tmp_path: Path):
    (tmp_path / "fingerprint.json").write_text("{}")
    for dataset, options in ((ball_dataset, ("--folds", 7)), (tmp_path / "fingerprint.json", ())):
        nnseg("plan", dataset, tmp_path / "runs" / "run", *options, check=2)
        assert not (tmp_path / "runs").exists()
