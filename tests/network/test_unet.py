import pytest
import torch
from torch import nn

from nnseg.core.network_kinds import KINDS
from nnseg.core.plan import Network
from nnseg.interop.nnunet.dataset import from_nnunet
from nnseg.network import blocks
from nnseg.network.build import build_unet


def network(kind="plain", *, features=(4, 6, 8), strides=None, kernels=None, blocks=None, decoder_blocks=None, dimensions=3):
    stages = len(features)
    return Network(
        kind=kind,
        features=features,
        strides=strides or ((1,) * dimensions,) + ((2,) * dimensions,) * (stages - 1),
        kernels=kernels or ((3,) * dimensions,) * stages,
        blocks=blocks or (2,) * stages,
        decoder_blocks=decoder_blocks or ((1,) if kind == "residual" else (2,)) * (stages - 1),
    )


ANISOTROPIC = {
    "features": (4, 6, 8, 8),
    "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 2, 2)),
    "kernels": ((1, 3, 3), (1, 3, 3), (3, 3, 1), (3, 3, 3)),
}
LAYOUTS = [
    pytest.param({"dimensions": 2}, (8, 12), id="2d"),
    pytest.param({}, (8, 8, 12), id="3d"),
    pytest.param(ANISOTROPIC, (4, 16, 8), id="anisotropic"),
    pytest.param({"features": (4, 4)}, (4, 6, 4), id="two stages"),
    pytest.param({"features": (5,)}, (3, 4, 5), id="one stage"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layout", "space"), LAYOUTS)
def test_logits_of_every_decoder_stage_come_finest_first(kind, layout, space):
    plan = network(kind, **layout)
    model = build_unet(plan, channels=2, heads=3)
    image = torch.randn(2, 2, *space)
    finest = model(image)
    model.deep_supervision = True
    outputs = model(image)
    expected, shape = [], space
    for stride in plan.strides[: max(1, len(plan.strides) - 1)]:
        shape = tuple(n // s for n, s in zip(shape, stride, strict=True))
        expected.append((2, 3, *shape))
    assert [tuple(o.shape) for o in outputs] == expected
    assert torch.equal(finest, outputs[0])


def conv_norm(before, after, *, bias=1):
    """Parameters of a 3 x 3 x 3 convolution, its bias, and the norm's scale and offset."""
    return before * after * 27 + (bias + 2) * after


def decoder(features, heads, convolutions):
    """Parameters: a transposed convolution of 2 x 2 x 2, the convolutions, a 1 x 1 x 1 head for each stage."""
    total = 0
    for coarse, fine in zip(features[:0:-1], features[-2::-1], strict=True):
        total += coarse * fine * 8 + fine
        total += conv_norm(2 * fine, fine) + (convolutions - 1) * conv_norm(fine, fine)
        total += fine * heads + heads
    return total


def plain_parameters(features, channels, heads):
    widths = zip((channels, *features), features, strict=False)
    return sum(conv_norm(a, b) + conv_norm(b, b) for a, b in widths) + decoder(features, heads, 2)


def residual_parameters(features, blocks, channels, heads):
    total, width = conv_norm(channels, features[0]), features[0]
    for after, count in zip(features, blocks, strict=True):
        projection = width * after + 2 * after if width != after else 0
        total += conv_norm(width, after) + projection + (2 * count - 1) * conv_norm(after, after)
        width = after
    return total + decoder(features, heads, 1)


def test_the_default_plain_network_has_31_million_parameters():
    features = (32, 64, 128, 256, 320, 320)
    with torch.device("meta"):
        model = build_unet(network(features=features), channels=1, heads=3)
    count = sum(p.numel() for p in model.parameters())
    assert count == plain_parameters(features, 1, 3) == 31_196_399


def test_the_residual_network_has_102_million_parameters():
    features, blocks = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
    with torch.device("meta"):
        model = build_unet(network("residual", features=features, blocks=blocks), channels=1, heads=3)
    assert sum(p.numel() for p in model.parameters()) == residual_parameters(features, blocks, 1, 3) == 102_350_575


def test_an_image_that_the_strides_do_not_divide_is_refused():
    model = build_unet(network(**ANISOTROPIC), channels=1, heads=2)
    with pytest.raises(ValueError, match=r"\(4, 16, 6\) voxels.*divisible by \(4, 8, 4\)"):
        model(torch.zeros(1, 1, 4, 16, 6))
    with pytest.raises(ValueError, match="does not fit"):
        model(torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_that_shrinks_to_one_voxel_can_be_trained_on(kind):
    model = build_unet(network(kind), channels=1, heads=2)
    model(torch.randn(1, 1, 4, 4, 4)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if "heads.0" not in n)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_network(kind):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_unet(network(kind), channels=1, heads=2).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_answers_as_float32_does(kind):
    torch.manual_seed(0)
    model = build_unet(network(kind, features=(8, 16)), channels=1, heads=2)
    image = torch.randn(2, 1, 8, 8, 8)
    exact = model(image)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(image)
    rounded.float().sum().backward()
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.02 * exact.std()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_the_layout_of_the_image_in_memory_does_not_matter():
    torch.manual_seed(0)
    model = build_unet(network(), channels=2, heads=2)
    image = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(model(image), model(image.contiguous(memory_format=torch.channels_last_3d)))
    assert torch.equal(model(image), model(image.transpose(2, 4).contiguous().transpose(2, 4)))


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(("layout", "space"), LAYOUTS[:4])
def test_nnunets_weights_give_nnunets_answer(kind, layout, space):
    pytest.importorskip("dynamic_network_architectures")
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    plan = network(kind, **layout)
    two = len(space) == 2
    theirs = (PlainConvUNet if kind == "plain" else ResidualEncoderUNet)(
        2,
        len(plan.features),
        plan.features,
        nn.Conv2d if two else nn.Conv3d,
        plan.kernels,
        plan.strides,
        plan.blocks,
        3,
        plan.decoder_blocks,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if two else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = build_unet(plan, channels=2, heads=3)
    ours.deep_supervision = True
    weights = from_nnunet(theirs.state_dict(), ours.state_dict())
    ours.load_state_dict(weights)
    same = {tensor.data_ptr() for tensor in weights.values()}
    assert {tensor.data_ptr() for tensor in theirs.state_dict().values()} == same
    image = torch.randn(2, 2, *space)
    for mine, other in zip(ours(image), theirs(image), strict=True):
        assert torch.allclose(mine, other, atol=1e-5 * max(1.0, other.abs().max().item()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layout", "space"), LAYOUTS)
def test_other_devices_get_the_same_answer_and_gradients(kind, layout, space, monkeypatch):
    torch.manual_seed(0)
    model = build_unet(network(kind, **layout), channels=2, heads=3).double()
    image = torch.randn(2, 2, *space, dtype=torch.float64)
    answers = []
    for cpu in (True, False):
        monkeypatch.setattr(blocks, "_use_cpu_kernels", lambda x, cpu=cpu: cpu)
        logits = model(image)
        answers.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)])
    for mine, other in zip(*answers, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or torch.allclose(mine, other, atol=1e-8)


def test_weights_can_be_swapped_in_inference_mode():
    model, other = (build_unet(network(), channels=1, heads=2) for _ in range(2))
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(torch.func.functional_call(model, other.state_dict(), (image,)), other(image))


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_program_gives_the_same_answer(kind):
    model = build_unet(network(kind), channels=1, heads=2).eval()
    image = torch.randn(1, 1, 8, 8, 8)
    program = torch.export.export(model, (image,))
    assert torch.allclose(program.module()(image), model(image), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_has_no_weights_and_drops_channels_in_training_and_of_a_draw(kind):
    torch.manual_seed(0)
    plain = build_unet(network(kind), channels=1, heads=2).eval()
    model = build_unet(network(kind).model_copy(update={"dropout": 0.5}), channels=1, heads=2).eval()
    model.load_state_dict(plain.state_dict())
    image = torch.randn(2, 1, 8, 8, 8)
    assert torch.equal(model(image), plain(image))
    drawn = [blocks.draw_channels(model, seed) or model(image) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert len({one.sum().item() for one in (plain(image).detach(), drawn[0].detach(), drawn[2].detach())}) == 3
    assert torch.equal(model(image.flip(0)).flip(0), drawn[2])  # the same draw for all samples
    model.train()
    assert not torch.equal(model(image), model(image))


def test_dropped_channels_are_0_and_the_others_are_raised_to_keep_the_mean():
    dropout, ones = blocks.ChannelDropout(1000, 0.2).eval(), torch.ones(1, 1000, 2, 2)
    assert torch.equal(dropout(ones), ones)
    blocks.draw_channels(dropout, 3)
    for found in (dropout(ones), dropout.train()(ones)):
        assert sorted({round(value, 6) for value in found.unique().tolist()}) == [0.0, 1.25]
        assert torch.equal(found[:, :, :1, :1].expand_as(found), found)  # whole channels
        assert found.mean() == pytest.approx(1, abs=0.05)
