from collections.abc import Callable

from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Budget
from nnseg.planning.describe import case_entries, describe, summarize_plan
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import load_recipe


def words_of(fingerprint: Fingerprint) -> str:
    return " ".join(f"{name} {text}" for name, text in case_entries(fingerprint))


def test_description_is_one_page_with_measurements_and_reasons(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((18, 237, 208), (5, 1.5625, 1.5625), unusable={"case_x": ""})
    plan = make_plans(fingerprint, Budget(seconds=1200), load_recipe("auto"))[0]
    page = describe(plan, fingerprint)
    lines = page.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100
    assert "200 volumes (pairs of folders), 1 more could not be used" in page
    assert "all 18 x 237 x 208 voxels" in page
    assert "label1 (1): in 200 of 200 cases, 0.61 ml" in page  # 50 voxels of 12.2 mm3
    assert "fit into 20 minutes" in " ".join(page.split())
    assert str(plan.training.batch_size) in page
    assert "5 x 1.562 x 1.562 mm" in page
    cases = tuple(case.model_copy(update={"length_unit": "voxel"}) for case in fingerprint.cases)
    assert "5 x 1.562 x 1.562 voxels" in describe(plan, fingerprint.model_copy(update={"cases": cases}))


def test_description_of_2d_images_counts_shares_and_not_volumes(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((1, 50, 10), count=3)
    text = words_of(fingerprint)
    assert "3 2D images" in text
    assert "10.0% of an image" in text
    assert " ml" not in text


def test_voxel_sizes_are_in_the_unit_of_the_files_or_said_to_be_unknown(make_fingerprint: Callable[..., Fingerprint]):
    known = make_fingerprint((18, 50, 60), (0.001, 0.0002, 0.0002), count=2)

    def described(*units: str) -> str:
        cases = tuple(case.model_copy(update={"length_unit": unit}) for case, unit in zip(known.cases, units, strict=True))
        return words_of(known.model_copy(update={"cases": cases}))

    assert "voxel all 1 x 0.2 x 0.2 um label" in described("um", "um")
    assert "voxel all 0.001 x 0.0002 x 0.0002 mm label" in described("um", "mm")
    unknown = described("voxel", "voxel")
    assert "voxel none stored, 1 mm assumed: lengths are in voxels" in unknown
    assert "50 voxels in the median" in unknown
    assert " mm" not in unknown.replace("1 mm assumed", "")
    assert "the files of 1 case state none, which were taken as 1 mm" in described("mm", "voxel")
    assert "0.002 1000 um³ in the median" in described("um", "um")  # 50 voxels of 1 x 0.2 x 0.2 um


def test_files_that_state_different_units_are_described_in_the_one_that_most_state(make_fingerprint: Callable[..., Fingerprint]):
    known = make_fingerprint((1, 500, 600), (1, 0.0002, 0.0003), count=4)
    units = ("mm", "um", "nm", "um")
    cases = tuple(case.model_copy(update={"length_unit": unit}) for case, unit in zip(known.cases, units, strict=True))
    fingerprint = known.model_copy(update={"cases": cases})
    assert "voxel all 0.2 x 0.3 um label" in words_of(fingerprint)
    plan = make_plans(fingerprint, Budget(seconds=1200), load_recipe("auto"))[0]
    assert plan.preprocessing.spacing == (0.0002, 0.0003)  # the file of a plan is in mm
    assert "0.2 x 0.3 um" in describe(plan, fingerprint)
    assert "voxel spacing of 0.2 x 0.3 um" in summarize_plan(plan, fingerprint.length_unit)
    assert plan.preprocessing.why["spacing"] == "all cases share this spacing"  # a single slice is no thick one


def test_pixel_sizes_of_pictures_have_no_distance_of_slices(make_fingerprint: Callable[..., Fingerprint]):
    known = make_fingerprint((1, 50, 60), (1, 0.0002, 0.0003), count=2)
    cases = tuple(case.model_copy(update={"length_unit": "um"}) for case in known.cases)
    text = words_of(known.model_copy(update={"cases": cases}))
    assert "voxel all 0.2 x 0.3 um label" in text
