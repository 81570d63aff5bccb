"""Uncertainty of voxels, and agreement of networks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnseg.core.labels import Labels, Region
from nnseg.core.trust import Trust
from nnseg.inference.uncertainty import UncertaintyStats, apply_temperature

LABELS = Labels(names=("background", "a", "b"), values=(0, 1, 7))
REGIONS = Labels(
    names=("background", "edema", "core"),
    values=(0, 1, 2),
    regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)),
)


def soft(seed=0, shape=(3, 6, 8, 5), scale=3.0):
    return torch.softmax(scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed)), 0)


def column(*voxels):
    """Probabilities (K, n, 1, 1) of voxels in a row."""
    return torch.tensor(voxels).T[:, :, None, None]


def test_tempered_labels_by_hand():
    half = apply_temperature(torch.tensor([[0.9], [0.1]]), 2.0)
    assert half[0].item() == pytest.approx(3 / 4)  # the square root of 9 to 1
    sharper = apply_temperature(torch.tensor([[0.6], [0.3], [0.1]]), 0.5)
    assert sharper.flatten().tolist() == pytest.approx([36 / 46, 9 / 46, 1 / 46])


def test_tempered_regions_stand_each_for_itself():
    both = apply_temperature(torch.tensor([[0.9], [0.8]]), 2.0, regions=True)
    assert both.flatten().tolist() == pytest.approx([3 / 4, 2 / 3])


@pytest.mark.parametrize("regions", [False, True])
def test_a_temperature_of_one_leaves_probabilities_alone(regions):
    assert apply_temperature(soft(), 1.0, regions=regions) is not None
    torch.testing.assert_close(apply_temperature(soft(), 1.0, regions=regions), soft(), rtol=0, atol=0)


@given(temperature=st.floats(0.3, 8.0), seed=st.integers(0, 20))
def test_no_temperature_changes_a_decision(temperature, seed):
    p = soft(seed, (4, 3, 3, 3), scale=1.0)
    q = apply_temperature(p, temperature)
    assert torch.equal(q.argmax(0), p.argmax(0))
    torch.testing.assert_close(q.sum(0), torch.ones_like(q[0]))
    assert torch.equal(apply_temperature(p, temperature, regions=True) > 0.5, p > 0.5)


def test_agreement_by_hand():
    stats = UncertaintyStats(LABELS)
    stats.add(column([0.0, 0.9, 0.1], [0.0, 0.6, 0.4], [0.7, 0.3, 0.0], [1.0, 0.0, 0.0]))
    found = stats.agreement()
    # label a: decided in two voxels, where its probabilities are 0.9 and 0.6, and seen in a third with 0.3
    assert found.labels["a"] == pytest.approx((2 * 1.5 + 1) / (2 + 1.8 + 1))
    assert found.labels["b"] == pytest.approx(1 / (0.5 + 1))
    assert found.foreground == pytest.approx((2 * 2.0 + 1) / (2 + 2.3 + 1))
    assert found.voxels == {"a": 2.0, "b": 0.0}


def test_agreement_of_regions_by_hand():
    stats = UncertaintyStats(REGIONS)
    stats.add(column([0.9, 0.2], [0.4, 0.1]))
    found = stats.agreement()
    assert found.labels["whole"] == pytest.approx((2 * 0.9 + 1) / (1 + 1.3 + 1))
    assert found.labels["core"] == pytest.approx(1 / 1.3)
    assert found.foreground == found.labels["whole"]
    assert found.voxels == {"whole": 1.0, "core": 0.0}


def test_the_map_is_the_chance_that_the_decision_is_wrong():
    labels = UncertaintyStats(LABELS).add(column([0.0, 0.9, 0.1], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0]))
    assert labels.flatten().tolist() == pytest.approx([0.1, 0.5, 0.0])
    regions = UncertaintyStats(REGIONS).add(column([0.9, 0.2], [0.0, 1.0]))
    assert regions.flatten().tolist() == pytest.approx([0.2, 0.0])


def test_the_map_is_calibrated_and_agreement_is_not():
    p = soft()
    cold, warm = UncertaintyStats(LABELS), UncertaintyStats(LABELS, Trust(temperature=2.0))
    torch.testing.assert_close(warm.add(p), 1.0 - apply_temperature(p, 2.0).amax(0))
    cold.add(p)
    assert cold.agreement() == warm.agreement()


def test_certain_networks_agree_and_give_no_uncertainty():
    for labels in (LABELS, REGIONS):
        stats = UncertaintyStats(labels)
        heads = len(labels.heads)
        sure = torch.nn.functional.one_hot(torch.arange(24).reshape(2, 3, 4) % heads, heads).movedim(-1, 0).float()
        assert stats.add(sure).abs().max() == 0
        assert stats.agreement().labels == dict.fromkeys(labels.foreground, 1.0)
        assert stats.agreement().foreground == 1.0


def test_networks_that_disagree_lower_the_agreement():
    outputs = [torch.nn.functional.one_hot(soft(seed).argmax(0), 3).movedim(-1, 0).float() for seed in range(4)]
    values = []
    for count in (1, 2, 4):
        stats = UncertaintyStats(LABELS)
        stats.add(torch.stack(outputs[:count]).mean(0))
        values.append(stats.agreement().foreground)
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0 > values[1]


def test_a_faint_haze_over_a_large_scan_says_nothing():
    stats = UncertaintyStats(LABELS)
    haze = torch.full((3, 20, 20, 20), 0.004)
    haze[0] = 0.992
    stats.add(haze)
    assert stats.agreement().labels == {"a": 1.0, "b": 1.0}


def test_slabs_add_up_to_the_whole():
    p = soft(2)
    whole, parts = UncertaintyStats(LABELS), UncertaintyStats(LABELS)
    expected = whole.add(p)
    maps = [parts.add(p[:, z : z + 4]) for z in (0, 4)]
    assert torch.equal(torch.cat(maps), expected)
    assert parts.agreement().foreground == pytest.approx(whole.agreement().foreground)


def test_what_comes_in_is_left_as_it_was():
    p = soft(3)
    UncertaintyStats(LABELS, Trust(temperature=2.0), sample=10).add(p)
    assert torch.equal(p, soft(3))


def test_a_sample_finds_its_voxels():
    p = soft(4, (3, 6, 8, 32))
    stats = UncertaintyStats(LABELS, sample=100)
    for z, x in ((0, 0), (0, 16), (2, 0), (2, 16), (4, 0), (4, 16)):
        stats.add(p[:, z : z + 2, :, x : x + 16], (z, 0, x))
    sample = stats.sample()
    assert len(np.unique(sample.voxels, axis=0)) == len(sample.voxels) == 100
    assert sample.weights.sum() == pytest.approx(6 * 8 * 32)
    np.testing.assert_array_equal(sample.probabilities, p[:, *sample.voxels.T].T)


def test_a_sample_stands_for_all_voxels():
    p = torch.cat([soft(5, (3, 10, 20, 20), scale=1.0), soft(6, (3, 30, 20, 20), scale=12.0)], 1)
    stats = UncertaintyStats(LABELS, sample=4000)
    for z in range(0, 40, 7):
        stats.add(p[:, z : z + 7], (z, 0, 0))
    sample = stats.sample()
    np.testing.assert_array_equal(sample.probabilities, p[:, *sample.voxels.T].T)
    assert np.average(sample.probabilities.max(1), weights=sample.weights) == pytest.approx(p.amax(0).mean().item(), abs=0.01)


def test_without_a_sample_there_is_none():
    with pytest.raises(ValueError, match="sample"):
        UncertaintyStats(LABELS).sample()
