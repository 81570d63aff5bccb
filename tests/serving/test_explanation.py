"""Maps of a model's predictions, with checks that tell one that depends on the weights from one that does not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from plan_examples import small_plan

from nnseg.core.errors import ScanError
from nnseg.core.explanation import MOST_LIKE_RANDOM, Concentration, Explanation, why_withheld
from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.labels import Labels
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.serving.explanation import ELSEWHERE, Explainer

LABELS = Labels(names=("background", "front", "back"), values=(0, 3, 7))


def scan_of(shape) -> Scan:
    image = np.random.default_rng(0).normal(5, 2, (1, *shape)).astype(np.float32)
    grid = Grid(shape=shape, spacing=(1.5, 1.0, 1.0))
    return Scan(image=image, grid=grid, source=Source(files=(Path("brain.nii.gz"),), grid=grid))


def model_of(seed: int, labels=LABELS, patch=(4, 4, 4)) -> Model:
    plan = small_plan(labels).model_copy(update={"patch": patch})
    torch.manual_seed(seed)
    return Model(members=(Member(plan=plan, fold=0, weights=build_network(plan).state_dict()),))


def explained(explainer: Explainer, *names: str, shape=(4, 6, 4)):
    return {one.explanation.label: one for one in explainer.explain(scan_of(shape), "brain", names)}


def test_the_map_of_a_network_with_the_same_random_weights_is_withheld():
    explainer = Explainer(model_of(0), "occlusion", device="cpu", seed=0)
    same = Explainer(model_of(explainer._seeds[2]), "occlusion", device="cpu", seed=0)
    found = explained(same, "front", "back")
    assert found
    for one in found.values():
        assert one.explanation.random["all"] == pytest.approx(1)
        assert one.explanation.withheld.startswith("a network with random weights gives a map like it")


def test_each_label_has_its_map_with_all_checks_and_equal_seeds_give_equal_maps():
    one, again = (Explainer(model_of(1), "occlusion", device="cpu") for _ in range(2))
    found, repeated = explained(one, "front", "back"), explained(again, "front")
    assert set(found) == {"front", "back"}
    for name, label in found.items():
        explanation = label.explanation
        assert label.values.shape == label.structure.shape == (4, 6, 4)
        assert label.structure.sum() == explanation.voxels > 0
        assert (explanation.case, explanation.method, explanation.copies) == ("brain", "occlusion", 0)
        assert list(explanation.random) == ["half", "all"]
        assert explanation.repeated is None
        assert {explanation.other} == {"front", "back"} - {name}
        assert 0 <= explanation.inside.attribution <= explanation.near.attribution <= 1
    assert np.array_equal(repeated["front"].values, found["front"].values)
    assert repeated["front"].explanation.random == found["front"].explanation.random


def test_a_single_label_is_compared_with_voxels_elsewhere():
    labels = Labels(names=("background", "front"), values=(0, 3))
    (found,) = explained(Explainer(model_of(2, labels), "occlusion", device="cpu"), "front").values()
    assert found.explanation.other == ELSEWHERE
    assert found.explanation.other_correlation < 1


def test_smoothgrad_says_how_well_its_map_repeats():
    pytest.importorskip("captum", reason="the extra explain is not installed")
    model, shape = model_of(1, patch=(8, 8, 8)), (8, 8, 8)
    few, many = (
        explained(Explainer(model, "smoothgrad", device="cpu", copies=copies), "front", shape=shape)["front"].explanation
        for copies in (4, 32)
    )
    assert few.repeated < many.repeated < 1
    assert (few.copies, many.copies) == (4, 32)


def test_a_scan_without_the_label_is_refused():
    model = model_of(1)
    weights = {n: t.clone() for n, t in model.members[0].weights.items()}
    weights["decoder.heads.0.bias"] += torch.tensor([1e3, 0, 0])
    silent = Model(members=(Member(plan=model.members[0].plan, fold=0, weights=weights),))
    with pytest.raises(ScanError, match="case brain: no voxel is predicted as front or back, so there is nothing to explain"):
        explained(Explainer(silent, "occlusion", device="cpu"), "front", "back")


def explanation_of(**changes) -> Explanation:
    part = Concentration(attribution=0.5, uniform=0.2)
    given = {"case": "a", "label": "front", "method": "smoothgrad", "voxels": 5, "random": {"half": 0.9, "all": 0.1}}
    return Explanation(
        **{**given, "other": "back", "other_correlation": 0.2, "repeated": 0.9, "inside": part, "near": part, **changes}
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        (
            {"random": {"half": 0.1, "all": MOST_LIKE_RANDOM}},
            "a network with random weights gives a map like it (rank correlation 0.30)",
        ),
        ({"other_correlation": 0.95}, "the map of back is like it (rank correlation 0.95)"),
        ({"repeated": 0.2}, "it is mostly noise: its rank correlation with a map of other noise is about 0.20"),
        ({"repeated": None}, ""),
    ],
)
def test_a_map_is_withheld_with_the_check_that_it_fails(changes, reason):
    assert why_withheld(explanation_of(**changes)) == reason
    assert explanation_of().near.ratio == 2.5
