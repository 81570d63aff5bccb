"""The rules by which objects are told apart, chosen on held-out cases."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnseg.core.decisions import ObjectRule
from nnseg.core.label_files import OBJECT, LabelFiles
from nnseg.core.labels import Labels
from nnseg.crossval.objects import HeldOutObjects, select_rules

LABELS = Labels(names=("background", "cell"), values=(0, 1))


def held_out(folder: Path, number: int, *, valley: int, noise: int = 0) -> HeldOutObjects:
    """Two cells of 8 x 5 pixels that touch, between which the level of the interior falls to a value, and specks that are none."""
    reference, interior = np.zeros((20, 30), np.uint16), np.zeros((20, 30), np.uint8)
    reference[4:12, 4 + number : 9 + number], reference[4:12, 9 + number : 14 + number] = 1, 2
    interior[reference > 0] = 250
    interior[4:12, 8 + number : 10 + number] = valley
    label_map = (reference > 0).astype(np.uint8)
    label_map[16, 1 : 2 * noise : 2] = 1
    for name, pixels in {"prediction": label_map, "interior": interior, "reference": reference}.items():
        Image.fromarray(pixels).save(folder / f"{name}{number}.png")
    return HeldOutObjects(
        name=f"case_{number}",
        prediction=folder / f"prediction{number}.png",
        interior=folder / f"interior{number}.png",
        reference=LabelFiles(paths=(folder / f"reference{number}.png",), coding="instances", values={OBJECT: 1}),
        out=folder / f"out{number}.png",
    )


def test_objects_begin_where_most_of_the_held_out_ones_are_told_apart(tmp_path):
    found = select_rules([held_out(tmp_path, n, valley=170) for n in range(3)], LABELS, ["cell"])
    assert found.rules == {"cell": ObjectRule(seed=0.7)}
    assert found.candidates["cell"][0].average_precision == 1.0
    assert found.reason == "highest mean average precision on 3 held-out cases (cell 1.000)"
    easy = select_rules([held_out(tmp_path, n, valley=20) for n in range(3)], LABELS, ["cell"])
    assert easy.rules == {"cell": ObjectRule()}


def test_specks_below_the_size_of_all_objects_are_none(tmp_path):
    found = select_rules([held_out(tmp_path, n, valley=20, noise=5) for n in range(3)], LABELS, ["cell"])
    assert found.rules == {"cell": ObjectRule(smallest_mm3=20)}


def test_few_cases_choose_nothing(tmp_path):
    found = select_rules([held_out(tmp_path, n, valley=170) for n in range(2)], LABELS, ["cell"])
    assert (found.rules, found.cases) == ({"cell": ObjectRule()}, 2)
    assert found.reason == "2 held-out cases cannot tell which rule is best; 3 are needed"


def test_a_case_that_cannot_be_read_is_left_out(tmp_path, caplog):
    cases = [held_out(tmp_path, n, valley=170) for n in range(4)]
    cases[3].interior.write_bytes(b"no picture")
    assert select_rules(cases, LABELS, ["cell"]).rules == {"cell": ObjectRule(seed=0.7)}
    assert "case case_3 is not used to choose how objects are told apart" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_the_choice_does_not_depend_on_the_number_of_processes(tmp_path, workers):
    found = select_rules([held_out(tmp_path, n, valley=170) for n in range(3)], LABELS, ["cell"], workers=workers)
    assert found.rules == {"cell": ObjectRule(seed=0.7)}
