"""Candidate networks for a budget: which sizes to try, and the choice among those measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.core.errors import PlanError
from nnseg.core.plan import Budget, Plan
from nnseg.core.probe import Probe, Trial
from nnseg.planning.recipe import CandidateNetwork

SAFE_SHARE = 0.97
"""Of a budget that is planned for: the rest is for checkpoints and a machine that slows down."""


def steps_within(seconds: float, *, step_seconds: float, pause_seconds: float, epoch_steps: int) -> int:
    """The steps of a training that ends within a time, at least one.

    Args:
        seconds: wall-clock of the training.
        step_seconds: of one step, its batch included.
        pause_seconds: between two epochs.
        epoch_steps: steps of an epoch.
    """
    return max(1, int(seconds * SAFE_SHARE / (step_seconds + pause_seconds / epoch_steps)))


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A plan that a recipe may come to.

    Args:
        plan: complete but for the number of steps.
        candidate: of the recipe, that it comes from.
        steps: of its training where no time budget is given.
        why: the reason for ``steps``.
    """

    plan: Plan
    candidate: CandidateNetwork
    steps: int
    why: str

    def decided(self, steps: int | None, why: str, budget: Budget, *, precision: str = "", choice: str = "") -> Plan:
        """The plan with the length of its training, the arithmetic if it was measured, and why this candidate was chosen."""
        training, why_all = self.plan.training, {**self.plan.training.why, "steps": why}
        if budget.seconds is not None:
            why_all["seconds"] = (
                "the time asked for: the schedule keeps to it whatever the machine does; without it steps are fixed"
            )
        changes = {"steps": steps, "seconds": budget.seconds, "why": why_all} | ({"precision": precision} if precision else {})
        reasons = {**self.plan.why} | ({"recipe": choice} if choice else {})
        return self.plan.model_copy(update={"training": training.model_copy(update=changes), "why": reasons})


def choose(proposals: Sequence[Proposal], budget: Budget, probe: Probe | None = None) -> Plan:
    """The dearest proposal whose training has the steps it needs to be worth its price; else the cheapest.

    Args:
        proposals: the cheapest first.
        budget: of the training.
        probe: with trials of some proposals; dearer ones than those tried are not considered.

    Raises:
        PlanError: all proposals that were tried failed, or need more memory than there is.
    """
    trials = [(p, t) for p in proposals if probe and (t := probe.of(p.plan))]
    if not trials or probe is None:
        return _unmeasured(proposals, budget)
    fitting = [(p, t) for p, t in trials if not refusal(t, budget, probe)]
    if not fitting:
        name, reason = proposals[0].plan.name, refusal(trials[0][1], budget, probe)
        raise PlanError(
            f"no network of this recipe can be trained here: the smallest for {name} {reason}; end what else runs, give more "
            "--memory, take a smaller recipe, or --no-probe to plan without trying"
        )
    worth = [(p, t) for p, t in fitting if pace(p, t, budget) >= p.candidate.enough_steps]
    proposal, trial = (worth or fitting[:1])[-1]
    steps = pace(proposal, trial, budget)
    why, choice = _measured_reason(proposal, trial, budget, probe), _choice(proposals, proposal, steps)
    return proposal.decided(steps, why, budget, precision=trial.precision, choice=choice)


def pace(proposal: Proposal, trial: Trial, budget: Budget) -> int:
    """The steps that a training of the proposal has: what fits into the budget, or what the dataset's size asks for."""
    if budget.seconds is None:
        return proposal.steps
    epoch_steps = proposal.plan.training.epoch_steps
    return steps_within(
        budget.seconds, step_seconds=trial.step_seconds, pause_seconds=trial.pause_seconds, epoch_steps=epoch_steps
    )  # fmt: skip


def worth_trying(proposal: Proposal, cheaper: Proposal, trial: Trial, budget: Budget) -> bool:
    """A dearer proposal is, unless even the next cheaper one failed, or gets fewer steps than the dearer one needs."""
    return not trial.failed and pace(cheaper, trial, budget) >= proposal.candidate.enough_steps


def refusal(trial: Trial, budget: Budget, probe: Probe) -> str:
    """Why a tried candidate cannot be trained; empty if it can."""
    if trial.failed:
        return trial.failed
    needed = trial.memory_gb if budget.device == "cpu" else trial.device_gb
    allowed = probe.device_gb if budget.memory_gb is None else budget.memory_gb
    where = "memory" if budget.device == "cpu" else "memory of the device"
    return f"needs {needed:.2g} GB of {where}, and {allowed:.2g} GB may be used" if needed > allowed else ""


def _unmeasured(proposals: Sequence[Proposal], budget: Budget) -> Plan:
    if budget.seconds is not None:
        why = f"as many as fit into {budget.seconds / 60:.3g} minutes, from the speed measured when training starts"
        return proposals[0].decided(None, why, budget)
    proposal = ([p for p in proposals if p.steps >= p.candidate.enough_steps] or list(proposals[:1]))[-1]
    return proposal.decided(proposal.steps, proposal.why, budget)


def _measured_reason(proposal: Proposal, trial: Trial, budget: Budget, probe: Probe) -> str:
    if budget.seconds is None:
        return proposal.why
    speed = f"{trial.step_seconds:.3g} s a step and {trial.pause_seconds:.2g} s between epochs"
    return f"as many as fit into {budget.seconds / 60:.3g} minutes at {speed}, measured on {probe.device}"


def _choice(proposals: Sequence[Proposal], chosen: Proposal, steps: int) -> str:
    """Why this candidate and no dearer one, in words; nothing if there was no choice."""
    if len(proposals) == 1:
        return ""
    dearer = proposals[proposals.index(chosen) + 1 :]
    others = "".join(f"; {p.candidate.name} is worth its price from {p.candidate.enough_steps} on" for p in dearer)
    return f"{chosen.candidate.name}: {steps} steps of this network gain most from the time{others}"
