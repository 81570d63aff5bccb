"""A strict type checker knows the types of what the public functions take and return."""

import re
import textwrap

import pytest

mypy = pytest.importorskip("mypy.api")

USE = """
from pathlib import Path
import numpy as np
import numpy.typing as npt
import torch
import nnseg

model = nnseg.load("model.nnseg", device="cpu", folds=[0])
array: npt.NDArray[np.float32] = np.zeros((4, 5, 6), np.float32)
reveal_type(model)
reveal_type(model.predict(array, spacing=(1, 1, 1)).label_map)
reveal_type(model.predict(torch.zeros(4, 5, 6), spacing=(1, 1, 1)).label_map)
reveal_type(model.predict(Path("scan.nii.gz"), uncertainty=True).volumes)
reveal_type(nnseg.check("dataset", channels=["T1"]).cases[0].voxels)
reveal_type(nnseg.plan("dataset", "run", budget="2h", folds=(0, 1)).plans[0].plan)
reveal_type(nnseg.run(Path("dataset"), "run", memory=8, devices="0,1").scores)
reveal_type(nnseg.evaluate("a", "b", tolerances=(1, 2)).scores.averages.pooled["dice"].mean)
reveal_type(nnseg.predict_folder("scans", "out", ["a.nnseg", Path("b")], folds=0).scans)
reveal_type(nnseg.information().devices)
"""

TYPES = [
    "Segmenter",
    "ndarray",
    "Tensor",
    "Mapping[str, float]",
    "dict[str, int] | None",
    "Plan",
    "Scores | None",
    "float | None",
    "dict[str, ",
    "tuple[str, ...]",
]

WRONG = """
import nnseg
model = nnseg.load("model.nnseg", fold=0)
model.predict("scan.nii.gz", spacing="1")
nnseg.check("dataset", budget="2h")
nnseg.run("dataset", "run", budget=20)
nnseg.evaluate("a", "b", format="csv")
nnseg.load("model.nnseg").predict("a").label_maps
"""


def checked(tmp_path, program):
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    out, err, _ = mypy.run(["--strict", "--no-error-summary", "--hide-error-context", str(file)])
    assert not err
    return out.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_types_are_known_and_wrong_use_is_found(tmp_path):
    lines = checked(tmp_path, USE)
    shown = [line.split('Revealed type is "')[1] for line in lines if "Revealed" in line]
    assert [line for line in lines if "error" in line] == []
    assert len(shown) == len(TYPES)
    for found, expected in zip(shown, TYPES, strict=True):
        assert expected in re.sub(r"[\w.]*\.(?=\w)", "", found.replace("builtins.", "")), (found, expected)
    errors = [int(re.search(r"\.py:(\d+): error", line)[1]) for line in checked(tmp_path, WRONG) if ": error" in line]
    assert set(errors) == {3, 4, 5, 6, 7, 8}
