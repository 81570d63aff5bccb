"""What a disk does not give at that moment is neither taken for missing, nor for damaged, nor for made by another program."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnseg.commands.compare import read_scores
from nnseg.commands.plan import take_fingerprint
from nnseg.commands.verify import verify
from nnseg.core.errors import EvaluationError, NnsegError, ScanError, is_fault
from nnseg.core.labels import Labels
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.pairs import FilePair
from nnseg.network.checkpoint import load_tensors
from nnseg.network.load import population_of_run
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets.labels.legends import read_palette
from nnseg.storage.datasets.splits import parts_of_table
from nnseg.storage.files import file_hash
from nnseg.storage.images.nifti_header import is_nifti
from nnseg.storage.model_plans import read_model_plans
from nnseg.storage.overwrite import check_overwrite
from nnseg.storage.plan_folder import FoldFolder
from nnseg.storage.predictions import PredictionsWriter, ScanRecord, read_predictions
from nnseg.storage.run import Run


@pytest.fixture(autouse=True)
def _files_of_the_kernel_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused otherwise; here one of them stands for a file that the disk does not give."""
    monkeypatch.setattr("nnseg.system.regular._kernel_disks", frozenset)


READERS: dict[str, Callable[[Path], Any]] = {
    "predictions.json": lambda path: read_predictions(path.parent),
    "predictions.json of a writer": lambda path: PredictionsWriter(path.parent, model={}),
    "predictions.json of verify": lambda path: list(verify(path.parent)),
    "run.json": lambda path: Run(path.parent).record,
    "fingerprint.json": lambda path: population_of_run(Run(path.parent)),
    "fingerprint.json of a plan": lambda path: take_fingerprint(path, Run(path.parent)),
    "schedule.json": lambda path: FoldFolder(path.parent).schedule(),
    "checkpoint.safetensors": load_tensors,
    "model.nnseg": read_model_plans,
    "scores.json": lambda path: check_overwrite(path, "scores", force=False),
    "model.md": lambda path: check_overwrite(path, "model card", force=False),
    "scores.csv": read_scores,
    "subjects.csv": lambda path: parts_of_table(path.parent, ["a"]),
    "scan.nii": is_nifti,
    "mask.png": read_palette,
    "any.file": file_hash,
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read, which Linux has in /proc")
@pytest.mark.parametrize("name", READERS)
def test_a_fault_of_the_disk_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.partition(" ")[0]
    path.symlink_to("/proc/self/mem")
    with pytest.raises((NnsegError, OSError), match="Input/output error") as caught:
        READERS[name](path)
    assert path.name in str(caught.value)
    assert is_fault(caught.value) or is_fault(caught.value.__cause__)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read, which Linux has in /proc")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_reference_that_the_disk_does_not_give_ends_the_scoring_of_a_run(tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "a.npy"
    broken.symlink_to("/proc/self/mem")
    pair = FilePair(name="a", prediction=broken, reference=broken)
    labels = Labels(names=("background", "ball"), values=(0, 1))
    with pytest.raises(EvaluationError, match=r"case a: .*Input/output error"):
        evaluate([pair], labels, workers=workers, stop_for_faults=True)
    assert [failure.name for failure in evaluate([pair], labels, workers=workers).failed] == ["a"]


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.EIO, True), (errno.EACCES, True), (errno.ENOENT, False), (errno.EFBIG, False), (None, False)]
)
def test_what_is_missing_or_beyond_limits_is_no_fault(number: int | None, expected: bool) -> None:
    assert is_fault(OSError(number, "x") if number else OSError("x")) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read, which Linux has in /proc")
def test_a_label_map_that_cannot_be_read_is_not_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.nii").symlink_to("/proc/self/mem")
    assert not ScanRecord(status="done", file="a.nii", hash="0").is_whole(tmp_path)
    assert "a.nii cannot be read and is made again: Input/output error" in caplog.text


def test_a_preprocessed_case_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.case").symlink_to("x" * 300)  # which no disk can look up
    with pytest.raises(ScanError, match=r"a\.case: cannot be read \(File name too long\)"):
        CaseStore(tmp_path).has("a", "key")
