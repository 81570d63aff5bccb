"""The module of 3D Slicer, against a stand-in of Slicer's API: its geometry by hand, its segments from a running server."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer_standin
from serving_api import served

pytest.importorskip("httpx", reason="the client's library is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

FILE = Path(__file__).parents[2] / "clients" / "slicer" / "Nnseg" / "Nnseg.py"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, as Slicer loads it."""
    for name, found in slicer_standin.modules().items():
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = spec_from_file_location("Nnseg", FILE)
    assert spec and spec.loader
    spec.loader.exec_module(loaded := module_from_spec(spec))
    return loaded


def test_positions_in_ras_become_those_in_lps(module: Any) -> None:
    matrix = np.array([[0.0, 2.0, 0.0, -10.0], [-1.5, 0.0, 0.0, 20.0], [0.0, 0.0, 3.0, 30.0], [0.0, 0.0, 0.0, 1.0]])
    spacing, origin, direction = module.geometry(slicer_standin.Volume(matrix=matrix))
    assert (spacing, origin) == ((1.5, 2.0, 3.0), (10.0, -20.0, 30.0))
    np.testing.assert_array_equal(direction, [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_a_volume_becomes_a_segmentation_with_the_models_names(module: Any, tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    volume = slicer_standin.Volume(voxels, np.diag([-1.0, -1.0, 2.0, 1.0]))
    parent = SimpleNamespace()
    module.Nnseg(parent)
    assert (parent.title, parent.categories) == ("nnseg", ["Segmentation"])
    with served(tmp_path, token="secret") as (url, _):
        widget = module.NnsegWidget()
        widget.setup()
        assert not widget.apply.enabled
        widget.url.text, widget.token.text, widget.volume.node = url, "secret", volume
        widget.connect.clicked()
        assert (widget.model.items, widget.apply.enabled) == (["bright"], True)
        widget.apply.clicked()
        (segmentation,) = module.slicer.nodes
        assert (segmentation.name, segmentation.reference) == ("scan nnseg", volume)
        (segment,) = segmentation.segments
        assert segment.name == "bright"
        np.testing.assert_array_equal(segment.mask, voxels > 0)
        with pytest.raises(ValueError, match="choose a volume"):
            module.NnsegLogic().segment(None, url)
