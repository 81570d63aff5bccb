from xml.etree import ElementTree

import numpy as np

from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.labels import Labels
from nnseg.volumetry.page import colour_of, pictures

LABELS = Labels(names=("background", "liver", "<spleen>"), values=(0, 1, 2))


def scan(shape) -> Scan:
    grid = Grid(shape=shape, spacing=(2.0, 1.0, 1.0))
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return Scan(image=image, grid=grid, source=Source(files=(), grid=grid))


def test_each_label_is_outlined_in_its_own_colour_where_there_is_most_of_it():
    label_map = np.zeros((10, 24, 24), np.uint8)
    label_map[4, 4:12, 4:12], label_map[6, 14:20, 14:20] = 1, 2
    shown = pictures(scan(label_map.shape), label_map, LABELS, name="a")
    assert [p.title for p in shown] == ["axial, z = 4", "coronal, y = 4", "sagittal, x = 4"]
    (path,) = ElementTree.fromstring(shown[0].svg).iter("path")
    assert path.get("stroke") == colour_of(LABELS, "liver") != colour_of(LABELS, "<spleen>")
    assert path.find("title").text == "liver"


def test_a_picture_shows_an_empty_label_map_too_and_says_so():
    (only,) = pictures(scan((1, 24, 32)), np.zeros((1, 24, 32), np.uint8), LABELS, name="a <b>")
    root = ElementTree.fromstring(only.svg)
    assert root.get("aria-label") == "a <b>: outlines of nothing"
    assert not list(root.iter("path"))
    assert only.aspect == 1.3333
