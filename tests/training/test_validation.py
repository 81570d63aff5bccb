"""The estimate of Dice on held-out patches, by hand: the network below answers with the image itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.training.context import TrainingContext
from nnseg.training.validation import Validation


def setting_of(*, heads=3, regions=(), patch=(1, 1, 4)) -> TrainingContext:
    ones = (1,) * len(patch)
    plan = Plan(
        name=f"{len(patch)}d",
        dataset="phantoms",
        recipe="test",
        channels=tuple(f"channel {i}" for i in range(heads)),
        patch=patch,
        labels=Labels(names=("background", "a", "b"), values=(0, 1, 2), regions=regions),
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(1.0,) * len(patch), normalization=(Normalization(scheme="none"),) * heads
        ),
        network=Network(kind="plain", features=(8,), strides=(ones,), kernels=(ones,), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=1),
        inference=Inference(),
    )
    return TrainingContext(plan=plan, fold=0, device=torch.device("cpu"), dtype=torch.float32)


def case_of(predicted, labels, *, heads=3, known=None):
    """A row of voxels, and what the network will say of it: label indices, or for each region whether it is there."""
    predicted = np.array(predicted)
    image = np.eye(heads, dtype=np.float32)[predicted].T if predicted.ndim == 1 else predicted * 2.0 - 1
    labels = np.array(labels, np.int8).reshape(1, 1, -1)
    locations = {1: np.zeros((0, 3), np.int32)}
    return SimpleNamespace(
        name="one", image=image.astype(np.float32).reshape(heads, 1, 1, -1), labels=labels, locations=locations, known=known
    )


def estimate(cases, **how):
    return Validation(cases, setting_of(**how)).estimate(nn.Identity(), {})


def test_counts_are_pooled_over_patches():
    cases = [case_of([0, 1, 1, 2], [0, 1, 2, 2]), case_of([1, 1, 0, 0], [1, 0, 0, 1])]
    assert estimate(cases) == {"a": pytest.approx(2 * 2 / (4 + 3)), "b": pytest.approx(2 * 1 / (1 + 2))}


def test_a_label_that_neither_side_shows_is_undefined():
    assert estimate([case_of([0, 1, 1, 0], [0, 1, 0, 0])]) == {"a": pytest.approx(2 / 3), "b": None}


def test_voxels_that_are_ignored_do_not_count():
    assert estimate([case_of([1, 1, 2, 2], [1, -1, -1, 0])])["a"] == 1.0


def test_a_label_counts_only_where_it_was_annotated():
    # Of b the first case knows nothing: what is predicted there is neither right nor wrong.
    cases = [case_of([1, 1, 2, 2], [1, 0, 0, 0], known=(0, 1)), case_of([2, 2, 1, 0], [2, 0, 0, 0], known=(0, 2))]
    assert estimate(cases) == {"a": pytest.approx(2 * 1 / (2 + 1)), "b": pytest.approx(2 * 1 / (2 + 1))}
    assert estimate([case_of([1, 2, 2, 2], [1, 0, 0, 0], known=(0, 1))]) == {"a": 1.0, "b": None}


def test_a_region_counts_only_where_all_of_it_was_annotated():
    regions = (Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2))
    whole, core = [1, 1, 1, 0], [0, 1, 0, 0]
    partly = case_of([whole, core], [0, 2, 2, 0], heads=2, known=(0, 2))
    fully = case_of([whole, core], [1, 1, 2, 0], heads=2)
    assert estimate([partly], heads=2, regions=regions) == {"whole": None, "core": pytest.approx(2 / 3)}
    assert estimate([partly, fully], heads=2, regions=regions) == {"whole": 1.0, "core": pytest.approx(2 * 1 / (2 + 3))}


def test_of_many_cases_some_are_taken_and_of_none_nothing_is_said():
    cases = [case_of([1, 1, 1, 1], [int(n % 2)] * 4, known=None if n % 2 else (0, 2)) for n in range(40)]
    assert estimate(cases)["a"] == 1.0  # 16 patches, four at a time, of differing knowledge
    assert estimate([]) == {}
