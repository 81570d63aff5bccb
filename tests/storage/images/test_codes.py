"""Labels' names in the coded words of DICOM."""

import pytest

from nnseg.storage.images.codes import PRIVATE_SCHEME, SYNONYMS, find_codes

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
