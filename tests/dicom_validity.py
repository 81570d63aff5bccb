"""Whether a DICOM object has what the standard requires of it, by highdicom's tables of the standard."""

import pydicom
from highdicom._standard_utils import (
    AttributeTypeValues,
    construct_module_tree,
    get_iod_module_map,
    get_sop_class_iod_map,
)

GROUPS = "segmentation-multi-frame-functional-groups"
"""A group may be each frame's own or shared by all; they are checked together."""


def missing_attributes(ds: pydicom.Dataset) -> list[str]:
    """Attributes of the modules that an object without frames must have, that are missing or empty."""
    modules = get_iod_module_map()[get_sop_class_iod_map()[ds.SOPClassUID]]
    keys = [module["key"] for module in modules if module["usage"] == "M"]
    return [fault for key in keys for fault in _missing(ds, construct_module_tree(key)["attributes"], key)]


def faults(ds: pydicom.Dataset) -> list[str]:
    """Attributes that are missing, or empty where the standard wants a value (types 1 and 2), with their places."""
    modules = get_iod_module_map()[get_sop_class_iod_map()[ds.SOPClassUID]]
    placed = "FrameOfReferenceUID" in ds
    needed = [m["key"] for m in modules if m["usage"] == "M" or (m["key"] == "frame-of-reference" and placed)]
    assert GROUPS in needed
    found = [f for module in needed if module != GROUPS for f in _missing(ds, construct_module_tree(module)["attributes"], module)]
    rules = construct_module_tree(GROUPS)["attributes"]["PerFrameFunctionalGroupsSequence"]["attributes"]
    wanted = {"FrameContentSequence", "SegmentIdentificationSequence"}
    wanted |= (
        {"PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"} if placed else {"DerivationImageSequence"}
    )
    assert len(ds.PerFrameFunctionalGroupsSequence) == ds.NumberOfFrames
    for groups in ds.PerFrameFunctionalGroupsSequence:
        both = pydicom.Dataset()
        both.update(ds.SharedFunctionalGroupsSequence[0])
        assert not set(both.keys()) & set(groups.keys())
        both.update(groups)
        found += _missing(both, {key: rule for key, rule in rules.items() if key in wanted or key in both}, GROUPS)
    return found


def _missing(item: pydicom.Dataset, attributes: dict, place: str) -> list[str]:
    found = []
    for keyword, rule in attributes.items():
        empty = keyword in item and (item[keyword].is_empty or item[keyword].value in ("", None, []))
        if rule["type"] == AttributeTypeValues.REQUIRED and (keyword not in item or empty):
            found.append(f"{place}.{keyword}")
        if rule["type"] == AttributeTypeValues.REQUIRED_EMPTY_IF_UNKNOWN and keyword not in item:
            found.append(f"{place}.{keyword}")
        for child in item.get(keyword) or () if "attributes" in rule else ():
            found += _missing(child, rule["attributes"], f"{place}.{keyword}")
    return found
