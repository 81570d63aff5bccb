import pytest
import typer
from typer.testing import CliRunner

from nnseg.cli.options import with_options
from nnseg.core.errors import NnsegError
from nnseg.core.options import Options, parse_duration, parse_folds, select_folds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2h", 7200), ("1.5h", 5400), ("20", 1200), ("1m30s", 90)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "20 min", "-5m", "0s", "5d", "m"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(NnsegError, match="1h30m"):
        parse_duration(text)


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
