"""What of a case reaches the page: checked by reading the packed files with another reader's eyes (nibabel)."""

import base64
import gzip
import json
import math
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_examples import report_content

from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.payload import PackedCase, pack, pack_all
from nnseg.reporting.report import render_report
from nnseg.reporting.viewer import room, script_hash, script_sources, viewer_html

HOSTILE = "</script><script>alert(1)</script>\"'&amp;"
LABELS = Labels(names=("background", "front", "back"), values=(10, 3, 7), ignore=99)
PLENTY = 10**9
TURN = np.linalg.qr(np.array([[0.1, 0.0, 1.0], [0.05, 1.0, 0.1], [1.0, 0.1, 0.0]]).T)[0].T
OBLIQUE = TURN * np.sign(np.sum(TURN * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]), axis=1))[:, None]


def grid(*shape: int, spacing=(2.0, 0.5, 0.7)) -> Grid:
    return Grid(shape=shape, spacing=spacing, origin=(-31.0, 12.5, 7.0), direction=tuple(map(tuple, OBLIQUE.tolist())))


def case(*shape: int, seed: int = 0, channels: int = 1, **others) -> CaseImages:
    random = np.random.default_rng(seed)
    reference = np.full(shape, 10, np.uint8)
    box = tuple(slice(n // 3, max(n // 3 + 1, 2 * n // 3)) for n in shape)
    reference[box] = random.choice([3, 7], reference[box].shape)
    prediction = np.roll(reference, 1, axis=-1)
    return CaseImages(
        **{
            "name": "case_1",
            "caption": "best",
            "image": random.normal(50, 400, (channels, *shape)).astype(np.float32),
            "grid": grid(*shape),
            "prediction": prediction,
            "reference": reference,
            "labels": LABELS,
            **others,
        }
    )


def volume(packed: PackedCase, name: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(packed.volumes[name]))


def zyx(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj).transpose(2, 1, 0)


def world_of(image: nib.Nifti1Image, x: int, y: int, z: int) -> np.ndarray:
    """In LPS, as grids count."""
    return (image.affine @ [x, y, z, 1])[:3] * [-1, -1, 1]


def test_a_small_case_is_packed_whole_with_its_labels_on_the_right_voxels():
    given_case = case(9, 14, 11)
    packed = pack(given_case, most_bytes=PLENTY)
    assert sorted(packed.volumes) == ["prediction", "reference", "scan 0"]
    for name, label_map in (("reference", given_case.reference), ("prediction", given_case.prediction)):
        image = volume(packed, name)
        assert image.get_data_dtype() == np.uint8
        assert (zyx(image) == np.select([label_map == 3, label_map == 7], [1, 2])).all()
        assert image.header.get_intent()[0] == "label"
        for z, y, x in ((0, 0, 0), (8, 13, 10), (4, 2, 9)):
            assert world_of(image, x, y, z) == pytest.approx(given_case.grid.world((z, y, x)), abs=1e-4)
        assert image.header.get_zooms() == pytest.approx((0.7, 0.5, 2.0))
    assert packed.notes == ()


def test_intensities_are_what_they_were_between_the_percentiles_and_cut_off_there():
    given_case = case(9, 14, 11)
    low, high = np.percentile(given_case.image, [0.5, 99.5])
    shown = zyx(volume(pack(given_case, most_bytes=PLENTY), "scan 0"))
    assert np.abs(shown - np.clip(given_case.image[0], low, high)).max() <= (high - low) / 255 / 2 + 1e-3


def test_uncertainty_is_kept_to_the_256th_part():
    doubt = np.random.default_rng(0).uniform(0, 1, (9, 14, 11)).astype(np.float32)
    shown = zyx(volume(pack(case(9, 14, 11, uncertainty=doubt), most_bytes=PLENTY), "uncertainty"))
    assert np.abs(shown - doubt).max() <= 1 / 510 + 1e-5


def test_ignored_voxels_get_an_index_of_their_own_and_never_disagree():
    label_map = np.full((3, 4, 5), 10, np.uint8)
    label_map[0] = 99
    packed = pack(case(3, 4, 5, reference=label_map, prediction=np.full((3, 4, 5), 3, np.uint8)), most_bytes=PLENTY)
    assert set(np.unique(zyx(volume(packed, "reference"))[0])) == {3}
    assert packed.jumps["axial"][2] > 0


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(*[st.integers(4, 40)] * 3), share=st.floats(0.02, 1.2), seed=st.integers(0, 9))
def test_the_budget_is_kept_and_voxels_keep_their_positions(shape, share, seed):
    given_case = case(*shape, seed=seed)
    budget = max(1500, int(share * pack(given_case, most_bytes=PLENTY).size))
    packed = pack(given_case, most_bytes=budget)
    assert packed.size <= budget or math.prod(packed.grid.shape) == 1
    extent = [n * s for n, s in zip(packed.grid.shape, packed.grid.spacing, strict=True)]
    assert extent == pytest.approx([n * s for n, s in zip(packed.box.shape, given_case.grid.spacing, strict=True)])
    corner = [start - 0.5 for start in packed.box.start]
    assert packed.grid.world((-0.5, -0.5, -0.5)) == pytest.approx(given_case.grid.world(tuple(corner)), abs=1e-6)
    shown, known = zyx(volume(packed, "reference")), given_case.reference
    for place in np.ndindex(*packed.grid.shape):
        sizes = zip(packed.box.start, packed.box.shape, packed.grid.shape, place, strict=True)
        source = [start + (2 * i + 1) * before // (2 * after) for start, before, after, i in sizes]
        assert shown[place] == {10: 0, 3: 1, 7: 2}[int(known[tuple(source)])]


def test_a_large_case_is_cropped_to_its_labels_before_it_is_downsampled_and_has_notes_on_both():
    label_map = np.full((30, 60, 60), 10, np.uint8)
    label_map[10:14, 20:30, 30:40] = 3
    large = case(30, 60, 60, reference=label_map, prediction=label_map)
    cropped = pack(large, most_bytes=22_000)
    assert cropped.box.start == (2, 12, 22)
    assert cropped.box.stop == (22, 38, 48)
    assert cropped.grid.shape == cropped.box.shape
    assert cropped.notes == ("Cropped to 26 × 26 × 20 of 60 × 60 × 30 voxels, around the labels.",)  # noqa: RUF001
    coarse = pack(large, most_bytes=4_000)
    assert coarse.box == cropped.box
    assert coarse.notes[1].startswith("Downsampled from voxels of 0.7 × 0.5 × 2 mm to ")  # noqa: RUF001
    assert coarse.grid.shape[0] == 20  # the finest axes give way first
    assert coarse.size > 2_000  # and not more than needed


def test_shares_that_small_cases_leave_go_to_large_ones():
    large = case(20, 40, 40)
    cases = [large, case(4, 6, 6), case(4, 6, 6), case(4, 6, 6)]
    packed = pack_all(cases, most_bytes=60_000)
    assert [p.grid.shape for p in packed[1:]] == [(4, 6, 6)] * 3
    assert sum(p.size for p in packed) <= 60_000
    assert packed[0].size > 2 * pack(large, most_bytes=15_000).size  # an even share


def test_the_largest_disagreement_is_found_in_each_plane():
    reference, prediction = np.full((2, 6, 8, 9), 10, np.uint8)
    prediction[1, 2:5, 3:6] = 3  # nine voxels in one axial slice, three in a coronal or sagittal one
    prediction[4, 3, 7] = 3
    prediction[0:6, 5, 4] = 7
    packed = pack(case(6, 8, 9, reference=reference, prediction=prediction), most_bytes=PLENTY)
    assert packed.jumps_to == "disagreement"
    assert packed.jumps["axial"][2] == 1
    assert packed.jumps["coronal"][1] == 5
    assert packed.jumps["sagittal"][0] == 4
    for x, y, z in packed.jumps.values():
        assert prediction[z, y, x] != reference[z, y, x]


def test_without_a_reference_jumps_lead_to_the_largest_uncertainty():
    doubt = np.zeros((6, 8, 9), np.float32)
    doubt[4, 5, 6] = 0.4
    assert pack(case(6, 8, 9, reference=None, uncertainty=doubt), most_bytes=PLENTY).jumps == {
        "axial": (6, 5, 4),
        "coronal": (6, 5, 4),
        "sagittal": (6, 5, 4),
    }
    alone = pack(case(6, 8, 9, reference=None), most_bytes=PLENTY)
    assert (alone.jumps, alone.jumps_to) == ({}, "")
    assert "reference" not in alone.volumes


def test_three_channels_of_a_picture_are_its_colours():
    picture = np.random.default_rng(0).integers(0, 256, (3, 1, 5, 7)).astype(np.float32)
    packed = pack(case(1, 5, 7, image=picture), most_bytes=PLENTY)
    colours = np.asarray(volume(packed, "scan 0").dataobj)
    assert packed.colour
    assert (np.stack([colours[c][:, :, 0].T for c in "RGB"]) == picture[:, 0]).all()


def test_channels_are_scans_of_their_own_and_not_too_many():
    packed = pack(case(4, 5, 7, channels=6), most_bytes=PLENTY)
    assert [name for name in packed.volumes if name.startswith("scan")] == ["scan 0", "scan 1", "scan 2", "scan 3"]
    assert packed.notes == ("Only the first 4 of 6 channels are shown.",)


def test_an_empty_label_map_and_a_constant_scan_can_be_packed():
    nothing = np.full((4, 5, 7), 10, np.uint8)
    packed = pack(case(4, 5, 7, image=np.ones((1, 4, 5, 7), np.float32), reference=nothing, prediction=nothing), most_bytes=PLENTY)
    assert np.allclose(zyx(volume(packed, "scan 0")), 1)
    assert packed.start == (3, 2, 2)
    assert packed.jumps == {}


def test_names_cannot_become_markup():
    labels = Labels(names=("background", HOSTILE, "back"), values=(10, 3, 7))
    hostile = case(4, 5, 7, name=HOSTILE, caption=HOSTILE, notes=(HOSTILE,), labels=labels)
    html = viewer_html([replace(hostile, channels=(HOSTILE,))])
    assert "alert(1)</script>" not in html
    assert "<script>alert" not in html
    about = json.loads(re.search(r'data-viewer="about">(.*?)</script>', html, re.S).group(1))
    assert about["cases"][0]["name"] == about["labels"][0]["name"] == about["cases"][0]["scans"][0]["name"] == HOSTILE


def test_the_page_holds_the_packed_volumes_and_loads_nothing():
    given_case = case(4, 5, 7)
    html = viewer_html([given_case])
    packed = pack(given_case, most_bytes=room())
    block = re.search(r'id="viewer-0-prediction">(.*?)</script>', html).group(1)
    assert base64.b64decode(block) == packed.volumes["prediction"]
    assert viewer_html([packed]) == html
    assert not re.findall(r"https?://", html)
    assert viewer_html([]) == ""


def test_volumes_in_the_page_keep_the_budget():
    cases = [case(30, 50, 50, seed=i) for i in range(3)]
    html = viewer_html(cases, most_bytes=60_000)
    blocks = re.findall(r'id="viewer-\d-[\w-]+">(.*?)</script>', html)
    assert len(blocks) == 9
    assert 40_000 < sum(map(len, blocks)) <= 60_000
    assert html.count("Downsampled from voxels") >= 3


def test_a_single_label_has_a_colour_for_each_side_and_several_have_one_each():
    labels = Labels(names=("background", "cell"), values=(0, 1))
    flat = np.zeros((1, 4, 4), np.uint8)
    html = viewer_html([case(1, 4, 4, labels=labels, reference=flat, prediction=flat)])
    (cell,) = json.loads(re.search(r'data-viewer="about">(.*?)</script>', html, re.S).group(1))["labels"]
    assert cell["reference"] != cell["prediction"]
    front, back, ignored = json.loads(
        re.search(r'data-viewer="about">(.*?)</script>', viewer_html([case(4, 5, 7)]), re.S).group(1)
    )["labels"]
    assert front["reference"] == front["prediction"] != back["prediction"]
    assert ignored["name"] == "ignored"


def test_script_hashes_are_those_of_the_embedded_scripts():
    """By hand: what ``openssl dgst -sha256 -binary | base64`` gives of an empty script."""
    assert script_hash("") == "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    assert len(set(script_sources())) == 2


def test_a_still_is_shown_until_the_viewer_is_started():
    content = report_content()
    example = content.examples[0]
    viewed = CaseImages(
        name=example.name, caption="best", image=np.zeros((1, 4, 4, 4), np.float32), grid=Grid(shape=(4, 4, 4)),
        prediction=np.zeros((4, 4, 4), np.uint8), reference=None, labels=LABELS,
    )  # fmt: skip
    page = render_report(replace(content, viewed=[viewed]))
    still = page.split('class="viewer-still"')[1].split("</div>")[0]
    assert example.pictures[0].svg in still
    assert "viewer-still" not in render_report(replace(content, viewed=[viewed], examples=[])).split("</style>")[-1]
