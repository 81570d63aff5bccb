"""`evaluate`: the scores of ``nnseg evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnseg.commands.evaluate import EvaluateOptions, Evaluation, Form, evaluate_paths, parse_tolerances
from nnseg.core.names import split_names
from nnseg.core.processors import default_workers
from nnseg.system.cluster import computed_on


def evaluate(  # noqa: PLR0913 (options of the command)
    predictions: str | Path,
    references: str | Path | None = None,
    *,
    labels: str | Path | None = None,
    tolerances: str | Sequence[float] = (1.0, 2.0),
    instances: str | Sequence[str] = (),
    groups: str | Path | None = None,
    out: str | Path | None = None,
    format: Form = "nnseg",
    force: bool = False,
    workers: int = 0,
    cluster: str | None = None,
) -> Evaluation:
    """Scores of label maps against references, paired by name, as ``nnseg evaluate`` prints them.

    Args:
        predictions: folder of label maps; without references a run, whose scores are returned.
        references: folder of label maps, or a dataset.
        labels: run folder or dataset.json with the meaning of label values; by default what the folders say.
        tolerances: of NSD in mm; none of the distances are measured if it is empty or "none".
        instances: labels whose components are counted one by one.
        groups: also scores by group: a CSV with a column "case", a folder of DICOM series, or "dicom" for the scans of a run.
        out: file for all scores, JSON or CSV.
        format: of that file: "nnunet" for nnU-Net's summary.json.
        force: also overwrite a file that nnseg did not make.
        workers: processes; 0 for one per core.
        cluster: address of a Ray cluster whose machines score the cases, or "local".

    Raises:
        EvaluationError: no name is in both folders, or the references show nothing but background.

    Example:
        >>> evaluated = nnseg.evaluate("predictions", "references", tolerances=(1, 2))
        >>> evaluated.scores.averages.per_mask["dice"].mean
    """
    texts = tolerances if isinstance(tolerances, str) else ",".join(f"{one:g}" for one in tolerances) or "none"
    options = EvaluateOptions(
        out=Path(out) if out else None,
        form=format,
        legend=Path(labels) if labels else None,
        tolerances=parse_tolerances(texts),
        instances=split_names(instances) if isinstance(instances, str) else tuple(instances),
        groups=str(groups or ""),
        workers=workers or default_workers(),
        force=force,
    )
    with computed_on(cluster):
        return evaluate_paths(Path(predictions), Path(references) if references else None, options)
