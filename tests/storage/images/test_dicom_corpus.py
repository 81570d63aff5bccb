"""Every kind of DICOM file, each in several transfer syntaxes: the right volume at its place, or a refusal by name."""

import numpy as np
import pydicom
import pytest
from dicom_corpus import (
    AXIAL,
    CLIP,
    CT,
    DESCENDING,
    DOSE,
    ENHANCED_CT,
    NUCLEAR,
    OBLIQUE,
    START,
    SYNTAXES,
    TILTED,
    Volume,
    frame_item,
    item,
    ramp,
    save,
    write_classic,
    write_enhanced,
    write_mosaic,
)

from nnseg.core.errors import ScanError
from nnseg.storage.datasets.content import content_hash
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.images.dicom import read_series
from nnseg.storage.images.raw import ReadOptions
from nnseg.storage.images.read import read_header, read_scan

SHEARED = Volume(voxels=ramp(), steps=TILTED)


def _classic(folder, syntax, volume, **tags):
    write_classic(folder / "series", volume, syntax, **tags)
    return {folder / "series": volume}


def _enhanced(folder, syntax, volume, *, order=None, kind=ENHANCED_CT, rescale=None):
    frames = [frame_item(volume, k, rescale=rescale(k) if rescale else None) for k in order or range(len(volume.voxels))]
    return {write_enhanced(folder / "enhanced.dcm", frames, syntax, kind=kind): volume}


def _dose(folder, syntax, volume):
    offsets = [k * float(volume.steps[0][2]) for k in range(len(volume.voxels))]
    stored = volume.voxels.astype(np.uint32)
    tags = {"ImagePositionPatient": volume.position(0), "ImageOrientationPatient": volume.orientation}
    tags |= {"PixelSpacing": volume.pixel_spacing, "GridFrameOffsetVector": offsets, "DoseGridScaling": 0.5, "DoseUnits": "GY"}
    half = Volume(voxels=volume.voxels * 0.5, steps=volume.steps)
    return {save(folder / "dose.dcm", DOSE, stored, syntax, **tags): half}


def _nuclear(folder, syntax, volume):
    place = item(ImagePositionPatient=volume.position(0), ImageOrientationPatient=volume.orientation)
    tags = {"DetectorInformationSequence": [place], "ImageType": ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]}
    tags |= {"PixelSpacing": volume.pixel_spacing, "SpacingBetweenSlices": float(volume.steps[0][2]), "SliceThickness": 9}
    return {save(folder / "nm.dcm", NUCLEAR, volume.voxels.astype(np.uint16), syntax, **tags): volume}


def _two_echoes(volume):
    return volume, Volume(voxels=volume.voxels + 500, steps=volume.steps, start=volume.start)


def _interleaved_classic(folder, syntax):
    one, two = _two_echoes(Volume(voxels=ramp()))
    write_classic(folder, one, syntax, name="IM{}", EchoTime=10.0, EchoNumbers=1)
    write_classic(folder, two, syntax, name="IM{}", first=100, EchoTime=20.0, EchoNumbers=2)
    return {f"{folder.name}_series5_echo1": one, f"{folder.name}_series5_echo2": two}


def _interleaved_enhanced(folder, syntax):
    one, two = _two_echoes(Volume(voxels=ramp()))
    echo = [{"MREchoSequence": [item(EffectiveEchoTime=t)]} for t in (10.0, 20.0)]
    frames = [frame_item(v, k, **e) for k in range(5) for v, e in zip((one, two), echo, strict=True)]
    file = write_enhanced(folder / "e.dcm", frames, syntax)
    return {file / "echo1": one, file / "echo2": two}


def _diffusion_enhanced(folder, syntax):
    volumes = {b: Volume(voxels=ramp(start=i)) for i, b in enumerate((0.0, 500.0, 1000.0))}
    frames = [frame_item(v, k, MRDiffusionSequence=[item(DiffusionBValue=b)]) for k in range(5) for b, v in volumes.items()]
    file = write_enhanced(folder / "d.dcm", frames, syntax)
    return {file / f"b{b:.0f}": v for b, v in volumes.items()}


def _times_enhanced(folder, syntax):
    volumes = {t: Volume(voxels=ramp(start=t)) for t in range(1, 14)}
    content = {t: {"FrameContentSequence": [item(TemporalPositionIndex=t)]} for t in volumes}
    frames = [frame_item(v, k, **content[t]) for t, v in volumes.items() for k in range(5)]
    file = write_enhanced(folder / "t.dcm", frames, syntax)
    return {file / f"t{t}": v for t, v in volumes.items()}


def _times_by_clock(folder, syntax):
    volumes = [Volume(voxels=ramp(start=1000 * t)) for t in range(3)]
    for t, volume in enumerate(volumes):
        write_classic(folder, volume, syntax, first=10 * t, of_slice=lambda k, t=t: {"AcquisitionTime": f"1200{10 * t + k:02d}.5"})
    return {f"{folder.name}_series5_t{t + 1}": volume for t, volume in enumerate(volumes)}


def _magnitude_and_phase(folder, syntax):
    one, two = _two_echoes(Volume(voxels=ramp(), steps=OBLIQUE))
    write_classic(folder, one, syntax, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    write_classic(folder, two, syntax, first=100, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])
    return {f"{folder.name}_series5_magnitude": one, f"{folder.name}_series5_phase": two}


def _mixed_orientations(folder, syntax):
    axial = Volume(voxels=ramp(3))
    sagittal = Volume(voxels=ramp(4, start=300), steps=np.array([[3.0, 0, 0], [0, 0, -0.7], [0, 0.5, 0]]))
    frames = [frame_item(v, k) for v in (axial, sagittal) for k in range(len(v.voxels))]
    file = write_enhanced(folder / "m.dcm", frames, syntax, kind=ENHANCED_CT)
    return {file / "axial": axial, file / "sagittal": sagittal}


def _mosaics(folder, syntax):
    one, two = _two_echoes(Volume(voxels=ramp(7)))
    write_mosaic(folder / "1.dcm", one, syntax, AcquisitionNumber=1)
    write_mosaic(folder / "2.dcm", two, syntax, AcquisitionNumber=2)
    return {f"{folder.name}_series5_acq1": one, f"{folder.name}_series5_acq2": two}


HOUNSFIELD = Volume(voxels=ramp() - 1000)
SLOPES = Volume(voxels=ramp(3) * np.array([1, 2, 4])[:, None, None] - 8)

KINDS = {
    "classic": lambda f, s: _classic(f, s, Volume(voxels=ramp())),
    "classic oblique": lambda f, s: _classic(f, s, Volume(voxels=ramp(), steps=OBLIQUE)),
    "classic CT": lambda f, s: _classic(f, s, HOUNSFIELD, kind=CT, RescaleSlope=1, RescaleIntercept=-1024),
    "classic signed": lambda f, s: _classic(f, s, HOUNSFIELD, kind=CT),
    "enhanced": lambda f, s: _enhanced(f, s, Volume(voxels=ramp())),
    "enhanced oblique": lambda f, s: _enhanced(f, s, Volume(voxels=ramp(), steps=OBLIQUE)),
    "enhanced against the normal": lambda f, s: _enhanced(f, s, Volume(voxels=ramp(), steps=DESCENDING)),
    "enhanced shuffled": lambda f, s: _enhanced(f, s, Volume(voxels=ramp()), order=(3, 0, 4, 1, 2)),
    "enhanced slopes": lambda f, s: _enhanced(f, s, SLOPES, rescale=lambda k: (2.0**k, -8.0)),
    "dose": lambda f, s: _dose(f, s, Volume(voxels=ramp())),
    "dose downwards": lambda f, s: _dose(f, s, Volume(voxels=ramp(), steps=DESCENDING)),
    "nuclear medicine": lambda f, s: _nuclear(f, s, Volume(voxels=ramp())),
    "nuclear medicine downwards": lambda f, s: _nuclear(f, s, Volume(voxels=ramp(), steps=DESCENDING)),
    "mosaic": lambda f, s: {write_mosaic(f / "m.dcm", v := Volume(voxels=ramp(7)), s): v},
    "mosaic oblique": lambda f, s: {write_mosaic(f / "m.dcm", v := Volume(voxels=ramp(9), steps=OBLIQUE), s): v},
    "mosaic downwards": lambda f, s: {write_mosaic(f / "m.dcm", v := Volume(voxels=ramp(3), steps=DESCENDING), s): v},
    "two echoes in one series": _interleaved_classic,
    "two echoes in one file": _interleaved_enhanced,
    "b values in one file": _diffusion_enhanced,
    "times in one file": _times_enhanced,
    "times by the clock": _times_by_clock,
    "magnitude and phase": _magnitude_and_phase,
    "mixed orientations": _mixed_orientations,
    "several mosaics": _mosaics,
}
"""(folder, syntax) -> volumes by path, or by the name of the case that `find_scans` finds."""

_ORDER = list(SYNTAXES)
CORPUS = [(kind, _ORDER[(i + shift) % 8]) for i, kind in enumerate(KINDS) for shift in (0, 3)]
"""Each kind in two of the transfer syntaxes; each syntax with several kinds."""
_NO_32_BITS = {"rle", "jpeg-ls", "jpeg", "j2k"}


@pytest.mark.parametrize(("kind", "syntax"), CORPUS)
def test_every_voxel_is_at_its_place(tmp_path, kind, syntax):
    if kind.startswith("dose") and syntax in _NO_32_BITS:
        syntax = "big"
    made = KINDS[kind](tmp_path, syntax)
    if isinstance(next(iter(made)), str):
        cases = {case.name: case.images for case in find_scans(tmp_path, channels=1).cases}
        assert sorted(cases) == sorted(made)
    else:
        cases = {path: [path] for path in made}
    for name, volume in [*made.items()][:: max(1, len(made) // 3)]:
        scan = read_scan(cases[name])
        volume.assert_holds(scan.image[0], scan.grid)
        header = read_header(cases[name])
        assert (header.grid, header.channels) == (scan.grid, 1)
        assert all(file.is_file() for file in scan.source.files)


@pytest.mark.parametrize("syntax", ["explicit", "deflated"])
@pytest.mark.parametrize("write", [_classic, _enhanced])
def test_tilt_is_kept(tmp_path, write, syntax):
    (path,) = write(tmp_path, syntax, SHEARED)
    raw = read_series(path if path.is_dir() else [path])
    SHEARED.assert_holds(raw.voxels[0], raw.grid)
    assert read_header(path, repair=True).grid == read_scan(path, repair=True).grid


def test_frames_against_the_normal_keep_their_stored_order(tmp_path):
    (path,) = _enhanced(tmp_path, "explicit", Volume(voxels=ramp(), steps=DESCENDING))
    source = read_scan(path).source
    assert source.grid.direction[0] == (0, 0, -1)
    assert source.grid.origin == tuple(START)


@pytest.mark.parametrize("steps", [AXIAL, DESCENDING, OBLIQUE])
def test_mosaics_lie_where_nibabel_puts_them(tmp_path, steps):
    from nibabel.nicom.dicomwrappers import MosaicWrapper  # warns if it is loaded first

    path = write_mosaic(tmp_path / "m.dcm", Volume(voxels=ramp(7), steps=steps))
    wrapper = MosaicWrapper(pydicom.dcmread(path))
    raw = read_series([path])
    assert np.array_equal(raw.voxels[0], np.moveaxis(wrapper.get_data(), -1, 0))
    assert raw.grid.origin == pytest.approx(wrapper.affine[:3, 3], abs=1e-6)
    assert np.allclose(raw.grid.steps, wrapper.affine[:3, [2, 0, 1]].T, atol=1e-6)


def test_a_missing_frame_is_refused_with_its_place(tmp_path):
    (path,) = _enhanced(tmp_path, "implicit", Volume(voxels=ramp()), order=(0, 1, 3, 4))
    for read in (read_scan, read_header):
        with pytest.raises(ScanError, match=r"gaps from 33.00 to 39.00 mm; expected a slice every 3 mm"):
            read(path)


def test_a_volume_that_lacks_its_last_frame_is_refused(tmp_path):
    one, two = _two_echoes(Volume(voxels=ramp()))
    echo = [{"MREchoSequence": [item(EffectiveEchoTime=t)]} for t in (10.0, 20.0)]
    frames = [frame_item(v, k, **e) for k in range(5) for v, e in zip((one, two), echo, strict=True)]
    path = write_enhanced(tmp_path / "e.dcm", frames[:-1])
    assert read_scan(path / "echo1").image.shape == (1, 5, 4, 6)
    with pytest.raises(ScanError, match="lacks 1 of the 5 slices"):
        read_scan(path / "echo2")


def test_a_file_of_several_volumes_names_them(tmp_path):
    _times_enhanced(tmp_path, "explicit")
    with pytest.raises(ScanError, match=r"t.dcm: holds 13 volumes: t1, t2, .*t13; expected one; name one as t.dcm/t1"):
        read_scan(tmp_path / "t.dcm")
    with pytest.raises(ScanError, match=r"t.dcm/echo1: there is no such volume in the file; expected t1, t2"):
        read_scan(tmp_path / "t.dcm" / "echo1")


@pytest.mark.parametrize("syntax", ["explicit", "jpeg-ls"])
def test_each_volume_in_a_file_is_a_case(tmp_path, syntax):
    made = _interleaved_enhanced(tmp_path / "p", syntax)
    (file,) = (tmp_path / "p").iterdir()
    found = {"e_echo1": (file / "echo1",), "e_echo2": (file / "echo2",)}
    assert {c.name: c.images for c in find_scans(file, channels=1).cases} == found
    in_folder = {f"p_series5_{path.name}": (path,) for path in made}
    assert {c.name: c.images for c in find_scans(tmp_path, channels=1).cases} == in_folder
    (one,) = find_scans(file / "echo2", channels=1).cases
    assert (one.name, one.images) == ("e_echo2", (file / "echo2",))
    assert read_scan(one.images).source.files == (file,)
    assert read_scan([file / "echo1", file / "echo2"]).image.shape == (2, 5, 4, 6)
    assert content_hash([file / "echo1"]) != content_hash([file / "echo2"])


CLIPS = {
    "cine": ({"FrameTime": 40.0, "FrameIncrementPointer": 0x00181063, "PixelSpacing": [1, 1]}, "is a clip of 3 frames in time"),
    "without positions": ({"PixelSpacing": [1, 1]}, r"has 3 frames without positions \(.*Secondary Capture"),
}


@pytest.mark.parametrize("syntax", ["explicit", "rle"])
@pytest.mark.parametrize("kind", CLIPS)
def test_time_is_never_a_distance(tmp_path, kind, syntax):
    tags, message = CLIPS[kind]
    path = save(tmp_path / "c.dcm", CLIP, ramp(3).astype(np.uint8), syntax, **tags)
    for read in (read_scan, read_header):
        with pytest.raises(ScanError, match=message):
            read(path)


def test_spacing_that_is_not_known_is_refused_unless_given(tmp_path):
    frames = [frame_item(Volume(voxels=ramp()), k) for k in range(5)]
    path = write_enhanced(tmp_path / "e.dcm", frames, spacing=None)
    with pytest.raises(ScanError, match="has no spacing of its voxels"):
        read_scan(path)
    given = (9.0, 0.7, 0.5)
    scan = read_scan(path, spacing=given)
    Volume(voxels=ramp()).assert_holds(scan.image[0], scan.grid)
    assert read_header(path, spacing=given).grid == scan.grid
    stack = save(tmp_path / "s.dcm", CLIP, ramp(3).astype(np.uint8), "explicit")
    assert read_scan(stack, spacing=given).grid.spacing == given


@pytest.mark.parametrize(("tags", "depth"), [({}, 5.0), ({"SpacingBetweenSlices": 4.0}, 4.0)])
def test_one_slice_is_as_thick_as_it_says(tmp_path, tags, depth):
    (path,) = write_classic(tmp_path, Volume(voxels=ramp(1)), **tags)
    assert read_scan(path).grid.spacing == read_header(path).grid.spacing == (depth, 0.7, 0.5)


def test_one_slice_of_unknown_thickness_has_a_note(tmp_path):
    (path,) = write_classic(tmp_path, Volume(voxels=ramp(1)), SliceThickness=None)
    assert "neither SliceThickness nor SpacingBetweenSlices" in read_scan(path).notes[0]
    assert read_series([path], ReadOptions(spacing=(2.0, 1.0, 1.0))).grid.spacing == (2.0, 0.7, 0.5)


def test_a_mosaic_that_does_not_say_its_order_is_refused(tmp_path):
    path = write_mosaic(tmp_path / "m.dcm", Volume(voxels=ramp(7)), csa=False)
    with pytest.raises(ScanError, match=r"is a mosaic of slices without the number of tiles and SliceNormalVector"):
        read_scan(path)


def test_steps_of_the_made_files_are_what_they_seem():
    assert np.array_equal(AXIAL @ np.ones(3)[:, None], [[3.0], [0.7], [0.5]])


def test_gated_nuclear_medicine_is_no_even_stack(tmp_path):
    place = item(ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    tags = {"DetectorInformationSequence": [place], "PixelSpacing": [1, 1], "SpacingBetweenSlices": 3.0}
    voxels = ramp(4).astype(np.uint16)
    for name, more in (
        ("gated", {"ImageType": ["ORIGINAL", "PRIMARY", "RECON GATED TOMO", "EMISSION"]}),
        ("twice", {"ImageType": ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"], "SliceVector": [1, 2, 1, 2]}),
    ):
        path = save(tmp_path / f"{name}.dcm", NUCLEAR, voxels, "explicit", **tags, **more)
        with pytest.raises(ScanError, match="has 4 frames without positions"):
            read_scan(path)


def test_a_clip_stays_one_though_a_spacing_is_given(tmp_path):
    path = save(tmp_path / "c.dcm", CLIP, ramp(3).astype(np.uint8), "explicit", FrameTime=40.0)
    with pytest.raises(ScanError, match="is a clip of 3 frames in time"):
        read_scan(path, spacing=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("broken", [[0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 7, 0]])
def test_an_orientation_that_is_none_is_refused(tmp_path, broken):
    write_classic(tmp_path, Volume(voxels=ramp()), of_slice=lambda k: {"ImageOrientationPatient": broken})
    with pytest.raises(ScanError, match="or with a wrong ImageOrientationPatient"):
        read_scan(tmp_path)


def test_an_echo_time_that_varies_over_the_slices_does_not_divide_them(tmp_path):
    volume = Volume(voxels=ramp(6))
    write_classic(tmp_path, volume, of_slice=lambda k: {"EchoTime": 10.01 + 0.02 * (k > 2)})
    scan = read_scan(tmp_path)
    volume.assert_holds(scan.image[0], scan.grid)


def test_echoes_between_each_other_s_slices_are_two_volumes(tmp_path):
    write_classic(tmp_path, Volume(voxels=ramp(6)), of_slice=lambda k: {"EchoTime": 10.0 + 10 * (k % 2)})
    cases = find_scans(tmp_path, channels=1).cases
    assert [read_scan(case.images).grid.spacing[0] for case in cases] == [6.0, 6.0]


def test_classic_stacks_of_one_series_are_named_by_their_plane(tmp_path):
    sagittal = Volume(voxels=ramp(4), steps=np.array([[3.0, 0, 0], [0, 0, -0.7], [0, 0.5, 0]]))
    write_classic(tmp_path, Volume(voxels=ramp()))
    write_classic(tmp_path, sagittal, first=50)
    names = [case.name.removeprefix(f"{tmp_path.name}_") for case in find_scans(tmp_path, channels=1).cases]
    assert names == ["series5_axial", "series5_sagittal"]
