"""What lies beside a DICOM series: unreadable slices make it fail, objects that are no scans are passed over and named."""

import gzip

import numpy as np
import pytest
from dicom_corpus import (
    CT,
    DOSE,
    STORAGE,
    Volume,
    frame_item,
    item,
    ramp,
    save,
    write_classic,
    write_enhanced,
)

from nnseg.core.dataset import describe_unused
from nnseg.core.errors import DatasetError, ScanError
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.images.dicom import sort_files
from nnseg.storage.images.read import read_header, read_scan

VOLUME = Volume(voxels=ramp(12))


def _cut(content: bytes) -> bytes:
    return content[:-20]


DAMAGE = {
    "empty": lambda content: b"",
    "cut": _cut,
    "cut in the header": lambda content: content[:400],
    "rubbish": lambda content: b"rubbish" * 100,
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{}", "MR.1.2.{}"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_series_with_unreadable_last_slices_fails_and_names_one(tmp_path, damage, name):
    files = write_classic(tmp_path, VOLUME, name=name)
    for path in files[:3]:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ScanError, match=r"|".join(path.name for path in files[:3])):
        read_scan(tmp_path)
    (case,) = find_scans(tmp_path, channels=1).cases
    with pytest.raises(ScanError):
        read_scan(case.images)


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big"])
def test_slices_without_preamble_are_part_of_the_series(tmp_path, syntax):
    files = write_classic(tmp_path, VOLUME, syntax)
    for path in files[:3]:
        path.write_bytes(path.read_bytes()[132:])  # the group 0002 comes first
    scan = read_scan(tmp_path)
    VOLUME.assert_holds(scan.image[0], scan.grid)
    assert read_header(tmp_path).grid == scan.grid


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_a_file_without_any_meta_information_is_read(tmp_path, syntax):
    (path,) = write_classic(tmp_path, Volume(voxels=ramp(1)), syntax)
    content = path.read_bytes()
    path.write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
    assert np.array_equal(read_scan(path).image, ramp(1)[None])


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
def test_packed_slices_are_read(tmp_path, syntax):
    for path in write_classic(tmp_path / "p", VOLUME, syntax):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (case,) = find_scans(tmp_path, channels=1).cases
    scan = read_scan(case.images)
    VOLUME.assert_holds(scan.image[0], scan.grid)
    one = tmp_path / "p" / "001.dcm.gz"
    assert find_scans(one, channels=1).cases[0].name == "001"
    one.write_bytes(one.read_bytes()[:200])
    with pytest.raises(ScanError, match=r"001.dcm.gz: gzip stream ends early"):
        read_scan(case.images)


def test_an_unreadable_slice_fails_the_series_it_lies_in_and_no_other(tmp_path):
    write_classic(tmp_path, VOLUME, name="IM{}", SeriesInstanceUID="1.1", SeriesNumber=1)
    write_classic(tmp_path, VOLUME, name="IM{}", first=50, SeriesInstanceUID="1.2", SeriesNumber=2)
    (tmp_path / "IM55").write_bytes(b"")
    one, two = find_scans(tmp_path, channels=1).cases
    assert (one.name, two.name) == (f"{tmp_path.name}_series1", f"{tmp_path.name}_series2")
    assert read_scan(one.images).image.shape == (1, 12, 4, 6)
    with pytest.raises(ScanError, match="IM55: cannot be read as DICOM"):
        read_scan(two.images)


OBJECTS = {
    "66.4": "Segmentation",
    "88.11": "Basic Text SR",
    "481.3": "RT Structure Set",
    "11.1": "Grayscale Softcopy Presentation State",
    "88.59": "Key Object Selection Document",
    "104.1": "Encapsulated PDF",
    "481.2": "RT Dose",
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_that_is_no_scan_is_named_as_what_it_is(tmp_path, kind):
    path = save(tmp_path / "object.dcm", STORAGE + kind, ramp(1).astype(np.uint16), "explicit", SeriesInstanceUID="9.9")
    with pytest.raises(DatasetError, match=rf"holds no scan; found DICOM {OBJECTS[kind]} \(1\)"):
        find_scans(tmp_path, channels=1)
    write_classic(tmp_path, VOLUME)
    assert sort_files(sorted(tmp_path.iterdir()))[1] == {path: f"is a DICOM {OBJECTS[kind]}"}
    (case,) = find_scans(tmp_path, channels=1).cases
    assert read_scan(case.images).image.shape == (1, 12, 4, 6)
    if STORAGE + kind != DOSE:
        for read in (read_scan, read_header):
            with pytest.raises(ScanError, match=f"object.dcm: is a DICOM {OBJECTS[kind]}"):
                read(path)


def test_localisers_and_single_slices_are_named_with_the_reason(tmp_path):
    write_classic(tmp_path, VOLUME, kind=CT)
    (scout,) = write_classic(
        tmp_path, Volume(voxels=ramp(1)), name="s{}", SeriesInstanceUID="8", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    (dose,) = write_classic(tmp_path, Volume(voxels=ramp(1, 9, 9)), name="d{}", SeriesInstanceUID="9")
    assert sort_files(sorted(tmp_path.iterdir()))[1] == {
        dose: "is a single slice beside longer series",
        scout: "is a localiser",
    }


def test_localisers_in_a_folder_of_their_own_are_scans_only_where_there_are_no_others(tmp_path):
    write_classic(tmp_path / "scout", Volume(voxels=ramp(1)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    alone = find_scans(tmp_path, channels=1)
    assert [case.name for case in alone.cases] == ["scout"]
    assert alone.unused == ()
    write_classic(tmp_path / "series", VOLUME, SeriesInstanceUID="9")
    write_classic(tmp_path / "one", Volume(voxels=ramp(1)), SeriesInstanceUID="10")
    both = find_scans(tmp_path, channels=1)
    assert [case.name for case in both.cases] == ["one", "series"]
    (scout,) = (tmp_path / "scout").iterdir()
    assert describe_unused(both.unused) == (f"not used: {scout.name} is a localiser",)


def test_a_study_of_two_series_and_a_file_of_several_volumes_is_named_by_what_differs(tmp_path):
    write_classic(tmp_path, VOLUME, name="a{}", SeriesNumber=3)
    echo = [{"MREchoSequence": [item(EffectiveEchoTime=t)]} for t in (10.0, 20.0)]
    frames = [frame_item(Volume(voxels=ramp()), k, **e) for k in range(5) for e in echo]
    write_enhanced(tmp_path / "e", frames, SeriesInstanceUID="7.7", SeriesNumber=4)
    names = [case.name.removeprefix(f"{tmp_path.name}_") for case in find_scans(tmp_path, channels=1).cases]
    assert names == ["series3", "series4_echo1", "series4_echo2"]
