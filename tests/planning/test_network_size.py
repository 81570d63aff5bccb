"""nnU-Net's golden planning values (as its 2.8.1 plans them), and counts by hand."""

import math
from dataclasses import dataclass

import pytest

from nnseg.core.plan import Steps
from nnseg.planning.network_size import NetworkRequirements, estimate_elements, find_coarser_grid, fit_network, make_topology
from nnseg.planning.recipe import Rules, load_recipe


@pytest.fixture(scope="session")
def rules() -> dict[str, Rules]:
    """The planner's constants of nnU-Net's default and residual presets."""
    shipped = {"default": "nnunet", "M": "resenc-m", "L": "resenc-l", "XL": "resenc-xl"}
    return {name: load_recipe(recipe).planner for name, recipe in shipped.items()}


@dataclass(frozen=True)
class Input:
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    cases: int
    heads: int

    def requirements(self, dimensions: int) -> NetworkRequirements:
        voxels = math.prod(self.shape) * self.cases
        return NetworkRequirements(
            spacing=self.spacing[3 - dimensions :], shape=self.shape[3 - dimensions :], heads=self.heads, voxels=voxels
        )


HIPPOCAMPUS = Input((1, 1, 1), (36, 50, 35), 200, 3)
BRAIN = Input((1, 1, 1), (138, 170, 138), 484, 4)
LIVER = Input((1, 0.767578125, 0.767578125), (482, 512, 512), 131, 3)
HEART = Input((5, 1.5625, 1.5625), (18, 237, 208), 200, 4)
FLAT = Input((999, 1, 1), (1, 1500, 1500), 100, 2)


@pytest.mark.parametrize(
    ("given", "planner", "patch", "batch", "estimate", "stages"),
    [
        (HIPPOCAMPUS, "default", (40, 56, 40), 7, 19_174_400, 4),
        (HIPPOCAMPUS, "M", (40, 56, 40), 58, 23_609_600, 4),
        (HIPPOCAMPUS, "L", (40, 56, 40), 141, 23_609_600, 4),
        (HIPPOCAMPUS, "XL", (40, 56, 40), 141, 23_609_600, 4),
        (BRAIN, "default", (128, 128, 128), 2, 454_893_568, 6),
        (BRAIN, "L", (160, 192, 160), 3, 1_311_369_600, 6),
        (BRAIN, "XL", (160, 192, 160), 5, 1_311_369_600, 6),
        (LIVER, "default", (128, 128, 128), 2, 452_796_416, 6),
        (LIVER, "L", (192, 192, 192), 2, 1_881_294_336, 6),
        (LIVER, "XL", (224, 256, 224), 2, 3_414_200_832, 6),
        (HEART, "default", (20, 256, 224), 4, 310_481_920, 6),
        (HEART, "M", (20, 256, 224), 3, None, 6),
        (HEART, "L", (20, 256, 224), 10, None, 6),
        (HEART, "XL", (20, 256, 224), 17, None, 6),
    ],
)
def test_3d_patch_and_batch_are_nnunets(
    rules: dict[str, Rules], given: Input, planner: str, patch: Steps, batch: int, estimate: int | None, stages: int
):
    fitted = fit_network(given.requirements(3), rules[planner])
    assert (fitted.topology.patch, fitted.batch, fitted.topology.stages) == (patch, batch, stages)
    assert estimate in (None, fitted.estimate)


@pytest.mark.parametrize(
    ("given", "planner", "patch", "batch"),
    [
        (HIPPOCAMPUS, "default", (56, 40), 281),
        (HIPPOCAMPUS, "M", (56, 40), 1618),
        (HIPPOCAMPUS, "L", (56, 40), 4554),
        (HIPPOCAMPUS, "XL", (56, 40), 5625),
        (BRAIN, "default", (192, 160), 105),
        (BRAIN, "L", (192, 160), 301),
        (BRAIN, "XL", (192, 160), 444),
        (LIVER, "default", (512, 512), 12),
        (LIVER, "L", (512, 512), 35),
        (LIVER, "XL", (512, 512), 52),
        (HEART, "default", (256, 224), 56),
        (HEART, "M", (256, 224), 57),
        (HEART, "L", (256, 224), 161),
        (HEART, "XL", (256, 224), 238),
        (FLAT, "default", (1280, 1024), 2),
        (FLAT, "M", (512, 512), 13),
        (FLAT, "L", (896, 768), 13),
        (FLAT, "XL", (1024, 1024), 13),
    ],
)
def test_2d_patch_and_batch_are_nnunets(rules: dict[str, Rules], given: Input, planner: str, patch: Steps, batch: int):
    fitted = fit_network(given.requirements(2), rules[planner])
    assert (fitted.topology.patch, fitted.batch) == (patch, batch)


def test_estimate_sums_the_outputs_of_all_convolutions(rules: dict[str, Rules]):
    volume = estimate_elements(make_topology((1, 1, 1), (40, 56, 40)), rules=rules["default"], heads=3)
    # By hand: stages of 89600, 11200, 1400 and 175 voxels with 32, 64, 128 and 256 channels.
    encoder = 2 * (32 * 89600 + 64 * 11200 + 128 * 1400 + 256 * 175)
    decoder = 3 * (32 * 89600 + 64 * 11200 + 128 * 1400)
    assert volume == encoder + decoder + 3 * 89600 == 19_174_400


def test_residual_estimate_counts_stem_blocks_and_skips(rules: dict[str, Rules]):
    topology = make_topology((1, 1), (16, 16))  # 256, 64 and 16 pixels with 32, 64 and 128 channels; blocks 1, 3, 4
    encoder = 32 * 256 + 2 * 32 * 256 + (6 + 1) * 64 * 64 + (8 + 1) * 128 * 16
    decoder = 2 * (32 * 256 + 64 * 64)
    assert estimate_elements(topology, rules=rules["M"], heads=2) == encoder + decoder + 2 * 256


@pytest.mark.parametrize(
    ("given", "planner", "spacing", "shape", "patch"),
    [
        (LIVER, "default", (2.5001, 1.919, 1.919), [193, 205, 205], (128, 128, 128)),
        (LIVER, "L", (1.6528, 1.2687, 1.2687), [292, 310, 310], (192, 192, 192)),
        (LIVER, "XL", (1.3842, 1.0625, 1.0625), [348, 370, 370], (224, 256, 224)),
    ],
)
def test_coarse_grid_is_that_of_nnunets_low_resolution_network(
    rules: dict[str, Rules], given: Input, planner: str, spacing: tuple[float, ...], shape: list[int], patch: Steps
):
    demand = given.requirements(3)
    found = find_coarser_grid(demand, rules[planner])
    assert found is not None
    assert found[0].spacing == pytest.approx(spacing, abs=5e-5)
    assert found[0].shape == shape
    assert (found[1].topology.patch, found[1].batch) == (patch, 2)


@pytest.mark.parametrize(("planner", "batch"), [("default", 21), ("M", 66), ("L", 204), ("XL", 350)])
def test_search_for_a_coarse_grid_passes_over_those_that_would_not_be_pooled(rules: dict[str, Rules], planner: str, batch: int):
    # On grids with 8 to 11 voxels along the fine axis nnU-Net looks at networks of a single stage; its answer is a later grid.
    spacing = (8.248049316212569, 0.12686376024076237, 4.158207022482706)
    found = find_coarser_grid(
        NetworkRequirements(spacing=spacing, shape=(45, 21, 739), heads=2, voxels=45 * 21 * 739 * 107), rules[planner]
    )
    assert found is not None
    assert found[0].spacing == [8.248049316212569, 0.5399600020148466, 4.158207022482706]
    assert (found[1].topology.patch, found[1].batch) == ((48, 5, 176), batch)


def test_a_network_pools_where_nnunets_would_have_a_single_stage(rules: dict[str, Rules]):
    demand = NetworkRequirements(spacing=(6, 2.7, 0.26), shape=(11, 12, 11), heads=2, voxels=1e7)
    assert make_topology(demand.spacing, demand.shape, least_stages=1).stages == 1
    topology = fit_network(demand, rules["default"]).topology
    assert topology.patch == (11, 12, 12)
    assert topology.strides == ((1, 1, 1), (1, 1, 2), (1, 2, 1))  # one axis at a time, each more than twice as coarse as the last


@pytest.mark.parametrize("given", [HIPPOCAMPUS, BRAIN, HEART])
def test_no_coarse_grid_where_patches_show_most_of_a_scan(rules: dict[str, Rules], given: Input):
    demand = given.requirements(3)
    assert find_coarser_grid(demand, rules["default"]) is None


def test_thin_axis_is_never_shrunk_away():
    # nnU-Net would take voxels off axis 0 until none is left.
    demand = NetworkRequirements(spacing=(5, 0.5, 0.5), shape=(3, 4000, 4000), heads=2, voxels=1e9)
    fitted = fit_network(demand, load_recipe("auto").for_device("cpu").planner)
    assert fitted.topology.patch[0] == 3
    assert fitted.estimate <= fitted.allowance


def test_batch_says_what_limits_it(rules: dict[str, Rules]):
    default = rules["default"]
    assert fit_network(HIPPOCAMPUS.requirements(3), default).limit == "share"
    assert fit_network(BRAIN.requirements(3), default).limit == "cost"
    one_small_case = NetworkRequirements(spacing=(1, 1, 1), shape=(32, 32, 32), heads=2, voxels=32**3)
    assert fit_network(one_small_case, default).limit == "smallest"
    assert fit_network(HIPPOCAMPUS.requirements(3), load_recipe("auto").for_device("cpu").planner).limit == "largest"
