"""Two processes, each with a part of the batch, against one with all of it."""

import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist
from flat import NESTED, THREE, plan_for
from warm import CONTEXT

from nnseg.training.context import Ranks
from nnseg.training.losses import LOSSES, make_loss

SETTINGS = [{}, {"batch_dice": True, "distillation": 0.5}, {"class_weights": True, "label_smoothing": 0.1, "batch_dice": True}]
CASES = list(itertools.product([*LOSSES, "own"], [THREE, NESTED], range(len(SETTINGS))))
PARTS = [slice(0, 3), slice(3, 5)]


def own(logits, labels):
    errors = (logits.square() * (labels >= 0)[:, None]).flatten(1)
    return errors.mean(1).mean()


def plan_of(name, labels, *, class_weights=False, **training):
    weights = tuple(float(w) for w in range(1, len(labels.heads) + 1)) if class_weights else ()
    return plan_for("ce" if name == "own" else name, labels=labels, batch_size=5, class_weights=weights, **training)


def values_and_gradients(part, ranks):
    """Of every case, on a part of five samples; unequally many voxels are ignored, and labels known, in its halves."""
    found = {}
    for number, (name, legend, setting) in enumerate(CASES):
        generator = torch.Generator().manual_seed(number)
        logits = torch.randn(5, len(legend.heads), 8, 8, generator=generator)
        labels = torch.randint(0, 3, (5, 8, 8), generator=generator)
        labels[0], labels[1, :3], labels[4, 5:] = -1, -1, -1
        labels[2:4] %= 2
        known = torch.tensor([[True] * 3] * 3 + [[True, True, False]] + [[True] * 3])[part]
        logits = logits[part].requires_grad_()
        loss = make_loss(plan_of(name, legend, **SETTINGS[setting]), ranks=ranks, loss=own if name == "own" else None)
        known = known if number % 2 and not known.all() else None
        heads = len(legend.heads) if legend.regions else len(legend.heads) - 1
        given = torch.rand(5, heads, 8, 8, generator=generator)[part] / heads if SETTINGS[setting].get("distillation") else None
        value = loss([logits, logits[:, :, ::2, ::2]], labels[part], known, given)
        value.backward()
        found[f"value {number}"], found[f"gradient {number}"] = value.detach().numpy(), logits.grad.numpy()
    return found


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    np.savez(folder / f"{rank}.npz", **values_and_gradients(PARTS[rank], Ranks(rank=rank, size=2)))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    processes = [CONTEXT.Process(target=work, args=(rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
    return [np.load(folder / f"{rank}.npz") for rank in (0, 1)], values_and_gradients(slice(None), Ranks())


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n][0]}-{len(CASES[n][1].heads)}-{CASES[n][2]}")
def test_two_ranks_give_the_loss_and_the_mean_gradient_of_one(found, number):
    parts, whole = found
    assert [float(p[f"value {number}"]) for p in parts] == pytest.approx([float(whole[f"value {number}"])] * 2, abs=1e-5)
    gradients = np.concatenate([p[f"gradient {number}"] for p in parts]) / 2
    np.testing.assert_allclose(gradients, whole[f"gradient {number}"], atol=1e-6, rtol=1e-4)
    assert np.abs(gradients).max() > 1e-4
