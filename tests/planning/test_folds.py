"""What folds are made from."""

from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.labels import Labels, Region
from nnseg.planning.folds import find_labels, merge_groups

LABELS = Labels(names=("background", "organ", "tumour"), values=(0, 1, 2))


def _fingerprint(*names: str, tumour: str, labels: Labels = LABELS) -> Fingerprint:
    """Of cases that all show the organ, and one of them the tumour."""
    shape, ones = (9, 9, 9), (1.0, 1.0, 1.0)
    cases = tuple(
        CaseMeasure(
            name=name, key=name, shape=shape, spacing=ones, cropped_shape=shape,
            voxels={"background": 50, "organ": 9, "tumour": 5 if name == tumour else 0},
        )
        for name in names
    )  # fmt: skip
    return Fingerprint(dataset="d", layout="", channels=("CT",), labels=labels, cases=cases, intensities=())


def test_labels_of_a_case_are_its_foreground_labels_or_regions() -> None:
    assert find_labels(_fingerprint("a", "b", tumour="b")) == {"a": {"organ"}, "b": {"organ", "tumour"}}
    whole, core = Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)
    regions = LABELS.model_copy(update={"regions": (whole, core)})
    assert find_labels(_fingerprint("a", "b", tumour="b", labels=regions)) == {"a": {"whole"}, "b": {"whole", "core"}}


def test_groups_that_share_a_set_of_cases_become_one() -> None:
    names, groups = ("a1", "a2", "b1", "b2", "c1"), {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}
    assert merge_groups(names, groups, [("a2", "b1"), ("gone", "c1")]) == dict.fromkeys(names[:4], "a") | {"c1": "c"}
    assert merge_groups(names, {}, [("a1", "c1")]) == {"a1": "a1", "a2": "a2", "b1": "b1", "b2": "b2", "c1": "a1"}
    assert merge_groups(names, {}, []) == {}
