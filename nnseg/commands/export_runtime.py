"""``nnseg export --onnx``, ``--openvino``, ``--torch``: a model for another runtime, checked against ours on scans."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnseg.core.dataset import Case
from nnseg.core.errors import ModelError
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Reorientation
from nnseg.core.image import Floats
from nnseg.core.options import ExportRuntime
from nnseg.crossval.degraded import spread_evenly
from nnseg.demo.dataset import write_phantoms
from nnseg.evaluation.evaluate import score
from nnseg.inference.predict import Predictor
from nnseg.inference.tiles import Tiling, Window
from nnseg.interop.runtimes.run import predict
from nnseg.interop.runtimes.write import in_float32, write_runtime_model
from nnseg.network.load import load_model
from nnseg.network.runtimes import Tiles
from nnseg.preprocessing.preprocess import plan_orientation
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.files import write_json
from nnseg.storage.hub import BUILT_IN
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.storage.overwrite import new_folder
from nnseg.storage.run import Run
from nnseg.system.progress import progress

LEAST_AGREEMENT = 0.999
"""Share of a scan's voxels that must have the label of our own prediction."""

SCANS = 3
"""Held-out cases of a run, or phantoms, that an export is checked on."""

CALIBRATION_CASES, CALIBRATION_TILES = 20, 4
"""Training cases for 8-bit integers, and tiles of each."""

REPORT = "check.json"


class ScanAgreement(FrozenModel):
    """Two label maps of one scan: by nnseg in float32, and by the exported model.

    Args:
        scan: its name.
        voxels: of the scan.
        agreement: share of voxels with the same label.
        dice: between the two, of each label that one of them has.
        reference_dice: mean Dice with the reference, by nnseg and by the exported model; None where there is none.
    """

    scan: str
    voxels: int
    agreement: float
    dice: dict[str, float]
    reference_dice: tuple[float, float] | None = None


class RuntimeExport(FrozenModel):
    """A model that was exported for another runtime.

    Args:
        nnseg: version.
        model: its key.
        runtime: whose files were written.
        int8: networks compute in 8-bit integers.
        least: agreement that was asked for.
        scans: that it was checked on.
    """

    nnseg: str
    model: str
    runtime: ExportRuntime
    int8: bool = False
    least: float = LEAST_AGREEMENT
    scans: tuple[ScanAgreement, ...]

    @property
    def agreement(self) -> float:
        """The least of the scans."""
        return min(scan.agreement for scan in self.scans)

    @property
    def dice_loss(self) -> float | None:
        """How much lower the mean Dice with references is than that of nnseg; None without references."""
        losses = [scan.reference_dice[0] - scan.reference_dice[1] for scan in self.scans if scan.reference_dice]
        return sum(losses) / len(losses) if losses else None


def export_runtime(
    path: Path,
    folder: Path,
    runtime: ExportRuntime,
    *,
    scans: Path | None = None,
    folds: tuple[int, ...] | None = None,
    int8: bool = False,
) -> RuntimeExport:
    """Write a model for another runtime into a new folder, with a report of the check (``check.json``).

    Args:
        path: run folder or exported file.
        folder: to create.
        runtime: whose files are written.
        scans: a scan, or a folder of these, to check on; absent for held-out cases of the run, and for the model demo phantoms.
        folds: of a run; absent for all.
        int8: compute in 8-bit integers, whose ranges are chosen on training cases of the run; of "openvino" only.

    Raises:
        ModelError: there is no model, the exported program cannot do what it needs, or its labels differ from ours.
        NnsegError: the extra for it is not installed.
        RunError: the folder exists, or cannot be written.
    """
    model = in_float32(load_model(path, folds=folds))
    predictor = Predictor(model, device="cpu")
    if int8 and not (path.is_dir() and runtime == "openvino"):
        raise ModelError("8-bit integers need --openvino, and training cases of a run; give a run folder, or leave out --int8")
    with new_folder(folder):
        write_runtime_model(predictor, folder, runtime, _calibration_tiles(Run(path), predictor) if int8 else ())
        with _cases(path, scans, model.channels) as cases:
            checked = [_check(case, predictor, folder) for case in progress(cases, total=len(cases), label="comparing label maps")]
        found = RuntimeExport(nnseg=version("nnseg"), model=model.key(), runtime=runtime, int8=int8, scans=tuple(checked))
        if found.agreement < LEAST_AGREEMENT:
            worst = min(checked, key=lambda scan: scan.agreement)
            raise ModelError(
                f"the exported model gives another label than nnseg to {1 - worst.agreement:.2%} of the voxels of {worst.scan}; "
                f"at most {1 - LEAST_AGREEMENT:.1%} may differ, so nothing is written"
            )
        write_json(folder / REPORT, found)
    return found


def _calibration_tiles(run: Run, predictor: Predictor) -> list[list[Tiles]]:
    """For each group of networks tiles (1, C, *patch) of cases that one of them was trained on."""
    folds = {member.fold for member in predictor.model.members}
    training = sorted({name for number, fold in run.folds.items() if number in folds for name in fold.training})
    found: list[list[Tiles]] = [[] for _ in predictor.groups]
    chosen = spread_evenly(training, CALIBRATION_CASES)
    for name in progress(chosen, total=len(chosen), label="reading cases for calibration"):
        case = run.cases[name]
        prepared = predictor.prepare(read_scan(case.images, repair=True, spacing=case.spacing))
        for tiles, group in zip(found, predictor.groups, strict=True):
            tiles.extend(_some_tiles(prepared.cases[group.key].image, group.window))
    return found


def _some_tiles(image: Floats, window: Window) -> Iterator[Tiles]:
    """Tiles (1, C, *patch) of a preprocessed case, evenly spaced."""
    missing = [max(t - n, 0) for t, n in zip(window.tile, image.shape[1:], strict=True)]
    padded = np.pad(image, [(0, 0), *((0, m) for m in missing)])
    tiling = Tiling.of(padded.shape[1:], window)
    for box in spread_evenly([box for layer in tiling.layers for box in tiling.boxes(layer, window.tile)], CALIBRATION_TILES):
        yield np.ascontiguousarray(padded[(slice(None), *box)].reshape(1, -1, *window.patch), np.float32)


@contextmanager
def _cases(path: Path, scans: Path | None, channels: Sequence[str]) -> Iterator[Sequence[Case]]:
    """Scans to check on: the given ones, held-out ones of the run at a path, or phantoms for a model that is a part of nnseg."""
    if scans:
        yield find_scans(scans, channels=len(channels), names=channels).cases
    elif path.is_dir():
        run = Run(path)
        yield [run.cases[name] for name in spread_evenly(sorted(run.fold_of), SCANS)]
    elif path.is_relative_to(BUILT_IN):
        with tempfile.TemporaryDirectory() as folder:
            phantoms = write_phantoms(Path(folder) / "phantoms", cases=SCANS) / "imagesTr"
            yield find_scans(phantoms, channels=len(channels), names=channels).cases
    else:
        raise ModelError(f"{path} holds no scans to check the exported model on; add --check SCANS")


def _check(case: Case, predictor: Predictor, folder: Path) -> ScanAgreement:
    """Compare the label maps of one scan."""
    scan = read_scan(case.images, repair=True, spacing=case.spacing)
    ours = predictor(scan).label_map
    plan = predictor.groups[0].plan
    turn = plan_orientation(scan, plan) if plan.preprocessing.orientation == "stored" else Reorientation()
    labels = turn.inverse().apply(predict(folder, turn.apply(scan.image), scan.grid.reoriented(turn).spacing))
    theirs = replace(ours, labels=labels)
    compared = partial(score, case.name, labels=predictor.model.labels)
    reference = read_labels_of(case.labels, scan) if case.labels else None
    dice = [compared(one, reference, annotated=case.annotated).mean_dice for one in (ours, theirs)] if reference else [None, None]
    return ScanAgreement(
        scan=case.name,
        voxels=labels.size,
        agreement=float((labels == ours.labels).mean()),
        dice={name: one.dice for name, one in compared(theirs, ours).labels.items() if one.dice is not None},
        reference_dice=None if dice[0] is None or dice[1] is None else (dice[0], dice[1]),
    )
