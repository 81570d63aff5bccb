"""Probabilities of cases as levels, in a store of their own and beside the image."""

from pathlib import Path

import numpy as np
import pytest

from nnseg.core.geometry import Box, Grid, Placement
from nnseg.core.image import PreprocessedCase
from nnseg.core.labels import Labels, Region
from nnseg.storage import cases
from nnseg.storage.case_levels import levels_of, with_levels
from nnseg.storage.cases import CaseStore

LABELS = Labels(names=("background", "a", "b"), values=(0, 1, 2))


def test_levels_leave_the_background_out():
    probabilities = np.array([0.2, 0.3, 0.5], np.float32).reshape(3, 1, 1, 1)
    assert levels_of(probabilities, LABELS).flatten().tolist() == [76, 128]  # of 76.5 and 127.5 the even ones
    regions = Labels(names=LABELS.names, values=LABELS.values, regions=(Region(name="all", values=(1, 2), paint=1),))
    assert levels_of(np.ones((1, 1, 1, 1), np.float32), regions).tolist() == [[[[255]]]]


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_case_with_levels_is_sliced_as_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: bool):
    monkeypatch.setattr(cases, "IN_MEMORY_BYTES", 0 if on_disk else 2**20)
    shape, rng = (6, 7, 8), np.random.default_rng(0)
    labels = rng.integers(-1, 3, shape).astype(np.int16)
    grid = Grid(shape=shape)
    placement = Placement(scan=grid, crop=Box.whole(shape), axes=(0, 1, 2), shape=shape, spacing=grid.spacing)
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    CaseStore(tmp_path / "images").write(
        PreprocessedCase(name="a", image=image, labels=labels, placement=placement, known=(0, 1)), "image key"
    )
    case, levels = CaseStore(tmp_path / "images").read("a"), rng.integers(0, 256, (2, *shape)).astype(np.uint8)
    store = CaseStore(tmp_path / "levels")
    store.write_levels(case, levels, "levels key")
    assert store.has("a", "levels key")
    both, found = with_levels(case, store.read("a")), store.read("a")
    assert np.array_equal(found.image[...], levels)
    assert found.image.dtype == np.uint8
    assert np.array_equal(both.labels[...], labels)
    assert (both.known, both.placement, found.known, found.placement) == ((0, 1), placement, (0, 1), placement)
    assert both.image.shape == (4, *shape)
    box = (slice(None), slice(1, 4), slice(2, 3), slice(0, 8))
    assert both.image[box].dtype == np.float32
    assert np.array_equal(both.image[box], np.concatenate([image, levels])[box])
    for index, where in case.locations.items():
        assert np.array_equal(found.locations[index], where)
    assert np.array_equal(found.annotated, case.annotated)
