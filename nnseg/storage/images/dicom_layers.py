"""Masks that may overlap, as the channels of a label map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnseg.core.errors import ScanError
from nnseg.core.limits import check_limit
from nnseg.storage.images.raw import LabelSegment, ReadOptions, check_size


def layered(
    path: Path,
    masks: Iterable[tuple[int, Sequence[tuple[int, npt.NDArray[np.bool_]]]]],
    segments: Mapping[int, LabelSegment],
    empty: npt.NDArray[Any],
    options: ReadOptions,
) -> tuple[list[npt.NDArray[Any]], dict[int, int]]:
    """Volumes (Z, Y, X) in which no two segments overlap, and the volume of each segment, by its number.

    Args:
        masks: numbers of segments, with their slices and the masks (Y, X) on these.
        empty: a volume of zeros.

    Raises:
        ScanError: so many segments overlap that their volumes would be too large.
    """
    layers, channels = [empty.copy()], dict.fromkeys(segments, 0)
    for number, of_segment in masks:
        free = (i for i, layer in enumerate(layers) if not any(layer[z][mask].any() for z, mask in of_segment))
        channel = next(free, len(layers))
        if channel == len(layers):
            check_limit("channels", channel + 1, path, "has {:,} segments that overlap", ScanError, "divide it", "NS-S037")
            check_size(path, (channel + 1, *empty.shape), empty.dtype, options)
            layers.append(empty.copy())
        for z, mask in of_segment:
            layers[channel][z][mask] = segments[number].value
        channels[number] = channel
    return layers, channels
