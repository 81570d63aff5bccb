"""The plan of a network that learns from label maps and from probabilities of the networks of a run's folds."""

from __future__ import annotations

import math

from nnseg.core.errors import RunError
from nnseg.core.plan import Network, Plan

SHARE = 0.5
"""Share of the loss on probabilities."""

SMALLER = 4
"""Quotient of the numbers of channels of a network and its small one."""

LEAST_FEATURES = 8
"""Numbers of channels of a small network are multiples of it: of fewer, a CPU computes nearly as long (benchmarks/RESULTS.md)."""

LONGER = 4
"""By which the training of a small network is longer: with fewer steps it loses more than .005 of Dice (benchmarks/RESULTS.md)."""


def distilled_plan(plan: Plan, *, small: bool = False) -> Plan:
    """The plan of a network that replaces the networks of a plan's folds.

    Args:
        plan: of the run.
        small: with a quarter of the channels, trained `LONGER` times as long.

    Raises:
        RunError: the plan is a cascade.

    Source: Hinton et al. 2015.
    """
    if plan.previous:
        raise RunError(
            f"{plan.name} takes the predictions of {plan.previous} as input, so that no single network can replace both; "
            "choose another plan with --plan"
        )
    share = f"label maps and probabilities of networks that were not trained on the case count the same, as {SHARE} is the middle"
    training, network = plan.training, plan.network
    why = training.why | {"distillation": share}
    if small:
        network = small_network(network)
        why |= {"steps": f"{LONGER} times those of the run's plan: a small network needs more"}
        longer = {key: LONGER * length for key in ("steps", "seconds") if (length := getattr(training, key))}
        training = training.model_copy(update=longer)
    training = training.model_copy(update={"distillation": SHARE, "why": why})
    return plan.model_copy(update={"training": training, "network": network})


def small_network(network: Network) -> Network:
    """The network with a quarter of the channels in each stage, in multiples of `LEAST_FEATURES`, never with more than before."""
    features = tuple(min(n, LEAST_FEATURES * math.ceil(n / SMALLER / LEAST_FEATURES)) for n in network.features)
    why = network.why | {"features": f"a quarter of those of the run's plan, in multiples of {LEAST_FEATURES}"}
    return network.model_copy(update={"features": features, "why": why})
