"""Candidate plans of a recipe: which to measure, and the choice of the one whose training suits the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnseg.core.errors import PlanError
from nnseg.core.patch_growth import PatchGrowth
from nnseg.core.plan import Budget, Plan
from nnseg.core.probe import Probe, Trial

PLANNED_SHARE = 0.97
"""Share of a time budget that is planned for; the rest is a margin for checkpoints and a machine that slows down."""


def steps_within(seconds: float, *, step_seconds: float, pause_seconds: float, epoch_steps: int) -> int:
    """The number of steps of a training that ends within a time, at least one.

    Args:
        seconds: wall-clock time of the training.
        step_seconds: of one step, loading its batch included.
        pause_seconds: between two epochs.
        epoch_steps: steps of an epoch.
    """
    return max(1, int(seconds * PLANNED_SHARE / (step_seconds + pause_seconds / epoch_steps)))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan that may be chosen.

    Args:
        plan: complete but for the number of steps.
        name: of the recipe's candidate network.
        enough_steps: fewest steps with which this network is preferred to smaller ones.
        steps: of its training if there is no time budget.
        why: the reason for ``steps``.
        short: the plan of a training of fewer than ``short_below`` steps.
    """

    plan: Plan
    name: str
    enough_steps: int
    steps: int
    why: str
    short: Plan | None = None
    short_below: int = 0

    def finish(self, steps: int | None, why: str, budget: Budget, *, precision: str = "", choice: str = "") -> Plan:
        """The plan with the length of its training, the precision if it was measured, and the reason for choosing it."""
        plan = self.short if self.short and steps is not None and steps < self.short_below else self.plan
        training, reasons = plan.training, {**plan.training.why, "steps": why}
        if budget.seconds is not None:
            reasons["seconds"] = (
                "the time budget: the schedule keeps to it whatever the speed of the machine; without it steps are fixed"
            )
        changes = {"steps": steps, "seconds": budget.seconds, "why": reasons} | ({"precision": precision} if precision else {})
        why_plan = {**plan.why} | ({"recipe": choice} if choice else {})
        return plan.model_copy(update={"training": training.model_copy(update=changes), "why": why_plan})


def choose(candidates: Sequence[Candidate], budget: Budget, probe: Probe | None = None) -> Plan:
    """The plan with the largest network that gets its ``enough_steps`` within the budget; otherwise the smallest.

    Args:
        candidates: smallest network first.
        budget: of the training.
        probe: measurements of some candidates; without one, none is excluded. Candidates that were not measured are not chosen.

    Raises:
        PlanError: all candidates that were measured failed, or need more memory than is available.
    """
    measured = [(c, t) for c in candidates if probe and (t := probe.trial_of(c.plan))]
    if not measured or probe is None:
        return _choose_unmeasured(candidates, budget)
    fitting = [(c, t) for c, t in measured if not explain_refusal(t, budget, probe)]
    if not fitting:
        name, reason = candidates[0].plan.name, explain_refusal(measured[0][1], budget, probe)
        raise PlanError(
            f"no network of this recipe can be trained here: the smallest for {name} {reason}; stop other programs, give more "
            "--memory, use a smaller recipe, or --no-probe to plan without measuring"
        )
    suitable = [(c, t) for c, t in fitting if affordable_steps(c, t, budget) >= c.enough_steps]
    chosen, trial = (suitable or fitting[:1])[-1]
    cost = PatchGrowth(chosen.plan).mean_cost()
    steps, why = affordable_steps(chosen, trial, budget, cost=cost), chosen.why
    whole = affordable_steps(chosen, trial, budget)
    if budget.seconds is not None:
        speed = f"{trial.step_seconds:.3g} s per step and {trial.pause_seconds:.2g} s between epochs"
        busy = f", {trial.slowdown:.1f} times as long while other programs used its cores" if trial.slowdown > 1 else ""
        why = f"as many as fit into {budget.seconds / 60:.3g} minutes at {speed}, measured on {probe.device}{busy}"
    return chosen.finish(steps, why, budget, precision=trial.precision, choice=_explain_choice(candidates, chosen, whole))


def affordable_steps(candidate: Candidate, trial: Trial, budget: Budget, *, cost: float = 1.0) -> int:
    """The number of training steps that fit into the budget at the measured speed; without a time budget ``candidate.steps``.

    Args:
        cost: mean time of a step, as a share of the measured one.
    """
    if budget.seconds is None:
        return candidate.steps
    seconds, epoch_steps = cost * trial.step_seconds, candidate.plan.training.epoch_steps
    return steps_within(budget.seconds, step_seconds=seconds, pause_seconds=trial.pause_seconds, epoch_steps=epoch_steps)


def is_worth_measuring(candidate: Candidate, smaller: Candidate, trial: Trial, budget: Budget) -> bool:
    """False if the next smaller candidate failed its trial, or gets fewer steps than the candidate needs."""
    return not trial.failed and affordable_steps(smaller, trial, budget) >= candidate.enough_steps


def explain_refusal(trial: Trial, budget: Budget, probe: Probe) -> str:
    """Why a measured candidate cannot be trained; empty if it can."""
    if trial.failed:
        return trial.failed
    needed = trial.memory_gb if budget.device == "cpu" else trial.device_gb
    allowed = probe.device_gb if budget.memory_gb is None else budget.memory_gb
    where = "memory" if budget.device == "cpu" else "memory of the device"
    return f"needs {needed:.2g} GB of {where}, and {allowed:.2g} GB may be used" if needed > allowed else ""


def _choose_unmeasured(candidates: Sequence[Candidate], budget: Budget) -> Plan:
    if budget.seconds is not None:
        why = f"as many as fit into {budget.seconds / 60:.3g} minutes, from the speed measured when training starts"
        return candidates[0].finish(None, why, budget)
    chosen = ([c for c in candidates if c.steps >= c.enough_steps] or list(candidates[:1]))[-1]
    return chosen.finish(chosen.steps, chosen.why, budget)


def _explain_choice(candidates: Sequence[Candidate], chosen: Candidate, steps: int) -> str:
    """Why this candidate and no larger one was chosen; empty if there is only one."""
    if len(candidates) == 1:
        return ""
    larger = candidates[candidates.index(chosen) + 1 :]
    others = "".join(f"; {c.name} needs {c.enough_steps} of its own" for c in larger)
    return f"{chosen.name}: the largest network that gets enough steps ({steps}){others}"
