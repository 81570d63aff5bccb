"""A plan small enough to read, for tests of the way to the network's grid and back."""

from collections.abc import Callable
from typing import Any

import pytest

from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training


def _small_plan(dimensions: int = 3, **changes: Any) -> Plan:
    preprocessing = {
        "axes": (0, 1, 2),
        "spacing": (1.0,) * dimensions,
        "normalization": (Normalization(scheme="zscore"),),
    }
    preprocessing |= {name: changes.pop(name) for name in list(changes) if name in Preprocessing.model_fields}
    ones, twos, threes = ((n,) * dimensions for n in (1, 2, 3))
    plan = {
        "name": f"{dimensions}d",
        "dataset": "Phantom",
        "recipe": "test",
        "channels": ("MRI",),
        "patch": (16,) * dimensions,
        "labels": Labels(names=("background", "organ", "lesion"), values=(0, 1, 2)),
        "preprocessing": Preprocessing(**preprocessing),
        "network": Network(
            kind="plain", features=(4, 8), strides=(ones, twos), kernels=(threes, threes), blocks=(1, 1), decoder_blocks=(1,)
        ),
        "training": Training(batch_size=2),
        "inference": Inference(),
    }
    return Plan(**(plan | changes))


@pytest.fixture(scope="session")
def small_plan() -> Callable[..., Plan]:
    """A function (dimensions=3, **changes) -> Plan; changes are fields of the plan or of its preprocessing."""
    return _small_plan
