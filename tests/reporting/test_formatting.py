import pytest

from nnseg.reporting.formatting import duration, energy


@pytest.mark.parametrize(("seconds", "words"), [(4.24, "4.2 s"), (200, "3 min 20 s"), (3725, "1 h 02 min"), (59.98, "1 min 00 s")])
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("joules", "words"), [(36, "0.01 Wh"), (3600 * 86.12, "86.1 Wh"), (3_600_000 * 2.345, "2.35 kWh")])
def test_energies_in_words(joules, words):
    assert energy(joules) == words
