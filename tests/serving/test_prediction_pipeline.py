"""The pipeline of one process: stages of successive cases overlap, their memory is limited, and each case fails alone."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from standin import StandIn, task

from nnseg.core.dataset import Case
from nnseg.core.errors import WriteError
from nnseg.core.image import LabelMap
from nnseg.serving import pipeline
from nnseg.serving.messages import Finished, PredictionTask, StageReached
from nnseg.serving.outputs import OutputTarget
from nnseg.serving.pipeline import PredictionPipeline


def predicted(tasks, out, predictor=None, suffix="", **kept):
    """All messages about the tasks, and the last one of each by name."""
    events = []
    PredictionPipeline(predictor or StandIn(), OutputTarget(out=out, key="k", suffix=suffix), events.append, **kept).run(tasks)
    return events, {e.case: e for e in events if isinstance(e, Finished)}


class Overlapping(StandIn):
    """Predicts the first case only when the second has been prepared, and prepares the third only when the first is predicted."""

    def __init__(self):
        super().__init__()
        self.prepared, self.predicted = threading.Event(), threading.Event()

    def prepare(self, scan):
        name = scan.source.files[0].name
        if name.startswith("b"):
            self.prepared.set()
        if name.startswith("c"):
            assert self.predicted.wait(10)
        return scan

    def infer(self, scan, **kept):
        assert self.prepared.wait(10)
        self.predicted.set()
        return super().infer(scan, **kept)


class Counting(StandIn):
    """Notes how many cases are between reading and writing at most."""

    def __init__(self):
        super().__init__()
        self.inside = self.most = 0

    def prepare(self, scan):
        self.inside += 1
        self.most = max(self.most, self.inside)
        return scan

    def infer(self, scan, **kept):
        time.sleep(0.05)
        self.inside -= 1
        return super().infer(scan, **kept)


class NotingSpacings(StandIn):
    """Notes the spacing of each scan."""

    def __init__(self):
        super().__init__()
        self.spacings = []

    def prepare(self, scan):
        self.spacings.append(scan.grid.spacing)
        return scan


def test_a_scan_without_a_spacing_has_the_one_that_its_dataset_gives(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(30, dtype=np.uint8).reshape(5, 6)), tmp_path / "a.png")
    case = Case(name="a", images=(tmp_path / "a.png",), spacing=(3.0, 0.5, 0.5))
    _, finished = predicted([PredictionTask(case=case)], tmp_path / "out", noting := NotingSpacings())
    assert finished["a"].record.status == "done", finished["a"].record.reason
    assert noting.spacings == [(3.0, 0.5, 0.5)]


def test_a_case_is_prepared_while_another_is_in_the_network(tmp_path):
    _, finished = predicted([task(tmp_path, name) for name in "abc"], tmp_path / "out", Overlapping())
    assert [finished[name].record.status for name in "abc"] == ["done"] * 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{name}.nii.gz" for name in "abc"]


def test_a_scan_that_is_no_dicom_is_refused_before_the_network_where_dicom_seg_is_asked_for(tmp_path):
    events, finished = predicted([task(tmp_path, "a")], tmp_path / "out", suffix=".dcm")
    assert finished["a"].record.status == "failed"
    assert "is no DICOM image; expected a scan read from DICOM; write .nii.gz instead" in finished["a"].record.reason
    assert not [event for event in events if isinstance(event, StageReached)]


@pytest.mark.parametrize(("memory_gb", "most"), [(3.9, 1), (4.0, 2), (6.5, 3)])
def test_a_case_enters_only_if_its_peak_fits_beside_those_inside(tmp_path, memory_gb, most, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_CASES", 3)
    counting = Counting()
    _, finished = predicted([task(tmp_path, f"{i}") for i in range(5)], tmp_path / "out", counting, memory_gb=memory_gb)
    assert {f.record.status for f in finished.values()} == {"done"}
    assert counting.most <= most
    if most == 1:
        assert counting.most == 1


def test_a_case_that_can_never_fit_is_refused_with_the_numbers(tmp_path):
    _, finished = predicted([task(tmp_path, "large", 9), task(tmp_path, "small", 3)], tmp_path / "out", memory_gb=8.0)
    assert finished["small"].record.status == "done"
    large = finished["large"]
    assert (large.record.status, large.retry_exclusive) == ("failed", False)
    assert "9 x 5 x 6 voxels needs 9.00 GB of RAM, and 8.00 GB may be used" in large.record.reason
    assert "--memory" in large.record.reason


def test_a_case_that_fits_only_alone_is_marked(tmp_path):
    large = task(tmp_path, "large", 9)
    _, finished = predicted([large], tmp_path / "out", memory_gb=5.0, exclusive_gb=10.0)
    assert finished["large"].retry_exclusive
    _, finished = predicted([large.model_copy(update={"exclusive": True})], tmp_path / "out", memory_gb=5.0, exclusive_gb=10.0)
    assert finished["large"].record.status == "done"


def test_each_case_fails_alone_with_its_reason(tmp_path):
    tasks = [task(tmp_path, name) for name in ("a", "broken", "c", "d")]
    tasks[2].case.images[0].write_bytes(b"no image")
    _, finished = predicted(tasks, tmp_path / "out")
    assert {n: f.record.status for n, f in finished.items()} == {"a": "done", "broken": "failed", "c": "failed", "d": "done"}
    assert finished["broken"].record.reason == "ValueError: no prediction of this"
    assert "c.nii.gz" in finished["c"].record.reason


@pytest.mark.parametrize("reason", ["", "broken"])
def test_a_case_that_cannot_be_recorded_ends_the_pipeline(tmp_path, reason):
    tasks = [task(tmp_path, name) for name in "abcdefgh"]
    (tmp_path / "a.nii.gz").write_bytes(b"no scan" if reason else (tmp_path / "a.nii.gz").read_bytes())
    finished = []

    def report(event):
        if isinstance(event, Finished):
            finished.append(event)
            raise WriteError("cannot write predictions.json: No space left on device")

    out = OutputTarget(out=tmp_path / "out", key="k", suffix="")
    with pytest.raises(WriteError, match="No space left"):
        PredictionPipeline(StandIn(), out, report).run(tasks)
    assert len(finished) < len(tasks)


def test_stages_and_needed_memory_are_reported_as_they_begin(tmp_path):
    events, _ = predicted([task(tmp_path, "a", 3)], tmp_path / "out")
    assert [(e.stage, e.needed_gb) for e in events if isinstance(e, StageReached)] == [
        ("read", 0.0),
        ("read", 3.0),
        ("preprocess", 3.0),
        ("network", 3.0),
        ("write", 3.0),
    ]
    assert set(events[-1].record.seconds) == {"read", "preprocess", "network", "restore", "write"}


def test_a_finished_case_is_not_predicted_again_unless_a_byte_of_it_is_gone(tmp_path):
    first = task(tmp_path, "a")
    _, finished = predicted([first], tmp_path / "out")
    known = first.model_copy(update={"previous": finished["a"].record})
    events, again = predicted([known], tmp_path / "out")
    assert again["a"].record == known.previous
    assert len(events) == 2
    whole = (tmp_path / "out" / "a.nii.gz").read_bytes()
    (tmp_path / "out" / "a.nii.gz").write_bytes(whole[:-1])
    predicted([known], tmp_path / "out")
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == whole


def test_a_lost_device_is_not_blamed_on_the_scan(tmp_path):
    class Lost(StandIn):
        def infer(self, scan, **kept):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="CUDA error"):
        predicted([task(tmp_path, name) for name in "ab"], tmp_path / "out", Lost())


def test_a_case_that_lacks_memory_is_marked_for_another_attempt_alone(tmp_path):
    class Hungry(StandIn):
        def infer(self, scan, **kept) -> LabelMap:
            raise MemoryError("Unable to allocate 8 GiB")

    _, finished = predicted([task(tmp_path, "a")], tmp_path / "out", Hungry())
    assert finished["a"].retry_exclusive
    assert "memory ran out (Unable to allocate 8 GiB)" in finished["a"].record.reason


def test_what_is_unlike_the_training_scans_is_recorded_without_uncertainty(tmp_path):
    class Unlike(StandIn):
        def infer(self, scan, **kept):
            return replace(super().infer(scan, **kept), unlike=("spacing 5 mm along z",))

    _, finished = predicted([task(tmp_path, "a")], tmp_path / "out", Unlike())
    assert finished["a"].record.findings == ("spacing 5 mm along z [NS-S032]",)
    assert finished["a"].record.confidence is None
