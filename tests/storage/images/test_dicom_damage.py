"""Whatever bytes of a DICOM file are damaged, it is read or refused by name: no other error escapes."""

import random
from contextlib import suppress

import pytest
from dicom_corpus import Volume, frame_item, item, ramp, write_classic, write_enhanced, write_mosaic

from nnseg.core.errors import ScanError
from nnseg.storage.images.read import read_header, read_scan


def _classic(folder, syntax):
    return write_classic(folder, Volume(voxels=ramp(1)), syntax)[0]


def _enhanced(folder, syntax):
    frames = [frame_item(Volume(voxels=ramp(3)), k, MREchoSequence=[item(EffectiveEchoTime=5.0)]) for k in range(3)]
    return write_enhanced(folder / "e.dcm", frames, syntax)


MAKERS = {"classic": _classic, "enhanced": _enhanced, "mosaic": lambda f, s: write_mosaic(f / "m.dcm", Volume(voxels=ramp(7)), s)}


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "rle"])
@pytest.mark.parametrize("kind", MAKERS)
def test_damaged_bytes_raise_no_other_error(tmp_path, kind, syntax):
    whole = MAKERS[kind](tmp_path, syntax).read_bytes()
    draw = random.Random(f"{kind} {syntax}")
    damaged = tmp_path / "damaged.dcm"
    for _ in range(40):
        content = bytearray(whole[: draw.choice((len(whole), draw.randrange(140, len(whole))))])
        for _ in range(draw.choice((1, 3, 10))):
            content[draw.randrange(132, len(content))] = draw.choice((0, 255, draw.randrange(256)))
        damaged.write_bytes(content)
        for read in (read_header, read_scan):
            with suppress(ScanError):
                read(damaged, repair=True)


@pytest.mark.parametrize(("syntax", "marker"), [("jpeg", b"\xff\xc3"), ("jpeg-ls", b"\xff\xf7")])
def test_a_jpeg_header_of_another_size_is_refused_before_it_is_decoded(tmp_path, syntax, marker):
    path = _classic(tmp_path, syntax)
    content = bytearray(path.read_bytes())
    content[content.rindex(marker) + 4] = 100  # bits; GDCM crashes on it
    path.write_bytes(content)
    with pytest.raises(ScanError, match="its JPEG header says 4 x 6 pixels of 100 bits"):
        read_scan(path)
