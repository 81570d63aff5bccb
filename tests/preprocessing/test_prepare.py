"""Steps before preprocessing do what they are named after, record it, and are refused or skipped where they cannot be done."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from preprocessing.test_register import SHAPE, apart, head, scan_of  # noqa: F401 (a fixture)

from nnseg.core.errors import NnsegError, ScanError
from nnseg.core.geometry import Box
from nnseg.core.image import Scan, Source
from nnseg.demo.scanner import _points, draw_phantom
from nnseg.preprocessing import prepare
from nnseg.preprocessing.prepare import prepare_scan
from nnseg.preprocessing.register import register_channels


@pytest.fixture(scope="module")
def phantom() -> tuple[Scan, np.ndarray]:
    """A phantom, and what lies inside its skull."""
    drawn = draw_phantom(3)
    turn = drawn.grid.canonical()
    grid = drawn.grid.reoriented(turn)
    inside = next(piece for piece in drawn.pieces if piece.tissue == "csf").level(_points(grid, Box.whole(grid.shape))) < 1
    image = np.ascontiguousarray(turn.apply(drawn.image)).astype(np.float32)
    return Scan(image=image, grid=grid, source=Source(files=(Path("t1.nii.gz"), Path("flair.nii.gz")), grid=drawn.grid)), inside


def test_n4_takes_a_smooth_field_out_of_every_channel(monkeypatch):
    monkeypatch.setattr(prepare, "ITERATIONS", 10)
    plain = np.abs(head())
    z, y, x = (np.linspace(-1, 1, n) for n in SHAPE)
    field = np.exp(0.4 * y[:, None] - 0.3 * x + 0.2 * z[:, None, None]).astype(np.float32)
    scan = prepare_scan(scan_of(plain * field), "n4")
    (record,) = scan.preparation
    inside = plain[0] > 40
    for given, corrected in zip(plain, scan.image, strict=True):
        left, before = (np.log(image[inside] / given[inside]).std() for image in (corrected, given * field))
        assert left < 0.7 * before
    assert [*record.measured] == ["field_low", "field_high", "variation_before", "variation_after"]
    assert all(np.less(record.measured["variation_after"], record.measured["variation_before"]))
    assert record.measured["field_low"][0] < 0.9
    assert record.measured["field_high"][0] > 1.1


def test_the_mask_keeps_what_is_inside_the_skull_in_all_channels(phantom):
    scan, inside = phantom
    masked = prepare_scan(scan, ["mask"])
    (record,) = masked.preparation
    kept = masked.image[0] != 0
    assert 2 * (kept & inside).sum() / (kept.sum() + inside.sum()) > 0.85
    np.testing.assert_array_equal(masked.image, scan.image * kept)
    assert record.measured["volume_ml"] == pytest.approx([kept.sum() * np.prod(scan.grid.spacing) / 1000], rel=0.01)
    assert "not learned" in record.method


def test_normalize_scales_the_percentiles_in_the_mask_to_0_and_1(phantom):
    image = np.linspace(-50, 149, 200, dtype=np.float32).reshape(1, 2, 10, 10)
    scan = replace(scan_of(image), image=image)
    scaled = prepare_scan(scan, "normalize")
    (record,) = scaled.preparation
    low, high = record.measured["low"][0], record.measured["high"][0]
    assert (low, high) == pytest.approx((-48.01, 147.01))
    np.testing.assert_allclose(scaled.image, np.clip((image - low) / (high - low), 0, 1), atol=1e-6)
    masked = prepare_scan(phantom[0], "mask")
    scaled = prepare_scan(phantom[0], "mask,normalize")
    _, record = scaled.preparation
    values = masked.image[1][masked.image[1] != 0]
    assert (record.measured["low"][1], record.measured["high"][1]) == pytest.approx(np.percentile(values, (1, 99)), rel=1e-3)
    assert scaled.image.max() == 1.0
    assert not scaled.image[masked.image == 0].any()


def test_register_moves_channels_as_a_plan_does_and_one_channel_not(apart):  # noqa: F811
    scan = scan_of(apart)
    moved = prepare_scan(scan, "register")
    (record,) = moved.preparation
    expected, registrations = register_channels(scan, "rigid")
    np.testing.assert_array_equal(moved.image, expected.image)
    assert record.registrations == registrations
    alone = replace(scan, image=apart[:1])
    same = prepare_scan(alone, "register")
    (record,) = same.preparation
    np.testing.assert_array_equal(same.image, alone.image)
    assert (record.status, record.reason) == ("skipped", "the scan has one channel")


def test_steps_are_done_in_their_order_and_each_can_be_kept(phantom):
    kept = []
    scan = prepare_scan(phantom[0], "normalize,mask", lambda record, after: kept.append((record.step, after.image)))
    assert [record.step for record in scan.preparation] == [step for step, _ in kept] == ["normalize", "mask"]
    np.testing.assert_array_equal(kept[-1][1], scan.image)
    assert kept[0][1][:, 0].any()  # not masked yet


def test_a_missing_channel_stays_zero(phantom):
    scan = phantom[0].without([1])
    prepared = prepare_scan(scan, "mask,normalize")
    _, record = prepared.preparation
    assert not prepared.image[1].any()
    assert len(record.measured["low"]) == 1


@pytest.mark.parametrize(
    ("step", "change", "found"),
    [
        ("mask", lambda scan: replace(scan, image=scan.image - 1000), r"100% of the voxels of channel 1 are below 0"),
        ("n4", lambda scan: replace(scan, image=scan.image - 1000), r"below 0"),
        ("mask", lambda scan: replace(scan, image=np.ones_like(scan.image)), r"the part that a threshold parts from the rest"),
        ("n4", lambda scan: replace(scan, source=replace(scan.source, is_2d=True)), r"has the shape .* a volume of several slices"),
        ("register", lambda scan: replace(scan, source=replace(scan.source, is_2d=True)), r"a volume of several slices"),
        ("normalize", lambda scan: replace(scan, image=np.ones_like(scan.image)), r"are both 1; expected an image with contrast"),
    ],
)
def test_a_step_that_cannot_be_done_is_refused_or_skipped_with_a_note(phantom, step, change, found):
    scan = change(phantom[0])
    with pytest.raises(ScanError, match=rf"t1.nii.gz: the step {step} cannot be done: .*{found}.* or write {step}:skip") as refused:
        prepare_scan(scan, step)
    assert refused.value.kind == "NS-S041"
    same = prepare_scan(scan, f"{step}:skip")
    (record,) = same.preparation
    np.testing.assert_array_equal(same.image, scan.image)
    assert (record.status, record.reason) == ("skipped", str(refused.value))
    assert same.notes[-1].startswith(f"the step {step} was skipped: t1.nii.gz")
    assert same.notes[-1].endswith("[NS-S042]")


def test_unknown_and_doubled_steps_are_refused():
    with pytest.raises(NnsegError, match='"n5" is no step; write n4, register, mask, normalize'):
        prepare_scan(scan_of(head()), "n5")
    with pytest.raises(NnsegError, match="names a step twice"):
        prepare_scan(scan_of(head()), "mask,mask:skip")
