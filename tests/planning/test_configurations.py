"""Which plans a dataset gets."""

from collections.abc import Callable

import pytest

from nnseg.core.errors import PlanError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Budget, Plan
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import load_recipe

MakeFingerprint = Callable[..., Fingerprint]
LIVER = ((482, 512, 512), (1, 0.767578125, 0.767578125))
SHORT = Budget(seconds=1200, device="cpu")
LONG_GPU = Budget(device="cuda")


def with_structure(fingerprint: Fingerprint, shape: tuple[int, int, int]) -> Fingerprint:
    """The fingerprint with one label whose largest piece has a shape in voxels."""
    cases = tuple(c.model_copy(update={"structures": {"label1": shape}}) for c in fingerprint.cases)
    return fingerprint.model_copy(update={"cases": cases})


def plans_of(
    fingerprint: Fingerprint, budget: Budget, kinds: tuple[str, ...] = ("auto",), recipe: str = "auto"
) -> tuple[Plan, ...]:
    return make_plans(fingerprint, budget, load_recipe(recipe), kinds=kinds)


def test_all_gives_what_nnunet_would_make(make_fingerprint: MakeFingerprint):
    liver = plans_of(make_fingerprint(*LIVER, count=131), LONG_GPU, ("all",), "nnunet")
    assert [p.name for p in liver] == ["2d", "3d", "3d_lowres", "3d_cascade"]
    assert [p.previous for p in liver] == [None, None, None, "3d_lowres"]
    assert [p.training.batch_dice for p in liver] == [True, True, False, True]
    lowres = liver[2]
    assert lowres.preprocessing.spacing == pytest.approx((2.5001, 1.919, 1.919), abs=1e-4)
    assert (lowres.patch, lowres.training.batch_size) == ((128, 128, 128), 2)
    assert liver[3].network == liver[1].network
    assert [p.name for p in plans_of(make_fingerprint((36, 50, 35)), LONG_GPU, ("all",), "nnunet")] == ["2d", "3d"]
    assert [p.name for p in plans_of(make_fingerprint((1, 500, 350)), LONG_GPU, ("all",), "nnunet")] == ["2d"]


@pytest.mark.parametrize("recipe", ["separable", "atrous", "transformer", "attention", "2.5d"])
def test_a_recipe_chooses_the_kind_of_network_and_its_kind_of_patches(make_fingerprint: MakeFingerprint, recipe: str):
    [plan] = plans_of(make_fingerprint((36, 50, 35)), SHORT, recipe=recipe)
    gates = recipe == "attention"
    assert (plan.network.kind, plan.network.attention_gates) == ("plain" if gates else recipe, gates)
    assert plan.name == ("2d" if recipe == "2.5d" else "3d")


def test_a_cascade_adds_its_first_stage(make_fingerprint: MakeFingerprint):
    alone, both, others = (
        plans_of(make_fingerprint(*LIVER, count=131), LONG_GPU, kinds, "nnunet")
        for kinds in (("3d_cascade",), ("3d_cascade", "3d_lowres"), ("2d", "3d"))
    )
    assert [(p.name, p.why["name"]) for p in alone] == [
        ("3d_lowres", "3d_cascade needs its prediction"),
        ("3d_cascade", "requested"),
    ]
    assert [(p.name, p.why["name"]) for p in both] == [("3d_lowres", "requested"), ("3d_cascade", "requested")]
    assert [p.name for p in others] == ["2d", "3d"]


def test_a_structure_that_no_patch_can_show_is_seen_on_a_coarser_grid(make_fingerprint: MakeFingerprint):
    liver = with_structure(make_fingerprint(*LIVER, count=131), (200, 300, 250))  # mm: 200, 230, 192; patch 128, 98, 98
    both = plans_of(liver, LONG_GPU)
    assert [p.name for p in both] == ["3d_lowres", "3d"]
    assert "43% of the largest structure" in both[0].why["name"]
    assert [p.name for p in plans_of(liver, Budget(seconds=1200, device="cuda"))] == ["3d_lowres"]


def test_a_structure_that_a_patch_shows_whole_needs_no_coarser_grid(make_fingerprint: MakeFingerprint):
    liver = with_structure(make_fingerprint(*LIVER, count=131), (60, 60, 60))
    assert [p.name for p in plans_of(liver, LONG_GPU)] == ["3d"]


def test_thick_slices_get_2d_and_3d_where_time_allows(make_fingerprint: MakeFingerprint):
    heart = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625), labels=4)
    assert [p.name for p in plans_of(heart, LONG_GPU)] == ["2d", "3d"]
    assert [p.name for p in plans_of(heart, SHORT)] == ["3d"]


def test_plans_that_a_dataset_cannot_have_are_refused_with_the_reason(make_fingerprint: MakeFingerprint):
    with pytest.raises(PlanError, match="cannot be planned as 3d_lowres: a patch on the full grid already covers 100% of a scan"):
        plans_of(make_fingerprint((36, 50, 35)), SHORT, ("3d_lowres",))
    with pytest.raises(PlanError, match='no plan "3d_fullres"; choose auto, all, or some of 2d, 3d'):
        plans_of(make_fingerprint((36, 50, 35)), SHORT, ("3d_fullres",))
