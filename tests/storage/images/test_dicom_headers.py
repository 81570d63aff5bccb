import pytest
from dicom_series import write_series

from nnseg.core.errors import ScanError
from nnseg.storage.images.dicom_headers import read_tags


def test_scanner_and_patient_are_read_off_a_series(tmp_path):
    about = {"Manufacturer": "ACME", "ManufacturerModelName": "Round 3", "InstitutionName": "Here ", "PatientSex": "F"}
    write_series(tmp_path / "scan", PatientAge="063Y", **about)
    known = {"manufacturer": "ACME", "model": "Round 3", "institution": "Here", "sex": "F", "age": "63"}
    assert read_tags(tmp_path / "scan") == known
    assert read_tags(tmp_path / "scan" / "01.dcm") == known


@pytest.mark.parametrize(("age", "years"), [("018M", "1.5"), ("004W", "0.07666"), ("000D", "0"), ("102Y", "102")])
def test_ages_are_given_in_years(tmp_path, age, years):
    write_series(tmp_path, slices=1, PatientAge=age)
    assert read_tags(tmp_path)["age"] == years


def test_what_is_not_said_is_left_out(tmp_path):
    write_series(tmp_path / "scan", slices=1, Manufacturer="", PatientSex="")
    assert read_tags(tmp_path / "scan") == {}
    (tmp_path / "scan.nii.gz").write_bytes(b"no DICOM")
    (tmp_path / "empty").mkdir()
    assert read_tags(tmp_path / "scan.nii.gz") == read_tags(tmp_path / "empty") == {}


def test_a_damaged_header_is_named(tmp_path):
    (tmp_path / "one.dcm").write_bytes(bytes(128) + b"DICM" + b"rubbish" * 9)
    with pytest.raises(ScanError, match=r"one.dcm: cannot be read as DICOM"):
        read_tags(tmp_path)
