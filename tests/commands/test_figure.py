import sys

import pytest

from nnseg.commands.figure import write_figures
from nnseg.core.errors import RunError
from nnseg.storage.run import Run


@pytest.fixture
def run(tmp_path) -> Run:
    folder = Run(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / "run.json").write_text("{}")
    return folder


def test_without_matplotlib_it_is_said_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in [name for name in sys.modules if name.startswith(("matplotlib.", "nnseg.reporting.paper"))]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(RunError, match=r"figures need matplotlib; pip install 'nnseg\[figures\]'"):
        write_figures(run, "plan")


def test_a_run_that_has_not_come_so_far_says_what_is_missing(run, tmp_path):
    for what, reason in (("scores", "is not scored yet"), ("cases", "is not scored yet"), ("plan", "holds no plan")):
        with pytest.raises(RunError, match=reason):
            write_figures(run, what)
    with pytest.raises(RunError, match="is not a run folder"):
        write_figures(Run(tmp_path), "plan")


def test_every_held_out_case_is_drawn_worst_first(ball_run, tmp_path):
    run = Run(ball_run)
    worst, best = sorted(run.require_scores().cases, key=lambda case: case.mean_dice)
    written = write_figures(run, "cases", tmp_path, every=True)
    names = [f"{rank}_{case.name}{suffix}" for rank, case in ((1, worst), (2, best)) for suffix in (".png", ".pdf")]
    assert [path.relative_to(tmp_path / "cases").as_posix() for path in written] == names
    assert all(path.stat().st_size > 2000 for path in written)
    with pytest.raises(RunError, match="use it with --what cases"):
        write_figures(run, "scores", tmp_path, every=True)
