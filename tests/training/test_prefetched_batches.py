"""Batches drawn ahead are the ones drawn directly, errors come when it is their turn, and no thread is left behind."""

import threading
import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnseg.core.labels import Labels
from nnseg.core.plan import Augmentation, Extra, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.training.loop import prefetched
from nnseg.training.patches import Patches

EVERYTHING = {name: 0.4 for name in Augmentation.model_fields if name.endswith("_probability")}
EVERYTHING |= {"mirror_axes": (0, 1, 2), "quarter_turn_axes": (0, 1), "swapped_labels": ((1, 3),), "swap_axis": 2}
EVERYTHING |= {"extra": (Extra(name="GaussianNoiseTransform"), Extra(name="GammaTransform"))}


def real_patches() -> Patches:
    """Of two channels and four labels, under every change there is."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 4, (4, 4, 4)), np.ones((8, 7, 6), np.int16))
    cases = [
        SimpleNamespace(
            name=f"case {n}",
            image=rng.standard_normal((2, *labels.shape), np.float32),
            labels=np.roll(labels, n),
            locations={i: np.argwhere(np.roll(labels, n) == i) for i in (1, 2, 3)},
            annotated=None,
            known=None if n else (1, 3),
        )
        for n in range(3)
    ]
    plan = Plan(
        name="3d",
        dataset="phantoms",
        recipe="test",
        channels=("T1", "T2"),
        patch=(16, 16, 20),
        labels=Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3)),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0,) * 3, normalization=(Normalization(scheme="zscore"),) * 2),
        network=Network(kind="plain", features=(8,), strides=((1,) * 3,), kernels=((1,) * 3,), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=3, augmentation=Augmentation(**EVERYTHING)),
        inference=Inference(),
    )
    return Patches(cases, plan, fold=1, device=torch.device("cpu"))


class Counting:
    """Stands for patches: batch n is n; some fail, and some take their time."""

    def __init__(self, failing=(), slow=()):
        self.failing, self.slow, self.begun = failing, slow, []

    def batch(self, step):
        self.begun.append(step)
        if step in self.slow:
            time.sleep(0.1)
        if step in self.failing:
            raise ValueError(f"step {step}")
        return step


def workers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("patches")]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_batches_are_those_drawn_directly_bit_for_bit(ahead):
    patches = real_patches()
    running = prefetched(patches.batch, 5, ahead=ahead)
    for step, batch in zip(range(5, 17), running, strict=False):
        direct = patches.batch(step)
        assert torch.equal(batch.image.view(torch.int32), direct.image.view(torch.int32))
        assert torch.equal(batch.labels, direct.labels)
        assert torch.equal(batch.known, direct.known)
        assert batch.names == direct.names
    running.close()


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_order_is_kept_when_an_early_batch_takes_longest(ahead):
    assert list(islice(prefetched(Counting(slow=(0, 2)).batch, 0, ahead=ahead), 6)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_an_error_is_raised_when_its_turn_comes(ahead):
    running = prefetched(Counting(failing=(3, 4), slow=(3,)).batch, 1, ahead=ahead)
    assert list(islice(running, 2)) == [1, 2]
    with pytest.raises(ValueError, match="step 3"):
        next(running)
    assert not workers()


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_than_asked_for_is_drawn_ahead(ahead):
    patches = Counting()
    running = prefetched(patches.batch, 0, ahead=ahead)
    next(running)
    time.sleep(0.05)
    assert sorted(patches.begun) == list(range(ahead + 1))
    running.close()


def test_closing_leaves_no_thread_and_waits_for_what_was_begun():
    patches = Counting(slow=range(1, 9))
    running = prefetched(patches.batch, 0, ahead=4)
    next(running)
    assert workers()
    running.close()
    assert not workers()
    begun = list(patches.begun)
    time.sleep(0.15)
    assert patches.begun == begun


def test_nothing_is_drawn_before_the_first_batch_is_asked_for():
    patches = Counting()
    prefetched(patches.batch, 0, ahead=2)
    assert not patches.begun
    assert not workers()
