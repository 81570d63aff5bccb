"""DICOM codes of labels, in SNOMED CT where the standard has one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

PRIVATE_SCHEME = "99NNSEG"
"""Coding scheme of labels that the standard does not list; private schemes begin with 99."""

VALUE_TEXT = "label value {}"
"""SegmentDescription of segments that nnseg writes: they are numbered from 1, whatever the values of the labels."""

_OTHER_NAMES = {
    "neoplasm": "tumor, tumour, cancer, tumors, tumours",
    "edema": "oedema, ed, peritumoral edema",
    "hemorrhage": "haemorrhage",
    "enhancing lesion": "enhancing tumor, enhancing tumour, et",
    "esophagus": "oesophagus",
    "gallbladder": "gall bladder",
    "bladder": "urinary bladder",
    "thyroid": "thyroid gland",
    "small intestine": "small bowel",
    "large intestine": "large bowel",
    "bone tissue": "bone",
    "muscle tissue": "muscle",
    "adipose tissue": "fat",
    "blood vessel": "vessel, vessels",
    "cerebrospinal fluid": "csf",
    "brain stem": "brainstem",
    "caudate nucleus": "caudate",
    "globus pallidus": "pallidum",
    "nucleus accumbens": "accumbens",
    "portal vein": "portal vein and splenic vein",
    "upper lobe of lung": "lung upper lobe",
    "middle lobe of right lung": "lung middle lobe",
    "lower lobe of lung": "lung lower lobe",
    "left atrium": "heart atrium left, la",
    "right atrium": "heart atrium right, ra",
    "left ventricle": "heart ventricle left, lv, lv cavity, left ventricle cavity",
    "right ventricle": "heart ventricle right, rv, right ventricle cavity",
    "vertebra": "vertebrae",
    "clavicle": "clavicula",
    "costal cartilage": "costal cartilages",
    "common iliac vein": "iliac vena",
    "innominate artery": "brachiocephalic trunk",
    "innominate vein": "brachiocephalic vein",
    "left auricular appendage": "atrial appendage left",
    "right auricular appendage": "atrial appendage right",
    "erector spinae muscle": "erector spinae",
    "inferior vena cava": "postcava, ivc",
    "superior vena cava": "svc",
    "prostate": "prostate gland",
    "lung": "lungs",
    "kidney": "kidneys",
    "rib": "ribs",
    "eyeball": "eye ball",
    "femoral head": "femur head",
    "cell": "cells",
    "nucleus": "nuclei",
    "myocardium": "myo, lv myocardium, heart myocardium",
    "necrosis": "ncr, necrotic core, necrotic tumor core",
    "non enhancing lesion": "non enhancing tumor, non enhancing tumour",
    "lesion": "lesions",
    "nodule": "nodules",
    "cyst": "cysts",
    "neoplasm secondary": "metastasis, metastases",
    "gray matter": "gm, grey matter",
    "white matter": "wm",
}
SYNONYMS = {other: name for name, others in _OTHER_NAMES.items() for other in others.split(", ")}
"""Names in datasets, and the standard's names for them; of ACDC and BraTS also the abbreviations."""

_RIBS = {
    "First": "48535007", "Second": "78247007", "Third": "25888004", "Fourth": "25523003", "Fifth": "15339008", "Sixth": "59558009",
    "Seventh": "24915002", "Eighth": "5953002", "Ninth": "22565002", "Tenth": "77644006", "Eleventh": "58830002",
    "Twelfth": "43993008",
}  # fmt: skip

UNLISTED = {
    "myocardium": ("74281007", "Myocardium"),
    "gluteus maximus": ("181674001", "Gluteus maximus muscle"),
    "gluteus medius": ("78333006", "Gluteus medius muscle"),
    "gluteus minimus": ("75297007", "Gluteus minimus muscle"),
    "iliopsoas": ("68455001", "Iliopsoas muscle"),
    "autochthon": ("244849004", "Deep muscle of back"),
    "vertebrae s1": ("65985001", "S1 vertebra"),
    "femoral head": ("2812003", "Head of femur"),
    "optic nerve": ("18234004", "Optic nerve"),
    "tibia": ("12611008", "Tibia"),
    "ulna": ("23416004", "Ulna"),
    "retina": ("5665001", "Retina"),
    "cell": ("4421005", "Cell"),
    "nucleus": ("84640000", "Nucleus"),
    **{f"rib {i}": (code, f"{ordinal} rib") for i, (ordinal, code) in enumerate(_RIBS.items(), 1)},
}
"""SNOMED CT codes and meanings of anatomical structures that the standard's lists lack.

Source: SNOMED CT, as in pydicom's dictionary, and in totalsegmentator_snomed_mapping.csv of TotalSegmentator.
"""

SIDES = {"left": "Left", "l": "Left", "lt": "Left", "right": "Right", "r": "Right", "rt": "Right"}
ABNORMAL = {"tumor", "tumour", "cancer", "neoplasm", "lesion", "lesions", "metastasis", "metastases", "necrosis", "edema", "cyst"}
"""Words that make a name that is not listed an abnormality."""

_ANATOMY, _ABNORMAL = "AnatomicalStructure", "MorphologicallyAbnormalStructure"
_LISTS = {"cid7192": _ANATOMY, "cid7166": "Tissue", "cid7194": _ABNORMAL}
"""The standard's lists of contents of segments, and their categories; later lists have precedence."""
_NOT_SHOWN = {"background", "normal"}


@dataclass(frozen=True, kw_only=True)
class SegmentCodes:
    """The content of a segment, as pydicom's codes.

    Args:
        category: anatomical structure, tissue, or abnormal structure.
        kind: of structure, such as kidney.
        side: left or right, if it is in the name and not in the code; of the organ, if there is one.
        organ: of an abnormality, such as the liver of a liver tumour.
    """

    category: Any
    kind: Any
    side: Any = None
    organ: Any = None


def find_codes(name: str) -> SegmentCodes:
    """The codes of a label's name.

    Source: DICOM PS3.16, context groups 7150, 7166, 7192 and 7194, as pydicom has them.

    Example:
        ``find_codes("kidney_left")`` is the anatomical structure 64033007 (Kidney) with 7771000 (Left).
    """
    words, plain, side = split_side(name)
    for tried, rest in ((words, ""), ([side.lower(), *plain], ""), (plain, side)):
        found = _listed().get(_key(" ".join(tried)))
        if found:
            return SegmentCodes(category=found[0], kind=found[1], side=_side(rest) if rest else None)
    return _abnormality(plain, side) or _own_code(name, words)


def split_side(name: str) -> tuple[list[str], list[str], str]:
    """The words of a label's name in lower case, those without its side, and the side, "Left", "Right" or "".

    Example:
        ``split_side("KidneyLeft") == (["kidney", "left"], ["kidney"], "Left")``
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])\d*|\d+", name)]
    sides = {SIDES[word] for word in words if word in SIDES}
    side = sides.pop() if len(sides) == 1 else ""
    return words, [word for word in words if word not in SIDES] if side else words, side


def _abnormality(words: Sequence[str], side: str) -> SegmentCodes | None:
    """The codes of an abnormality that is named after its organ, such as "kidney cyst"; None for another name."""
    for i in range(1, len(words)):
        organ, kind = (_listed().get(_key(" ".join(part))) for part in (words[:i], words[i:]))
        if organ and kind and kind[0] == _category(_ABNORMAL) and organ[0] != kind[0]:
            return SegmentCodes(category=kind[0], kind=kind[1], side=_side(side) if side else None, organ=organ[1])
    return None


def _own_code(name: str, words: Sequence[str]) -> SegmentCodes:
    category = _category(_ABNORMAL if ABNORMAL & set(words) else _ANATOMY)
    value = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()  # 16 characters, as many as a code may have
    return SegmentCodes(category=category, kind=_code(value, PRIVATE_SCHEME, name[:64] or "unnamed"))


@cache
def _listed() -> dict[str, tuple[Any, Any]]:
    """Category and code by name, in lower case without blanks."""
    found = {_key(name): (_category(_ANATOMY), _code(code, "SCT", meaning)) for name, (code, meaning) in UNLISTED.items()}
    for group, category in _LISTS.items():
        members = standard_code(group)
        for keyword in members.dir():
            if keyword.lower() not in _NOT_SHOWN:
                found[keyword.lower()] = (_category(category), getattr(members, keyword))
    for key in [k for k in found if k.endswith("vertebra") and k != "vertebra"]:  # l1vertebra
        level = key.removesuffix("vertebra")
        found |= dict.fromkeys((level, f"vertebra{level}", f"vertebrae{level}"), found[key])
    return found | {_key(other): found[_key(name)] for other, name in SYNONYMS.items() if _key(name) in found}


def _key(name: str) -> str:
    return SYNONYMS.get(name, name).replace(" ", "").lower()


def standard_code(group: str, keyword: str = "") -> Any:
    """The code of a keyword in a coding scheme or context group of the standard, as pydicom has it; without a keyword the group."""
    from pydicom.sr.codedict import codes  # noqa: PLC0415 (takes a tenth of a second)

    found = getattr(codes, group)
    return getattr(found, keyword) if keyword else found


def _code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.sr.coding import Code  # noqa: PLC0415 (loads the standard's codes)

    return Code(value, scheme, meaning)


def _category(keyword: str) -> Any:
    return standard_code("cid7150", keyword)


def _side(keyword: str) -> Any:
    return standard_code("SCT", keyword)
