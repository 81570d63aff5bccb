"""Options that are wrong whatever the dataset is: they are refused before it is measured, and a finished run stays as it is."""

from pathlib import Path

import pytest

from nnseg import pipeline
from nnseg.commands.plan import check_options
from nnseg.core.errors import NnsegError
from nnseg.core.options import Options

WRONG = {
    "no recipe of this name": {"recipe": "foo"},
    'there is no plan "4d"': {"kinds": ("2d", "4d")},
    "there is no model none.nnseg": {"init": Path("none.nnseg")},
    "none.json: there is no such file": {"split": "none.json"},
    "none.csv: there is no such file": {"group_by": "none.csv"},
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
