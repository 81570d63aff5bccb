"""One screen about a dataset of any size, and all of it as JSON."""

import json
from collections.abc import Callable
from pathlib import Path

from nnseg.core.dataset import Case, Dataset, Finding, Unused
from nnseg.core.fingerprint import Fingerprint
from nnseg.planning.dataset_summary import LINES, WIDTH, is_doubtful, report_dataset, summarize_dataset


def dataset_of(fingerprint: Fingerprint, **changes: object) -> Dataset:
    cases = tuple(
        Case(name=case.name, images=(Path(f"i/{case.name}.nii.gz"),), labels=Path(f"l/{case.name}.nii.gz"), subject=case.name[:-1])
        for case in fingerprint.cases
    )
    content = {"layout": "pairs of folders", "channels": fingerprint.channels, "labels": fingerprint.labels, "suffix": ".nii.gz"}
    return Dataset(name="d", folder=Path("/d"), cases=cases, **{**content, **changes})


def test_summary_is_one_screen_whatever_is_found(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625))
    findings = [Finding(level="error", message=f"/d/{i}.nii.gz is {'very ' * i}broken", case=f"c{i}") for i in range(40)]
    findings += [Finding(level="warning", message="label map is empty: no voxel", case=f"e{i}") for i in range(12)]
    unused = [Unused(path=Path(f"/d/{i}.txt"), reason=f"reason {i}", suspect=i == 30) for i in range(40)]
    dataset = dataset_of(fingerprint, inferred=tuple(f"line {i} " * 30 for i in range(20)), unused=tuple(unused))
    lines = summarize_dataset(dataset, fingerprint.model_copy(update={"findings": tuple(findings)}))
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= WIDTH
    assert any(line.startswith("not used: reason 30 (30.txt)") for line in lines)  # what someone may miss comes first
    assert any(line.startswith("inferred  ... and 19 more, see --json") for line in lines)


def test_findings_of_one_kind_are_one_line(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625))
    findings = tuple(
        Finding(level="warning", message="label map is empty: check it", case=f"e{i}", file=f"/d/e{i}.png") for i in range(5)
    )
    lines = summarize_dataset(dataset_of(fingerprint), fingerprint.model_copy(update={"findings": findings}))
    assert "warning   5 cases: label map is empty: check it: e0, e1, e2 and 2 more" in lines
    assert summarize_dataset(dataset_of(fingerprint), fingerprint)[-1] == "no problem found"


def test_findings_of_one_kind_about_no_case_are_counted(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625), count=3)
    dataset = dataset_of(fingerprint)
    findings = [Finding(level="warning", message=f"label {name} ({i}) is rare") for i, name in enumerate(dataset.labels.names[1:])]
    findings += [Finding(level="warning", message=f"label {dataset.labels.names[1]} (7) is rare")]
    lines = summarize_dataset(dataset, fingerprint.model_copy(update={"findings": tuple(findings)}))
    count = len(dataset.labels.names) - 1
    assert lines[-1] == f"warning   label {dataset.labels.names[1]} (0) is rare; {count} more of this kind, see --json"


def test_report_has_every_case_finding_and_unused_file(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625), count=3)
    finding = Finding(level="warning", message="empty", case="a")
    dataset = dataset_of(fingerprint, unused=(Unused(path=Path("/d/x.txt"), reason="no image"),))
    checked = report_dataset(dataset, fingerprint.model_copy(update={"findings": (finding,)}))
    report = json.loads(checked.model_dump_json())
    assert (checked.findings, "findings" in report, report["refused"]) == ((finding,), False, "")
    assert [case["name"] for case in report["cases"]] == [case.name for case in fingerprint.cases]
    assert report["cases"][0]["shape"] == [18, 237, 208]
    assert report["cases"][0]["voxels"] == fingerprint.cases[0].voxels
    told = {"level": "warning", "message": "empty", "case": "a", "file": "", "code": "", "severity": "warning"}
    assert finding.explain() == told | {"found": "empty", "expected": "", "advice": ""}
    assert report["unused"] == [{"path": "/d/x.txt", "reason": "no image", "suspect": False}]
    assert report["doubtful"] is False


def test_errors_and_unused_files_that_look_like_scans_are_doubtful(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625))
    broken = fingerprint.model_copy(update={"findings": (Finding(level="error", message="broken"),)})
    assert is_doubtful(dataset_of(fingerprint), broken)
    assert is_doubtful(dataset_of(fingerprint, unused=(Unused(path=Path("a"), reason="b", suspect=True),)), fingerprint)
    assert not is_doubtful(dataset_of(fingerprint, unused=(Unused(path=Path("a"), reason="b"),)), fingerprint)
