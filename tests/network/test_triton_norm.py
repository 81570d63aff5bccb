"""The norm in Triton against PyTorch's; on a CPU in Triton's interpreter, which the variable TRITON_INTERPRET=1 switches on."""

import os

import pytest
import torch
from torch import nn

triton = pytest.importorskip("triton", reason="triton comes with torch's builds for CUDA, not with this one")
ON_CPU = os.environ.get("TRITON_INTERPRET") == "1"
if not (ON_CPU or torch.cuda.is_available()):
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

from nnseg.network import triton_norm  # noqa: E402
from nnseg.network.blocks import NO_ACTIVATION, InstanceNorm  # noqa: E402

DEVICE = torch.device("cpu" if ON_CPU else "cuda")


def answers(function, x, weight, bias, upstream):
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, upstream)]


def right(slope):
    def plain(x, weight, bias):
        return nn.functional.leaky_relu(nn.functional.instance_norm(x, weight=weight, bias=bias, eps=1e-5), slope)

    return plain


def ours(slope):
    return lambda x, weight, bias: triton_norm.norm_activation(x, weight, bias, slope)


@pytest.mark.parametrize("slope", [0.01, NO_ACTIVATION])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6, 7), (1, 16, 9, 8, 7), (3, 70, 4, 5, 3), (1, 1, 2, 1, 1), (2, 8, 33, 32, 17)])
def test_output_and_gradients_are_pytorchs(shape, slope, monkeypatch):
    monkeypatch.setattr(triton_norm, "PROGRAMS", 4 * shape[0])  # so that a program sums several tiles, and several are combined
    torch.manual_seed(0)
    x = torch.randn(shape).add(3).to(DEVICE, memory_format=torch.channels_last_3d)
    weight, bias, upstream = torch.randn(shape[1]).to(DEVICE), torch.randn(shape[1]).to(DEVICE), torch.randn(shape).to(DEVICE)
    found = answers(ours(slope), x, weight, bias, upstream)
    expected = answers(right(slope), *(t.double() for t in (x, weight, bias, upstream)))
    assert found[0].is_contiguous(memory_format=torch.channels_last_3d)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 2e-5 * max(1.0, float(other.abs().max()))


def test_a_mean_of_many_times_the_spread_is_survived():
    torch.manual_seed(0)
    x = (torch.randn(1, 4, 20, 20, 20) + 1000).to(DEVICE)
    weight, bias = torch.ones(4, device=DEVICE), torch.zeros(4, device=DEVICE)
    expected = nn.functional.instance_norm(x.double())
    assert (triton_norm.norm_activation(x, weight, bias, NO_ACTIVATION) - expected).abs().max() < 0.01


def test_a_channel_of_one_voxel_becomes_the_offset_and_trains():
    x, weight, bias = torch.randn(2, 3, 1, 1, 1).to(DEVICE), torch.randn(3).to(DEVICE), torch.randn(3).to(DEVICE)
    y, of_x, _, of_bias = answers(ours(NO_ACTIVATION), x, weight, bias, torch.ones(2, 3, 1, 1, 1, device=DEVICE))
    assert torch.allclose(y, bias.view(1, 3, 1, 1, 1).expand(2, 3, 1, 1, 1), atol=1e-5)
    assert of_x.abs().max() < 1e-4
    assert torch.equal(of_bias.cpu(), torch.full((3,), 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_16_bits_are_float32(dtype):
    torch.manual_seed(0)
    x = (torch.randn(2, 4, 16, 16, 16) + 2).to(DEVICE, dtype)
    weight, bias, upstream = torch.randn(4).to(DEVICE), torch.randn(4).to(DEVICE), torch.randn(x.shape).to(DEVICE, dtype)
    found = answers(ours(0.01), x, weight, bias, upstream)
    expected = answers(right(0.01), *(t.double() for t in (x, weight, bias, upstream)))
    assert found[0].dtype == dtype and found[1].dtype == dtype and found[2].dtype == torch.float32
    assert all(float((a.double() - b).norm() / b.norm()) < 0.005 for a, b in zip(found, expected, strict=True))


def test_the_same_values_give_the_same_bits():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 20, 20, 20).to(DEVICE)
    weight, bias, upstream = torch.randn(8).to(DEVICE), torch.randn(8).to(DEVICE), torch.randn(x.shape).to(DEVICE)
    first, second = (answers(ours(0.01), x, weight, bias, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_network_uses_it_in_all_its_norms():
    network = nn.Sequential(InstanceNorm(2, slope=0.01), nn.Sequential(InstanceNorm(2, slope=1.0)))
    triton_norm.use_triton_norm(network)
    assert all(module.kernel is triton_norm.norm_activation for module in network.modules() if isinstance(module, InstanceNorm))
