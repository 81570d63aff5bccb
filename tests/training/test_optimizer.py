import math

import pytest
import torch
from torch import nn

from nnseg.core.plan import Training
from nnseg.training.muon import orthogonal
from nnseg.training.optimizer import OPTIMIZERS, WeightAverage, make_optimizer


def training(**changes):
    return Training(**({"batch_size": 2, "learning_rate": 0.1} | changes))


def test_nesterov_by_hand():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer([weight], training(momentum=0.5, weight_decay=0.0))
    for expected in (1 - 0.1 * (1 + 0.5 * 1), 0.85 - 0.1 * (1 + 0.5 * 1.5)):  # gradient 1: velocity 1, then 1.5
        weight.grad = torch.ones(1)
        optimizer.step()
        assert weight.item() == pytest.approx(expected)


def test_adamw_by_hand():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer([weight], training(optimizer="adamw", weight_decay=0.5))
    weight.grad = torch.tensor([7.0])
    optimizer.step()
    assert weight.item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1)  # decay, then a step of the rate's length


@pytest.mark.parametrize("shape", [(16, 432), (256, 6912), (64, 64), (128, 32), (16, 16)])
def test_a_matrix_is_made_orthogonal(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * torch.logspace(0, -1, shape[1])
    found = orthogonal(matrix).float()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(left.mT @ found @ right.mT)
    assert torch.linalg.svdvals(found).max() < 1.3
    assert values.quantile(0.1) > 0.5
    assert values.median() == pytest.approx(1, abs=0.3)


def test_muon_updates_convolutions_by_a_step_of_the_rates_size_and_all_else_as_adamw():
    torch.manual_seed(0)
    weights = {
        name: nn.Parameter(torch.randn(32, 16, 3, 3, 3) if name == "kernel" else torch.randn(32)) for name in ("kernel", "bias")
    }
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = make_optimizer(list(weights.values()), training(optimizer="muon", weight_decay=0.0))
    for weight in weights.values():
        weight.grad = torch.randn_like(weight)
    gradient = weights["kernel"].grad.clone()
    optimizer.step()
    moved = (before["kernel"] - weights["kernel"]).detach()
    assert moved.square().mean().sqrt() == pytest.approx(0.2 * 0.1, rel=0.15)
    assert (moved * gradient).sum() > 0
    assert torch.allclose(before["bias"] - weights["bias"], 0.1 * torch.sign(weights["bias"].grad), atol=1e-4)


def test_muon_goes_on_from_its_state_as_if_it_had_not_stopped():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(16, 16, 3, 3)), nn.Parameter(torch.randn(16))]
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    gradients = [[torch.randn_like(weight) for weight in weights] for _ in range(4)]

    def take(parameters, optimizer, steps):
        for step in steps:
            for parameter, gradient in zip(parameters, gradients[step], strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    whole, first, then = (make_optimizer(of, training(optimizer="muon")) for of in (weights, copies, copies))
    take(weights, whole, range(4))
    take(copies, first, range(2))
    then.load_state_dict(first.state_dict())
    take(copies, then, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_gradient_stays(name):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([used, unused], training(optimizer=name))
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert (used < 1).all()


def test_sgd_without_momentum_is_plain_descent():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer([weight], training(momentum=0.0, weight_decay=0.0))
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == pytest.approx(0.9)


def network(value):
    result = nn.Linear(1, 1, bias=False)
    nn.init.constant_(result.weight, value)
    return result


def test_weight_average_by_hand():
    net = network(0.0)
    average = WeightAverage(net, 0.15)
    nn.init.constant_(net.weight, 1.0)
    average.update(net)  # decay 1/10
    assert average.weights()["weight"].item() == pytest.approx(0.9)
    nn.init.constant_(net.weight, 2.0)
    average.update(net)  # decay 0.15, as 2/11 would be more
    assert average.weights()["weight"].item() == pytest.approx(0.9 * 0.15 + 2 * 0.85)


def test_the_decay_of_an_average_warms_up():
    net = network(0.0)
    average = WeightAverage(net, 0.999)
    nn.init.constant_(net.weight, 1.0)
    for _ in range(5):
        average.update(net)
    assert average.weights()["weight"].item() == pytest.approx(1 - math.prod((1 + n) / (10 + n) for n in range(5)))


def test_without_decay_the_average_is_the_current_weights():
    net = network(0.0)
    average = WeightAverage(net, 0.0)
    nn.init.constant_(net.weight, 3.0)
    average.update(net)
    assert average.weights()["weight"].item() == 3.0
    assert average.state() == ({}, 0)


def test_a_restored_average_goes_on_as_the_first_does():
    net = network(0.0)
    first, second = WeightAverage(net, 0.9), WeightAverage(network(7.0), 0.9)
    nn.init.constant_(net.weight, 1.0)
    for _ in range(3):
        first.update(net)
    tensors, updates = first.state()
    second.load_state({name: t.clone() for name, t in tensors.items()}, updates)
    nn.init.constant_(net.weight, 5.0)
    for average in (first, second):
        average.update(net)
    assert torch.equal(first.weights()["weight"], second.weights()["weight"])
    assert set(first.weights()) == set(net.state_dict())
    assert not first.weights()["weight"].requires_grad
