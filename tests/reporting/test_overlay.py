"""The slice of a scan with most labels, in colours."""

import numpy as np
import pytest

from nnseg.core.colours import colour_of
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.reporting.overlay import most_labelled_slice

LABELS = Labels(names=("background", "front", "back"), values=(0, 3, 700))


def shown_of(labels_ZYX, *, spacing=(1.0, 1.0, 1.0), labels=LABELS):
    grid = Grid(shape=labels_ZYX.shape, spacing=spacing)
    image = np.linspace(0, 1, labels_ZYX.size, dtype=np.float32).reshape(1, *grid.shape)
    scan = Scan(image=image, grid=grid, source=Source(files=(), grid=grid))
    return most_labelled_slice(scan, LabelMap(labels=labels_ZYX, grid=grid), labels)


def example(shape=(6, 10, 20)):
    labels = np.zeros(shape, np.uint16)
    labels[1, 2, 3] = 700
    labels[4, 5:10, 10:20] = 3
    return labels


def test_the_slice_with_most_foreground_is_shown_in_square_pixels():
    shown = shown_of(example())
    assert (shown.title, shown.grey.shape, shown.shown) == ("axial, z = 4", (180, 360), (1,))
    assert np.array_equal(shown.numbers, np.kron(example()[4] == 3, np.ones((18, 18))))
    assert shown_of(example(), spacing=(2, 2, 1)).grey.shape == (360, 360)


def test_only_labels_are_coloured():
    shown = shown_of(example())
    picture, there = shown.in_colours(), shown.numbers > 0
    assert np.array_equal(picture[~there], np.repeat(shown.grey[~there][:, None], 3, axis=1))
    expected = 0.55 * shown.grey[there][:, None] + 0.45 * np.array(colour_of(0))
    assert np.abs(picture[there] - expected).max() <= 1


@pytest.mark.parametrize(
    ("spacing", "title"), [((1, 5, 1), "coronal, y = 5"), ((1, 1, 5), "sagittal, x = 10"), ((1, 1, 1.2), "axial, z = 4")]
)
def test_thick_slices_are_shown_in_their_own_plane(spacing, title):
    assert shown_of(example(), spacing=spacing).title == title


def test_the_head_is_up():
    labels = np.zeros((6, 10, 20), np.uint16)
    labels[5] = 3  # the uppermost slice
    assert shown_of(labels, spacing=(1, 5, 1)).numbers[0].all()


def test_without_foreground_the_middle_slice_is_shown():
    assert shown_of(np.zeros((6, 10, 20), np.uint16)).title == "axial, z = 3"
    assert shown_of(np.zeros((1, 10, 20), np.uint16)).title == ""


def test_the_later_of_two_regions_is_drawn():
    regions = (Region(name="all", values=(3, 700), paint=3), Region(name="back", values=(700,), paint=700))
    labels = example()
    labels[4, 5:7, 10:12] = 700
    shown = shown_of(labels, labels=LABELS.model_copy(update={"regions": regions}))
    assert (shown.shown, np.count_nonzero(shown.numbers == 2)) == ((1, 2), 4 * 18 * 18)
