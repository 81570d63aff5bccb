"""Labels' names in the coded words of DICOM."""

import pytest
from pydicom.sr.codedict import codes

from nnseg.storage.images.codes import PRIVATE_SCHEME, SYNONYMS, UNLISTED, find_codes

ANATOMY, TISSUE, ABNORMAL = (
    ("91723000", "Anatomical Structure"),
    ("85756007", "Tissue"),
    ("49755003", "Morphologically Abnormal Structure"),
)


@pytest.mark.parametrize(
    ("name", "category", "code", "meaning", "side"),
    [
        ("liver", ANATOMY, "10200004", "Liver", None),
        ("Hippocampus", ANATOMY, "5366008", "Hippocampus", None),
        ("kidney_left", ANATOMY, "64033007", "Kidney", "Left"),
        ("RightKidney", ANATOMY, "64033007", "Kidney", "Right"),
        ("Left-Hippocampus", ANATOMY, "5366008", "Hippocampus", "Left"),
        ("heart_atrium_left", ANATOMY, "82471001", "Left atrium", None),
        ("left ventricle", ANATOMY, "87878005", "Left ventricle", None),
        ("inferior_vena_cava", ANATOMY, "64131007", "Inferior vena cava", None),
        ("vertebrae_L1", ANATOMY, "66794005", "L1 vertebra", None),
        ("tumour", ABNORMAL, "108369006", "Neoplasm", None),
        ("edema", ABNORMAL, "79654002", "Edema", None),
        ("fat", TISSUE, "55603005", "Fat", None),
        ("rib_left_7", ANATOMY, "24915002", "Seventh rib", "Left"),
        ("gluteus_medius_right", ANATOMY, "78333006", "Gluteus medius muscle", "Right"),
        ("atrial_appendage_left", ANATOMY, "33626005", "Left auricular appendage", None),
        ("vertebrae_S1", ANATOMY, "65985001", "S1 vertebra", None),
        ("postcava", ANATOMY, "64131007", "Inferior vena cava", None),
        ("MYO", ANATOMY, "74281007", "Myocardium", None),
        ("NCR", ABNORMAL, "6574001", "Necrosis", None),
        ("Femur_Head_R", ANATOMY, "2812003", "Head of femur", "Right"),
    ],
)
def test_names_the_standard_lists_get_its_snomed_codes(name, category, code, meaning, side):
    words = find_codes(name)
    assert (words.category.value, words.category.meaning) == category
    assert (words.kind.value, words.kind.scheme_designator, words.kind.meaning) == (code, "SCT", meaning)
    assert (words.side and words.side.meaning) == side


@pytest.mark.parametrize("name", ["Anterior", "whole tumor", "Leber/Gefäß", "label 7", "x" * 99, "L", "background", "normal"])
def test_other_names_get_codes_of_our_own_that_the_standard_allows(name):
    words = find_codes(name)
    assert words.kind.scheme_designator == PRIVATE_SCHEME
    assert PRIVATE_SCHEME.startswith("99")
    assert len(PRIVATE_SCHEME) <= 16
    assert len(words.kind.value) <= 16
    assert 0 < len(words.kind.meaning) <= 64
    assert words.kind == find_codes(name).kind
    assert words.kind.value != find_codes(name + " ").kind.value
    assert words.category.value == (ABNORMAL if "tumor" in name else ANATOMY)[0]


@pytest.mark.parametrize("name", SYNONYMS)
def test_every_synonym_is_of_something_listed(name):
    assert find_codes(name).kind.scheme_designator in ("SCT", "NCIt")


def test_an_abnormality_named_after_its_organ_gets_the_codes_of_both():
    words = find_codes("kidney_cyst_left")
    assert (words.category.value, words.category.meaning) == ABNORMAL
    assert (words.kind.value, words.organ.value, words.side.meaning) == ("367643001", "64033007", "Left")
    assert find_codes("liver tumor").organ.meaning == "Liver"
    assert find_codes("tumor").organ is None


AMOS = """spleen, right kidney, left kidney, gallbladder, esophagus, liver, stomach, aorta, postcava, pancreas, right adrenal gland,
left adrenal gland, duodenum, bladder"""
ACDC_AND_BRATS = "RV, MYO, LV, edema, non-enhancing tumor, enhancing tumour, NCR, ED, ET"


@pytest.mark.parametrize("name", [name.strip() for name in f"{AMOS}, {ACDC_AND_BRATS}".replace("\n", " ").split(",")])
def test_labels_of_public_datasets_have_codes_of_the_standard(name):
    assert find_codes(name).kind.scheme_designator in ("SCT", "NCIt")


def test_all_labels_of_totalsegmentator_have_different_codes_of_the_standard(shared_data):
    files = (shared_data / "FORMATS" / "totalsegmentator" / "example_seg_fast").glob("*.nii.gz")
    found = {(words.kind, words.side, words.organ) for words in (find_codes(file.name[:-7]) for file in files)}
    assert {kind.scheme_designator for kind, *_ in found} == {"SCT"}
    assert len(found) == 117


def test_codes_that_the_lists_lack_are_those_of_pydicoms_dictionary_where_it_has_them():
    listed = [getattr(codes.SCT, keyword) for keyword in codes.SCT.dir()]
    meanings = {(code.value, code.meaning.lower()) for code in listed}
    known = [code for code in UNLISTED.values() if code[0] in {code.value for code in listed}]
    assert len(known) >= 7
    assert [code for code in known if (code[0], code[1].lower()) not in meanings] == []
