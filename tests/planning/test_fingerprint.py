"""Properties of a fingerprint, and reading one from a file."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.geometry import Shape, Vector
from nnseg.core.labels import Labels


def case(name: str, structures: dict[str, Shape], spacing: Vector = (2.0, 1.0, 1.0)) -> CaseMeasure:
    shape = (40, 50, 60)
    return CaseMeasure(name=name, key=name, shape=shape, spacing=spacing, cropped_shape=shape, voxels={}, structures=structures)


def test_structures_are_given_in_mm_along_each_axis(make_fingerprint):
    cases = (
        case("a", {"label1": (10, 10, 10), "label2": (30, 5, 5)}),
        case("b", {"label1": (20, 30, 10)}),
        case("c", {"label1": (20, 20, 40)}, spacing=(1.0, 1.0, 0.5)),
    )
    fingerprint = make_fingerprint((40, 50, 60), cases=cases)
    # label1 in mm: (20, 10, 10), (40, 30, 10), (20, 20, 20)
    # medians: label1 (20, 20, 10), label2 (60, 5, 5)
    assert fingerprint.largest_structure_mm == (60.0, 20.0, 10.0)


def test_structures_that_were_not_measured_are_none(make_fingerprint):
    unmeasured = make_fingerprint((40, 50, 60))
    assert unmeasured.largest_structure_mm is None


def test_key_follows_content_and_meaning(make_fingerprint):
    one = make_fingerprint((40, 50, 60), count=3)
    first, *others = one.cases

    def key(**changes):
        return one.model_copy(update=changes).key

    assert key(layout="elsewhere", findings=(), dataset="renamed") == one.key
    assert key(cases=(*others, first)) == one.key
    assert key(cases=tuple(others)) != one.key
    assert key(cases=(first.model_copy(update={"key": "other bytes"}), *others)) != one.key
    assert key(cases=(first.model_copy(update={"name": "other"}), *others)) != one.key
    assert key(channels=("CT",)) != one.key
    assert key(labels=Labels(names=("background", "organ", "cyst"), values=(0, 1, 2))) != one.key


def test_fingerprint_survives_json(make_fingerprint):
    fingerprint = make_fingerprint((40, 50, 60), cases=(case("a", {"label1": (1, 2, 3)}),), unusable={"b": ""})
    again = Fingerprint.model_validate_json(fingerprint.model_dump_json())
    assert again == fingerprint
    assert "format" in again.model_fields_set


@pytest.mark.parametrize("changes", [{"format": 1}, {"median_relative_size_after_cropping": 1.0}])
def test_another_format_is_refused(make_fingerprint, changes):
    content = json.loads(make_fingerprint((40, 50, 60), count=1).model_dump_json())
    with pytest.raises(ValidationError):
        Fingerprint.model_validate(content | changes)


def test_planning_from_a_fingerprint_on_file_loads_no_reader_of_images_and_no_scipy():
    heavy = ("SimpleITK", "nibabel", "pydicom", "tifffile", "PIL", "scipy", "skimage", "blosc2", "batchgenerators", "torch", "rich")
    program = f"import sys, nnseg.planning.planner, nnseg.core.fingerprint; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
