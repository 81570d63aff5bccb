"""A picture of every change that training makes to patches, at the mild and at the strong end of its range.

    python benchmarks/draw_augmentation.py SCAN OUT.png [--labels LABEL_MAP] [--edge 96]

The middle slice of the middle patch; each change alone, and a label map's border in red where one is given.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from nnseg.core.plan import Augmentation
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.training.augmentation.intensity import CHANGES
from nnseg.training.augmentation.pose import Pose, draw_displacements, rotation
from nnseg.training.augmentation.warp import cut, warp

CPU = torch.device("cpu")
RANGES = {"inverted_gamma": "gamma"}
SCALE = 3


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of many."""

    title: str
    image: np.ndarray
    labels: np.ndarray


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--edge", type=int, default=96)
    options = parser.parse_args()
    case = read_case(options.scan, options.labels)
    size = tuple(min(options.edge, n) for n in case.labels.shape)
    start = np.array([(n - s) // 2 for n, s in zip(case.labels.shape, size, strict=True)])
    tiles = [*poses(case, start, size), *intensities(case, start, size)]
    sheet(tiles).save(options.out)
    print(f"{len(tiles)} pictures in {options.out}")


def read_case(scan: Path, labels: Path | None) -> SimpleNamespace:
    """The scan's first channel, standardized, and its label map or zeros."""
    image = read_scan(scan).image[:1]
    image = ((image - image.mean()) / image.std()).astype(np.float32)
    indices = np.zeros(image.shape[1:]) if labels is None else read_label_map(labels).labels
    return SimpleNamespace(name=scan.name, image=image, labels=indices.astype(np.int16))


def patch_of(case: SimpleNamespace, pose: Pose, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    if pose.matrix is not None:
        return warp(case, pose, size, CPU)
    image, labels = torch.zeros(1, *size), torch.zeros(size, dtype=torch.int64)
    cut(case, pose, image, labels)
    return image, labels


def poses(case: SimpleNamespace, start: np.ndarray, size: tuple[int, ...]) -> list[Tile]:
    """The patch as it is, turned, zoomed, flipped, bent."""
    bent = [
        draw_displacements(
            np.random.default_rng(4), Augmentation(elastic_probability=1.0, elastic=(s, s)), np.array(size), in_plane=False
        )
        for s in (0.02, 0.05)
    ]
    drawn = {
        "as it is": Pose(start=start),
        "flipped": Pose(start=start, mirrored=(2,)),
        "turned by 15": Pose(start=start, matrix=rotation([np.pi / 12, 0, 0])),
        "turned by 30": Pose(start=start, matrix=rotation([np.pi / 6, 0, 0])),
        "zoom 0.7": Pose(start=start, matrix=np.eye(3) * 0.7),
        "zoom 1.4": Pose(start=start, matrix=np.eye(3) * 1.4),
        "elastic 0.02": Pose(start=start, matrix=np.eye(3), displacements=bent[0]),
        "elastic 0.05": Pose(start=start, matrix=np.eye(3), displacements=bent[1]),
    }
    if size[1] == size[2]:
        drawn |= {f"quarter turns: {k}": Pose(start=start, quarter_turns=(k, 1, 2)) for k in (1, 2)}
    middle = size[0] // 2
    return [
        Tile(title=title, image=image[0, middle].numpy(), labels=labels[middle].numpy())
        for title, (image, labels) in ((t, patch_of(case, p, size)) for t, p in drawn.items())
    ]


def intensities(case: SimpleNamespace, start: np.ndarray, size: tuple[int, ...]) -> list[Tile]:
    """Each change of intensity at both ends of its range."""
    image, labels = patch_of(case, Pose(start=start), size)
    middle, tiles = size[0] // 2, []
    for name, change in CHANGES.items():
        if name == "channel_dropout":  # zeros
            continue
        setting = RANGES.get(name, name)
        ends = getattr(Augmentation(), setting)
        mild, strong = ends if name != "low_resolution" else ends[::-1]
        for end in (mild, strong):
            drawn = strength(name, Augmentation(**{f"{name}_probability": 1.0, setting: (end, end)}), image.shape)
            changed = change.apply(image.clone(), [drawn])[0, middle].numpy()
            tiles.append(Tile(title=f"{name} {end:g}", image=changed, labels=labels[middle].numpy()))
    return tiles


def strength(name: str, settings: Augmentation, shape: tuple[int, ...]) -> tuple[float, ...]:
    rng = np.random.default_rng(7)
    while True:
        drawn = CHANGES[name].draw(rng, settings, shape)
        if drawn:
            return drawn[0]


def sheet(tiles: list[Tile], columns: int = 6) -> Image.Image:
    """All pictures in one, at the same window."""
    low, high = np.percentile(tiles[0].image, [0.5, 99.5])
    height, width = (n * SCALE for n in tiles[0].image.shape)
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * (width + 4), rows * (height + 18)), "white")
    draw = ImageDraw.Draw(page)
    for number, tile in enumerate(tiles):
        left, top = number % columns * (width + 4), number // columns * (height + 18)
        grey = np.clip((tile.image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        colours = np.stack([grey] * 3, -1).repeat(SCALE, 0).repeat(SCALE, 1)
        mask = (tile.labels > 0).repeat(SCALE, 0).repeat(SCALE, 1)
        colours[mask & ~ndimage.binary_erosion(mask)] = (255, 40, 40)
        page.paste(Image.fromarray(colours), (left, top + 14))
        draw.text((left, top), tile.title, fill="black")
    return page


if __name__ == "__main__":
    main()
