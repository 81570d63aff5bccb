"""Transforms of batchgenerators by name: only known ones, the same every time, and nothing else disturbed."""

import random

import numpy as np
import pytest
import torch
from patch_examples import STILL, case_of, plan_of

from nnseg.core.errors import PlanError
from nnseg.core.plan import Augmentation, Extra
from nnseg.core.validation import parse
from nnseg.training.augmentation.batchgenerators import CATALOGUE, Transforms, transform_class
from nnseg.training.patches import Patches

CPU = torch.device("cpu")
SETTINGS = {
    "BlankRectangleTransform": {"rectangle_size": 3, "rectangle_value": 9, "num_rectangles": 2, "p_per_channel": 1.0},
    "BlankSquareNoiseTransform": {"squre_size": 3},
    "BrightnessGradientAdditiveTransform": {"scale": [5, 10]},
    "BrightnessTransform": {"mu": 0.0, "sigma": 0.1},
    "ClipValueRange": {"min": -1.0, "max": 1.0},
    "LocalContrastTransform": {"scale": [5, 10]},
    "LocalGammaTransform": {"scale": [5, 10]},
    "LocalSmoothingTransform": {"scale": [5, 10]},
    "MedianFilterTransform": {"filter_size": 3},
    "MisalignTransform": {"im_channels_2_misalign": [1], "p_transl_per_sample": 1.0, "tr_x": [1, 3]},
    "AnatomyInformedTransform": {
        "dil_ranges": [[-2, 2]],
        "modalities": [0],
        "directions_of_trans": [[1, 1, 1]],
        "p_per_sample": [1.0],
    },
}
GRADIENT = Extra(name="BrightnessGradientAdditiveTransform", settings={"scale": [5, 10], "max_strength": 2.0})


def patches(count=2):
    rng = np.random.default_rng(0)
    return (
        torch.from_numpy(rng.standard_normal((count, 2, 12, 12, 12)).astype(np.float32)),
        torch.from_numpy(rng.integers(-1, 3, (count, 12, 12, 12))),
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_transform_runs_and_gives_the_same_for_the_same_seed(name):
    settings = SETTINGS.get(name, {})
    sure = {"p_per_sample": 1.0} if "p_per_sample" in transform_class(name).__init__.__code__.co_varnames else {}
    catalogue = Transforms([Extra(name=name, settings=sure | settings)])
    results = []
    for _ in range(2):
        image, labels = patches()
        catalogue.apply(image, [labels], [3, 4])
        results.append((image, labels))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert torch.isfinite(results[0][0]).all()
    assert not torch.equal(results[0][0], patches()[0])


def test_labels_keep_to_themselves_under_changes_of_intensity():
    image, labels = patches()
    Transforms([GRADIENT]).apply(image, [labels], [1, 2])
    assert torch.equal(labels, patches()[1])


def test_a_patch_depends_on_its_own_seed_only():
    (image, labels), (single, of_single) = patches(), patches()
    catalogue = Transforms([GRADIENT])
    catalogue.apply(image, [labels], [1, 2])
    catalogue.apply(single[1:], [of_single[1:]], [2])
    assert torch.equal(image[1], single[1])


def test_masked_channels_stay_zero_outside_the_object():
    image, labels = patches()
    image[:, :, :4] = 0
    Transforms([GRADIENT]).apply(image, [labels], [1, 2], masked=[1])
    assert not image[:, 1, :4].any()
    assert image[:, 0, :4].abs().max() > 0


def test_global_generators_are_left_alone():
    np.random.seed(1)
    random.seed(1)
    before = (np.random.get_state()[1].tolist(), random.getstate())
    image, labels = patches()
    Transforms([Extra(name="RicianNoiseTransform"), GRADIENT]).apply(image, [labels], [1, 2])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


def test_nothing_is_drawn_without_transforms():
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    Transforms([]).seed(rng)
    assert rng.random() == other.random()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (Extra(name="GamaTransform"), r"extra.0.name = \"GamaTransform\" is not in the catalogue; did you mean GammaTransform\?"),
        (Extra(name="os.system"), "is not in the catalogue"),
        (Extra(name="GammaTransform", settings={"gama_range": [1, 2]}), r"settings.gama_range .* did you mean gamma_range\?"),
        (Extra(name="BrightnessTransform", settings={"mu": 0.0}), "settings.sigma is missing"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(extra, message):
    with pytest.raises(PlanError, match=message):
        Transforms([extra])


def test_a_transform_that_fails_is_named():
    image, labels = patches()
    catalogue = Transforms([Extra(name="GammaTransform", settings={"gamma_range": "much"})])
    with pytest.raises(PlanError, match=r"extra.0 \(GammaTransform\) failed on a patch of shape \(2, 12, 12, 12\)"):
        catalogue.apply(image, [labels], [1, 2])


def test_a_plan_names_them_with_their_settings():
    content = {"extra": [{"name": "GammaTransform", "settings": {"gamma_range": [0.5, 2.0]}}]}
    assert parse(Augmentation, content, "plan").extra[0].settings == {"gamma_range": [0.5, 2.0]}
    with pytest.raises(PlanError, match=r"extra.0.nam is not a setting; did you mean extra.0.name\?"):
        parse(Augmentation, {"extra": [{"nam": "GammaTransform"}]}, "plan")


def test_batches_are_changed_and_stay_the_same_for_their_step():
    cases = [case_of("one", channels=1)]
    plain, extra = (plan_of(augmentation=STILL | more) for more in ({}, {"extra": (GRADIENT,)}))
    before = Patches(cases, plain, fold=0, device=CPU).batch(3)
    one, other = (Patches(cases, extra, fold=0, device=CPU).batch(3) for _ in range(2))
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.labels, before.labels)
    assert 1.0 < (one.image - before.image).abs().max() < 2.5  # the strongest change is 2, up to rounding of large values
