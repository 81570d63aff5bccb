"""Images that are too large to be held at once are predicted part by part, nearly as if they were held, and written as pyramids."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from small_models import model_of

from nnseg.core.dataset import Case
from nnseg.core.image import LabelMap, Scan
from nnseg.core.labels import Labels
from nnseg.inference.predict import Predictor
from nnseg.inference.prediction import Prediction
from nnseg.preprocessing.normalize import ChannelStatistics
from nnseg.serving import large_images
from nnseg.serving.large_images import predict_large
from nnseg.serving.messages import Finished, PredictionTask
from nnseg.serving.outputs import OutputTarget
from nnseg.serving.pipeline import PredictionPipeline
from nnseg.storage.images import large_tiff
from nnseg.storage.images.large_tiff import LargeImage, find_large
from nnseg.storage.images.raw import READ_DEFAULTS
from nnseg.storage.images.read import read_label_map, read_scan

SHAPE = (150, 210)
LABELS = Labels(names=("background", "one", "two"), values=(0, 1, 2))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits by which an image of `SHAPE` is large, and has several parts."""
    monkeypatch.setenv("NNSEG_LIMITS", "whole_pixels=2000")
    for module in (large_tiff, large_images):
        monkeypatch.setattr(module, "PART_PIXELS", 70**2)
    monkeypatch.setattr(large_tiff, "TILE", 32)
    monkeypatch.setattr(large_tiff, "SMALLEST_LEVEL", 64)


def pixels(channels: int = 3) -> np.ndarray:
    """Smooth colours with some noise, uint8 (rows, columns, channels)."""
    rows, columns = np.indices(SHAPE)
    waves = [np.sin(rows / (9 + c)) + np.cos(columns / (13 - c)) for c in range(channels)]
    noise = np.random.default_rng(0).normal(0, 0.2, (*SHAPE, channels))
    return np.clip(128 + 40 * (np.stack(waves, -1) + noise), 0, 255).astype(np.uint8)


def write(path: Path, **settings: object) -> Path:
    tifffile.imwrite(path, pixels(), photometric="rgb", **settings)
    return path


def opened(path: Path) -> LargeImage:
    found = find_large((path,), READ_DEFAULTS)
    assert found is not None
    return found


def predicted(image: Path, out: Path, dimensions: int = 2, suffix: str = "", **target: object) -> Finished:
    said: list[Finished] = []
    model = model_of(dimensions, channels=("red", "green", "blue"), labels=LABELS, spacing=1.0)
    order = OutputTarget(out=out, **target)
    pipeline = PredictionPipeline(Predictor(model, device="cpu"), order, said.append)
    out.mkdir(exist_ok=True)
    pipeline.run([PredictionTask(case=Case(name="a", images=(image,)), suffix=suffix)])
    return next(one for one in said if isinstance(one, Finished))


@pytest.mark.parametrize(
    "settings",
    [
        {"tile": (32, 48), "compression": "zlib"},
        {"rowsperstrip": 7},
        {"tile": (64, 64), "planarconfig": "separate"},
        {"tile": (16, 16), "bigtiff": True, "byteorder": ">"},
    ],
    ids=["tiles", "strips", "planes", "big-endian"],
)
def test_parts_have_the_pixels_of_the_whole(tmp_path: Path, small_parts: None, settings: dict[str, object]) -> None:
    stored = np.moveaxis(pixels(), -1, 0)
    path = tmp_path / "a.tif"
    planes = settings.get("planarconfig") == "separate"
    tifffile.imwrite(path, stored if planes else pixels(), photometric="rgb", **settings)
    image = opened(path)
    assert (image.shape, image.channels) == (SHAPE, 3)
    assert np.array_equal(image.read(slice(31, 97), slice(5, 210)), stored[:, 31:97, 5:])
    assert np.array_equal(np.concatenate(list(image.bands()), axis=1), stored)


class Bright:
    """Labels pixels by their own colours alone, so that parts must give the labels of the whole."""

    def __init__(self) -> None:
        self.model = model_of(2, channels=("red", "green", "blue"), labels=LABELS, spacing=1.0)

    def for_parts(self, statistics: Sequence[ChannelStatistics]) -> "Bright":
        return self

    def prepare(self, scan: Scan) -> Scan:
        return scan

    def infer(self, prepared: Scan, *, objects: bool = True) -> Prediction:
        labels = (prepared.image[0] > 100).astype(np.uint8) + (prepared.image[1] > 150)
        return Prediction(label_map=LabelMap(labels=labels, grid=prepared.grid), seconds={"network": 0.0})


@pytest.mark.parametrize("side", [30, 47, 90, 1000])
@pytest.mark.parametrize("exif", [1, 6])
def test_parts_are_put_where_they_were_seen(
    tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch, side: int, exif: int
) -> None:
    monkeypatch.setattr(large_images, "PART_PIXELS", side**2)
    image = opened(write(tmp_path / "a.tif", tile=(32, 32), extratags=[(274, "H", 1, exif, True)]))
    labels, seconds = predict_large(Bright(), image)
    assert np.array_equal(labels, (pixels()[..., 0] > 100).astype(int) + (pixels()[..., 1] > 150))
    assert {"read", "network", "preprocess"} <= seconds.keys()


def test_parts_are_normalized_as_the_whole(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write(tmp_path / "a.tif", tile=(32, 32))
    whole = predicted(image, tmp_path / "whole").record
    request.getfixturevalue("small_parts")
    several = predicted(image, tmp_path / "several").record
    monkeypatch.setattr(large_images, "PART_PIXELS", 1000**2)
    one = predicted(image, tmp_path / "one").record
    assert (whole.status, several.status, one.status, one.file) == ("done", "done", "done", "a.tif")
    assert [record.findings[0].split()[1:6] for record in (several, one)] == [
        ["was", "predicted", "in", count, "parts"] for count in ("12", "1")
    ]
    assert whole.findings == ()
    held, seen, parts = (read_label_map(tmp_path / name / "a.tif").labels for name in ("whole", "one", "several"))
    assert len(np.unique(held)) == 3
    assert np.array_equal(seen, held)
    assert (parts == held).mean() > 0.6  # of random weights, which the place of a tile changes most


def test_label_maps_are_pyramids_of_tiles_on_the_finest_level(tmp_path: Path, small_parts: None) -> None:
    fine, coarse = pixels(), pixels()[::2, ::2]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "mm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "mm"}
        file.write(fine, subifds=1, tile=(32, 32), photometric="rgb", metadata={"axes": "YXS", **size})
        file.write(coarse, subfiletype=1, tile=(32, 32), photometric="rgb")
    image = opened(tmp_path / "a.ome.tif")
    assert image.shapes == (SHAPE, coarse.shape[:2])
    record = predicted(tmp_path / "a.ome.tif", tmp_path / "out").record  # the plan's pixels are 1 mm: the coarse level
    assert record.status == "done", record.reason
    with tifffile.TiffFile(tmp_path / "out" / record.file) as file:
        levels = file.series[0].levels
        assert [level.shape for level in levels] == [SHAPE, (75, 105), (38, 53)]
        assert all(level.keyframe.is_tiled for level in levels)
        assert np.array_equal(levels[0].asarray()[::2, ::2][:75, :105], levels[1].asarray())
    assert read_label_map(tmp_path / "out" / record.file).grid.spacing[1:] == (0.5, 0.5)


def test_small_images_and_volumes_are_read_as_ever(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", tile=(32, 32))
    assert find_large((image,), READ_DEFAULTS) is None
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((40, 60, 50), np.uint8))
    assert find_large((tmp_path / "stack.tif",), READ_DEFAULTS) is None
    assert read_scan(image).image.shape == (3, 1, *SHAPE)


def test_what_parts_cannot_do_is_refused(tmp_path: Path, small_parts: None) -> None:
    image = write(tmp_path / "a.tif", tile=(32, 32))
    for settings, words in (
        ({"dimensions": 3}, "3D networks"),
        ({"probabilities": True}, "probabilities"),
        ({"suffix": ".png"}, 'label maps as ".png"'),
    ):
        record = predicted(image, tmp_path / "out", **settings).record
        assert record.status == "failed"
        assert words in record.reason
        assert not [*(tmp_path / "out").iterdir()]
