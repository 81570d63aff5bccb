from xml.etree import ElementTree

import numpy as np

from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.pictures import draw_case, label_colours

LABELS = Labels(names=("background", "liver", "<spleen>"), values=(0, 1, 2))


def pictures(label_map: np.ndarray, name: str):
    image = np.random.default_rng(0).normal(size=(1, *label_map.shape)).astype(np.float32)
    grid = Grid(shape=label_map.shape, spacing=(2.0, 1.0, 1.0))
    return draw_case(CaseImages(name=name, caption="", image=image, grid=grid, prediction=label_map, labels=LABELS)).pictures


def test_each_label_is_outlined_in_its_own_colour_where_there_is_most_of_it():
    label_map = np.zeros((10, 24, 24), np.uint8)
    label_map[4, 4:12, 4:12], label_map[6, 14:20, 14:20] = 1, 2
    shown = pictures(label_map, "a")
    assert [p.title for p in shown] == ["axial, z = 4", "coronal, y = 4", "sagittal, x = 4"]
    (path,) = ElementTree.fromstring(shown[0].svg).iter("path")
    assert path.get("stroke") == label_colours(LABELS)["liver"] != label_colours(LABELS)["<spleen>"]
    assert path.find("title").text == "liver"


def test_a_picture_shows_an_empty_label_map_too_and_says_so():
    (only,) = pictures(np.zeros((1, 24, 32), np.uint8), "a <b>")
    root = ElementTree.fromstring(only.svg)
    assert root.get("aria-label") == "a <b>: outlines of nothing"
    assert not list(root.iter("path"))
    assert only.aspect == 1.3333
