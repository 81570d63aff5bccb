"""`explain`: the maps of ``nnseg explain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from nnseg.commands.explain import CASES, ExplainedFolder, ExplainOptions, explain_run, explain_scans
from nnseg.core.errors import NnsegError
from nnseg.core.keywords import ScanModelOptions, listing, options_of
from nnseg.core.options import ExplanationMethod
from nnseg.inference.attribution import COPIES
from nnseg.storage.path_kinds import check_path, find_model


@listing(ScanModelOptions)
def explain(  # noqa: PLR0913 (options of the command)
    model: str | Path,
    scans: str | Path | None = None,
    out: str | Path | None = None,
    *,
    label: str | Sequence[str] = (),
    method: ExplanationMethod = "smoothgrad",
    cases: int = CASES,
    copies: int = COPIES,
    seed: int = 0,
    force: bool = False,
    **options: Unpack[ScanModelOptions],
) -> ExplainedFolder:
    """Maps of the voxels that predictions rest on, written if they pass their checks, as ``nnseg explain``.

    Args:
        model: run folder, exported file, or with scans also the name of a local model.
        scans: a scan or a folder of scans; without it held-out cases of the run are explained, into ``RUN/explanations``.
        out: folder for the maps of scans.
        label: label or region to explain, or several; all if there are not more than four.
        method: "smoothgrad", which needs the extra "explain", or "occlusion".
        cases: held-out cases of a run, from the best to the worst by Dice.
        copies: noisy copies for "smoothgrad".
        seed: of noise and random weights.
        force: also overwrite files that nnseg did not make.
        options: as of the command.

    Raises:
        NnsegError: the model cannot be explained or has no such label, or the folder cannot be written to. Failures of single
            scans, and maps that are withheld, are in ``findings``.

    Example:
        >>> explained = nnseg.explain("run", cases=1)
        >>> [(one.case, one.label, one.withheld) for one in explained.explanations]
    """
    settings = ExplainOptions(
        labels=(label,) if isinstance(label, str) else tuple(label),
        method=method,
        copies=copies,
        seed=seed,
        options=options_of(options, ScanModelOptions),
        force=force,
    )
    if not scans:
        check_path(Path(model), "run")
        return explain_run(Path(model), settings, cases=cases)
    path = find_model(model)
    if not out:
        raise NnsegError("there is no folder for the maps; give it as out")
    check_path(Path(scans), "scans")
    check_path(Path(out), "output folder")
    return explain_scans(path, Path(scans), Path(out), settings)
