"""Voxels have the unit of their modality; PET is SUV only where the header says all that it needs."""

import numpy as np
import pytest
from dicom_corpus import CT, DOSE, MR, PET, Volume, item, ramp, save, write_classic

from nnseg.storage.images.dicom import read_series
from nnseg.storage.images.read import read_scan

INJECTED = {"RadionuclideTotalDose": 370e6, "RadionuclideHalfLife": 6586.2, "RadiopharmaceuticalStartTime": "080000"}
PET_TAGS = {
    "Units": "BQML",
    "DecayCorrection": "START",
    "CorrectedImage": ["DECY", "ATTN", "SCAT"],
    "PatientWeight": 70.0,
    "SeriesDate": "20260102",
    "SeriesTime": "090000",
    "AcquisitionDate": "20260102",
    "AcquisitionTime": "090500",
}


def _pet(folder, drug=None, **tags):
    injected = [item(**(INJECTED if drug is None else drug))]
    return write_classic(
        folder, Volume(voxels=ramp(3)), kind=PET, RadiopharmaceuticalInformationSequence=injected, **{**PET_TAGS, **tags}
    )


LEFT = 370e6 * 2 ** (-3600 / 6586.2)
FACTORS = {
    "start": ({}, None, 70e3 / LEFT),
    "admin": ({"DecayCorrection": "ADMIN"}, None, 70e3 / 370e6),
    "over midnight": (
        {"SeriesTime": "003000", "AcquisitionTime": "003500"},
        {**INJECTED, "RadiopharmaceuticalStartTime": "233000.5"},
        70e3 / LEFT,
    ),
    "date and time": ({}, {**INJECTED, "RadiopharmaceuticalStartDateTime": "20260102080000.00"}, 70e3 / LEFT),
    "grams already": ({"Units": "GML"}, {}, 1.0),
    "Philips' own factor": (
        {"Units": "CNTS", "creator": (0x70530010, "LO", "Philips PET Private Group"), "own": (0x70531000, "DS", "0.25")},
        {},
        0.25,
    ),
}


@pytest.mark.parametrize("case", FACTORS)
def test_pet_is_read_as_suv(tmp_path, case):
    tags, drug, factor = FACTORS[case]
    _pet(tmp_path, drug, **tags)
    raw = read_series(tmp_path)
    assert raw.unit == "SUVbw (g/ml)"
    assert np.allclose(raw.voxels[0], ramp(3) * factor, rtol=1e-6)
    assert raw.notes == ()


LACKING = {
    "PatientWeight": ({"PatientWeight": None}, None),
    "RadionuclideTotalDose": ({}, {**INJECTED, "RadionuclideTotalDose": None}),
    "RadionuclideHalfLife": ({}, {**INJECTED, "RadionuclideHalfLife": None}),
    "RadiopharmaceuticalStartTime": ({}, {**INJECTED, "RadiopharmaceuticalStartTime": None}),
    "DecayCorrection": ({"DecayCorrection": "NONE"}, None),
    "CorrectedImage lacks ATTN": ({"CorrectedImage": ["DECY"]}, None),
    "SeriesTime": ({"SeriesTime": "100000"}, None),
    "RadiopharmaceuticalStartDateTime": ({}, {**INJECTED, "RadiopharmaceuticalStartDateTime": "20251231080000"}),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_pet_that_lacks_a_tag_is_activity_with_a_note(tmp_path, lacking):
    tags, drug = LACKING[lacking]
    _pet(tmp_path, drug, **tags)
    raw = read_series(tmp_path)
    assert (raw.unit, raw.voxels.max()) == ("Bq/ml", 71)
    assert raw.notes[0].startswith(f"its values are Bq/ml, not SUV: {lacking}")
    assert lacking in read_scan(tmp_path).notes[0]


def test_units_of_other_kinds(tmp_path):
    hounsfield = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    write_classic(tmp_path / "ct", Volume(voxels=ramp() - 1000), kind=CT, **hounsfield)
    write_classic(tmp_path / "other", Volume(voxels=ramp()), kind=CT, **hounsfield, RescaleType="MGML")
    write_classic(tmp_path / "mr", Volume(voxels=ramp()), kind=MR)
    units = [read_series(tmp_path / name).unit for name in ("ct", "other", "mr")]
    placed = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    dose = save(tmp_path / "d", DOSE, ramp(1).astype(np.uint32), "explicit", DoseUnits="GY", DoseGridScaling=0.01, **placed)
    assert [*units, read_series([dose]).unit] == ["HU", "", "", "Gy"]
