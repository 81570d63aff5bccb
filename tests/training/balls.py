"""A training small enough for tests: noisy balls with a brighter core."""

import numpy as np
import torch

from nnseg.core.geometry import Box, Grid, Placement
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.schedule import Course
from nnseg.storage.cases import StoredCase
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.loop import take_steps
from nnseg.training.patches import Patches
from nnseg.training.validation import Validation

CPU = torch.device("cpu")


def plan_of(*, dimensions=3, regions=(), **training):
    ones, twos, threes = ((n,) * dimensions for n in (1, 2, 3))
    settings = {"batch_size": 2, "epoch_steps": 4, "optimizer": "adamw", "learning_rate": 3e-3, "averaging": 0.9, **training}
    return Plan(
        name=f"{dimensions}d",
        dataset="balls",
        recipe="test",
        channels=("MRI",),
        patch=(16,) * dimensions,
        labels=Labels(names=("background", "shell", "core"), values=(0, 1, 2), regions=regions),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0,) * dimensions, normalization=(Normalization(scheme="zscore"),)),
        network=Network(
            kind="plain", features=(4, 8), strides=(ones, twos), kernels=(threes, threes), blocks=(1, 1), decoder_blocks=(1,)
        ),
        training=Training(**settings),
        inference=Inference(),
    )


def ball(name, seed):
    """A noisy ball with a brighter core, as a preprocessed case."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:18, :20, :16]
    distance = np.sqrt((z - 9) ** 2 + (y - 10) ** 2 + (x - 8) ** 2)
    labels = (distance < 6).astype(np.int16) + (distance < 3)
    image = (labels + random.normal(0, 0.3, labels.shape)).astype(np.float32)[None]
    grid = Grid(shape=labels.shape)
    placement = Placement(scan=grid, crop=Box.whole(grid.shape), axes=(0, 1, 2), shape=grid.shape, spacing=grid.spacing)
    locations = {i: np.argwhere(labels == i).astype(np.int32) for i in (1, 2)}
    return StoredCase(name=name, image=image, labels=labels, locations=locations, annotated=None, placement=placement)


def world(plan, fold=0):
    cases = [ball(f"ball {i}", i) for i in range(4)]
    context = TrainingContext(plan=plan, fold=fold, device=CPU, dtype=torch.float32)
    return context, Patches(cases[:3], plan, fold=fold, device=CPU), Validation(cases[3:], context)


def learner_of(context, steps=12):
    return Learner(context, Course.of(steps, context.plan.training))


def epochs_of(steps):
    return [epoch for epoch in steps if epoch]


def trained(plan, steps=12):
    context, patches, validation = world(plan)
    learner = learner_of(context, steps)
    return learner, epochs_of(take_steps(learner, patches, validation))


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.weights().values(), other.weights().values(), strict=True))
