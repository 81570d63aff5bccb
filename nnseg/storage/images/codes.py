"""DICOM codes of labels, in SNOMED CT where the standard has one. Needs the extra ``dicom``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

PRIVATE_SCHEME = "99NNSEG"
"""Coding scheme of labels that the standard does not list; private schemes begin with 99."""

SYNONYMS = {
    "tumor": "neoplasm",
    "tumour": "neoplasm",
    "cancer": "neoplasm",
    "oedema": "edema",
    "haemorrhage": "hemorrhage",
    "enhancing tumor": "enhancing lesion",
    "enhancing tumour": "enhancing lesion",
    "oesophagus": "esophagus",
    "gall bladder": "gallbladder",
    "urinary bladder": "bladder",
    "thyroid gland": "thyroid",
    "small bowel": "small intestine",
    "large bowel": "large intestine",
    "bone": "bone tissue",
    "muscle": "muscle tissue",
    "fat": "adipose tissue",
    "vessel": "blood vessel",
    "csf": "cerebrospinal fluid",
    "brainstem": "brain stem",
    "caudate": "caudate nucleus",
    "pallidum": "globus pallidus",
    "accumbens": "nucleus accumbens",
    "portal vein and splenic vein": "portal vein",
    "lung upper lobe": "upper lobe of lung",
    "lung middle lobe": "middle lobe of right lung",
    "lung lower lobe": "lower lobe of lung",
    "heart atrium left": "left atrium",
    "heart atrium right": "right atrium",
    "heart ventricle left": "left ventricle",
    "heart ventricle right": "right ventricle",
    "vertebrae": "vertebra",
}
"""Names in datasets, and the standard's names for them."""

SIDES = {"left": "Left", "l": "Left", "lt": "Left", "right": "Right", "r": "Right", "rt": "Right"}
ABNORMAL = {"tumor", "tumour", "cancer", "neoplasm", "lesion", "lesions", "metastasis", "metastases", "necrosis", "edema", "cyst"}
"""Words that make a name that is not listed an abnormality."""

_LISTS = {"cid7192": "AnatomicalStructure", "cid7166": "Tissue", "cid7194": "MorphologicallyAbnormalStructure"}
"""The standard's lists of contents of segments, and their categories; later lists have precedence."""
_NOT_SHOWN = {"background", "normal"}


@dataclass(frozen=True, kw_only=True)
class SegmentCodes:
    """The content of a segment, as pydicom's codes.

    Args:
        category: anatomical structure, tissue, or abnormal structure.
        kind: of structure, such as kidney.
        side: left or right, if it is in the name and not in the code.
    """

    category: Any
    kind: Any
    side: Any = None


def find_codes(name: str) -> SegmentCodes:
    """The codes of a label's name.

    Source: DICOM PS3.16, context groups 7150, 7166, 7192 and 7194, as pydicom has them.

    Example:
        ``find_codes("kidney_left")`` is the anatomical structure 64033007 (Kidney) with 7771000 (Left).
    """
    from pydicom.sr.coding import Code  # noqa: PLC0415 (an extra)

    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])\d*|\d+", name)]
    sides = {SIDES[word] for word in words if word in SIDES}
    side = sides.pop() if len(sides) == 1 else ""
    plain = [word for word in words if word not in SIDES] if side else words
    for tried, rest in ((words, ""), ([side.lower(), *plain], ""), (plain, side)):
        found = _listed().get(_key(" ".join(tried)))
        if found:
            return SegmentCodes(category=found[0], kind=found[1], side=_side(rest) if rest else None)
    category = _category("MorphologicallyAbnormalStructure" if ABNORMAL & set(words) else "AnatomicalStructure")
    value = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()  # 16 characters, as many as a code may have
    return SegmentCodes(category=category, kind=Code(value, PRIVATE_SCHEME, name[:64] or "unnamed"))


@cache
def _listed() -> dict[str, tuple[Any, Any]]:
    """Category and code by name, in lower case without blanks."""
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    found = {}
    for group, category in _LISTS.items():
        members = getattr(codes, group)
        for keyword in members.dir():
            if keyword.lower() not in _NOT_SHOWN:
                found[keyword.lower()] = (_category(category), getattr(members, keyword))
    for key in [k for k in found if k.endswith("vertebra") and k != "vertebra"]:  # l1vertebra
        level = key.removesuffix("vertebra")
        found |= dict.fromkeys((level, f"vertebra{level}", f"vertebrae{level}"), found[key])
    return found | {_key(other): found[_key(name)] for other, name in SYNONYMS.items() if _key(name) in found}


def _key(name: str) -> str:
    return SYNONYMS.get(name, name).replace(" ", "").lower()


def _category(keyword: str) -> Any:
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    return getattr(codes.cid7150, keyword)


def _side(keyword: str) -> Any:
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    return getattr(codes.SCT, keyword)
