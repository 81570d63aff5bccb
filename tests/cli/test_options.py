import pytest

from nnseg.cli.options import parse_duration, parse_folds
from nnseg.core.errors import NnsegError
from nnseg.core.options import chosen_folds


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
    assert chosen_folds(None, 3) == (0, 1, 2)
    with pytest.raises(NnsegError, match="no fold 5: this run has folds 0 to 2"):
        chosen_folds((0, 5), 3)
