"""What is known of each kind of network without building it, compared with the network itself."""

import math

import pytest
import torch
from torch import nn

from nnseg.core.network_kinds import KINDS, count_values, count_weights, receptive_field
from nnseg.core.plan import Network
from nnseg.network import blocks
from nnseg.network.blocks import PooledProjection, UpConvolution
from nnseg.network.build import build_unet


def network_of(kind, dimensions, **settings):
    """Three stages of 8 features, of which the second is not pooled along the first axis."""
    ones, twos = (1,) * dimensions, (2,) * dimensions
    return Network(
        kind=kind,
        features=settings.pop("features", (8, 8, 8)),
        strides=(ones, (1, *twos[1:]), twos),
        kernels=((1, *(3,) * (dimensions - 1)), (3,) * dimensions, (3,) * dimensions),
        blocks=(1, 2, 2),
        decoder_blocks=(2, 1),
        **settings,
    )


LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear, PooledProjection, nn.AvgPool2d, nn.AvgPool3d)
KINDS_AND_AXES = [(kind, dimensions) for kind, of in KINDS.items() for dimensions in of.dimensions]


@pytest.mark.parametrize(("kind", "dimensions"), KINDS_AND_AXES)
@pytest.mark.parametrize("features", [(8, 8, 8), (4, 8, 12)])
@pytest.mark.parametrize("gates", [False, True])
def test_values_are_those_that_a_network_computes(kind, dimensions, features, gates, monkeypatch):
    monkeypatch.setattr(blocks, "_use_cpu_kernels", lambda x: False)  # every layer is a module then
    plan, patch = network_of(kind, dimensions, features=features, attention_gates=gates), (8,) * dimensions
    network, seen = build_unet(plan, channels=1, heads=3), []
    for module in network.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(lambda _m, _i, out: seen.append(out.numel()))
        elif isinstance(module, UpConvolution):  # its result has the encoder's features beside its own
            module.register_forward_hook(lambda m, _i, out: seen.append(m.weight.shape[1] * math.prod(out.shape[2:])))
    network(torch.zeros(1, 1, *patch))
    assert count_values(plan, patch, heads=3) == sum(seen)


@pytest.mark.parametrize(("kind", "dimensions"), KINDS_AND_AXES)
def test_weights_are_about_those_of_a_network(kind, dimensions):
    plan = network_of(kind, dimensions, features=(32, 32, 32))
    with torch.device("meta"):
        network = build_unet(plan, channels=1, heads=3)
    weights = sum(p.numel() for name, p in network.named_parameters() if ".ups." not in name)
    assert count_weights(plan) == pytest.approx(weights, rel=0.35)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "transformer"])
def test_the_receptive_field_is_that_of_the_gradient(kind):
    plan = network_of(kind, 2)
    model = build_unet(plan, channels=1, heads=2)
    for part in [*model.modules()]:
        if hasattr(part, "norm"):  # norms depend on all voxels
            part.norm = nn.Identity()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.05)
    image, found = torch.ones(1, 1, 96, 160, requires_grad=True), []
    for place in range(4):
        [gradient] = torch.autograd.grad(model(image)[0, 0, 48 + place, 80 + place], image)
        found.append([len(gradient[0, 0].sum(axis).nonzero()) for axis in (1, 0)])
    assert receptive_field(plan) == tuple(max(extents) for extents in zip(*found, strict=True))


def test_dilated_convolutions_widen_the_receptive_field_by_twice_their_distance_at_the_coarsest_stage():
    plain, atrous = (receptive_field(network_of(kind, 2)) for kind in ("plain", "atrous"))
    assert [b - a for a, b in zip(plain, atrous, strict=True)] == [2 * (2 + 4) * 2, 2 * (2 + 4) * 4]


def test_a_transformer_sees_the_whole_patch():
    assert receptive_field(network_of("transformer", 3)) == ()
