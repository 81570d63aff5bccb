"""Models with random weights and scans of noise, for tests of prediction in memory."""

import numpy as np
import SimpleITK as sitk
import torch

from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.network.build import build_unet
from nnseg.network.bundle import Member, Model

LABELS = Labels(names=("background", "front", "back"), values=(0, 3, 700))


def model_of(dimensions=3, channels=("MRI",), labels=LABELS, spacing=2.0) -> Model:
    ones, twos, threes = (1,) * dimensions, (2,) * dimensions, (3,) * dimensions
    network = Network(
        kind="plain", features=(4, 8), strides=(ones, twos), kernels=(threes, threes), blocks=(1, 1), decoder_blocks=(1,)
    )
    scheme = (Normalization(scheme="zscore"),) * len(channels)
    plan = Plan(
        name=f"{dimensions}d",
        dataset="phantom",
        recipe="default",
        channels=channels,
        patch=(8, 12, 8)[-dimensions:],
        labels=labels,
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(spacing,) * dimensions, normalization=scheme),
        network=network,
        training=Training(batch_size=2, precision="float32"),
        inference=Inference(mirror_axes=(0,)),
    )
    torch.manual_seed(1)
    state = build_unet(network, channels=len(channels), heads=len(labels.heads)).state_dict()
    return Model(members=(Member(plan=plan, fold=0, weights={n: t + 0.5 * torch.randn_like(t) for n, t in state.items()}),))


def array_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(5, 2, shape).astype(np.float32)


def itk_image(array, spacing=(1.5, 2.0, 1.0), vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(spacing[::-1])
    return image
