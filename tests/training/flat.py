"""Legends of labels and of regions, and a flat plan around a loss."""

from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training

THREE = Labels(names=("background", "a", "b"), values=(0, 1, 2))
NESTED = Labels(
    names=("background", "oedema", "core"),
    values=(0, 1, 2),
    regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)),
)


def plan_for(loss="dice_ce", *, labels=THREE, batch_size=2, **training):
    return Plan(
        name="2d",
        dataset="d",
        recipe="r",
        channels=("x",),
        patch=(8, 8),
        labels=labels,
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1, 1), normalization=(Normalization(scheme="zscore"),)),
        network=Network(kind="plain", features=(4,), strides=((1, 1),), kernels=((3, 3),), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=batch_size, loss=loss, **training),
        inference=Inference(),
    )
