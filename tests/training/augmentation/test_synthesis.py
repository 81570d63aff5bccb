"""Intensities drawn anew for each label: by hand, and independent of the contrast of the scan."""

import numpy as np
import pytest
import torch

from nnseg.core.plan import Augmentation
from nnseg.training.augmentation.synthesis import PARTS, Synthesis, draw_synthesis, synthesize

SHAPE = (24, 24, 24)


def labels() -> torch.Tensor:
    found = torch.zeros(1, *SHAPE, dtype=torch.int64)
    found[:, :8], found[:, 8:16, :12] = 1, 2
    return found


def image(seed=0) -> torch.Tensor:
    return torch.randn(1, 2, *SHAPE, generator=torch.Generator().manual_seed(seed))


def settled(spread: float, mixed: float) -> Synthesis:
    """Means that tell all classes and channels apart."""
    means = np.arange(2 * (PARTS + 2), dtype=float).reshape(2, -1)
    return Synthesis(means=means, spreads=np.full_like(means, spread), mixed=np.full(2, mixed), seed=3)


def test_each_label_and_each_quartile_of_the_background_gets_its_mean_and_spread():
    made, where = image(), labels()
    quartiles = np.digitize(image()[0, 0], np.quantile(image()[0, 0][where[0] == 0], [0.25, 0.5, 0.75]))
    synthesize(made, where, [settled(0.1, 0.0)], whole=(0, 1, 2))
    for channel, voxels in enumerate(made[0]):
        expected = {1: PARTS, 2: PARTS + 1}
        for label, number in expected.items():
            of_label = voxels[where[0] == label]
            assert of_label.mean() == pytest.approx(number + channel * (PARTS + 2), abs=0.01)
            assert of_label.std() == pytest.approx(0.1, abs=0.01)
        for part in range(PARTS):
            of_part = voxels[(where[0] == 0) & torch.from_numpy(quartiles == part)]
            assert of_part.mean() == pytest.approx(part + channel * (PARTS + 2), abs=0.02)


def test_inverted_and_gamma_shifted_scans_give_the_same_labelled_voxels():
    where, found = labels(), []
    for change in (lambda x: x, lambda x: -x, lambda x: (x - x.min()) ** 1.7 + 1):
        made = change(image())
        synthesize(made, where, [settled(0.2, 0.0)], whole=(0, 1, 2))
        found.append(made[:, :, where[0] > 0])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_neighbours_are_mixed_at_borders_only():
    made = image()
    where = torch.ones(1, *SHAPE, dtype=torch.int64)
    where[:, 12:] = 2
    synthesize(made, where, [settled(0.0, 0.5)], whole=(0, 1, 2))
    assert made[0, 0, 5].unique().tolist() == pytest.approx([PARTS])
    assert PARTS < made[0, 0, 11, 0, 0] < PARTS + 0.5 < made[0, 0, 12, 0, 0] < PARTS + 1


def test_what_is_zero_in_all_channels_and_patches_that_were_not_drawn_stay():
    made = image()
    made[:, :, :, :3] = 0
    both = torch.cat([made, made])
    synthesize(both, labels().expand(2, *SHAPE), [settled(0.2, 0.5), None], whole=(0, 1, 2))
    assert not both[0, :, :, :3].any()
    assert (both[0, :, :, 3:] != made[0, :, :, 3:]).all()
    assert torch.equal(both[1], made[0])


def test_ignored_voxels_are_background_and_a_patch_without_any_is_drawn_too():
    made, where = image(), labels()
    where[where == 0] = -1
    same = image()
    synthesize(made, where, [settled(0.2, 0.5)], whole=(0, 1, 2))
    synthesize(same, labels(), [settled(0.2, 0.5)], whole=(0, 1, 2))
    assert torch.equal(made, same)
    synthesize(same, torch.ones_like(where), [settled(0.2, 0.5)], whole=(0, 1, 2))
    assert torch.isfinite(same).all()


def test_nothing_is_drawn_for_a_probability_of_zero():
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    assert draw_synthesis(rng, Augmentation(), channels=1, labels=3) is None
    assert rng.random() == other.random()
    drawn = draw_synthesis(rng, Augmentation(synthesis_probability=1), channels=2, labels=3)
    assert drawn is not None
    assert drawn.means.shape == (2, PARTS + 2)


def test_borders_of_objects_are_drawn_as_their_label():
    where, made = labels(), image()
    synthesize(made, where, [settled(0.0, 0.0)], whole=(0, 1, 1))
    assert torch.unique(made[0, 0][where[0] > 0]).tolist() == pytest.approx([PARTS])
