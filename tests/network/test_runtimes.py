"""Networks computed by ONNX Runtime and OpenVINO give the logits of torch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from serving.small_models import array_of, model_of

import nnseg
from nnseg.core.errors import NnsegError, RunError
from nnseg.inference.networks import MemberNetwork, window_of
from nnseg.network import runtimes
from nnseg.network.runtimes import COMPILERS, CompiledNetwork, fastest_network, onnx_file, save_network
from nnseg.system import extras

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not extras.has_extra("runtimes"), reason='needs the extra "runtimes"')


@pytest.fixture(scope="module", params=[2, 3])
def network(request) -> MemberNetwork:
    """A small network of two or three dimensions."""
    return MemberNetwork.of(model_of(dimensions=request.param).members[0], CPU)


def test_all_runtimes_give_the_logits_of_torch_for_any_batch_and_from_threads(network: MemberNetwork):
    content = onnx_file(network.network, network.input_shape)
    batches = [torch.randn(size, *network.input_shape, generator=torch.Generator().manual_seed(size)) for size in (1, 3, 2)]
    for compiler in COMPILERS.values():
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(CompiledNetwork(compiler(content, torch.float32)), batches))
        for tiles, logits in zip(batches, found, strict=True):
            np.testing.assert_allclose(logits, network.network(tiles), atol=1e-3)


def test_a_scan_gets_the_same_label_map():
    scan, given = array_of(11, 17, 13), {"spacing": (1.5, 2.0, 1.2), "orientation": "SPL"}
    maps = [nnseg.load(model_of(), device="cpu", runtime=name).predict(scan, **given).label_map for name in ("torch", "openvino")]
    assert (maps[0] == maps[1]).mean() > 0.999
    assert len(np.unique(maps[0])) > 1


def test_the_fastest_is_none_that_gives_other_labels(monkeypatch: pytest.MonkeyPatch):
    network = MemberNetwork.of(model_of(dimensions=2).members[0], CPU)

    def zeros(*_):
        return lambda tiles: np.zeros((len(tiles), 3, *network.input_shape[1:]), np.float32)

    monkeypatch.setattr(runtimes, "COMPILERS", {"onnx": zeros})
    assert fastest_network(network.network, network.input_shape, torch.float32, regions=False) is network.network


def test_what_is_not_possible_is_said(monkeypatch: pytest.MonkeyPatch):
    member = model_of().members[0]
    on_gpu = MemberNetwork(member, torch.nn.Identity(), torch.device("cuda"))
    with pytest.raises(RunError, match="--runtime onnx computes on the CPU, and the device is cuda; add --device cpu"):
        on_gpu.compiled("onnx", window_of(member, CPU))
    monkeypatch.setattr(extras, "has_extra", lambda name: False)
    with pytest.raises(NnsegError, match=r'other runtimes need an extra: pip install "nnseg\[runtimes\]"'):
        nnseg.load(model_of(), device="cpu", runtime="openvino")


@pytest.mark.slow
def test_calibrated_networks_compute_in_8_bits_nearly_the_same(tmp_path: Path):
    openvino, _ = pytest.importorskip("openvino"), pytest.importorskip("nncf")
    network = MemberNetwork.of(model_of().members[0], CPU)
    tiles = [torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(seed)).numpy() for seed in range(8)]
    save_network(network.network, "openvino", network.input_shape, tmp_path / "network.xml", tiles)
    model = openvino.Core().read_model(tmp_path / "network.xml")
    types = [constant.get_element_type().get_type_name() for constant in model.get_ops() if constant.get_type_name() == "Constant"]
    assert "i8" in types
    logits = openvino.Core().compile_model(model, "CPU")(tiles[0])[0]
    exact = network.network(torch.from_numpy(tiles[0])).numpy()
    assert 0 < np.abs(logits - exact).mean() < 0.1 * exact.std()
