from collections.abc import Callable

from nnseg.core.fingerprint import Fingerprint
from nnseg.core.plan import Budget
from nnseg.planning.describe import describe, describe_cases
from nnseg.planning.planner import make_plans
from nnseg.planning.recipe import load_recipe


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


def test_description_of_2d_images_counts_shares_and_not_volumes(make_fingerprint: Callable[..., Fingerprint]):
    fingerprint = make_fingerprint((1, 50, 10), count=3)
    text = describe_cases(fingerprint)
    assert "3 2D images" in text
    assert "10.0% of an image" in text
    assert " ml" not in text
