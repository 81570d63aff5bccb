"""``nnseg cutoffs``: the predicted volume by which a question about scans is answered, chosen on the held-out cases of a run."""

from __future__ import annotations

from nnseg.core.cutoffs import CutOff, CutOffs, Question
from nnseg.core.frozen import FrozenModel
from nnseg.evaluation.cutoffs import choose_cutoff
from nnseg.planning.run_folds import patients_of_run
from nnseg.storage.run import Run


class ChosenCutOff(FrozenModel):
    """What ``nnseg cutoffs`` finds.

    Args:
        cutoff: as in ``cutoffs.json``.
    """

    cutoff: CutOff


def find_cutoff(run: Run, question: Question, *, least_sensitivity: float | None = None) -> CutOff:
    """The cut-off for a question, see `choose_cutoff`; written to ``cutoffs.json``, in the place of that for the same question.

    Args:
        run: with scores of held-out cases.
        least_sensitivity: choose the most specific cut-off that is so sensitive; None for the largest sensitivity + specificity.

    Raises:
        RunError: the folder holds no run, or it is not scored yet.
        EvaluationError: the label is not scored, too few patients have either answer, or no cut-off is so sensitive.
    """
    scores = run.require_scores()
    with run.locked():
        patients = patients_of_run(run) if run.has_dataset else {}
        found = choose_cutoff(scores, question, least_sensitivity=least_sensitivity, patients=patients)
        known = run.cutoffs.valid_for(scores) if run.cutoffs else None
        run.cutoffs = (known or CutOffs(cutoffs=())).replaced(found)
    return found
