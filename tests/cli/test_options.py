import pytest
import typer
from typer.testing import CliRunner

from nnseg.cli.options import FLAGS, with_options
from nnseg.core.errors import NnsegError
from nnseg.core.options import Options, parse_duration, parse_folds, parse_gigabytes, parse_kinds, select_folds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("1h30m", 5400),
        ("2h", 7200),
        ("1.5h", 5400),
        ("1m30s", 90),
        ("2min", 120),
        ("20 min", 1200),
        ("2 m", 120),
        ("1 hour 5 minutes", 3900),
        ("45 sec", 45),
        ("1d", 86400),
        ("2 Hours", 7200),
    ],
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0s", "m", "1:30", "5x", "5m x"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(NnsegError, match="1h30m"):
        parse_duration(text)


def test_a_number_without_a_unit_could_be_minutes_or_seconds():
    with pytest.raises(NnsegError, match='"120" has no unit of time; write 120m for minutes or 120s for seconds'):
        parse_duration("120")


@pytest.mark.parametrize(("text", "gigabytes"), [("8", 8), ("7.5 GB", 7.5), ("500MB", 0.5), ("16g", 16), ("1 TiB", 1000)])
def test_memory_is_read_as_people_write_it(text: str, gigabytes: float):
    assert parse_gigabytes(text) == gigabytes


@pytest.mark.parametrize("text", ["", "much", "-8", "0", "50MB", "8 KB"])
def test_what_is_no_memory_is_refused(text: str):
    with pytest.raises(NnsegError, match="write GB"):
        parse_gigabytes(text)


def test_nnunets_names_of_configurations_are_plans():
    assert parse_kinds("3d_fullres, 2d,3d_cascade_fullres") == ("3d", "2d", "3d_cascade")


def test_numbers_below_their_minimum_are_refused():
    with pytest.raises(NnsegError, match="0 is too small; write 1 or more"):
        FLAGS["steps"].read(0)


def test_folds_are_read_as_people_write_them() -> None:
    assert parse_folds("all") is None
    assert parse_folds("0") == (0,)
    assert parse_folds("2, 0,2") == (0, 2)
    with pytest.raises(NnsegError, match="does not name folds"):
        parse_folds("first")


def test_a_fold_that_does_not_exist_is_named() -> None:
    assert select_folds(None, 3) == (0, 1, 2)
    with pytest.raises(NnsegError, match="no fold 5: this run has folds 0 to 2"):
        select_folds((0, 5), 3)


def test_options_are_parsed_into_one_object_with_the_same_defaults() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    @with_options("kinds", "budget", "memory_gb", "folds", "devices", "probe", "workers", "checkpoint")
    def command(folder: str, options: Options) -> None:
        seen.append((folder, options))

    CliRunner().invoke(app, ["a"], catch_exceptions=False)
    given = "--plans 2d,3d --budget 90s --memory 2 --fold 1 --devices 0,cpu --no-probe --workers 3 --checkpoint 1m"
    CliRunner().invoke(app, ["a", *given.split()], catch_exceptions=False)
    expected = Options(
        kinds=("2d", "3d"),
        budget=90.0,
        memory_gb=2.0,
        folds=(1,),
        devices=("cuda:0", "cpu"),
        probe=False,
        workers=3,
        checkpoint=60.0,
    )
    assert seen == [("a", Options()), ("a", expected)]


def test_a_text_that_cannot_be_parsed_is_our_error() -> None:
    app = typer.Typer()
    app.command()(with_options("budget")(lambda options: None))
    with pytest.raises(NnsegError, match="is not a time"):
        CliRunner().invoke(app, ["--budget", "soon"], catch_exceptions=False)
