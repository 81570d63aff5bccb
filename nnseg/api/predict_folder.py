"""`predict_folder`: the label maps of ``nnseg predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

from nnseg.core.dataset import Reading
from nnseg.core.keywords import PredictOptions, Words, listing, options_of
from nnseg.core.options import FAST_STEP, OnMissingChannel, Runtime, parse_gigabytes, parse_steps, parse_thresholds
from nnseg.serving.folder import PredictedFolder, predict_scans
from nnseg.serving.messages import PredictionOrder, suffix_named
from nnseg.serving.pool import WorkerPool
from nnseg.storage.path_kinds import check_path, find_model
from nnseg.system.cluster import connected


@listing(PredictOptions)
def predict_folder(  # noqa: PLR0913 (options of the command)
    scans: str | Path,
    out: str | Path,
    model: str | Path | Sequence[str | Path],
    *,
    step: float | None = None,
    mirror: bool | None = None,
    fast: bool = False,
    classic: bool = False,
    dropout: int = 0,
    runtime: Runtime = "torch",
    postprocessing: bool = True,
    threshold: float | str | Mapping[str, float] | Sequence[str] = (),
    memory: str | float | None = None,
    format: str | None = None,
    probabilities: bool = False,
    uncertainty: bool = False,
    on_missing_channel: OnMissingChannel = "error",
    prepare: Words = (),
    save_steps: bool = False,
    force: bool = False,
    **options: Unpack[PredictOptions],
) -> PredictedFolder:
    """Label maps for a folder of scans, each in a file on its scan's own grid, as ``nnseg predict`` writes them. Resumes.

    For single scans in memory, `load` a model.

    Args:
        scans: one scan, or a folder of files or DICOM series.
        out: folder for the label maps.
        model: run folder, exported file, or name of a local model; several make an ensemble.
        step: between tiles as a share of the patch; the plan's if absent.
        mirror: average over mirrored copies; absent for how the model was scored.
        fast: the same as ``mirror=False, step=0.75``.
        classic: average exactly as nnU-Net does, in float32.
        dropout: average over so many draws of dropped channels, of networks planned with ``network.dropout``; 0 to drop none.
        runtime: that computes the networks: "torch", on CPUs also "onnx", "openvino" (extra "runtimes"), or "auto" for the fastest.
        postprocessing: as chosen on held-out cases.
        threshold: probability from which on a label is found, or a table of these by label; () for the most probable label.
        memory: GB of RAM to use at most; 80 % of the free RAM if absent.
        format: of the label maps: "nii.gz", "nrrd", "dcm", ...; the scan's if absent.
        probabilities: also write them, as CASE.npz.
        uncertainty: also write maps of it.
        on_missing_channel: "error", or "use" to predict scans that lack a channel from the others.
        prepare: steps before preprocessing, as of `prepare`: "n4,mask,normalize".
        save_steps: also write the channels after each of these.
        force: also overwrite files that nnseg did not make.
        options: as of the command.

    Raises:
        NnsegError: there is no scan, a model cannot be loaded, or the folder cannot be written. Failures of single scans are in
            ``scans`` and ``findings``.

    Example:
        >>> done = nnseg.predict_folder("scans", "label_maps", "model.nnseg")
        >>> {name: record.status for name, record in done.scans.items()}
    """
    chosen = options_of(options, PredictOptions)
    models = tuple(map(find_model, ([model] if isinstance(model, str | Path) else model)))
    check_path(Path(scans), "scans")
    check_path(Path(out), "output folder")
    order = PredictionOrder(
        models=models,
        out=Path(out),
        folds=chosen.folds,
        device=chosen.device,
        step=step or (FAST_STEP if fast else None),
        mirror=False if fast else mirror,
        classic=classic,
        dropout=dropout,
        runtime=runtime,
        postprocessing=postprocessing,
        thresholds=_thresholds(threshold),
        suffix=suffix_named(format),
        probabilities=probabilities,
        uncertainty=uncertainty,
        spacing=chosen.spacing,
        on_missing_channel=on_missing_channel,
        prepare=parse_steps(prepare),
        save_steps=save_steps,
    )
    with (
        connected(chosen.cluster) as cluster,
        WorkerPool(
            order, devices=chosen.devices, memory_gb=parse_gigabytes(str(memory)) if memory else None, cluster=cluster
        ) as workers,
    ):
        return predict_scans(Path(scans), workers, Reading.of(chosen), force=force)


def _thresholds(given: float | str | Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    """Probabilities by label of what is given as threshold."""
    if isinstance(given, Mapping):
        given = [f"{name}={share}" for name, share in given.items()]
    return parse_thresholds([str(given)] if isinstance(given, float | str) else given)
