"""The widget of napari, driven by Qt without a screen; skipped where napari is not installed, as in the tests' environment.

The viewer is napari's model of one: its window draws by OpenGL, which machines without a screen seldom have.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from serving_api import served

pytestmark = pytest.mark.slow

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

CLIENTS = Path(__file__).parents[2] / "clients"


def test_an_image_gets_a_layer_of_labels_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("napari", reason="napari is not installed")
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.setattr(sys, "path", [*sys.path, str(CLIENTS / "python"), str(CLIENTS / "napari")])
    from napari.components import ViewerModel
    from napari.layers import Layer
    from napari.qt import get_qapp
    from napari_nnseg import make_widget
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(CLIENTS / "napari" / "napari_nnseg" / "napari.yaml")
    assert [one.python_name for one in manifest.contributions.commands] == ["napari_nnseg:make_widget"]
    voxels = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32)
    application, viewer, found = get_qapp(), ViewerModel(), []
    image = viewer.add_image(voxels, name="scan", scale=(3.0, 1.0, 0.5), translate=(1.0, 2.0, 3.0))
    with served(tmp_path) as (url, _):
        worker = make_widget()(image=image, server=url)
        worker.returned.connect(found.append)
        end = time.monotonic() + 60
        while not found:
            application.processEvents()
            assert time.monotonic() < end
    layer = viewer.add_layer(Layer.create(*found[0]))
    assert layer.name == "scan nnseg"
    np.testing.assert_array_equal(layer.data, voxels > 0)
    np.testing.assert_array_equal([layer.scale, layer.translate], [image.scale, image.translate])
    assert [*layer.features["label"]] == ["background", "bright"]
