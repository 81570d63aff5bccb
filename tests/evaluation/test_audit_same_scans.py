"""Scans that are the same but for their pose, their extent or their voxels."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from nnseg.core.fingerprint import CaseMeasure
from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.evaluation.audit_same_scans import (
    CELLS,
    FEW_CELLS,
    SAME,
    Cells,
    compare_scans,
    describe,
    find_same_scans,
    measure_details,
    overlap_correlation,
)

SHAPE = (20, 36, 32)


def texture(seed: int, shape=SHAPE) -> np.ndarray:
    """Blobs of a few voxels on a common anatomy, which is the same for all."""
    common = ndimage.gaussian_filter(np.random.default_rng(99).normal(size=shape), 4)
    own = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), [0 if n == 1 else 1.2 for n in shape])
    return (100 + 30 * common / common.std() + 20 * own / own.std()).astype(np.float32)


def details_of(*images, spacings=None):
    spacings = spacings or [(1.0, 1.0, 1.0)] * len(images)
    scans = []
    for image, spacing in zip(images, spacings, strict=True):
        grid = Grid(shape=image.shape, spacing=spacing)
        scans.append(Scan(image=image[None], grid=grid, source=Source(files=(Path("a.nii"),), grid=grid)))
    usual = CaseMeasure(name="a", key="", shape=images[0].shape, spacing=(1, 1, 1), cropped_shape=images[0].shape, voxels={})
    cells = [Cells.of([usual], most) for most in (CELLS, FEW_CELLS)]
    return [measure_details(scan, *cells) for scan in scans]


def changed(image: np.ndarray, how: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    voxel = (1.0, 1.0, 1.0)
    return {
        "": lambda: (3 * image + 7, voxel),
        "mirrored along x": lambda: (image[:, :, ::-1].copy(), voxel),
        "mirrored along z and y": lambda: (image[::-1, ::-1].copy(), voxel),
        "cropped": lambda: (image[2:18, 3:31, 5:31].copy(), voxel),
        "mirrored along y, cropped": lambda: (image[1:, ::-1][:, 4:34, :29].copy(), voxel),
        "resampled": lambda: (ndimage.zoom(image, (1, 0.75, 0.75), order=1, grid_mode=True, mode="nearest"), (1, 4 / 3, 4 / 3)),
        "resized": lambda: (ndimage.zoom(image, (1, 0.75, 0.75), order=1, grid_mode=True, mode="nearest"), voxel),
    }[how]()


HOW = ("", "mirrored along x", "mirrored along z and y", "cropped", "mirrored along y, cropped", "resampled", "resized")


@pytest.mark.parametrize("how", HOW)
def test_a_changed_copy_of_a_scan_is_found_among_others_and_described(how):
    copy, spacing = changed(texture(3), how)
    images = [*(texture(seed) for seed in range(6)), copy]
    scans = details_of(*images, spacings=[(1.0, 1.0, 1.0)] * 6 + [spacing])
    found = list(find_same_scans(scans))
    assert [(one.first, one.second) for one in found] == [(3, 6)]
    assert describe(scans[3], scans[6], found[0]) == how


def test_scans_of_one_anatomy_are_not_the_same():
    found = list(compare_scans(details_of(*(texture(seed) for seed in range(8)))))
    assert found
    assert max(one.correlation for one in found) < SAME - 0.2


def test_pictures_are_compared_in_their_plane():
    images = [texture(seed, (1, 60, 50)) for seed in range(5)]
    scans = details_of(*images, images[2][:, ::-1, 4:].copy())
    found = list(find_same_scans(scans))
    assert [(one.first, one.second, one.flips) for one in found] == [(2, 5, (False, True, False))]


def test_one_scan_has_no_pair():
    assert list(compare_scans(details_of(texture(0)))) == []


def test_a_part_correlates_with_its_whole_as_one():
    image = np.random.default_rng(0).normal(size=(6, 12, 12)).astype(np.float32)
    assert overlap_correlation(image, image[1:, 2:10, 3:]) == pytest.approx(1.0, abs=1e-4)
    assert overlap_correlation(image, -image[1:, 2:10, 3:]) < 0.8


def test_cells_are_no_smaller_than_voxels_and_no_more_than_asked():
    def case(shape, spacing):
        return CaseMeasure(name="a", key="", shape=shape, spacing=spacing, cropped_shape=shape, voxels={})

    assert Cells.of([case((4, 10, 10), (5, 1, 1))], 40_000) == Cells(spacing=(5, 1, 1), shape=(4, 10, 10))
    assert Cells.of([case((10, 100, 100), (10, 1, 1))], 4_000) == Cells(spacing=(10, 5, 5), shape=(10, 20, 20))
    assert Cells.of([case((1, 500, 500), (1, 1, 1))], 10_000) == Cells(spacing=(1, 5, 5), shape=(1, 100, 100))
