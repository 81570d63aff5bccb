"""Predict the label map of a scan with an exported model; model.json holds all constants.

    python run.py SCAN.npy LABELS.npy --spacing 3,0.7,0.7
    python run.py T1.nii.gz FLAIR.nii.gz LABELS.nii.gz

A scan is an array (Z, Y, X) or (C, Z, Y, X), or a file for each channel. Axes of arrays lead to superior, posterior and left, or as
in the training's files where model.json has "stored": true. This needs NumPy and the runtime; SciPy for postprocessing and masks in
model.json, NiBabel for NIfTI.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
EDGE, LEAST = 12, 1e-7  # voxels around an axis whose spline coefficients are computed; smaller probabilities are raised to this


def main() -> None:
    """Predict one scan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="+", help="array or NIfTI, of each channel if there are several")
    parser.add_argument("labels", type=Path, help="file to write")
    parser.add_argument("--spacing", default="1,1,1", help="of an array: mm along z,y,x")
    given = parser.parse_args()
    folder = Path(__file__).parent
    if given.scan[0].suffix == ".npy":
        arrays, spacing = [np.load(file) for file in given.scan], [float(mm) for mm in given.spacing.split(",")]
        np.save(given.labels, predict(folder, np.stack(arrays).reshape(-1, *arrays[0].shape[-3:]), spacing))
        return
    nib, stored = import_module("nibabel"), json.loads((folder / "model.json").read_text(encoding="utf-8"))["stored"]
    files = [nib.load(file) for file in given.scan]
    images, flips = (files, ()) if stored else ([nib.as_closest_canonical(file) for file in files], (2, 3))
    channels = np.concatenate([image.get_fdata(dtype=np.float32).T.reshape(-1, *image.shape[2::-1]) for image in images])
    labels = predict(folder, np.flip(channels, flips), [float(mm) for mm in images[0].header.get_zooms()[2::-1]])
    result = nib.Nifti1Image(np.flip(labels, tuple(axis - 1 for axis in flips)).T, images[0].affine)
    back = nib.orientations.ornt_transform(*(nib.io_orientation(image.affine) for image in (images[0], files[0])))
    nib.save(result.as_reoriented(back), given.labels)


def predict(folder: Path, image: Array, spacing: Sequence[float]) -> Array:
    """The label map (Z, Y, X) of an image (C, Z, Y, X) with this spacing in mm, by the model in a folder."""
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    filled = (image != 0).any(axis=0)
    seen = [np.flatnonzero(filled.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(one[0], one[-1] + 1) if len(one) else slice(None) for one in seen)
    cropped = image[(slice(None), *box)].astype(np.float32)
    means = [group["weight"] * predict_group(folder, model, group, cropped, spacing) for group in model["groups"]]
    labels = np.full(image.shape[1:], model["values"][0], model["dtype"])
    labels[box] = decide(sum(means[1:], means[0]), model)
    return postprocess(labels, model, math.prod(spacing))


def predict_group(folder: Path, model: Any, group: Any, image: Array, spacing: Sequence[float]) -> Array:
    """Mean probabilities (K, Z, Y, X) of a group's networks on the grid of a cropped image."""
    axes, regions = group["axes"], bool(model["regions"])
    image = np.flip(image, group["flips"]).transpose(0, *(axis + 1 for axis in axes))
    shape, current = image.shape[1:], [spacing[axis] for axis in axes]
    wanted = [new or old for new, old in zip(group["spacing"], current, strict=True)]
    target = [max(1, round(n * old / new)) for n, old, new in zip(shape, current, wanted, strict=True)]
    inputs = resample(normalize(image, group["normalization"]), target, group["order"], separate_axis(current, wanted, group))
    logits = [average_tiles(open_network(folder / file, model), inputs, group) for file in group["networks"]]
    mean = np.mean([to_probabilities(one, regions) for one in logits], axis=0, dtype=np.float32).clip(LEAST, 1 - LEAST * regions)
    restored = resample(np.log(mean / (1 - mean) if regions else mean), shape, 1, separate_axis(wanted, current, group))
    return np.flip(to_probabilities(restored, regions).transpose(0, *(1 + axes.index(axis) for axis in range(3))), group["flips"])


def open_network(file: Path, model: Any) -> Callable[[Array], Array]:
    """A function from tiles (B, C, *space) to logits (B, K, *space)."""
    if model["runtime"] == "onnx":
        session = import_module("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda tiles: np.asarray(session.run(None, {"image": tiles})[0])
    if model["runtime"] == "openvino":
        compiled = import_module("openvino").Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": model["precision"]})
        return lambda tiles: np.asarray(compiled(tiles)[0])
    torch = import_module("torch")
    network = torch.export.load(file).module()
    return lambda tiles: np.asarray(network(torch.from_numpy(tiles)).detach())


def to_probabilities(logits: Array, regions: bool) -> Array:
    """Probabilities along the first axis: of regions each by itself, of labels together."""
    if regions:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0))


def normalize(image: Array, normalization: Any) -> Array:
    """Channels clipped, shifted and divided by constants or by their own statistics, some of them within a mask only."""
    inside, result = np.ones(image.shape[1:], bool), np.empty_like(image)
    if any(one["masked"] for one in normalization):
        inside = import_module("scipy.ndimage").binary_fill_holes((image != 0).any(axis=0))
    for out, channel, one in zip(result, image, normalization, strict=True):
        values, shift, divisor = (channel[inside] if one["masked"] else channel), one["shift"], one["divisor"]
        if one["by"] == "mean and std":
            shift, divisor = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        elif one["by"] == "least and greatest":
            shift, divisor = values.min(), values.max() - values.min()
        clipped = channel if one["low"] is None else np.clip(channel, np.float32(one["low"]), np.float32(one["high"]))
        out[...] = np.where(inside | (not one["masked"]), (clipped - np.float32(shift)) / np.float32(max(divisor, 1e-8)), 0)
    return result


def separate_axis(current: Sequence[float], new: Sequence[float], group: Any) -> int | None:
    """The axis along which voxels are repeated, not blended: that of thick slices, and that of the slices of 2D networks."""
    if group["spacing"][0] is None:
        return 0
    coarse = [spacing for spacing in (list(current), list(new)) if max(spacing) / min(spacing) > group["ratio"]]
    return coarse[0].index(max(coarse[0])) if coarse and coarse[0].count(max(coarse[0])) == 1 else None


def resample(image: Array, shape: Sequence[int], order: int, separate: int | None) -> Array:
    """An image (C, *shape) of the same extent: linear (order 1), or a cubic spline within the range of its input (3)."""
    result, blended = image, tuple(axis for axis in (1, 2, 3) if axis - 1 != separate)
    for axis in sorted(blended, key=lambda a: shape[a - 1] / image.shape[a]):
        if image.shape[axis] != shape[axis - 1]:
            matrix = resampling_matrix(image.shape[axis], shape[axis - 1], order)
            result = np.moveaxis(np.moveaxis(result, axis, -1) @ matrix.T, -1, axis)
    if order == 3:
        result = np.clip(result, image.min(axis=blended, keepdims=True), image.max(axis=blended, keepdims=True))
    if separate is not None:
        old, new = image.shape[separate + 1], shape[separate]
        result = result.take(np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(int), old - 1), separate + 1)
    return np.ascontiguousarray(result, np.float32)


def resampling_matrix(old: int, new: int, order: int) -> Array:
    """The matrix (new, old) that resamples an axis linearly (order 1) or by a cubic spline (3); edges repeat."""
    places = (np.arange(new) + 0.5)[:, None] * (old / new) - 0.5
    if order == 1:
        return np.asarray(np.maximum(0, 1 - np.abs(np.clip(places, 0, old - 1) - np.arange(old))), np.float32)
    size = old + 2 * EDGE
    values = (4 * np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)) / 6
    coefficients = np.linalg.solve(values, np.pad(np.eye(old), ((EDGE, EDGE), (0, 0)), mode="edge"))
    distance = np.abs(places + EDGE - np.arange(size))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6
    return np.asarray(np.where(distance < 1, near, far) @ coefficients, np.float32)


def average_tiles(compute: Callable[[Array], Array], image: Array, group: Any) -> Array:
    """Weighted mean of the logits (K, Z, Y, X) of overlapping tiles and their mirrored copies."""
    tile, patch = group["tile"], group["patch"]
    missing = [max(t - n, 0) for t, n in zip(tile, image.shape[1:], strict=True)]
    padded = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    weight = np.einsum("z,y,x->zyx", *group["weights"]).astype(np.float32)
    weight = np.maximum(weight, weight[weight > 0].min())
    sums, weights = np.zeros((group["heads"], *padded.shape[1:]), np.float32), np.zeros(padded.shape[1:], np.float32)
    room = [length - n for length, n in zip(padded.shape[1:], tile, strict=True)]
    last = [math.ceil(r / (n * step)) for r, n, step in zip(room, tile, group["steps"], strict=True)]
    for corner in product(*([round(r / max(n, 1) * i) for i in range(n + 1)] for r, n in zip(room, last, strict=True))):
        box = tuple(slice(start, start + n) for start, n in zip(corner, tile, strict=True))
        for copy in group["copies"]:
            part = np.flip(padded[(slice(None), *box)], copy["flips"])
            logits = compute(np.ascontiguousarray(part.reshape(1, -1, *patch)))[0].reshape(-1, *tile)[copy["order"]]
            sums[(slice(None), *box)] += weight * np.flip(logits, copy["flips"])
        weights[box] += len(group["copies"]) * weight
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape[1:], strict=True))
    return np.asarray((sums / weights)[(slice(None), *inner)])


def decide(mean: Array, model: Any) -> Array:
    """The values of probabilities (K, Z, Y, X): of the most probable label, or of the regions, painted in their order."""
    if not model["regions"]:
        return np.asarray(np.array(model["values"], model["dtype"])[mean.argmax(axis=0)])
    labels, masks = np.full(mean.shape[1:], model["values"][0], model["dtype"]), mean > 0.5
    for mask, value in zip(masks, model["regions"], strict=True):
        labels[mask] = value
    for overlap in model["overlaps"]:
        labels[(masks == np.isin(np.arange(len(masks)), overlap["heads"])[:, None, None, None]).all(axis=0)] = overlap["value"]
    return labels


def postprocess(labels: Array, model: Any, voxel_mm3: float) -> Array:
    """The label map after the model's steps."""
    for step in model["postprocessing"]:
        ndimage = import_module("scipy.ndimage")
        mask = np.isin(labels, step["labels"])
        if step["action"] == "holes":
            filled = ndimage.binary_fill_holes(mask.squeeze()).reshape(mask.shape)
            labels[filled & (labels == model["values"][0])] = step["fill"]
        else:
            numbers, _ = ndimage.label(mask, np.ones((3, 3, 3)))
            sizes = np.bincount(numbers[mask], minlength=1)
            least = sizes.max() if step["action"] == "largest" else math.ceil(step["mm3"] / voxel_mm3 - 1e-6)
            labels[mask & (sizes < least)[numbers]] = model["values"][0]
    return labels


if __name__ == "__main__":
    main()
