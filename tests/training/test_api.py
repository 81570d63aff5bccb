"""Trainings from Python, as the documentation shows them."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from balls import ball, plan_of
from torch import nn

import nnseg
from nnseg.core.errors import PlanError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.network.build import NETWORKS, DeeplySupervised
from nnseg.network.bundle import save_model
from nnseg.training.api import train


def scan_of(case):
    grid = Grid(shape=case.labels.shape)
    return Scan(image=case.image, grid=grid, source=Source(files=(), grid=grid))


def test_a_training_from_python_gives_a_model_that_predicts():
    plan = plan_of(epoch_steps=40, learning_rate=1e-2)
    shown = ball("unseen", 9)
    grid = Grid(shape=shown.labels.shape)
    scans = [scan_of(ball(f"ball {i}", i)) for i in range(3)]
    maps = [LabelMap(labels=ball(f"ball {i}", i).labels, grid=grid) for i in range(3)]
    cases = [nnseg.preprocess(*pair, plan, name=f"ball {i}") for i, pair in enumerate(zip(scans, maps, strict=True))]
    training = train(plan, cases[:2], held_out=cases[2:], steps=120, device="cpu")
    epochs = list(training)
    assert [e.step for e in epochs] == [40, 80, 120]
    assert epochs[-1].loss < 0.6 * epochs[0].loss
    found = nnseg.load(training.model(), device="cpu").predict(scan_of(shown)).label_map
    assert 2 * ((found > 0) & (shown.labels > 0)).sum() / ((found > 0).sum() + (shown.labels > 0).sum()) > 0.8


def test_a_loss_and_a_network_of_ones_own_are_plain_functions():
    def my_network(plan):
        torch.manual_seed(1)
        return nn.Conv3d(plan.input_channels, len(plan.labels.heads), 3, padding=1)

    def my_loss(logits, labels):
        return nn.functional.cross_entropy(logits, labels.clamp(min=0))

    training = train(plan_of(learning_rate=0.1), [ball("a", 0)], steps=40, device="cpu", loss=my_loss, network=my_network)
    epochs = list(training)
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert set(training.model().members[0].weights) == {"weight", "bias"}
    model = nnseg.load(training.model(), device="cpu", network=my_network)
    case = ball("b", 1)
    assert np.mean(model.predict(scan_of(case)).label_map == case.labels) > 0.9


def test_a_kind_of_network_that_is_no_unet_is_trained_saved_and_predicts(monkeypatch, tmp_path):
    def flat(plan):
        layers = [("body", nn.Conv3d(plan.input_channels, 8, 3, padding=1)), ("act", nn.ReLU()), ("heads", nn.Conv3d(8, 3, 1))]
        return nn.Sequential(OrderedDict(layers))

    monkeypatch.setitem(NETWORKS, "plain", flat)
    training = train(plan_of(learning_rate=0.03, averaging=0.0), [ball("a", 0)], held_out=[ball("b", 1)], steps=40, device="cpu")
    assert not isinstance(training.learner.network, DeeplySupervised)
    epochs = list(training)
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    save_model(training.model(), tmp_path / "flat.nnseg")
    shown = ball("c", 2)
    found = nnseg.load(tmp_path / "flat.nnseg", device="cpu").predict(scan_of(shown))
    assert np.mean(found.label_map == shown.labels) > 0.85


def test_a_network_of_ones_own_may_count_batches_and_answer_at_several_stages():
    class Mine(nn.Module):
        def __init__(self, plan):
            super().__init__()
            self.body = nn.Sequential(nn.Conv3d(plan.input_channels, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU())
            self.heads = nn.ModuleList(nn.Conv3d(8, len(plan.labels.heads), 1) for _ in range(2))

        def forward(self, image):
            features = self.body(image)
            return [self.heads[0](features), self.heads[1](nn.functional.avg_pool3d(features, 2))]

    case = ball("a", 0)
    training = train(plan_of(averaging=0.5), [case], steps=8, device="cpu", network=Mine)
    assert len(list(training)) == 2
    assert training.weights()["body.1.num_batches_tracked"] == 8
    found = nnseg.load(training.model(), device="cpu", network=Mine).predict(scan_of(case)).label_map
    assert found.shape == case.labels.shape


def test_deep_supervision_of_a_network_of_ones_own_is_left_alone():
    class Mine(nn.Module):
        def __init__(self, plan):
            super().__init__()
            self.deep_supervision, self.heads = False, [torch.zeros(1)]  # attributes that MONAI's DynUNet has too
            self.body = nn.Conv3d(plan.input_channels, len(plan.labels.heads), 3, padding=1)

        def forward(self, image):
            assert not self.deep_supervision
            return self.body(image)

    assert plan_of().training.deep_supervision
    assert len(list(train(plan_of(), [ball("a", 0)], steps=4, device="cpu", network=Mine))) == 1


def test_a_training_can_be_left_and_gone_on_with():
    training = train(plan_of(), [ball("a", 0)], steps=12, device="cpu")
    first = next(iter(training))
    assert [first.step] + [epoch.step for epoch in training] == [4, 8, 12]


def test_a_training_needs_a_length():
    with pytest.raises(PlanError, match="length of training"):
        train(plan_of(), [ball("a", 0)], device="cpu")


def test_a_normalizer_of_ones_own_goes_into_preprocessing_and_prediction():
    def halved(image):
        return image / 2

    case, plan = ball("a", 0), plan_of()
    scan = scan_of(case)
    assert np.allclose(nnseg.preprocess(scan, None, plan, normalizer=halved).image, case.image / 2, atol=1e-6)
    training = train(plan, [case], steps=4, device="cpu")
    list(training)
    own, plain = (nnseg.load(training.model(), device="cpu", **how) for how in ({"normalizer": halved}, {}))
    ours, others = (model.predict(scan, probabilities=True).probabilities for model in (own, plain))
    assert not np.allclose(ours, others)
