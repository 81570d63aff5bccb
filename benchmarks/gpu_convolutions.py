"""Are 3D convolutions right? A check of gpu.py: output and gradients against sums of matrix products.

A version of cuDNN computes wrong gradients in some cases without saying so; matrix products come from another library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from gpu_setting import Found, NotHereError, Setting
from torch import Tensor

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}

Shape = tuple[int, int, int, int]
"""Batch, channels in and out, and edge in voxels."""

CONVOLUTIONS = ((2, 1, 32, 128), (2, 32, 32, 128), (2, 64, 64, 64), (2, 128, 128, 32), (2, 320, 320, 8))
"""What networks compute, from their first to their last stage."""

LARGE_CONVOLUTION = (1, 32, 32, 408)
"""Of more than 2^31 values, which 32 bits cannot number."""

SMALL_CONVOLUTIONS = ((2, 1, 3, 6), (1, 4, 4, 7))

TOLERANCES = {torch.float32: 2e-3, torch.float16: 4e-3, torch.bfloat16: 1e-2}
"""Largest relative error: the result is rounded to as many digits, and CUDA rounds float32 to 11 bits before it multiplies."""

BYTES = 14
"""Memory of a check for each value of the image: image, result and gradients in 16 bits, and copies in another layout."""

SLAB = 8
"""Slices of which the products are computed at a time."""


def convolutions(setting: Setting) -> Found:
    """Convolutions of the usual sizes, in all types."""
    return _compared(setting, SMALL_CONVOLUTIONS if setting.small else CONVOLUTIONS, tuple(TOLERANCES))


def large_convolution(setting: Setting) -> Found:
    """A convolution of more values than 32 bits can number, in bfloat16."""
    shapes = SMALL_CONVOLUTIONS[:1] if setting.small else (LARGE_CONVOLUTION,)
    batch, before, after, edge = shapes[0]
    if setting.on_cuda and BYTES * batch * max(before, after) * edge**3 > torch.cuda.mem_get_info(setting.device)[0]:
        raise NotHereError("needs 30 GB of the device's memory")
    return _compared(setting, shapes, (torch.bfloat16,))


def _compared(setting: Setting, shapes: Sequence[Shape], dtypes: Sequence[torch.dtype]) -> Found:
    """Relative errors of output and gradients of 3 x 3 x 3 convolutions, against sums of matrix products."""
    numbers: dict[str, float] = {}
    wrong = []
    for shape in shapes:
        batch, before, after, edge = shape
        name = f"{batch} x {before} to {after} x {edge}^3"
        for dtype, layout in product(dtypes, LAYOUTS):
            errors = convolution_errors(setting.device, shape, dtype, LAYOUTS[layout])
            kind = f"{name}, {str(dtype).removeprefix('torch.')}, {layout}"
            numbers |= {f"{kind}, {part}": error for part, error in errors.items()}
            wrong += [f"{kind}, {part}: {error:.2g}" for part, error in errors.items() if not error <= TOLERANCES[dtype]]
    most = max(numbers, key=lambda name: numbers[name])
    text = f"wrong: {'; '.join(wrong)}" if wrong else f"largest relative error {numbers[most]:.2g} ({most})"
    return Found(text=text, numbers=numbers, passed=not wrong)


def convolution_errors(device: torch.device, shape: Shape, dtype: torch.dtype, layout: torch.memory_format) -> dict[str, float]:
    """Relative errors (of the norm) of a convolution's output and of its gradients, for random values."""
    batch, before, after, edge = shape
    generator = torch.Generator(device).manual_seed(0)
    draw = {"generator": generator, "device": device, "dtype": dtype}
    image = torch.randn(batch, before, edge, edge, edge, **draw).contiguous(memory_format=layout).requires_grad_()
    weight = (
        (torch.randn(after, before, 3, 3, 3, **draw) / math.sqrt(27 * before)).contiguous(memory_format=layout).requires_grad_()
    )
    upstream = torch.randn(batch, after, edge, edge, edge, **draw).contiguous(memory_format=layout)
    output = F.conv3d(image, weight, padding=1)
    output.backward(upstream)
    assert image.grad is not None and weight.grad is not None
    flipped = weight.detach().transpose(0, 1).flip(2, 3, 4)
    return {
        "output": _error_of_slabs(output.detach(), image.detach(), weight.detach()),
        "gradient of image": _error_of_slabs(image.grad, upstream, flipped),
        "gradient of weights": relative_difference(weight.grad, weight_gradient(image.detach(), upstream)),
    }


def convolved(image: Tensor, weight: Tensor, start: int, stop: int) -> Tensor:
    """Slices of a convolution with padding 1, float32, as a sum of matrix products over the kernel's 27 voxels.

    Args:
        image: (B, I, Z, Y, X).
        weight: (O, I, 3, 3, 3).
        start, stop: slices.
    """
    part, (height, width) = _padded(image, start, stop), image.shape[3:]
    total = torch.zeros(len(image), len(weight), stop - start, height, width, device=image.device)
    for z, y, x in product(range(3), repeat=3):
        near = part[:, :, z : z + stop - start, y : y + height, x : x + width]
        total += torch.einsum("oi,bizyx->bozyx", weight[:, :, z, y, x].float(), near)
    return total


def weight_gradient(image: Tensor, upstream: Tensor) -> Tensor:
    """The gradient (O, I, 3, 3, 3) of the weights of a convolution with padding 1, float64, as a sum of matrix products.

    Args:
        image: (B, I, Z, Y, X).
        upstream: gradient of the output (B, O, Z, Y, X).
    """
    depth, height, width = image.shape[2:]
    total = torch.zeros(upstream.shape[1], image.shape[1], 3, 3, 3, dtype=torch.float64, device=image.device)
    for start in range(0, depth, SLAB):
        stop = min(start + SLAB, depth)
        part, of_slab = _padded(image, start, stop), upstream[:, :, start:stop].float()
        for z, y, x in product(range(3), repeat=3):
            near = part[:, :, z : z + stop - start, y : y + height, x : x + width]
            total[:, :, z, y, x] += torch.einsum("bozyx,bizyx->oi", of_slab, near)
    return total


def _padded(image: Tensor, start: int, stop: int) -> Tensor:
    """Slices with one more on each side, and a voxel around them, float32; zeros outside the image."""
    part = image[:, :, max(start - 1, 0) : stop + 1].float()
    return F.pad(part, (1, 1, 1, 1, int(start == 0), int(stop == image.shape[2])))


def _error_of_slabs(found: Tensor, image: Tensor, weight: Tensor) -> float:
    """The relative error of what should be a convolution of an image; a few slices at a time, to save memory."""
    difference = norm = 0.0
    for start in range(0, image.shape[2], SLAB):
        stop = min(start + SLAB, image.shape[2])
        right = convolved(image, weight, start, stop)
        difference += float((found[:, :, start:stop].float() - right).double().square().sum())
        norm += float(right.double().square().sum())
    return math.sqrt(difference / norm)


def relative_difference(found: Tensor, right: Tensor) -> float:
    """The norm of the difference, as a share of that of what is right."""
    return float((found.double() - right.double()).norm() / right.double().norm())
