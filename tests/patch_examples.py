"""Plans and cases for tests of training patches."""

from types import SimpleNamespace

import numpy as np
import torch

from nnseg.core.labels import Labels
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training

CPU = torch.device("cpu")
STILL = {f"{n}_probability": 0.0 for n in ("rotation", "scaling", "noise", "blur", "brightness", "contrast", "low_resolution")}
STILL |= {"inverted_gamma_probability": 0.0, "gamma_probability": 0.0}
WILD = dict.fromkeys(STILL, 0.5)


def plan_of(patch=(8, 8, 8), *, augmentation=STILL, regions=(), channels=1, masked=False, **training):
    ones = (1,) * len(patch)
    return Plan(
        name=f"{len(patch)}d",
        dataset="phantoms",
        recipe="test",
        channels=tuple(f"channel {i}" for i in range(channels)),
        patch=patch,
        labels=Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3), regions=regions),
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(1.0,) * len(patch), normalization=(Normalization(scheme="zscore", masked=masked),) * channels
        ),
        network=Network(kind="plain", features=(8,), strides=(ones,), kernels=(ones,), blocks=(1,), decoder_blocks=()),
        training=Training(**{"batch_size": 2, "augmentation": Augmentation(**augmentation), **training}),
        inference=Inference(),
    )


def case_of(name="one", shape=(20, 18, 16), voxels=None, channels=1, known=None):
    """Each voxel's value is its place in the array (times 1, 2, ... by channel), so that a patch tells where it was taken."""
    labels = np.zeros(shape, np.int16)
    for label, places in (voxels or {}).items():
        labels[tuple(np.array(places).T)] = label
    places = np.arange(labels.size, dtype=np.float32).reshape(shape)
    image = np.stack([places * (c + 1) for c in range(channels)])
    locations = {label: np.array(places, np.int32) for label, places in (voxels or {}).items()}
    return SimpleNamespace(name=name, image=image, labels=labels, locations=locations, annotated=None, known=known)
