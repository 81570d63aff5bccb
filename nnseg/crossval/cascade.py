"""The cascade: a plan whose network is shown another plan's answer to every case, by a network that has not seen that case.

So the other plan comes first: all its folds are trained, each predicts what it held out, and only then are there cases to
preprocess for the cascade.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnseg.core.dataset import listed
from nnseg.core.errors import RunError
from nnseg.core.plan import Plan
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.predictions import held_out_predictions
from nnseg.storage.run import Run

Groups = tuple[tuple[PlanFolder, ...], ...]


@dataclass(frozen=True, kw_only=True)
class PreviousPrediction:
    """What the plan before a cascade says of a case: the file of its label map, and the hash of that."""

    file: Path
    hash: str


def in_order(run: Run) -> Groups:
    """The run's plans in groups: those of a group need what those before it predicted."""
    plans = run.plans
    cascades = tuple(folder for folder in plans if folder.plan.previous)
    return tuple(group for group in (tuple(folder for folder in plans if folder not in cascades), cascades) if group)


def shown_to(group: Sequence[PlanFolder], run: Run) -> tuple[PlanFolder, ...]:
    """The plans whose answers the cascades of a group are shown; none for other plans."""
    return tuple(run.plan_folder(name) for name in dict.fromkeys(folder.plan.previous for folder in group) if name)


def answers(run: Run, plan: Plan) -> dict[str, PreviousPrediction] | None:
    """What the plan's cascade is shown of each case, as far as it is predicted; None if it is shown nothing."""
    if plan.previous is None:
        return None
    folder = run.plan_folder(plan.previous).path
    found = held_out_predictions(folder, run.folds)
    return {name: PreviousPrediction(file=folder / w.file, hash=w.hash) for name, w in found.items() if w.status == "done"}


def refuse_unshown(run: Run, trained: Collection[int]) -> None:
    """Nothing, if every case will have the answers that the run's cascades are to be shown.

    Args:
        run: with its plans and folds.
        trained: folds that the plans before the cascades are, or will be, trained on.

    Raises:
        RunError: some case will have none.
    """
    folds = run.folds.values()
    held_out = {name for fold in folds for name in fold.held_out}
    unheld = {name for fold in folds for name in fold.training} - held_out
    missing = [number for number in run.folds if number not in trained]
    for cascade in (folder.plan for folder in run.plans if folder.plan.previous):
        if unheld:
            raise RunError(
                f"{cascade.name} is shown how {cascade.previous} answers cases that it was not trained on, but no fold holds out "
                f"{listed(unheld)}; leave {cascade.name} out, or add cases"
            )
        if missing:
            raise RunError(
                f"{cascade.name} is shown the answers of {cascade.previous} for every case, so all its folds must be trained first "
                f"and fold {missing[0]} is not: use --folds all, or leave {cascade.name} out"
            )
