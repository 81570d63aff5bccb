"""The sliding windows that a plan's networks may predict with, and the work they take beside the training."""

from __future__ import annotations

from collections.abc import Sequence

from nnseg.core.decisions import WindowCandidate, with_window
from nnseg.core.fingerprint import CaseMeasure
from nnseg.core.network_kinds import count_values
from nnseg.core.options import FAST_STEP
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.plan import Plan
from nnseg.planning.cost_model import count_tiles

SHARE = 0.2
"""Most work of predicting all held-out cases, relative to that of training."""

FREE_VALUES = 30.0
"""Billions of values made by convolutions that are affordable after the shortest training: half a minute on two CPU cores."""

STEP_PASSES = 3.0
"""Work of a training step on a patch, in forward passes. Source: the gradients of inputs and weights are a convolution each."""


def list_candidates(plan: Plan, cases: Sequence[CaseMeasure], held_out: Sequence[str], steps: int) -> list[WindowCandidate]:
    """The windows that a plan may predict with, the cheapest first, without those that take as many passes as a better one.

    Args:
        plan: its inference settings are the last candidate.
        cases: as measured.
        held_out: names of the cases to predict.
        steps: of training, of all folds together.
    """
    own, names = plan.inference, set(held_out)
    training = max(1.0, steps * plan.training.batch_size * PatchGrowth(plan).mean_cost() * STEP_PASSES)
    found: list[WindowCandidate] = []
    for step, axes in ((max(own.step, FAST_STEP), ()), (own.step, ()), (own.step, own.mirror_axes)):
        candidate = WindowCandidate(step=step, mirror_axes=axes, values=0.0, share=0.0)
        changed = with_window(plan, candidate)
        passes = sum(count_tiles(case, changed) for case in cases if case.name in names)
        if found and found[-1].share == passes / training:
            found.pop()
        values = passes * count_values(plan.network, plan.patch, len(plan.labels.heads)) / 1e9
        found.append(candidate.model_copy(update={"share": passes / training, "values": values}))
    return found


def is_affordable(candidate: WindowCandidate) -> bool:
    """True if a window's predictions of all held-out cases are little work, or little beside the training."""
    return candidate.share <= SHARE or candidate.values <= FREE_VALUES


def expected_window(plan: Plan, cases: Sequence[CaseMeasure], held_out: Sequence[str], steps: int) -> Plan:
    """A plan that predicts with the window that it will have as far as its work decides; arguments as of `list_candidates`."""
    if not plan.inference.cheapest:
        return plan
    first, *others = list_candidates(plan, cases, held_out, steps)
    return with_window(plan, next((one for one in reversed(others) if is_affordable(one)), first))
