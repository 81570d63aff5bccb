"""Topologies worked by hand from nnU-Net's rules, and laws that hold for every patch."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nnseg.planning.network_size import make_topology


def test_hippocampus_has_four_stages():
    topology = make_topology((1, 1, 1), (36, 50, 35))
    assert topology.patch == (40, 56, 40)
    assert topology.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert topology.kernels == ((3, 3, 3),) * 4
    assert topology.sizes[-1] == (5, 7, 5)


def test_thick_slices_are_pooled_only_once_their_voxels_are_cubes():
    topology = make_topology((5, 1.5625, 1.5625), (18, 237, 208))
    assert topology.patch == (20, 256, 224)
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert topology.kernels == ((1, 3, 3), *(((3, 3, 3),) * 5))
    assert topology.divisor == (4, 32, 32)


def test_last_axis_alone_is_pooled_only_from_12_voxels():
    assert make_topology((1, 1), (8, 12)).strides == ((1, 1), (2, 2))  # then 4 x 6: neither can be halved
    assert make_topology((1, 1), (8, 24)).strides == ((1, 1), (2, 2), (1, 2))  # 4 x 12 -> 4 x 6


def test_patch_too_small_to_pool_is_enlarged_to_two_stages():
    assert make_topology((1, 1, 1), (5, 5, 3)).patch == (8, 8, 8)
    thin = make_topology((4, 1, 1), (3, 5, 5))
    assert thin.patch == (3, 8, 8)
    assert thin.strides == ((1, 1, 1), (1, 2, 2))
    assert make_topology((4, 4, 1), (3, 3, 3)).patch == (3, 3, 12)


def test_patch_too_small_to_pool_stays_as_it_is_where_one_stage_will_do():
    topology = make_topology((4, 1, 1), (3, 5, 5), least_stages=1)
    assert (topology.patch, topology.strides, topology.kernels) == ((3, 5, 5), ((1, 1, 1),), ((3, 3, 3),))
    assert make_topology((1, 1, 1), (36, 50, 35), least_stages=1) == make_topology((1, 1, 1), (36, 50, 35))


edges = st.lists(st.integers(1, 600), min_size=3, max_size=3)
spacings = st.lists(st.floats(0.1, 10), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(spacings, edges)
def test_every_patch_gets_a_topology_that_divides_it(spacing: list[float], patch: list[int]):
    topology = make_topology(spacing, patch)
    assert topology.stages >= 2
    assert all(p % d == 0 and p >= n for p, d, n in zip(topology.patch, topology.divisor, patch, strict=True))
    assert all(coarse >= min(4, fine) for coarse, fine in zip(topology.sizes[-1], topology.patch, strict=True))
