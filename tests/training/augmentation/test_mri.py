"""What scanners do, against numbers worked out by hand, NumPy's Fourier transform and the Rice distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from nnseg.core.plan import Augmentation
from nnseg.training.augmentation.intensity import CHANGES, draw_strengths
from nnseg.training.augmentation.mri import (
    apply_bias_field,
    apply_ghosting,
    apply_motion,
    apply_rician_noise,
    apply_slice_thickness,
)

SCANNER = ["motion", "ghosting", "slice_thickness", "bias_field", "rician_noise"]


def rows(count=2, shape=(12, 10, 8), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32))


def certain(name, shape=(2, 8, 9, 10), count=500, **settings):
    rng = np.random.default_rng(0)
    chosen = Augmentation(**{f"{name}_probability": 1.0, **settings})
    return [CHANGES[name].draw(rng, chosen, shape) for _ in range(count)]


def without_lines(volume, axis, lost, share):
    """The volume after a share of the lines of k-space along an axis was taken away."""
    lines = np.fft.fft(volume, axis=axis)
    weights = 1 - share * np.array([lost(k) for k in range(volume.shape[axis])])
    return np.fft.ifft(lines * weights.reshape([-1 if a == axis else 1 for a in range(volume.ndim)]), axis=axis).real


@pytest.mark.parametrize("name", SCANNER)
def test_nothing_is_drawn_for_a_change_that_never_happens(name):
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    assert CHANGES[name].draw(rng, Augmentation(), (2, 8, 8, 8)) == {}
    assert rng.random() == other.random()


@pytest.mark.parametrize("name", SCANNER)
def test_changes_happen_as_often_as_the_plan_says(name):
    rng, settings = np.random.default_rng(0), Augmentation(**{f"{name}_probability": 0.3})
    number = sum(bool(draw_strengths(rng, settings, (2, 8, 8, 8))[name]) for _ in range(2000))
    low, high = stats.binom.interval(1 - 1e-6, 2000, 0.3)
    assert low <= number <= high


@pytest.mark.parametrize(("name", "channels"), [("motion", 1), ("ghosting", 1), ("slice_thickness", 1), ("bias_field", 2)])
def test_faults_befall_one_channel_and_fields_all(name, channels):
    drawn = certain(name)
    assert {len(d) for d in drawn} == {channels}
    assert {c for d in drawn for c in d} == {0, 1}


@pytest.mark.parametrize("name", ["motion", "ghosting"])
def test_in_plane_nothing_happens_along_the_slices(name):
    drawn = [s for d in certain(name, in_plane=True) for s in d.values()]
    assert {s[0] for s in drawn} == {1.0, 2.0}
    assert name == "ghosting" or all(s[3] == s[6] == 0 for s in drawn)  # shifts of the first axis


def test_slices_that_are_thick_or_single_stay_as_they_are():
    assert not any(certain("slice_thickness", in_plane=True))
    assert not any(certain("slice_thickness", shape=(1, 9, 10)))


@pytest.mark.parametrize("name", SCANNER[:3])
def test_a_constant_stays_constant(name):
    strength = {"motion": (1, 0.2, 0.6, 2, 1, -1, 0, 3, 1), "ghosting": (1, 3, 0.8), "slice_thickness": (2.5,)}[name]
    after = CHANGES[name].apply(torch.full((1, 12, 10, 8), 3.0), [strength])
    assert after.numpy() == pytest.approx(3.0, abs=1e-5)


def test_ghosts_of_an_impulse_by_hand():
    # Two ghosts, share 0.5, eight voxels: of the impulse 8 a quarter (2) is lost here and half a length away; its mean, 1, comes
    # back with the share 0.5, everywhere.
    impulse = torch.tensor([8.0, 0, 0, 0, 0, 0, 0, 0]).view(1, 8, 1)
    assert apply_ghosting(impulse, [(0, 2, 0.5)]).flatten().tolist() == [6.5, 0.5, 0.5, 0.5, -1.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("axis", "ghosts"), [(0, 3), (0, 4), (1, 5), (2, 2)])
def test_ghosting_is_the_loss_of_every_nth_line_but_the_central_one(axis, ghosts):
    before = rows(1)
    after = apply_ghosting(before.clone(), [(axis, ghosts, 0.6)])
    expected = without_lines(before[0].numpy(), axis, lambda k: k > 0 and k % ghosts == 0, 0.6)
    assert after[0].numpy() == pytest.approx(expected, abs=1e-5)


def test_motion_takes_outer_lines_from_moved_copies():
    before = rows(1)
    after = apply_motion(before.clone(), [(1, 0.3, 0.7, 1, 0, -2, 0, 3, 0)])
    still = before[0].numpy()
    copies = [still, np.roll(still, (1, 0, -2), (0, 1, 2)), np.roll(still, 3, 1)]
    frequency = np.abs(np.fft.fftfreq(10)) * 2
    chosen = [frequency <= 0.3, (frequency > 0.3) & (frequency <= 0.7), frequency > 0.7]
    lines = sum(np.fft.fft(c, axis=1) * k[:, None] for c, k in zip(copies, chosen, strict=True))
    assert after[0].numpy() == pytest.approx(np.fft.ifft(lines, axis=1).real, abs=1e-5)


def test_a_patient_who_does_not_move_is_seen_as_ever():
    before = rows(1)
    assert torch.equal(apply_motion(before.clone(), [(0, 0.3, 0.7, *[0] * 6)]), before)


def test_two_slices_in_one_by_hand():
    # 0, 2, 4, 6 in slices twice as thick: 1 and 5; back up, positions are -0.25, 0.25, 0.75, 1.25
    row = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(1, 4, 1, 1).repeat(1, 1, 2, 3)
    after = apply_slice_thickness(row, [(2.0,)])
    assert after[0, :, 1, 2].tolist() == [1.0, 2.0, 4.0, 5.0]
    assert torch.equal(after[0, :, 0, 0], after[0, :, 1, 2])


def test_slices_of_one_voxel_are_the_voxels():
    before = rows(1)
    assert torch.equal(apply_slice_thickness(before.clone(), [(1.0,)]), before)


@pytest.mark.parametrize("shape", [(1, 24, 20, 22), (1, 24, 20)])
@pytest.mark.parametrize("deviation", [0.05, 0.3])
def test_a_bias_field_is_smooth_with_the_deviation_drawn_and_mean_about_one(shape, deviation):
    for drawn in certain("bias_field", shape=shape, count=20, bias_field=(deviation, deviation)):
        before = torch.ones(shape)
        before[(0,) * len(shape)] = 0  # intensities are measured from the least
        field = apply_bias_field(before, list(drawn.values()))[0].numpy()
        field[(0,) * field.ndim] = field[(0,) * (field.ndim - 1) + (1,)]
        assert np.log(field).std() == pytest.approx(deviation, rel=0.35)  # 9 points an axis see corners more often
        assert np.log(field).mean() == pytest.approx(0, abs=0.3 * deviation)
        assert field.mean() == pytest.approx(1, abs=0.5 * deviation)
        steps = [np.abs(np.diff(np.log(field), axis=a)).max() for a in range(field.ndim)]
        assert max(steps) < np.ptp(np.log(field)) / 3


def test_a_bias_field_by_hand():
    # log-field 0.5 z: exp(-0.5), 1, exp(0.5) times the values above the least
    coefficients = np.zeros((4, 4))
    coefficients[1, 0] = 0.5
    row = torch.tensor([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]])[None]
    after = apply_bias_field(row, [tuple(coefficients.ravel())])
    assert after[0, :, 0].tolist() == [1.0, 1.0, 1.0]
    assert after[0, :, 1].numpy() == pytest.approx(1 + 2 * np.exp([-0.5, 0.0, 0.5]), rel=1e-6)


def test_rician_noise_has_rices_distribution():
    row = torch.zeros(1, 40, 40, 40)
    row[:, :, :, 20:] = 0.3
    after = apply_rician_noise(row - 1, [(0.1, 5)])[0].numpy() + 1  # normalized images have any offset
    assert after[..., :20].mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.01)
    for part, signal in ((after[..., :20], 0.0), (after[..., 20:], 0.3)):
        assert stats.kstest(part.ravel(), stats.rice(signal / 0.1, scale=0.1).cdf).pvalue > 1e-4


def test_rician_noise_of_no_strength_is_none():
    before = rows(1)
    assert apply_rician_noise(before.clone(), [(0.0, 5)]).numpy() == pytest.approx(before.numpy(), abs=1e-6)
