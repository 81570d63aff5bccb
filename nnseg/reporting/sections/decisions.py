"""Part of the scores: the choice of an ensemble, and of postprocessing, on the held-out cases."""

from __future__ import annotations

from nnseg.core.decisions import Choice, PostprocessingStep
from nnseg.core.labels import Labels
from nnseg.reporting.formatting import gain


def describe_gain_and_time(choice: Choice) -> str:
    """Gain in Dice of the best ensemble, and prediction time of the chosen one, against the best single plan."""
    parts = []
    if choice.nested and choice.p is not None:
        expected = gain(choice.nested.gain, choice.nested.interval)
        parts.append(
            f"In nested cross-validation the best ensemble gains {expected} Dice over the best single plan (p = {choice.p:.2g})."
        )
    if len(choice.plans) > 1 and choice.time_ratio:
        parts.append(f"A scan takes {choice.time_ratio:.3g} times as long as with the {choice.best_single} plan alone.")
    return " ".join(parts)


def describe_step(step: PostprocessingStep, labels: Labels | None) -> str:
    """A postprocessing step in a sentence, with the names of the labels where they are known."""
    names = labels.by_value if labels else {}
    what = " with ".join(names.get(value, f"label {value}") for value in step.labels)
    if step.action == "largest":
        return f"Of {what} only the largest connected piece is kept."
    if step.action == "smaller":
        return f"Pieces of {what} below {step.mm3:g} mm³ are removed."
    return f"Holes in {what} are filled{f' with {names[step.fill]}' if step.fill in names else ''}."
