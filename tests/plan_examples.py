"""A plan small enough for tests of runs that are not trained."""

from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training


def small_plan(labels: Labels) -> Plan:
    return Plan(
        name="3d",
        dataset="d",
        recipe="auto",
        channels=("CT",),
        labels=labels,
        patch=(16, 16, 16),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0, 1.0, 1.0), normalization=(Normalization(scheme="zscore"),)),
        network=Network(
            kind="plain",
            features=(4, 8),
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((3, 3, 3),) * 2,
            blocks=(2, 2),
            decoder_blocks=(2,),
        ),
        training=Training(batch_size=2),
        inference=Inference(),
    )
