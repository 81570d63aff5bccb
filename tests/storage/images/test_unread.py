"""Files that look like scans and are not read are named with what they are and what to do."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnseg.core.errors import DatasetError, ScanError
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.datasets.tree import list_unused, walk
from nnseg.storage.images.formats import FORMATS
from nnseg.storage.images.read import read_header, read_scan
from nnseg.storage.images.unread import UNREAD, why_unread


@pytest.mark.parametrize("name", ["a.czi", "A.NII.BZ2", "a.par", "a.svs", "a.zip", "a.npz", "a.stl", "a.img", "a+orig.BRIK"])
def test_a_file_of_another_format_is_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    for read in (read_scan, read_header):
        with pytest.raises(ScanError, match=rf"{Path(name).suffix}: (is|holds) .*(; |expected)"):
            read(tmp_path / name)
    with pytest.raises(DatasetError, match=r": (is|holds) "):
        find_scans(tmp_path / name, channels=1)


def test_no_format_is_both_read_and_not():
    assert not set(FORMATS) & set(UNREAD)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in UNREAD)
    assert why_unread(Path("notes.txt")) == ""


def test_voxels_of_a_header_that_is_read_are_not_named(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((2, 3, 4), np.float32), np.eye(4)), tmp_path / "a.hdr")
    for name in ("b.img", "c.lif", "d.txt"):
        (tmp_path / name).write_bytes(b"content")
    found = {one.path.name: one.reason for one in list_unused(walk(tmp_path)) if one.suspect}
    assert found.keys() == {"b.img", "c.lif"}
    assert found["b.img"] == "holds the voxels of a header; name the .hdr beside it, or restore that"
