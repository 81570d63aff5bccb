"""Masks in JPEG: black and white ones are read, any other grey or colour is refused."""

import numpy as np
import pytest
from PIL import Image

from nnseg.core.errors import ScanError
from nnseg.storage.images.read import read_label_map, read_scan


def mask(shape=(96, 128)) -> np.ndarray:
    y, x = np.indices(shape)
    return (np.hypot(y - 40, x - 60) < 25).astype(np.uint8) * 255


@pytest.mark.parametrize(("mode", "quality"), [("L", 75), ("RGB", 75), ("RGB", 40), ("L", 95)])
def test_a_black_and_white_jpeg_is_the_mask_that_was_compressed(tmp_path, mode, quality):
    Image.fromarray(mask()).convert(mode).save(tmp_path / "m.jpg", quality=quality)
    label_map = read_label_map(tmp_path / "m.jpg", like=read_scan([tmp_path / "m.jpg"]).source)
    stored = label_map.labels[0, ::-1, ::-1] if label_map.labels[0, 40, 60] != 255 else label_map.labels[0]
    assert set(np.unique(stored)) == {0, 255}
    assert np.count_nonzero(stored) == pytest.approx(np.count_nonzero(mask()), rel=0.01)
    assert "divided at the half" in label_map.notes[0]


def test_an_empty_jpeg_mask_is_read(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "m.jpg")
    assert not read_label_map(tmp_path / "m.jpg").labels.any()


def other_label(value: int, distance: int) -> np.ndarray:
    y, x = np.indices((96, 128))
    return np.where(np.hypot(y - 40, x - 60) < 25 + distance, np.maximum(mask(), value), 0).astype(np.uint8)


@pytest.mark.parametrize(
    "labels",
    [mask() // 255, mask() // 255 * 2, mask() // 2, other_label(128, 20), other_label(128, 8), np.where(mask() > 0, 255, 128)],
    ids=["0 and 1", "0 and 2", "grey", "wide ring", "thin ring", "grey background"],
)
def test_label_maps_of_other_values_in_jpeg_are_refused(tmp_path, labels):
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "m.jpg")
    with pytest.raises(ScanError, match="is a JPEG label map"):
        read_label_map(tmp_path / "m.jpg")


def test_coloured_label_maps_in_jpeg_are_refused(tmp_path):
    Image.fromarray(np.stack([mask(), 255 - mask(), mask()], -1)).save(tmp_path / "m.jpg")
    with pytest.raises(ScanError, match="is a JPEG label map"):
        read_label_map(tmp_path / "m.jpg")
