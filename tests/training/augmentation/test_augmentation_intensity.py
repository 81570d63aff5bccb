"""Changes of intensity, against numbers worked out by hand, SciPy, and the statistics that the plan promises."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from nnseg.core.plan import Augmentation
from nnseg.training.augmentation.intensity import (
    CHANGES,
    apply_blur,
    apply_brightness,
    apply_contrast,
    apply_gamma,
    apply_inverted_gamma,
    apply_low_resolution,
    apply_noise,
    apply_stain,
    augment,
    draw_strengths,
)

NOTHING: dict[str, dict] = {name: {} for name in CHANGES}
STRENGTHS = {
    "motion": (1, 0.2, 0.5, 1, -2, 0, 0, 1, 3),
    "ghosting": (0, 3, 0.7),
    "slice_thickness": (2.3,),
    "bias_field": tuple(np.sin(np.arange(64)) / 20),
    "rician_noise": (0.1, 3),
    "stain": (1.3,),
    "noise": (0.1, 7),
    "blur": (0.5, 0.8, 1.0),
    "brightness": (1.2,),
    "contrast": (0.8,),
    "low_resolution": (0.6, 0.6, 0.6),
    "inverted_gamma": (1.4,),
    "gamma": (0.7,),
    "channel_dropout": (),
}


def rows(count=3, shape=(9, 11, 10), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32))


def draws(settings=None, shape=(2, 8, 8, 8), count=4000):
    rng = np.random.default_rng(0)
    return [draw_strengths(rng, settings or Augmentation(), shape) for _ in range(count)]


def certain(name, **settings):
    return draws(Augmentation(**{f"{name}_probability": 1.0, **settings}))


def test_changes_come_in_nnunets_order_after_those_that_it_does_not_have():
    scanner = ["motion", "ghosting", "slice_thickness", "bias_field", "rician_noise"]
    assert list(CHANGES) == [
        *scanner,
        "stain",
        "noise",
        "blur",
        "brightness",
        "contrast",
        "low_resolution",
        "inverted_gamma",
        "gamma",
        "channel_dropout",
    ]


def test_draws_and_changes_are_those_of_the_first_release():
    """Plans made before there were more changes must go on giving the same patches."""
    rates = dict.fromkeys(["noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"], 0.5)
    settings = Augmentation(**{f"{name}_probability": rate for name, rate in rates.items()})
    rng = np.random.default_rng(2026)
    drawn = [draw_strengths(rng, settings, (1, 6, 5, 4)) for _ in range(3)]
    assert [{n: s[0] for n, s in d.items() if s} for d in drawn] == [
        {
            "noise": (0.06399131657151545, 784857333),
            "blur": (0.8952591229266325, 0.952571918338587, 0.5886765959115243),
            "contrast": (1.2299625401343195,),
        },
        {
            "blur": (0.6389496077500796, 0.6131665284217017, 0.7629084216726242),
            "brightness": (1.0032101205917017,),
            "contrast": (0.7988493999678885,),
            "inverted_gamma": (0.7628248363708658,),
        },
        {
            "brightness": (1.1408443436256364,),
            "contrast": (1.0798354509754655,),
            "inverted_gamma": (0.9102522668502566,),
            "gamma": (0.8740085359061669,),
        },
    ]
    assert rng.random() == 0.18890636475445843
    image = torch.arange(360, dtype=torch.float32).view(3, 1, 6, 5, 4) / 100
    augment(image, drawn)
    expected = [
        [0.5057770013809204, 0.5318099856376648, 0.5542877316474915, 0.5238878726959229],
        [1.7264807224273682, 1.7303441762924194, 1.7372554540634155, 1.7411426305770874],
        [3.334379196166992, 3.3462975025177, 3.3582019805908203, 3.3700931072235107],
    ]
    assert image[:, 0, 2, 3].numpy() == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("noise", 0.1),
        ("blur", 0.2 * 0.75),  # of two channels with chance 1/2 each, one at least in three of four cases
        ("brightness", 0.15),
        ("contrast", 0.15),
        ("low_resolution", 0.25 * 0.75),
        ("inverted_gamma", 0.1),
        ("gamma", 0.3),
        ("motion", 0),
        ("ghosting", 0),
        ("slice_thickness", 0),
        ("bias_field", 0),
        ("rician_noise", 0),
        ("stain", 0),
        ("channel_dropout", 0),
    ],
)
def test_patches_are_changed_as_often_as_the_plan_says(name, share):
    number = sum(bool(d[name]) for d in draws())
    assert stats.binom.interval(1 - 1e-6, 4000, share)[0] <= number <= stats.binom.interval(1 - 1e-6, 4000, share)[1]


def test_whether_one_change_happens_says_nothing_of_another():
    happened = np.array([[bool(d[name]) for name in list(CHANGES)[6:13]] for d in draws()])
    together = np.corrcoef(happened.T) - np.eye(7)
    assert np.abs(together).max() < 5 / np.sqrt(4000)  # five standard deviations of a correlation that is none


@pytest.mark.parametrize(
    "name", ["blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma", "bias_field", "stain"]
)
def test_channels_are_changed_by_strengths_of_their_own(name):
    pairs = np.array([[d[name][c][min(1, len(d[name][c]) - 1)] for c in range(2)] for d in certain(name) if len(d[name]) == 2])
    assert len(pairs) >= 800
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 5 / np.sqrt(len(pairs))


@pytest.mark.parametrize(("name", "low", "high"), [("blur", 0.5, 1.0), ("low_resolution", 0.5, 1.0)])
def test_strengths_are_uniform_over_their_range(name, low, high):
    values = [s[0] for d in certain(name) for s in d[name].values()]
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_patches_of_different_steps_and_places_are_changed_independently():
    def strengths(*key):
        rng = np.random.default_rng(np.random.SeedSequence(key))
        return draw_strengths(rng, Augmentation(brightness_probability=1.0), (1, 8, 8, 8))["brightness"][0][0]

    by_step = np.array([[strengths(0, 0, step, place) for place in range(4)] for step in range(1000)])
    neighbours = np.concatenate([by_step[1:], by_step[:-1]], axis=1)  # each step beside the one before it
    together = np.corrcoef(neighbours.T) - np.eye(8)
    assert np.abs(together).max() < 5 / np.sqrt(999)


def test_channels_are_left_out_by_chance_each_and_never_all():
    count = 4000
    lost = [set(d["channel_dropout"]) for d in draws(Augmentation(channel_dropout_probability=0.3), (3, 4, 4, 4), count)]
    low, high = stats.binom.interval(1 - 1e-6, count, 0.3 - 0.3**3 / 3)  # of all three, one at random stays
    assert all(low <= sum(channel in one for one in lost) <= high for channel in range(3))
    assert max(map(len, lost)) == 2
    image = torch.ones(1, 3, 4, 4, 4)
    augment(image, [{**NOTHING, "channel_dropout": {0: (), 2: ()}}])
    assert image.sum((0, 2, 3, 4)).tolist() == [0, 64, 0]
    assert not any(d["channel_dropout"] for d in draws(Augmentation(channel_dropout_probability=1.0), (1, 4, 4, 4), 50))


@pytest.mark.parametrize("name", CHANGES)
def test_a_probability_of_zero_changes_nothing(name):
    assert not any(d[name] for d in draws(Augmentation(**{f"{name}_probability": 0.0}), count=500))


@pytest.mark.parametrize(("name", "share"), [("noise", 1), ("blur", 0.5), ("brightness", 1), ("low_resolution", 0.5), ("gamma", 1)])
def test_blur_and_low_resolution_spare_half_of_the_channels(name, share):
    assert np.mean([len(d[name]) / 2 for d in certain(name)]) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("name", "setting", "low", "high"), [("brightness", "brightness", 0.75, 1.25), ("inverted_gamma", "gamma", 0.7, 1.5)]
)
def test_factors_lie_on_both_sides_of_one_equally_often(name, setting, low, high):
    factors = np.array([f for d in certain(name, **{setting: (low, high)}) for (f,) in d[name].values()])
    assert (factors.min(), factors.max()) == pytest.approx((low, high), abs=0.005)
    assert np.mean(factors < 1) == pytest.approx(0.5, abs=0.02)
    assert (factors[factors < 1].mean(), factors[factors > 1].mean()) == pytest.approx(((low + 1) / 2, (high + 1) / 2), abs=0.01)


@pytest.mark.parametrize("bounds", [(1.1, 1.3), (0.6, 0.9), (1.0, 1.0)])
def test_factors_stay_in_a_range_on_one_side_of_one(bounds):
    factors = [f for d in certain("gamma", gamma=bounds)[:200] for (f,) in d["gamma"].values()]
    assert bounds[0] <= min(factors) <= max(factors) <= bounds[1]


def test_channels_share_the_noise_level_but_not_the_noise():
    drawn = [d["noise"] for d in certain("noise", noise=(0.0, 0.1))]
    assert all(d[0][0] == d[1][0] and d[0][1] != d[1][1] for d in drawn)
    levels = np.array([d[0][0] for d in drawn])
    assert (levels.min(), levels.max(), levels.mean()) == pytest.approx((0, 0.1, 0.05), abs=0.002)


def test_low_resolution_spares_the_slice_axis_in_plane():
    drawn = [z for d in certain("low_resolution", in_plane=True) for z in d["low_resolution"].values()]
    assert all(z[0] == 1.0 and 0.5 <= z[1] == z[2] <= 1.0 for z in drawn)
    flat = draws(Augmentation(low_resolution_probability=1, in_plane=True), shape=(1, 8, 8), count=50)
    assert all(len(z) == 2 and z[0] == z[1] for d in flat for z in d["low_resolution"].values())


def test_optical_density_is_multiplied_by_hand():
    # From the least to the greatest value the light that passes is 0, 1/4, 1/2 and all; with twice the density 0, 1/16, 1/4, all.
    rows = torch.tensor([[[-1.0, 0.0, 1.0, 3.0]], [[0.0, 2.0, 4.0, 8.0]]])
    after = apply_stain(rows, [(2.0,), (0.5,)])
    assert after[0, 0].tolist() == pytest.approx([-1.0, -0.75, 0.0, 3.0], abs=1e-6)
    assert after[1, 0].tolist() == pytest.approx([0.0, 4.0, 8 * 0.5**0.5, 8.0], abs=1e-5)


def test_a_constant_channel_keeps_its_value_whatever_the_stain():
    assert apply_stain(torch.full((1, 4, 4), 3.0), [(1.3,)]).unique().tolist() == [3.0]


def test_noise_has_the_level_drawn():
    before = torch.zeros(2, 30, 30, 30)
    after = apply_noise(before.clone(), [(0.05, 1), (0.1, 2)])
    assert after.std(dim=(1, 2, 3)).tolist() == pytest.approx([0.05, 0.1], rel=0.02)
    assert after.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0, 0], abs=0.002)


def test_scipy_blurs_the_same():
    before = rows(2)
    sigmas = [(0.5, 0.7, 0.9), (1.0, 0.6, 0.8)]
    after = apply_blur(before.clone(), sigmas)
    expected = []
    for row, sigma in zip(before.numpy().astype(float), sigmas, strict=True):
        blurred = row
        for axis, s in enumerate(sigma):
            blurred = ndimage.gaussian_filter1d(blurred, s, axis, mode="mirror", radius=int(np.ceil(3 * s)))
        expected.append(blurred)
    assert after.numpy() == pytest.approx(np.stack(expected), abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 6, 6), (2, 3, 6)])
def test_blur_keeps_constants_on_axes_shorter_than_its_reach(shape):
    assert apply_blur(torch.full((1, *shape), 3.0), [(1.0, 1.0, 1.0)]).numpy() == pytest.approx(3.0, abs=1e-5)


def test_brightness_multiplies():
    after = apply_brightness(torch.tensor([[[1.0, -2.0]], [[3.0, 0.0]]]), [(1.25,), (0.5,)])
    assert after.tolist() == [[[1.25, -2.5]], [[1.5, 0.0]]]


def test_contrast_stretches_about_the_mean_inside_the_old_range():
    # mean 2: distances -2, 0, 0, 2 halved; then stretched by 1.5 to -1..5 and cut to 0..4
    before = torch.tensor([[[0.0, 2.0], [2.0, 4.0]]])
    assert apply_contrast(before, [(0.5,)]).tolist() == [[[1.0, 2.0], [2.0, 3.0]]]
    assert apply_contrast(before, [(1.5,)]).tolist() == [[[0.0, 2.0], [2.0, 4.0]]]
    # mean 1: distances -1, -1, -1, 3 become -1.5 and 4.5, cut to 0..4; 0.5 times -1 is -0.5
    assert apply_contrast(torch.tensor([[[0.0, 0.0], [0.0, 4.0]]]), [(0.5,)]).tolist() == [[[0.5, 0.5], [0.5, 2.5]]]


def test_low_resolution_by_half_takes_every_second_voxel_and_lines_between():
    # nearest-exact keeps voxels 1 and 3 of four; going back up, positions are -0.25, 0.25, 0.75, 1.25 on the coarse grid
    after = apply_low_resolution(torch.tensor([[[0.0, 10.0, 20.0, 30.0]] * 2]), [(1.0, 0.5)])
    assert after[0, 0].tolist() == [10.0, 15.0, 25.0, 30.0]


@pytest.mark.parametrize("gamma", [0.7, 1.5])
@pytest.mark.parametrize("apply", [apply_gamma, apply_inverted_gamma])
def test_gamma_keeps_mean_and_deviation(apply, gamma):
    before = rows(2) * 3 + 5
    after = apply(before.clone(), [(gamma,)] * 2)
    assert not torch.allclose(after, before, atol=0.1)
    assert after.mean(dim=(1, 2, 3)).numpy() == pytest.approx(before.mean(dim=(1, 2, 3)).numpy(), rel=1e-4)
    assert after.std(dim=(1, 2, 3)).numpy() == pytest.approx(before.std(dim=(1, 2, 3)).numpy(), rel=1e-4)


def test_gamma_of_two_by_hand_and_on_the_negative():
    # 0, 1, 2 over the range 2 is 0, .5, 1; squared 0, .25, 1: mean 5/12, deviation sqrt(26)/12; the old ones are 1 and sqrt(6)/3
    expected = 1 + (np.array([0, 0.25, 1]) - 5 / 12) * (np.sqrt(6) / 3) / (np.sqrt(26) / 12)
    assert apply_gamma(torch.tensor([[[0.0, 1.0, 2.0]]]), [(2.0,)])[0, 0].numpy() == pytest.approx(expected, abs=1e-5)
    assert apply_inverted_gamma(torch.tensor([[[0.0, 1.0, 2.0]]]), [(2.0,)])[0, 0].numpy() == pytest.approx(
        2 - expected[::-1], abs=1e-5
    )


@pytest.mark.parametrize("name", CHANGES)
def test_constant_rows_stay_finite(name):
    assert torch.isfinite(CHANGES[name].apply(torch.full((1, 6, 6, 6), 2.0), [STRENGTHS[name]])).all()


@pytest.mark.parametrize("name", CHANGES)
def test_a_batch_equals_its_rows_done_singly_on_any_number_of_threads(name):
    before, strengths = rows(3, (39, 41, 37)), [STRENGTHS[name]] * 3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        singly = torch.cat([CHANGES[name].apply(row[None].clone(), [s]) for row, s in zip(before, strengths, strict=True)])
        torch.set_num_threads(2)
        together = CHANGES[name].apply(before.clone(), strengths)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(singly, together)


def test_only_the_chosen_channels_change():
    image = rows(4).view(2, 2, 9, 11, 10)
    before = image.clone()
    augment(image, [{**NOTHING, "brightness": {1: (2.0,)}}, {**NOTHING, "contrast": {0: (1.0,)}, "gamma": {}}])
    assert torch.equal(image[0, 0], before[0, 0])
    assert torch.equal(image[0, 1], before[0, 1] * 2)
    assert image[1].numpy() == pytest.approx(before[1].numpy(), abs=1e-6)


def test_changes_follow_one_another():
    image = torch.tensor([0.0, 0.0, 0.0, 4.0]).view(1, 1, 2, 2)
    augment(image, [{**NOTHING, "contrast": {0: (0.5,)}, "brightness": {0: (2.0,)}}])
    # brightness first: 0, 0, 0, 8 with mean 2; the distances -2 and 6 are halved
    assert image.flatten().tolist() == [1.0, 1.0, 1.0, 5.0]


def test_masked_channels_stay_zero_outside_the_object():
    image = rows(2).view(1, 2, 9, 11, 10)
    image[:, :, :4] = 0
    augment(image, [{**NOTHING, "noise": {0: (0.1, 1), 1: (0.1, 2)}}], masked=[1])
    assert image[0, 0, :4].abs().min() > 0
    assert not image[0, 1, :4].any()
    assert image[0, 1, 4:].abs().min() > 0
