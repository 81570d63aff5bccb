"""The lesions of a label map: connected components, or numbered objects, measured one by one."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from nnseg.core.geometry import TOUCHING
from nnseg.core.image import Integers, LabelMap
from nnseg.core.labels import Labels
from nnseg.core.population import volume_ml
from nnseg.evaluation.diameters import object_diameters, slice_axis
from nnseg.volumetry.lesions import Lesion, LesionMap


def find_lesions(label_map: LabelMap, labels: Labels, name: str, objects: LabelMap | None = None) -> LesionMap:
    """The lesions of a label.

    Args:
        label_map: on its own grid.
        labels: of the label map.
        name: of the label or region.
        objects: numbers of objects over all labels, on the same grid; without them connected components are lesions.
    """
    mask = labels.mask(name, label_map.labels)
    numbers = _largest_first(ndimage.label(mask, TOUCHING)[0] if objects is None else np.where(mask, objects.labels, 0))
    grid, source = label_map.grid, label_map.source
    axis = source.grid.canonical().axes.index(slice_axis(source.grid)) if source else slice_axis(grid)
    sizes = np.bincount(numbers.ravel())[1:]
    centres = ndimage.center_of_mass(numbers > 0, numbers, range(1, len(sizes) + 1))
    measured = zip(sizes, object_diameters(numbers, grid, axis), centres, strict=True)
    lesions = tuple(
        Lesion(
            label=name,
            number=number,
            ml=volume_ml(int(size), grid.voxel_ml),
            longest=of.longest,
            in_slice=of.in_slice,
            perpendicular=of.perpendicular,
            centre=grid.world(centre),
        )
        for number, (size, of, centre) in enumerate(measured, 1)
    )
    return LesionMap(numbers=numbers, grid=grid, lesions=lesions)


def _largest_first(numbers: Integers) -> Integers:
    """Objects numbered anew from 1 without gaps, by falling size."""
    values, counts = np.unique(numbers[numbers > 0], return_counts=True)
    if not len(values):
        return np.zeros(numbers.shape, np.int32)
    ranks = np.empty(len(values), np.int32)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(values) + 1)
    places = np.searchsorted(values, numbers)
    return np.where(numbers > 0, ranks[np.minimum(places, len(values) - 1)], 0).astype(np.int32)
