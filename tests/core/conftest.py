"""A plan to look at, and its content as a file would give it."""

from typing import Any

import pytest

from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training


@pytest.fixture
def plan() -> Plan:
    return Plan(
        name="3d",
        dataset="Balls",
        recipe="auto",
        channels=("MRI",),
        patch=(16, 24, 16),
        labels=Labels(names=("background", "ball"), values=(0, 1)),
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(1, 1, 1.5), normalization=(Normalization(scheme="zscore"),), why={"spacing": "the median"}
        ),
        network=Network(
            kind="plain",
            features=(8, 16),
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((3, 3, 3),) * 2,
            blocks=(2, 2),
            decoder_blocks=(2,),
        ),
        training=Training(batch_size=2, learning_rate=1e-7),
        inference=Inference(mirror_axes=(0, 2)),
        why={"patch": "covers the largest case"},
    )


@pytest.fixture
def content(plan: Plan) -> dict[str, Any]:
    """The plan as TOML holds it: lists for tuples, no nulls."""
    return plan.model_dump(mode="json", exclude_none=True)
