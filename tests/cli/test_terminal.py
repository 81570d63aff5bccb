"""What is seen on a terminal: one live line, whole words, whole tables, colours and no needless repetition."""

import io
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from terminal import run_in_terminal
from warm import fold_options, nnseg

from nnseg.cli import terminal
from nnseg.cli.output import counted_warnings, exit_for_failed, log_to_terminal
from nnseg.cli.terminal import FewOfEach, is_coloured, with_paths_as_given
from nnseg.core.dataset import Finding

RED, YELLOW = "\x1b[31m", "\x1b[33m"


@pytest.mark.slow
def test_a_run_shows_one_line_for_what_it_does_and_keeps_one_for_what_is_done(
    ball_dataset: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    shown = run_in_terminal("run", ball_dataset, tmp_path / "run", *fold_options(tiny_recipe), "--steps", 150)
    live = "\n".join(shown.seen)
    for part in (
        "loading libraries  0:",
        "measuring cases  [",
        "planning",
        "preprocessing",
        "3d fold 0  step ",
        "predicting held-out",
    ):
        assert part in live, part
    assert re.search(r"3d fold 0  step \d+ / 150", live)
    assert not any(part in shown.words for part in ("loading libraries", "measuring cases", "step 4 / 150"))
    assert re.search(r"3d fold 0: trained, 150 steps in 0:\d\d, loss -?\d\.\d\d, Dice 0\.\d\d on held-out patches", shown.words)
    assert all(len(line) < 80 or "/" in line for line in shown.lines)
    report, _, verdict = shown.words.rpartition("report: ")[2].partition(" verdict: ")
    assert report.replace(" ", "") == f"{tmp_path}/run/report.html"
    assert "150 steps of training are few" in verdict


@pytest.mark.slow
def test_the_line_of_a_training_counts_its_budget_and_never_runs_backwards(
    ball_dataset: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    options = (*fold_options(tiny_recipe), "--budget", "4s")
    shown = run_in_terminal("run", ball_dataset, tmp_path / "run", *options)
    times = [int(found[1]) for line in shown.seen if (found := re.match(r"3d fold 0  0:(\d\d) / 0:04", line))]
    assert len(times) >= 4
    assert times == sorted(times)
    assert re.search(r"3d fold 0  0:0\d / 0:04  loss \d\.\d\d", "\n".join(shown.seen))


def test_without_a_terminal_lines_are_plain(ball_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    said = nnseg("run", ball_dataset, tmp_path / "run", *fold_options(tiny_recipe))
    assert not re.search(r"[\r\x1b]", said.stdout + said.stderr)
    assert re.search(r"^\d\d:\d\d:\d\d planning$", said.stderr, re.MULTILINE)
    assert re.search(r"3d fold 0: training, 12 steps \(cpu, \w+\)", said.stderr)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_tables_and_words_are_whole_at_any_width(ball_run: Path, columns: int) -> None:
    shown = run_in_terminal("evaluate", ball_run, columns=columns)
    assert all(len(line) < columns for line in shown.lines)
    rows = [line.split() for line in shown.lines if line.startswith("ball ")]
    cells = [cell for row in rows for cell in row[1:] if cell.lstrip("-")[0].isdigit()]
    assert len(cells) == 7  # Dice, IoU, HD95, ASSD, two NSD and the error of the volume, in one table or two
    assert all(re.fullmatch(r"-?\d+\.\d+", cell) for cell in cells)
    assert ("Relative volume error" in shown.words) or columns == 60
    assert sum(bool(re.match(r"Relative volume error( +-?[\d.]+){3}$", line)) for line in shown.lines) == 1


def test_a_plan_is_described_in_whole_words_at_80_columns(ball_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    shown = run_in_terminal("plan", ball_dataset, tmp_path / "run", "--recipe", tiny_recipe, "--no-probe")
    assert all(len(line) < 80 or "/" in line for line in shown.lines)
    assert "written to" in shown.words
    assert any(line.startswith("planning  0:") for line in shown.seen)


def test_long_names_of_cases_leave_a_table_whole(ball_dataset: Path, tmp_path: Path) -> None:
    long = "an_examination_with_a_very_long_name_of_a_study_in_many_words_and_even_more_of_them"
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        (tmp_path / part / f"{long}.nii.gz").write_bytes((ball_dataset / "labelsTr/ball_01.nii.gz").read_bytes())
    shown = run_in_terminal("evaluate", tmp_path / "imagesTr", tmp_path / "labelsTr")
    place = next(number for number, line in enumerate(shown.lines) if line.startswith(long[:79]))
    assert shown.lines[place + 2].split() == ["1.0000", "1.0000"]


def test_errors_are_red_on_a_terminal_unless_no_colour_is_wanted(tmp_path: Path) -> None:
    shown = run_in_terminal("check", tmp_path / "gone", code=2)
    assert f"{RED}nnseg:" in shown.text
    assert RED not in run_in_terminal("check", tmp_path / "gone", code=2, colour=False).text
    assert "\x1b" not in nnseg("check", tmp_path / "gone", check=2).stderr
    assert all(len(line) < 80 or "/" in line for line in shown.lines)


def test_paths_are_shown_as_the_user_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(terminal.sys, "argv", ["nnseg", "run", "../data", "out", "--model=m.nnseg"])
    assert with_paths_as_given(f"{tmp_path}/data/a.nii: is cut; see {tmp_path}/here/out/report.html.") == (
        "../data/a.nii: is cut; see out/report.html."
    )
    assert with_paths_as_given(f"{tmp_path}/here/m.nnseg, {tmp_path}/here/x and {tmp_path}/database") == (
        f"m.nnseg, ./x and {tmp_path}/database"
    )
    monkeypatch.setattr(terminal.sys, "argv", ["nnseg", "check", f"{tmp_path}/here/data"])
    assert with_paths_as_given(f"{tmp_path}/here/data/a.nii") == f"{tmp_path}/here/data/a.nii"


def test_warnings_of_one_kind_are_written_three_times_and_then_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with counted_warnings():
        log_to_terminal()
        log = logging.getLogger("nnseg.test")
        for number in range(30):
            log.warning("case %s: %s", f"c{number}", f"/data/c{number}.nii: has {number} voxels")
        log.warning("another")
    lines = capsys.readouterr().err.splitlines()
    assert [line[9:] for line in lines[:4]] == [*(f"case c{n}: /data/c{n}.nii: has {n} voxels" for n in range(3)), "another"]
    assert lines[4:] == ["27 more like this (all of them: --verbose): case c29: /data/c29.nii: has 29 voxels"]


def test_with_verbose_all_warnings_and_all_failed_cases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with counted_warnings():
        log_to_terminal(verbose=True)
        for number in range(9):
            logging.getLogger("nnseg.test").warning("case %s: bad", number)
    assert len(capsys.readouterr().err.splitlines()) == 9
    with pytest.raises(typer.Exit):
        exit_for_failed(Finding(level="error", case=f"c{n}", message="is empty") for n in range(30))
    assert len(capsys.readouterr().err.splitlines()) == 32


def test_lines_of_information_are_never_left_out() -> None:
    few = FewOfEach()
    record = logging.makeLogRecord({"levelno": logging.INFO, "msg": "step"})
    assert all(few.filter(record) for _ in range(9))
    assert few.left_out() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["check", "no*"],
            "no*: is a pattern, which is not read here; expected a folder of labelled scans; give the folder; --images",
        ),
        (["predict", "s/*.nii", "out", "-m", "RUN"], "s/*.nii: is a pattern, which is not read here"),
        (["evaluate", "p*", "r*"], "p*: is a pattern, which is not read here"),
        (["export", "RUN", "FOLDER"], "FOLDER: is a folder; expected the name of a file; write FOLDER/model.nnseg"),
        (["check", "DATA", "--images", "foo*.nii"], "correct it; the first of 12 images is imagesTr/ball_00.nii.gz"),
    ],
)
def test_patterns_that_fit_nothing_and_folders_for_files_are_refused_in_plain_words(
    ball_run: Path, ball_dataset: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "FOLDER").mkdir()
    paths = {"RUN": str(ball_run), "DATA": str(ball_dataset), "FOLDER": str(tmp_path / "FOLDER")}
    refused = nnseg(*(paths.get(argument, argument) for argument in arguments), check=2).stderr
    assert said.replace("FOLDER", paths["FOLDER"]) in refused


class Console(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("platform", "variables", "coloured"),
    [
        ("linux", {}, True),
        ("linux", {"NO_COLOR": "1"}, False),
        ("linux", {"TERM": "dumb"}, False),
        ("win32", {}, False),
        ("win32", {"WT_SESSION": "0"}, True),
    ],
)
def test_only_a_terminal_that_knows_the_codes_of_colours_gets_them(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], coloured: bool
) -> None:
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(terminal.os, "environ", variables)
    assert is_coloured(Console()) is coloured
    assert not is_coloured(io.StringIO())
