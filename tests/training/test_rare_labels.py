"""A label of few cases and of fewer than one voxel in a thousand is learned, beside a common one and beside cases without any."""

import numpy as np
import pytest
import torch
from balls import CPU, plan_of

from nnseg.core.geometry import Box, Grid, Placement
from nnseg.core.plan import Augmentation, Network
from nnseg.core.schedule import Course
from nnseg.network.device import autocast_dtype
from nnseg.storage.cases import StoredCase
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.loop import take_steps
from nnseg.training.patches import Patches
from nnseg.training.validation import Validation

EDGE, RADIUS = 40, 2.4


def case(name, seed, *, organ=True, lesion=False):
    """A volume of noise with an organ or none and, in the organ, a small bright lesion or none."""
    random = np.random.default_rng(seed)
    places = np.indices((EDGE,) * 3) - random.uniform(16, 24, (3, 1, 1, 1))
    labels = ((places**2).sum(0) < 12**2 if organ else np.zeros((EDGE,) * 3, bool)).astype(np.int16)
    if lesion:
        labels[((places - random.uniform(-5, 5, (3, 1, 1, 1))) ** 2).sum(0) < RADIUS**2] = 2
    image = (labels + random.normal(0, 0.4, labels.shape)).astype(np.float32)[None]
    grid = Grid(shape=labels.shape)
    placement = Placement(scan=grid, crop=Box.whole(grid.shape), axes=(0, 1, 2), shape=grid.shape, spacing=grid.spacing)
    locations = {i: np.argwhere(labels == i).astype(np.int32) for i in (1, 2) if (labels == i).any()}
    return StoredCase(name=name, image=image, labels=labels, locations=locations, annotated=None, placement=placement)


@pytest.mark.slow
def test_a_tiny_label_of_few_cases_does_not_collapse():
    """With the optimizer, the growing patches and the network of recipe auto on a CPU, in 250 steps."""
    settings = {
        "optimizer": "muon",
        "averaging": 0.999,
        "weight_decay": 1e-2,
        "schedule": "cosine",
        "warmup_steps": 25,
        "growing": True,
    }
    once, twice, edges = ((n,) * 3 for n in (1, 2, 3))
    network = Network(
        kind="plain",
        features=(16, 32, 64, 128),
        strides=(once, twice, twice, twice),
        kernels=(edges,) * 4,
        blocks=(2,) * 4,
        decoder_blocks=(2,) * 3,
    )
    plan = plan_of(augmentation=Augmentation(blur_probability=0.0, low_resolution_probability=0.0), **settings)
    plan = plan.model_copy(update={"patch": (32, 32, 32), "network": network})
    lesions = [case(f"lesion {i}", i, lesion=True) for i in range(2)]
    others = [case(f"organ {i}", 10 + i) for i in range(4)] + [case(f"empty {i}", 20 + i, organ=False) for i in range(10)]
    assert 0 < np.mean([np.mean(one.labels == 2) for one in lesions]) < 0.001
    context = TrainingContext(plan=plan, fold=0, device=CPU, dtype=autocast_dtype(CPU, "auto"))
    learner = Learner(context, Course.of(250, plan.training))
    for _ in take_steps(learner, Patches([*lesions, *others], plan, fold=0, device=CPU), Validation([], context)):
        pass
    trained = learner.network.eval()
    trained.load_state_dict(learner.weights())
    new = [case("new", 30 + number, lesion=True) for number in range(4)]
    dice = [_dice(_segment(trained, one) == 2, one.labels == 2) for one in new]
    assert min(dice) > 0.5, dice
    empty = [case("empty", 40 + number, organ=False) for number in range(4)]
    wrong = [np.mean(_segment(trained, one) > 0) for one in empty]
    assert max(wrong) < 0.001, wrong


def _segment(network, one):
    with torch.no_grad():
        finest, *_ = network(torch.from_numpy(one.image)[None])
    return finest.view(-1, *one.labels.shape).argmax(0).numpy()


def _dice(found, reference):
    return 2 * np.sum(found & reference) / (np.sum(found) + np.sum(reference))
