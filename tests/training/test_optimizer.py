import math

import pytest
import torch
from torch import nn

from nnseg.core.plan import Training
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
