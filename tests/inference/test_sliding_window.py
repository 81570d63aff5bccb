"""Tiles cover the volume, and their logits are averaged with the right weights."""

import logging
import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from scipy.ndimage import gaussian_filter
from torch import nn

from nnseg.core.errors import RunError
from nnseg.core.geometry import tile_starts
from nnseg.inference.networks import MemberNetwork
from nnseg.inference.sliding_window import sliding_window
from nnseg.inference.tiles import Window, batch_for, importance

CPU = torch.device("cpu")
MEMBER = SimpleNamespace(plan=SimpleNamespace(previous=None, training=SimpleNamespace(precision="float32")))


def _mean(network, image, window):
    """The mean vote of one network, or of several."""
    networks = network if isinstance(network, list) else [network]
    return torch.cat(list(sliding_window([MemberNetwork(MEMBER, n, CPU) for n in networks], image, window)), 1)


def _classic(network, image, window):
    """Probabilities of the mean logits, as nnU-Net makes them."""
    logits = _mean(network, image, replace(window, logits=True))
    return torch.sigmoid(logits) if window.sigmoid else torch.softmax(logits, 0)


def _image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _identity(tiles):
    return tiles


def _conv(inputs, outputs, dimensions=3, seed=0):
    torch.manual_seed(seed)
    kind = nn.Conv3d if dimensions == 3 else nn.Conv2d
    return kind(inputs, outputs, 3, padding=1).requires_grad_(False)


@pytest.mark.parametrize(
    ("length", "patch", "step", "starts"),
    [
        (512, 128, 0.5, (0, 64, 128, 192, 256, 320, 384)),
        (110, 64, 0.5, (0, 23, 46)),  # 46 voxels of room, 32 at most between tiles: two gaps of 23
        (123, 64, 0.5, (0, 30, 59)),  # 29.5 is rounded half to even
        (64, 64, 0.5, (0,)),
        (65, 64, 0.5, (0, 1)),
        (128, 64, 1.0, (0, 64)),
        (5, 1, 1.0, (0, 1, 2, 3, 4)),
    ],
)
def test_tile_positions_by_hand(length, patch, step, starts):
    assert tile_starts(length, patch, step) == starts


@given(patch=st.integers(1, 200), more=st.integers(0, 700), step=st.floats(0.1, 1.0))
def test_every_voxel_is_covered_and_no_tile_lies_outside(patch, more, step):
    starts = tile_starts(patch + more, patch, step)
    assert starts[0] == 0
    assert starts[-1] == more
    gaps = np.diff(starts)
    assert all(0 <= gap <= math.ceil(patch * step) for gap in gaps)
    assert all(gap <= patch for gap in gaps)


@pytest.mark.parametrize("patch", [(8, 12, 16), (5, 9, 7), (40, 56, 40), (16, 24), (1, 16, 16)])
def test_importance_is_scipys_gaussian_of_an_impulse(patch):
    impulse = np.zeros(patch)
    impulse[tuple(n // 2 for n in patch)] = 1
    expected = gaussian_filter(impulse, [n / 8 for n in patch], mode="constant", truncate=8)
    weight = importance(patch)
    assert weight.dtype == torch.float32
    assert float(weight.max()) == 1
    np.testing.assert_allclose(weight.numpy(), expected / expected.max(), rtol=1e-5, atol=1e-12)


def test_importance_is_never_zero():
    assert float(importance((2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2)).min()) > 0  # the corner is exp(-120), no float32


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 15)] * 3),
    patch=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    step=st.sampled_from([0.25, 0.5, 0.7, 1.0]),
    batch=st.integers(1, 9),
    data=st.data(),
)
def test_a_window_over_the_identity_gives_the_input_back(shape, patch, step, batch, data):
    axes = data.draw(st.sets(st.integers(0, len(patch) - 1)))
    image = _image(3, *shape)
    window = Window(patch=tuple(patch), heads=3, step=step, mirror_axes=tuple(sorted(axes)), batch=batch)
    torch.testing.assert_close(_mean(_identity, image, window), torch.softmax(image, 0), rtol=1e-4, atol=1e-5)


def test_regions_get_a_probability_each():
    image = _image(2, 5, 6, 7)
    found = _mean(_identity, image, Window(patch=(4, 4, 4), heads=2, sigmoid=True))
    torch.testing.assert_close(found, torch.sigmoid(image), rtol=1e-4, atol=1e-5)
    assert found.dtype == torch.float32


def test_the_image_is_not_changed():
    image = _image(2, 6, 6, 6)
    before = image.clone()
    _mean(_identity, image, Window(patch=(6, 6, 6), heads=2, mirror_axes=(0,)))
    assert torch.equal(image, before)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_mirroring_does_not_change_an_equivariant_network(dimensions):
    network = _conv(1, 2, dimensions)
    axes = tuple(range(dimensions))
    for axis in axes:
        network.weight.copy_((network.weight + network.weight.flip(axis + 2)) / 2)
    image, patch = _image(1, 9, 11, 10), (8, 8, 8)[:dimensions]
    plain = _classic(network, image, Window(patch=patch, heads=2))
    mirrored = _classic(network, image, Window(patch=patch, heads=2, mirror_axes=axes))
    torch.testing.assert_close(mirrored, plain, rtol=1e-4, atol=1e-5)


def test_mirrored_logits_are_averaged_by_hand():
    image = torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 1, 4)

    def ramp(tiles):  # logits that depend on the position in the tile: (0, 1, 2, 3) times the value
        return torch.cat([torch.zeros_like(tiles), tiles * torch.arange(4.0)], 1)

    window = Window(patch=(1, 1, 4), heads=2, mirror_axes=(2,))
    logits = torch.tensor([1.0, 2.0, 4.0, 8.0]) * 1.5  # the mean of (0, 1, 2, 3) and (3, 2, 1, 0)
    torch.testing.assert_close(_classic(ramp, image, window)[1, 0, 0], torch.sigmoid(logits))


def test_the_copies_are_all_combinations_of_axes():
    assert Window(patch=(2, 2, 2), heads=1, mirror_axes=(0, 1, 2)).flips == (
        (),
        (1,),
        (2,),
        (3,),
        (1, 2),
        (1, 3),
        (2, 3),
        (1, 2, 3),
    )
    assert Window(patch=(2, 2), heads=1, mirror_axes=(0, 1)).flips == ((), (2,), (3,), (2, 3))


def test_overlapping_tiles_agree_with_monai():
    network, image, patch = _conv(2, 3), _image(2, 20, 24, 16), (8, 12, 8)
    with torch.inference_mode():
        logits = sliding_window_inference(
            image[None], patch, 4, network, overlap=0.5, mode="gaussian", roi_weight_map=importance(patch)
        )
    found = _classic(network, image, Window(patch=patch, heads=3, batch=3))
    torch.testing.assert_close(found, torch.softmax(logits[0], 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), [((11, 13, 9), (6, 8, 5)), ((4, 13, 9), (8, 6)), ((3, 5, 30), (4, 8, 8))])
def test_tiles_and_mirrors_agree_with_a_plain_loop(shape, patch):
    dimensions, step, axes = len(patch), 0.6, (0, 1)
    network, image = _conv(1, 2, dimensions, seed=4), _image(1, *shape, seed=5)
    found = _classic(network, image, Window(patch=patch, heads=2, step=step, mirror_axes=axes, batch=4))
    if dimensions == 2:
        expected = np.stack([_tile_by_tile(network, image[:, z].numpy(), patch, step, axes) for z in range(shape[0])], 1)
    else:
        expected = _tile_by_tile(network, image.numpy(), patch, step, axes)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5)


def _tile_by_tile(network, image, patch, step, axes):
    """The same in NumPy, float64, one tile and one copy at a time."""
    before = [max(p - n, 0) // 2 for n, p in zip(image.shape[1:], patch, strict=True)]
    after = [max(p - n, 0) - b for n, p, b in zip(image.shape[1:], patch, before, strict=True)]
    padded = np.pad(image, [(0, 0), *zip(before, after, strict=True)])
    total, weights = np.zeros((2, *padded.shape[1:])), np.zeros(padded.shape[1:])
    weight = importance(patch).numpy().astype(float)
    for corner in product(*(tile_starts(n, p, step) for n, p in zip(padded.shape[1:], patch, strict=True))):
        box = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        outputs = []
        for mirrored in product([False, True], repeat=len(axes)):
            flips = [a + 1 for a, m in zip(axes, mirrored, strict=True) if m]
            tile = np.flip(padded[(slice(None), *box)], flips).copy()
            outputs.append(np.flip(network(torch.from_numpy(tile)[None])[0].numpy(), flips))
        total[(slice(None), *box)] += np.mean(outputs, 0) * weight
        weights[box] += weight
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    logits = (total / weights)[(slice(None), *inner)]
    shares = np.exp(logits - logits.max(0))
    return shares / shares.sum(0)


def test_the_batch_changes_nothing_but_speed():
    network, image = _conv(1, 2), _image(1, 12, 10, 9)
    outputs = [_mean(network, image, Window(patch=(8, 8, 8), heads=2, mirror_axes=(0, 2), batch=b)) for b in (1, 3, 100)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patch", [(8, 8), (4, 8, 8)])
def test_no_batch_is_larger_than_allowed(patch):
    seen = []

    def network(tiles):
        seen.append(tuple(tiles.shape))
        return tiles

    _mean(network, _image(1, 8, 16, 8), Window(patch=patch, heads=1, sigmoid=True, mirror_axes=(1,), batch=5))
    assert {s[1:] for s in seen} == {(1, *patch)}
    assert {s[0] for s in seen} == {3}  # six copies a layer of tiles, in as many batches as needed, of one size
    assert sum(s[0] for s in seen) == 2 * 3 * (8 if len(patch) == 2 else 3)  # copies, tiles along y, slices or tiles along z


def test_autocast_reaches_the_network_and_logits_are_summed_in_float32():
    seen = []
    inner = _conv(1, 2)

    def network(tiles):
        seen.append(inner(tiles).dtype)
        return inner(tiles)

    image = _image(1, 8, 8, 8)
    short = _mean(network, image, Window(patch=(8, 8, 8), heads=2, dtype=torch.bfloat16))
    assert seen == [torch.bfloat16]
    assert short.dtype == torch.float32
    torch.testing.assert_close(short, _mean(inner, image, Window(patch=(8, 8, 8), heads=2)), rtol=0, atol=0.02)


def test_softmax_survives_large_logits():
    image = torch.tensor([1000.0, -1000.0, 999.0]).reshape(3, 1, 1, 1)
    found = _mean(_identity, image, Window(patch=(1, 1, 1), heads=3)).flatten()
    torch.testing.assert_close(found, torch.tensor([0.7310586, 0.0, 0.2689414]))


@pytest.mark.parametrize(
    ("patch", "features", "device", "batch"),
    [
        ((40, 56, 40), 16, "cpu", 2),
        ((128, 128, 128), 32, "cpu", 1),
        ((256, 256), 32, "cpu", 1),
        ((64, 64), 32, "cpu", 8),
        ((128, 128, 128), 32, "cuda", 1),
        ((64, 64), 32, "cuda", 32),
    ],
)
def test_batches_fit_the_device(patch, features, device, batch):
    assert batch_for(patch, features, torch.device(device)) == batch


def _sided(previous=False):
    """A network that calls bright voxels left or right by the half of the tile they lie in, as one that knows its sides would."""

    def network(tiles):
        left = torch.arange(tiles.shape[-1]) >= tiles.shape[-1] // 2
        bright = tiles[:, :1] > 0
        heads = [~bright, bright & left, bright & ~left]
        if previous:  # and follows the previous segmentation where that agrees
            heads[1] = heads[1] & (tiles[:, 1:2] == 1)
            heads[2] = heads[2] & (tiles[:, 1:2] == 2)
        return torch.cat(heads, 1).float() * 10

    return network


@pytest.mark.parametrize("patch", [(4, 6, 8), (6, 8)])
def test_left_stays_left_in_mirrored_copies_whose_heads_are_swapped(patch):
    image, axes = _image(1, 4, 6, 8), tuple(range(len(patch)))
    plain = _mean(_sided(), image, Window(patch=patch, heads=3))
    window = Window(patch=patch, heads=3, mirror_axes=axes, swap_axis=len(patch) - 1, swaps=((1, 2),))
    torch.testing.assert_close(_mean(_sided(), image, window), plain)
    confused = _mean(_sided(), image, Window(patch=patch, heads=3, mirror_axes=axes))
    assert not torch.allclose(confused, plain, atol=0.1)


def test_a_previous_segmentation_is_swapped_in_mirrored_copies():
    image = _image(1, 4, 6, 8)
    previous_labels = torch.where(torch.arange(8) >= 4, 1.0, 2.0).expand(1, 4, 6, 8)
    image = torch.cat([image, previous_labels])
    plain = _mean(_sided(True), image, Window(patch=(4, 6, 8), heads=3))
    swaps = {"swap_axis": 2, "swaps": ((1, 2),), "previous_swaps": ((1, 2),)}
    window = Window(patch=(4, 6, 8), heads=3, mirror_axes=(0, 2), **swaps)
    torch.testing.assert_close(_mean(_sided(True), image, window), plain)


def test_only_copies_mirrored_along_the_swap_axis_are_swapped():
    window = Window(patch=(2, 2), heads=3, mirror_axes=(0, 1), swap_axis=1, swaps=((1, 2),))
    assert [window._swaps_sides(flips) for flips in window.flips] == [False, False, True, True]


def test_copies_meet_as_logits_and_networks_as_probabilities_by_hand():
    image = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)

    def ramp(tiles):  # the second head's logit is 0 in the tile's first voxel, ten times the value in its second
        return torch.cat([torch.zeros_like(tiles), tiles * torch.tensor([0.0, 10.0])], 1)

    def torn(tiles):
        return torch.cat([tiles * 0, tiles * 0], 1)

    window = Window(patch=(1, 1, 2), heads=2, mirror_axes=(2,))
    copies = torch.sigmoid(torch.tensor([0.0, 5.0]))
    torch.testing.assert_close(_mean(ramp, image, window)[1, 0, 0], copies)
    torch.testing.assert_close(_mean([ramp, torn], image, window)[1, 0, 0], (copies + 0.5) / 2)
    both = _mean([ramp, torn], image, replace(window, logits=True))
    torch.testing.assert_close(both[1, 0, 0] - both[0, 0, 0], torch.tensor([0.0, 2.5]))


@pytest.mark.parametrize(("shape", "patch"), [((11, 13, 9), (6, 8, 5)), ((4, 13, 9), (8, 6)), ((30, 5, 30), (4, 8, 8))])
def test_members_predict_the_mean_of_each_alone(shape, patch):
    networks = [_conv(1, 3, len(patch), seed) for seed in range(3)]
    window, image = Window(patch=patch, heads=3, mirror_axes=(1,), batch=3), _image(1, *shape)
    alone = [_mean(network, image, window) for network in networks]
    torch.testing.assert_close(_mean(networks, image, window), torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)


def test_slabs_come_in_order_as_soon_as_no_tile_reaches_them():
    seen = []

    def network(tiles):
        seen.append(tiles.shape)
        return tiles

    window = Window(patch=(4, 8, 8), heads=2)
    slabs = sliding_window([MemberNetwork(MEMBER, network, CPU)], _image(2, 12, 8, 8), window)
    assert next(slabs).shape == (2, 2, 8, 8)
    assert len(seen) == 1  # tiles start at 0, 2, 4, 6, 8: after the first, two slices are finished
    assert [slab.shape[1] for slab in slabs] == [2, 2, 2, 4]


def _edges(tiles):
    """A network whose logits depend on the place in the tile, so that tiles differ."""
    place = torch.arange(tiles[0, 0].numel()).reshape(tiles.shape[2:]) % 7
    return torch.cat([tiles * 0, tiles + 0.1 * place], 1)


@pytest.mark.parametrize("axes", [(), (0, 2)])
def test_blank_tiles_are_computed_once_and_get_the_same_logits(axes):
    seen = []

    def network(tiles):
        seen.extend(tiles)
        return _edges(tiles)

    image = torch.zeros(1, 16, 12, 12)
    image[:, 12:, 8:] = _image(1, 4, 4, 12)
    window = Window(patch=(4, 4, 4), heads=2, mirror_axes=axes, batch=3)
    found = _mean(network, image, window)
    blank = sum(bool((tile == 0).all()) for tile in seen)
    assert blank == len(window.flips)
    assert len(seen) < 0.5 * 7 * 5 * 5 * len(window.flips)
    noisy = image + torch.linspace(0, 1e-4, image.numel()).reshape(image.shape)  # nothing is blank, nearly nothing changed
    torch.testing.assert_close(found, _mean(network, noisy, window), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("room", "tried"), [(4, [4]), (1, [4, 2, 1]), (0, [4, 2, 1])])
def test_a_full_device_gets_smaller_batches_and_the_same_result(room, tried, caplog):
    network, image, seen = _conv(1, 2), _image(1, 12, 8, 8), []

    def narrow(tiles):
        if not seen or seen[-1] != len(tiles):
            seen.append(len(tiles))
        if len(tiles) > room:
            raise torch.OutOfMemoryError
        return network(tiles)

    window = Window(patch=(8, 8, 8), heads=2, mirror_axes=(0, 1), batch=4)
    with caplog.at_level(logging.WARNING):
        if room:
            torch.testing.assert_close(_mean(narrow, image, window), _mean(network, image, window), rtol=1e-4, atol=1e-5)
        else:
            with pytest.raises(RunError, match=r"cpu has too little memory for one \(8, 8, 8\) patch"):
                _mean(narrow, image, window)
    assert seen[: len(tried)] == tried
    assert len(caplog.records) == len(tried) - 1
