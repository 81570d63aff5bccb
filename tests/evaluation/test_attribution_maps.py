"""Attribution maps compared: whether two are alike beside what every network's map has, and how much of one lies in a structure."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from nnseg.core.geometry import Grid
from nnseg.evaluation.attribution import AIR, SAMPLE, SampledBody, alike, body_of, concentrate, rank_correlation, repeatability

RNG = np.random.default_rng(0)


def cube(shape=(12, 12, 12), start=4, stop=8):
    found = np.zeros(shape, bool)
    found[(slice(start, stop),) * 3] = True
    return found


def test_in_one_shell_the_correlation_is_spearmans_of_absolute_values():
    one, other = RNG.normal(size=200), RNG.normal(size=200)
    other += np.abs(one)
    expected = spearmanr(np.abs(one), np.abs(other)).statistic
    assert rank_correlation(one, other, np.zeros(200, int)) == pytest.approx(expected)
    assert rank_correlation(one, -3 * one, np.zeros(200, int)) == pytest.approx(1)
    assert rank_correlation(one, 1 / np.abs(one), np.zeros(200, int)) == pytest.approx(-1)


def test_a_constant_map_correlates_with_nothing():
    assert rank_correlation(np.ones(50), RNG.normal(size=50), np.zeros(50, int)) == 0


def test_maps_that_only_share_the_distance_from_the_structure_are_not_alike():
    structure = cube((24, 24, 24), 9, 15)
    body = np.ones_like(structure)
    sampled = SampledBody.of(body, (1, 1, 1), 0)
    distance = np.sqrt(((np.indices(body.shape) - 11.5) ** 2).sum(0))
    one, other = (np.exp(-distance / 3) * RNG.uniform(0.5, 1.5, body.shape) for _ in range(2))
    values = [sampled.values(a) for a in (one, other)]
    assert rank_correlation(*values, np.zeros(body.size, int)) > 0.9
    shells = sampled.shells_around(structure, (1, 1, 1), np.ones(body.shape))
    assert abs(rank_correlation(*values, shells)) < 0.4
    assert rank_correlation(values[0], values[0], shells) == pytest.approx(1)


def test_maps_that_only_share_how_much_of_the_structure_the_tiles_hold_are_not_alike():
    structure = cube((24, 24, 24), 9, 15)
    reach = np.ones(structure.shape)
    reach[:, :, 16:] = 0.02
    sampled = SampledBody.of(np.ones_like(structure), (1, 1, 1), 0)
    values = [sampled.values(reach * RNG.uniform(0.5, 1.5, reach.shape)) for _ in range(2)]
    assert rank_correlation(*values, sampled.shells_around(structure, (1, 1, 1), np.ones(reach.shape))) > 0.5
    shells = sampled.shells_around(structure, (1, 1, 1), reach)
    assert abs(rank_correlation(*values, shells)) < 0.1
    assert ((shells < 0) == (sampled.values(reach) < 0.5)).all()


def test_shells_go_from_the_inside_out_in_millimetres():
    structure = np.zeros((1, 1, 60), bool)
    structure[0, 0, :20] = True
    shells = SampledBody.of(np.ones_like(structure), (5, 1, 0.5), 0).shells_around(structure, (5, 1, 0.5), np.ones(structure.shape))
    assert set(shells[:20]) == {0}
    assert list(shells[20:]) == sorted(shells[20:])
    assert np.bincount(shells)[1:].max() <= 2


def test_a_structure_that_fills_the_body_is_one_shell():
    whole = np.ones((3, 4, 5), bool)
    assert not SampledBody.of(whole, (1, 1, 1), 0).shells_around(whole, (1, 1, 1), np.ones(whole.shape)).any()


def test_of_a_large_body_the_same_voxels_are_drawn_each_time():
    body = np.ones((60, 60, 60), bool)
    one, again, other = (SampledBody.of(body, (1, 1, 1), seed).voxels for seed in (1, 1, 2))
    assert len(np.unique(one)) == SAMPLE
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_uniform_map_has_in_the_structure_what_the_structure_has_of_the_body():
    structure, body = cube(), np.ones((12, 12, 12), bool)
    inside, near = concentrate(np.full(body.shape, -2, np.float32), structure, body, Grid(shape=body.shape))
    assert (inside.ratio, near.ratio) == (pytest.approx(1), pytest.approx(1))
    assert inside.uniform == pytest.approx(64 / 1728)


def test_attribution_near_the_structure_counts_up_to_3_mm():
    structure, body = np.zeros((1, 1, 40), bool), np.ones((1, 1, 40), bool)
    structure[0, 0, 20] = True
    values = np.zeros(body.shape, np.float32)
    values[0, 0, [20, 23, 26, 27]] = 1  # 0, 1.5, 3 and 3.5 mm away
    inside, near = concentrate(values, structure, body, Grid(shape=body.shape, spacing=(1, 1, 0.5)))
    assert (inside.attribution, near.attribution) == (0.25, 0.75)
    assert (inside.uniform, near.uniform) == (1 / 40, 13 / 40)
    assert near.ratio == pytest.approx(0.75 / (13 / 40))


def test_what_lies_outside_the_body_does_not_count():
    structure, body = cube(), np.ones((12, 12, 12), bool)
    body[:2] = False
    values = np.zeros(body.shape, np.float32)
    values[0], values[structure] = 100, 1
    inside, _ = concentrate(values, structure, body, Grid(shape=body.shape))
    assert inside.attribution == 1


def test_a_map_of_zeros_has_no_share_anywhere():
    structure, body = cube(), np.ones((12, 12, 12), bool)
    assert concentrate(np.zeros(body.shape, np.float32), structure, body, Grid(shape=body.shape))[0].ratio == 0


def test_the_body_is_what_is_brighter_than_air_in_any_channel():
    image = np.zeros((2, 4, 10, 10), np.float32)
    image[0, :, 2:8], image[1, :, 7:9] = 100, 50
    image[0, :, 0] = 100 * AIR / 2
    assert np.array_equal(body_of(image)[1, :, 0], [False, False, *[True] * 7, False])


def test_noise_in_two_maps_does_not_make_them_less_alike():
    signal, other, shells = RNG.normal(size=4000), RNG.normal(size=4000), np.zeros(4000, int)
    one, same, unlike = ([np.exp(s + RNG.normal(size=4000)) for _ in range(2)] for s in (signal, signal, other))
    assert rank_correlation(one[0], same[1], shells) < 0.6
    assert alike(one, same, shells) > 0.9
    assert abs(alike(one, unlike, shells)) < 0.1
    assert repeatability(one, shells) == pytest.approx(2 / 3, abs=0.05)  # of two of which half is noise


def test_maps_of_noise_alone_are_not_alike():
    noise = [[np.exp(RNG.normal(size=4000)) for _ in range(2)] for _ in range(2)]
    assert abs(alike(*noise, np.zeros(4000, int))) < 0.6
    assert repeatability(noise[0], np.zeros(4000, int)) < 0.1


def test_maps_without_noise_are_compared_as_they_are():
    one, other, shells = [RNG.normal(size=50)], [RNG.normal(size=50)], np.zeros(50, int)
    assert alike(one, other, shells) == rank_correlation(one[0], other[0], shells)
    assert repeatability(one, shells) is None
