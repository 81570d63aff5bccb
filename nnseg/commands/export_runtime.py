"""``nnseg export --onnx``, ``--openvino``, ``--torch``: a model for another runtime, checked against ours on scans."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from nnseg.core.dataset import Case
from nnseg.core.errors import ModelError
from nnseg.core.frozen import FrozenModel
from nnseg.core.geometry import Reorientation
from nnseg.core.options import ExportRuntime
from nnseg.crossval.degraded import spread_evenly
from nnseg.demo.dataset import write_phantoms
from nnseg.evaluation.evaluate import score
from nnseg.inference.predict import Predictor
from nnseg.interop.runtimes.run import predict
from nnseg.interop.runtimes.write import in_float32, write_runtime_model
from nnseg.network.load import load_model
from nnseg.preprocessing.preprocess import plan_orientation
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.files import write_json
from nnseg.storage.hub import BUILT_IN
from nnseg.storage.images.read import read_scan
from nnseg.storage.overwrite import new_folder
from nnseg.storage.run import Run
from nnseg.system.progress import progress

LEAST_AGREEMENT = 0.999
"""Share of a scan's voxels that must have the label of our own prediction."""

SCANS = 3
"""Held-out cases of a run, or phantoms, that an export is checked on."""

REPORT = "check.json"


class ScanAgreement(FrozenModel):
    """Two label maps of one scan: by nnseg in float32, and by the exported model.

    Args:
        scan: its name.
        voxels: of the scan.
        agreement: share of voxels with the same label.
        dice: between the two, of each label that one of them has.
    """

    scan: str
    voxels: int
    agreement: float
    dice: dict[str, float]


class RuntimeExport(FrozenModel):
    """A model that was exported for another runtime.

    Args:
        nnseg: version.
        model: its key.
        runtime: whose files were written.
        least: agreement that was asked for.
        scans: that it was checked on.
    """

    nnseg: str
    model: str
    runtime: ExportRuntime
    least: float = LEAST_AGREEMENT
    scans: tuple[ScanAgreement, ...]

    @property
    def agreement(self) -> float:
        """The least of the scans."""
        return min(scan.agreement for scan in self.scans)


def export_runtime(
    path: Path, folder: Path, runtime: ExportRuntime, *, scans: Path | None = None, folds: tuple[int, ...] | None = None
) -> RuntimeExport:
    """Write a model for another runtime into a new folder, with a report of the check (``check.json``).

    Args:
        path: run folder or exported file.
        folder: to create.
        runtime: whose files are written.
        scans: a scan, or a folder of these, to check on; absent for held-out cases of the run, and for the model demo phantoms.
        folds: of a run; absent for all.

    Raises:
        ModelError: there is no model, the exported program cannot do what it needs, or its labels differ from ours.
        NnsegError: the extra for it is not installed.
        RunError: the folder exists, or cannot be written.
    """
    model = in_float32(load_model(path, folds=folds))
    predictor = Predictor(model, device="cpu")
    with new_folder(folder):
        write_runtime_model(predictor, folder, runtime)
        with _cases(path, scans, model.channels) as cases:
            checked = [_check(case, predictor, folder) for case in progress(cases, total=len(cases), label="comparing label maps")]
        found = RuntimeExport(nnseg=version("nnseg"), model=model.key(), runtime=runtime, scans=tuple(checked))
        if found.agreement < LEAST_AGREEMENT:
            worst = min(checked, key=lambda scan: scan.agreement)
            raise ModelError(
                f"the exported model gives another label than nnseg to {1 - worst.agreement:.2%} of the voxels of {worst.scan}; "
                f"at most {1 - LEAST_AGREEMENT:.1%} may differ, so nothing is written"
            )
        write_json(folder / REPORT, found)
    return found


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
    scores = score(case.name, theirs, ours, predictor.model.labels).labels
    return ScanAgreement(
        scan=case.name,
        voxels=labels.size,
        agreement=float((labels == ours.labels).mean()),
        dice={name: one.dice for name, one in scores.items() if one.dice is not None},
    )
