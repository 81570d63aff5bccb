"""Structured reports: highdicom and pydicom find the volume, its interval, the codes and the segment of each label."""

import numpy as np
import pydicom
import pytest
from dicom_series import write_series
from pydicom.sr.codedict import codes

from nnseg.core.errors import ScanError
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.core.trust import Agreement, Confidence
from nnseg.interop.conversion.converted_scan import ConvertedScan
from nnseg.interop.conversion.measurement_report import write_measurement_report
from nnseg.storage.images.read import read_scan
from nnseg.storage.predictions import ScanRecord

hd = pytest.importorskip("highdicom", reason="structured reports need highdicom")

LABELS = Labels(names=("background", "kidney_left", "liver tumor"), values=(0, 1, 5))


@pytest.fixture
def scan(tmp_path):
    write_series(tmp_path / "in", PatientID="007", StudyDate="20240101", FrameOfReferenceUID="1.2.3.4")
    read = read_scan(tmp_path / "in")
    labels = np.zeros(read.grid.shape, np.uint8)
    labels[1:4], labels[4, 0] = 1, 5
    confidence = Confidence(
        quality=0.9,
        expected_dice={"kidney_left": 0.9},
        volume_factors={"kidney_left": (0.9, 1.2)},
        flagged=None,
        unlike=(),
        agreement=Agreement(labels={"kidney_left": 0.9}, foreground=0.9, voxels={"kidney_left": 72.0}),
    )
    record = ScanRecord(status="done", confidence=confidence)
    return ConvertedScan(
        name="a", label_map=LabelMap(labels=labels, grid=read.grid), source=read.source, labels=LABELS, record=record
    )


def test_highdicom_finds_volume_interval_codes_and_segment_of_each_label(scan, tmp_path):
    seg, file = write_measurement_report(scan, tmp_path / "out")
    report = hd.sr.srread(file)
    assert report.content.__class__.__name__ == "MeasurementReport"
    kidney, tumor = report.content.get_volumetric_roi_measurement_groups()
    voxel = 3.0 * 0.7 * 0.5 / 1000
    (volume,) = kidney.get_measurements(name=codes.SCT.Volume)
    assert (volume.value, volume.unit.value) == (pytest.approx(72 * voxel, abs=1e-4), "mL")
    assert (kidney.finding_type.value, kidney.tracking_identifier) == ("64033007", "kidney_left")
    assert kidney.finding_sites[0].laterality.meaning == "Left"
    assert kidney.referenced_segment.referenced_sop_instance_uid == pydicom.dcmread(seg).SOPInstanceUID
    assert kidney.referenced_segment.referenced_segment_numbers == [1]
    assert tumor.get_measurements()[0].value == pytest.approx(6 * voxel, abs=1e-4)
    assert tumor.finding_sites[0].value.meaning == "Liver"


def test_pydicom_finds_the_same_with_the_interval_in_ml(scan, tmp_path):
    ds = pydicom.dcmread(write_measurement_report(scan, tmp_path / "out")[1])
    assert (ds.Modality, ds.PatientID, ds.StudyInstanceUID) == ("SR", "007", "1.2")
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    numbers = {}

    def collect(item):
        if item.get("ValueType") == "NUM":
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            numbers.setdefault(item.ConceptNameCodeSequence[0].CodeValue, []).append((float(value.NumericValue), unit))
        for child in item.get("ContentSequence", ()):
            collect(child)

    collect(ds)
    ml = 72 * 3.0 * 0.7 * 0.5 / 1000
    assert numbers["118565006"][0] == (pytest.approx(ml, abs=1e-4), "mL")
    assert numbers["371885007"] == [(pytest.approx(0.1 * ml, abs=1e-4), "mL")]  # below
    assert numbers["371886008"] == [(pytest.approx(0.2 * ml, abs=1e-4), "mL")]  # above


def test_labels_that_the_segmentation_lacks_are_named(scan, tmp_path):
    seg, _ = write_measurement_report(scan, tmp_path / "out")
    other = Labels(names=("background", "spleen"), values=(0, 1))
    foreign = ConvertedScan(name="a", label_map=scan.label_map, source=scan.source, labels=other, record=scan.record, seg=seg)
    with pytest.raises(ScanError, match="its DICOM-SEG has no segments of spleen"):
        write_measurement_report(foreign, tmp_path / "more")
