"""Fingerprints made up for the planner's tests."""

from collections.abc import Callable
from typing import Any

import pytest

from nnseg.core.fingerprint import CaseMeasure, Fingerprint, Intensity
from nnseg.core.geometry import Shape
from nnseg.core.labels import Labels

MakeFingerprint = Callable[..., Fingerprint]


@pytest.fixture(scope="session")
def make_fingerprint() -> MakeFingerprint:
    """A factory of fingerprints of ``count`` cases alike."""

    def make(
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        *,
        count: int = 200,
        labels: int = 3,
        structures: dict[str, Shape] | None = None,
        **changes: Any,
    ) -> Fingerprint:
        names = ("background", *(f"label{i}" for i in range(1, labels)))
        voxels = dict.fromkeys(names, 50)
        cases = tuple(
            CaseMeasure(
                name=f"case{i:04}",
                key=f"key{i}",
                shape=shape,
                spacing=spacing,
                cropped_shape=shape,
                voxels=voxels,
                structures=structures or {},
            )
            for i in range(count)
        )
        ends = {"min": -1000.0, "max": 2000.0, "percentile_00_5": -20.0, "percentile_99_5": 210.0}
        content: dict[str, Any] = {
            "dataset": "Example",
            "layout": "pairs of folders",
            "channels": ("MRI",),
            "labels": Labels(names=names, values=tuple(range(labels))),
            "cases": cases,
            "intensities": (Intensity(mean=90.0, median=95.0, std=30.0, **ends),),
        }
        return Fingerprint(**{**content, **changes})

    return make
