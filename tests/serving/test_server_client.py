"""The client that needs numpy and httpx alone: what it sends is what others read, and its answers are those of the server."""

import ast
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from serving_api import served, until

pytest.importorskip("httpx", reason="the client's library is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

CLIENTS = Path(__file__).parents[2] / "clients"
sys.path.append(str(CLIENTS / "python"))

from nnseg_client import Cancelled, Client, ServerError, from_mha, to_mha  # noqa: E402


def test_it_imports_numpy_and_httpx_alone() -> None:
    tree = ast.parse((CLIENTS / "python" / "nnseg_client.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in named} - sys.stdlib_module_names == {"numpy", "httpx"}


@pytest.mark.parametrize("dtype", ["float32", "int16", ">u2", "uint8", "float16", "bool"])
def test_simpleitk_reads_what_it_writes_and_it_reads_what_simpleitk_writes(dtype: str, tmp_path: Path) -> None:
    voxels = (np.arange(2 * 3 * 4).reshape(2, 3, 4) % 2).astype(dtype)
    direction = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    file = tmp_path / "scan.mha"
    file.write_bytes(to_mha(voxels, (3.0, 2.0, 1.5), (10.0, -20.0, 30.0), direction))
    image = sitk.ReadImage(file)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    assert (image.GetSpacing(), image.GetOrigin(), image.GetDirection()) == (
        (1.5, 2.0, 3.0), (10.0, -20.0, 30.0), tuple(direction.ravel()),
    )  # fmt: skip
    for compressed in (False, True):
        sitk.WriteImage(image, file, useCompression=compressed)
        np.testing.assert_array_equal(from_mha(file.read_bytes()), voxels)


def test_it_predicts_arrays_and_tells_what_the_server_says(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    with served(tmp_path, token="secret") as (url, jobs), Client(url, "secret") as client:
        answer = client.predict(voxels, (2.0, 1.0, 1.0))
        np.testing.assert_array_equal(answer.label_map, voxels > 0)
        assert answer.volumes_ml == {"bright": pytest.approx((voxels > 0).sum() * 2e-3)}
        assert answer.labels == {"background": 0, "bright": 1}
        assert [model.channels for model in client.models()] == [("MRI",)]
        with pytest.raises(ServerError, match="there is no model other; there are bright"):
            client.predict(voxels, (2.0, 1.0, 1.0), model="other")
        with pytest.raises(ServerError, match="expected one for each of MRI"):
            client.predict([voxels, voxels], (2.0, 1.0, 1.0))
        assert [*jobs] == []
        with pytest.raises(ServerError, match="Authorization"), Client(url, "wrong") as stranger:
            stranger.models()
    with pytest.raises(ServerError, match="does not answer"), Client(url) as late:
        late.models()


def test_a_user_cancels(tmp_path: Path) -> None:
    with served(tmp_path) as (url, jobs), Client(url) as client:
        jobs.models["bright"]._most = 0  # none is predicted
        with pytest.raises(Cancelled):
            client.predict(np.zeros((2, 3, 4), np.float32), (1.0, 1.0, 1.0), cancelled=lambda: True)
        until(lambda: not [*jobs])


def test_it_waits_for_a_busy_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnseg_client.POLL_SECONDS", 0.05)
    with served(tmp_path, most=1) as (url, jobs), Client(url) as client:
        first = jobs.admit()
        waiting = threading.Timer(0.3, jobs.drop, (first,))
        waiting.start()
        assert client.predict(np.ones((2, 3, 4), np.float32), (1.0, 1.0, 1.0)).label_map.all()
        assert jobs.refused > 0
        with pytest.raises(ServerError, match="1 scans are waiting"), Client(url, busy_seconds=0) as hurried:
            jobs.admit()
            hurried.predict(np.ones((2, 3, 4), np.float32), (1.0, 1.0, 1.0))
