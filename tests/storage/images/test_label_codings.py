"""Label maps in which a voxel's value is not the label's: segments, masks, channels, colours, numbers of objects."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from nnseg.core.errors import ScanError
from nnseg.core.image import Source
from nnseg.core.label_files import LabelFiles
from nnseg.storage.images.formats import stem_of
from nnseg.storage.images.raw import LabelSegment
from nnseg.storage.images.read import read_label_map, read_marks, read_scan


def save(path: Path, voxels, *, origin=(0.0, 0.0, 0.0), spacing=(1.0, 1.0, 1.0), vector: bool = False, **metadata: str) -> Path:
    """A file of voxels (Z, Y, X), or (Z, Y, X, C)."""
    image = sitk.GetImageFromArray(np.asarray(voxels), isVector=vector)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def described(*segments: tuple[str, int, int]) -> dict[str, str]:
    """The header's entries for segments: name, value, layer."""
    entries: dict[str, str] = {}
    for i, (name, value, layer) in enumerate(segments):
        entries |= {f"Segment{i}_Name": name, f"Segment{i}_LabelValue": str(value), f"Segment{i}_Layer": str(layer)}
    return entries


def shown(source) -> list:
    """Every voxel's marks, in a list of the shape of the file."""
    marked, _ = read_marks(source)
    return [marked.marks[code] for code in marked.codes.ravel()]


def values(source, **how) -> list:
    return read_label_map(source, **how).labels.tolist()


def test_stem_of_a_slicer_segmentation_is_that_of_its_scan():
    names = ("p.seg.nrrd", "p.SEG.nrrd", "p.nrrd", "p.seg.nii.gz", "seg.nrrd", ".seg.nrrd")
    assert [stem_of(Path(name)) for name in names] == ["p", "p", "p", "p.seg", "seg", ".seg"]


def test_segments_of_a_header_are_read_by_name(tmp_path):
    path = save(tmp_path / "a.seg.nrrd", np.array([[[0, 1, 2]]], np.uint8), **described(("tumour", 2, 0), ("organ", 1, 0)))
    assert shown(path) == [(), ("organ",), ("tumour",)]
    assert values(LabelFiles(paths=(path,), coding="segments", values={"organ": 7, "tumour": 9})) == [[[0, 7, 9]]]


def test_colour_of_a_segment_is_that_of_its_header(tmp_path):
    path = save(tmp_path / "a.seg.nrrd", np.ones((1, 1, 2), np.uint8), Segment0_Name="a", Segment0_Color="1 0.5 0")
    assert read_marks(path)[0].segments == (LabelSegment(name="a", value=1, colour=(255, 128, 0)),)


def test_layers_of_a_header_overlap(tmp_path):
    layers = np.stack([[[[0, 1, 1, 2, 0]]], [[[0, 0, 1, 1, 1]]]], axis=-1).astype(np.uint8)
    path = save(tmp_path / "a.seg.nrrd", layers, vector=True, **described(("lung", 1, 0), ("rib", 2, 0), ("ball", 1, 1)))
    assert shown(path) == [(), ("lung",), ("lung", "ball"), ("rib", "ball"), ("ball",)]
    meaning = LabelFiles(
        paths=(path,),
        coding="segments",
        values={"lung": 1, "rib": 2, "ball": 3},
        overlaps={"lung+ball": 4, "rib+ball": 3},
    )
    assert values(meaning) == [[[0, 1, 4, 3, 3]]]
    with pytest.raises(ScanError, match=r"has 1 voxels of rib\+ball"):
        read_label_map(meaning.model_copy(update={"overlaps": {"lung+ball": 4}}))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([("liver", 1, 0), ("Liver", 2, 0)], "describes two segments called Liver"),
        ([("liver", 1, 0), ("spleen", 1, 0)], "describes liver and spleen by the same value 1"),
        ([("liver", 1, 0)], r"has the value 2 \(1 voxels\), which no segment of its header describes"),
        ([("liver", 1, 0), ("spleen", 2, 1)], "describes spleen in layer 1, but has 1 layers"),
    ],
)
def test_header_that_contradicts_itself_is_refused(tmp_path, segments, message):
    path = save(tmp_path / "a.seg.nrrd", np.array([[[0, 1, 2]]], np.uint8), **described(*segments))
    with pytest.raises(ScanError, match=message):
        read_marks(path)


def test_masks_become_labels_and_a_wrong_overlap_is_named(tmp_path):
    a = save(tmp_path / "a.nii.gz", np.array([[[0, 1, 1, 0]]], np.uint8))
    b = save(tmp_path / "b.nii.gz", np.array([[[0, 0, 255, 255]]], np.float32))
    masks = LabelFiles(paths=(a, b), coding="masks", values={"0": 3, "1": 5}, overlaps={"0+1": 8})
    assert values(masks) == [[[0, 3, 8, 5]]]
    with pytest.raises(ScanError, match=r"a.nii.gz: has 1 voxels of 0\+1; expected those of 0, 1"):
        read_label_map(masks.model_copy(update={"overlaps": {}}))


def test_mask_with_noise_is_divided_at_the_half_and_said(tmp_path):
    noisy = np.array([[0] * 20 + [130, 100] + [255] * 20], np.uint8)
    Image.fromarray(noisy).save(tmp_path / "a.png")
    read = read_label_map(LabelFiles(paths=(tmp_path / "a.png",), coding="masks", values={"0": 1}))
    assert read.labels.ravel().tolist() == [0] * 20 + [1, 0] + [1] * 20
    assert read.notes == ("a.png: 2 voxels (0.048 of all) lie between 0 and 255; the mask was divided at the half [NS-L015]",)


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (
            np.linspace(0, 1, 12, dtype=np.float32),
            "is a soft mask: 83.33% of its voxels lie between 0 and 1; expected .* threshold",
        ),
        (np.arange(12, dtype=np.uint8), r"has 12 values \(0, 1, 2, 3, 4, 5, ...\); expected 0 and one other value in a mask"),
        (np.full(12, np.nan, np.float32), "12 voxels that are no whole numbers"),
        (np.arange(-1, 11).clip(-1, 0).astype(np.int16), r"has 2 values \(-1, 0\)"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, voxels, message):
    path = save(tmp_path / "a.nii.gz", voxels.reshape(1, 3, 4))
    with pytest.raises(ScanError, match=message):
        read_label_map(LabelFiles(paths=(path,), coding="masks", values={"0": 1}))


def test_channels_of_masks_are_read_by_number(tmp_path):
    one_hot = np.stack([[[[1, 0, 0]]], [[[0, 1, 0]]], [[[0, 0, 1]]]], axis=-1).astype(np.uint8)
    path = save(tmp_path / "a.nrrd", one_hot, vector=True)
    assert shown(path) == [("0",), ("1",), ("2",)]
    assert values(LabelFiles(paths=(path,), coding="channels", values={"0": 0, "1": 1, "2": 2})) == [[[0, 1, 2]]]
    with pytest.raises(ScanError, match="has 3 channels of different content"):
        read_label_map(path)


def test_colours_are_read_by_their_code(tmp_path):
    Image.fromarray(np.array([[[0, 0, 0], [255, 0, 16], [0, 128, 0]]], np.uint8)).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    assert shown(path) == [("#000000",), ("#ff0010",), ("#008000",)]
    meaning = LabelFiles(paths=(path,), coding="colours", values={"#000000": 0, "#ff0010": 1, "#008000": 2})
    assert values(meaning) == [[[0, 1, 2]]]
    with pytest.raises(ScanError, match="has 1 voxels of #008000; expected those of #000000, #ff0010"):
        read_label_map(meaning.model_copy(update={"values": {"#000000": 0, "#ff0010": 1}}))


def test_photograph_is_no_label_map(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(ScanError, match="has 3 channels of different content, and 4096 colours"):
        read_marks(tmp_path / "a.png")


def test_half_transparent_picture_is_no_label_map(tmp_path):
    Image.fromarray(np.array([[[9, 0, 0, 255], [7, 8, 0, 128]]], np.uint8), "RGBA").save(tmp_path / "a.png")
    with pytest.raises(ScanError, match="has 4 channels of different content"):
        read_marks(tmp_path / "a.png")


def test_numbers_of_objects_become_one_label(tmp_path):
    Image.fromarray(np.array([[0, 7, 300]], np.uint16)).save(tmp_path / "a.png")
    assert values(LabelFiles(paths=(tmp_path / "a.png",), coding="instances", values={"object": 1})) == [[[0, 1, 1]]]


@pytest.mark.parametrize(
    ("mode", "pixels", "expected"),
    [
        ("LA", [[[9, 255], [7, 255]]], [9, 7]),
        ("LA", [[[9, 255], [7, 0]]], [9, 0]),
        ("RGB", [[[9, 9, 9], [7, 7, 7]]], [9, 7]),
        ("RGBA", [[[9, 9, 9, 255], [7, 7, 7, 0]]], [9, 0]),
    ],
)
def test_grey_label_maps_saved_in_colour_or_with_transparency_are_grey(tmp_path, mode, pixels, expected):
    Image.fromarray(np.array(pixels, np.uint8), mode).save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png").labels.ravel().tolist() == expected


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize("coding", ["values", "masks"])
def test_label_map_cropped_to_its_extent_is_put_into_its_place(tmp_path, suffix, coding):
    spacing, origin = (0.5, 1.0, 2.0), (10.0, -3.0, 7.0)
    image = save(
        tmp_path / f"i{suffix}", np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32), origin=origin, spacing=spacing
    )
    whole = np.zeros((5, 6, 7), np.uint8)
    whole[2:4, 1:5, 3:6] = 1
    expected = read_label_map(save(tmp_path / f"w{suffix}", whole, origin=origin, spacing=spacing)).labels
    cropped = save(tmp_path / f"c{suffix}", whole[1:4, 1:6, 2:6], spacing=spacing, origin=(11.0, -2.0, 9.0))
    source = cropped if coding == "values" else LabelFiles(paths=(cropped,), coding="masks", values={"0": 1})
    scan = read_scan(image)
    read = read_label_map(source, like=scan.source)
    assert read.labels.tolist() == expected.tolist()
    assert read.grid.matches(scan.grid)
    assert read.notes[0].startswith(f"c{suffix}: covers 3 x 5 x 4 of 5 x 6 x 7 voxels of its image; it was put at (1, ")


def test_label_map_partly_outside_its_image_is_refused(tmp_path):
    scan = read_scan(save(tmp_path / "i.mha", np.arange(60, dtype=np.float32).reshape(3, 4, 5)))
    outside = save(tmp_path / "l.mha", np.ones((2, 2, 2), np.uint8), origin=(4.0, 1.0, 1.0))
    with pytest.raises(
        ScanError, match=r"covers voxels \(1, 1, 4\) to \(3, 3, 6\) \(z, y, x\) of its image, which has \(3, 4, 5\)"
    ):
        read_label_map(outside, like=scan.source)


@pytest.mark.parametrize(
    ("origin", "spacing"),
    [((1.5, 1.0, 1.0), (1.0, 1.0, 1.0)), ((1.0, 1.0, 1.0), (1.1, 1.0, 1.0)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))],
)
def test_label_map_on_another_grid_stays_where_it_is(tmp_path, origin, spacing):
    scan = read_scan(save(tmp_path / "i.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5)))
    read = read_label_map(
        save(tmp_path / "l.nii.gz", np.ones((2, 2, 2), np.uint8), origin=origin, spacing=spacing), like=scan.source
    )
    assert read.labels.shape == (2, 2, 2)


def test_real_slicer_files_give_their_segments(shared_data):
    folder = shared_data / "FORMATS" / "slicer_seg_nrrd"
    names = [
        "ribs",
        "cervical vertebral column",
        "thoracic vertebral column",
        "lumbar vertebral column",
        "right lung",
        "left lung",
        "tissue",
    ]
    marked, label_map = read_marks(folder / "Segmentation.seg.nrrd")
    assert [(s.name, s.value, s.channel) for s in marked.segments] == [(name, i, 0) for i, name in enumerate(names, 1)]
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "Segmentation.seg.nrrd")))
    counts = dict(zip(marked.marks, np.bincount(marked.codes.ravel()).tolist(), strict=True))
    assert counts == {(): int((stored == 0).sum())} | {(name,): int((stored == i).sum()) for i, name in enumerate(names, 1)}
    assert label_map.grid.matches(read_scan(folder / "CTChest4.nrrd").grid)


def test_real_overlapping_layers_of_slicer_are_both_read(shared_data):
    path = shared_data / "FORMATS" / "slicer_seg_nrrd" / "SegmentationOverlapping.seg.nrrd"
    marked, _ = read_marks(path)
    layers = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    has = np.array(["overlapping sphere" in mark for mark in marked.marks])[marked.codes]
    assert int(has.sum()) == int((layers[..., 1] == 1).sum()) > 0
    both = np.array([mark == ("tissue", "overlapping sphere") for mark in marked.marks])[marked.codes]
    assert int(both.sum()) == int(((layers[..., 0] == 7) & (layers[..., 1] == 1)).sum()) > 0


def test_real_masks_of_organs_become_one_label_map(shared_data):
    folder = shared_data / "FORMATS" / "totalsegmentator" / "example_seg_fast"
    paths = tuple(sorted(folder.glob("*.nii.gz")))
    marked, _ = read_marks(LabelFiles(paths=paths, coding="masks"))
    liver = str(paths.index(folder / "liver.nii.gz"))
    voxels = sum(int((marked.codes == i).sum()) for i, mark in enumerate(marked.marks) if liver in mark)
    assert voxels == int((sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "liver.nii.gz"))) > 0).sum()) > 0


@pytest.mark.parametrize("structure", ["axon", "myelin"])
def test_real_mask_with_noise_is_clean_once_read(shared_data, structure):
    name = f"sub-rat2_sample-data5_SEM_seg-{structure}-manual.png"
    path = shared_data / "AXON_SEM_BIDS" / "derivatives" / "labels" / "sub-rat2" / "micr" / name
    read = read_label_map(LabelFiles(paths=(path,), coding="masks", values={"0": 1}))
    assert np.unique(read.labels).tolist() == [0, 1]
    assert read.notes[0].startswith(f"{name}: 9 voxels")


def test_source_like_of_a_cropped_label_map_may_be_turned(tmp_path):
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "i.nrrd"))
    label = sitk.Image([6, 5, 4], sitk.sitkUInt8)
    label.SetDirection(image.GetDirection())
    label[4, 3, 2] = 1
    sitk.WriteImage(label, str(tmp_path / "w.nrrd"))
    sitk.WriteImage(label[3:, 2:, 1:], str(tmp_path / "c.nrrd"))
    source: Source = read_scan(tmp_path / "i.nrrd").source
    assert values(tmp_path / "c.nrrd", like=source) == values(tmp_path / "w.nrrd")
