"""Rules of challenges: the presets, files of users, and the names and values that follow from them."""

from pathlib import Path

import pytest

from nnseg.core.errors import PlanError
from nnseg.core.labels import Labels, Region
from nnseg.interop.challenges.naming import check_names, check_values, label_map_values, name_files, written_values
from nnseg.interop.challenges.rules import Names, load_challenge, shipped_challenges

KINDS = ("acdc", "brats", "decathlon", "drive", "flare-cpu", "flare-gpu", "grand-challenge", "isbi-em", "kits")


@pytest.mark.parametrize("name", sorted(shipped_challenges()))
def test_a_preset_fits_a_page_and_names_its_sources(name: str):
    rules = load_challenge(name)
    assert (rules.name, bool(rules.title), bool(rules.source)) == (name, True, True)
    assert len(shipped_challenges()[name].read_text().splitlines()) <= 60


def test_the_presets_are_those_that_the_command_lists():
    from nnseg.cli import submit

    assert {*KINDS} <= {*shipped_challenges()}
    assert all(name in Path(submit.__file__).read_text() for name in shipped_challenges())


@pytest.mark.parametrize(
    ("challenge", "case", "file"),
    [
        ("decathlon", "hippocampus_002", "Task04_Hippocampus/hippocampus_002.nii.gz"),
        ("decathlon", "la_001", "Task02_Heart/la_001.nii.gz"),
        ("grand-challenge", "any name", "any name.mha"),
        ("flare-cpu", "FLARE22Ts_0001", "FLARE22Ts_0001.nii.gz"),
        ("brats", "BraTS-GLI-00001-000", "BraTS-GLI-00001-000.nii.gz"),
        ("brats-2021", "BraTS2021_00001", "BraTS2021_00001.nii.gz"),
        ("kits", "case_00210", "prediction_00210.nii.gz"),
        ("drive", "01_test", "01.png"),
        ("isbi-em", "slice_07", "test-volume.tif"),
    ],
)
def test_a_case_gets_the_name_that_the_challenge_asks_for(challenge: str, case: str, file: str):
    names = load_challenge(challenge).names
    assert name_files([case], names) == {case: file}
    assert check_names([case], names) == ()


def test_the_first_frame_of_a_patient_is_end_diastole():
    names = load_challenge("acdc").names
    cases = ["patient101_frame14", "patient101_frame01", "patient102_ES", "patient102_ED"]
    assert name_files(cases, names) == {
        "patient101_frame01": "patient101_ED.nii.gz",
        "patient101_frame14": "patient101_ES.nii.gz",
        "patient102_ED": "patient102_ED.nii.gz",
        "patient102_ES": "patient102_ES.nii.gz",
    }
    (finding,) = check_names([*cases, "patient103_frame01"], names)
    assert (finding.case, finding.code) == ("patient103_frame01", "NS-C001")
    assert "is one of 1 case; expected 2 cases of the patient, for ED, ES" in finding.message


def test_names_that_a_challenge_does_not_know_are_found():
    (finding,) = check_names(["case_00210", "patient7"], load_challenge("kits").names)
    assert finding.case == "patient7"
    (finding,) = check_names(["kidney_001"], load_challenge("decathlon").names)
    assert 'and "{task}" one of BRATS, la, liver' in finding.message


def test_files_of_one_name_and_missing_files_are_found():
    names = Names(case=r"(?P<patient>\w+)-\d", file="{patient}.nii.gz", count=3)
    messages = [finding.message for finding in check_names(["a-1", "a-2", "b-1"], names)]
    assert messages[0].startswith("gets the file a.nii.gz as a-1 does")
    assert messages[1].startswith("there would be 2 files; expected 3")


HEART = Labels(names=("background", "RV", "myocardium", "LV"), values=(0, 1, 2, 3))


def test_values_are_rewritten_by_name_or_value(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('based_on = "acdc"\n[pixels]\nrewrite = { RV = 3, 3 = 1, 99 = 2 }\n')
    rules = load_challenge(file)
    assert rules.names.ordinals == ("ED", "ES")
    assert written_values(HEART, rules.pixels) == {0: 0, 1: 3, 2: 2, 3: 1}
    assert check_values(HEART, rules.pixels) == ()


def test_a_label_whose_value_the_challenge_does_not_know_is_found():
    (finding,) = check_values(HEART, load_challenge("kits").pixels)
    assert 'label "LV" is written as 3; expected one of 0, 1, 2' in finding.message


def test_a_misspelt_label_is_named(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('based_on = "acdc"\n[pixels]\nrewrite = { miocardium = 3 }\n')
    with pytest.raises(PlanError, match='no label "miocardium"; did you mean myocardium'):
        written_values(HEART, load_challenge(file).pixels)


def test_regions_are_written_as_they_are_painted():
    regions = (Region(name="whole", values=(1, 2, 3), paint=2), Region(name="core", values=(1, 3), paint=1))
    tumour = Labels(names=("background", "core", "edema", "enhancing"), values=(0, 1, 2, 3), regions=regions)
    assert label_map_values(tumour) == {"background": 0, "whole": 2, "core": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[names]\nfile = "{patient}.nii.gz"', "none of case, ordinal"),
        ('[names]\ncase = "(a"\nfile = "{case}.nii.gz"', "must be an expression"),
        ("[pixels]\nvalues = [0, 300]", "300 is no uint8"),
        ('[pixels]\ncontent = "probabilities"', "probabilities are float32"),
        ('[pixels]\norientation = "LPP"', "one letter of LR, AP and SI each"),
        ("[pixels]\ncompressed = true", "pixels.compressed: of .nii.gz the suffix says"),
        ("[names]\nordinal = []", "names.ordinal is not a setting; did you mean names.ordinals"),
    ],
)
def test_rules_that_cannot_hold_are_refused(text: str, message: str, tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(f'based_on = "kits"\n{text}\n')
    with pytest.raises(PlanError, match=message):
        load_challenge(file)


def test_an_unknown_challenge_lists_the_known_ones():
    with pytest.raises(
        PlanError, match="challenge adcd: no challenge of this name; give the path of a TOML file or one of acdc, brats"
    ):
        load_challenge("adcd")


def test_names_are_counted_as_people_do():
    names = Names(case=r"(?P<patient>\w)_\d+", file="{patient}_{ordinal}.mha", ordinals=("first", "second"))
    assert name_files(["a_10", "a_9"], names) == {"a_9": "a_first.mha", "a_10": "a_second.mha"}
