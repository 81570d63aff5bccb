"""One image under two names, or with two label maps."""

import gzip
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnseg.core.dataset import Finding
from nnseg.core.fingerprint import CaseMeasure
from nnseg.planning.duplicates import find_duplicates, same_images, voxel_digest
from nnseg.planning.measure import measure
from nnseg.storage.datasets.read import read_dataset


def _case(name: str, image: str, label_map: str = "l") -> CaseMeasure:
    ones = (1, 1, 1)
    return CaseMeasure(
        name=name, key=name, shape=ones, spacing=(1.0, 1.0, 1.0), cropped_shape=ones, voxels={}, image=image, label_map=label_map
    )


def _write(folder: Path, name: str, image: np.ndarray, labels: np.ndarray, suffix: str = ".nii.gz") -> None:
    for place, voxels in (("images", image.astype(np.int16)), ("labels", labels.astype(np.uint8))):
        (folder / place).mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), folder / place / f"{name}{suffix}")


def test_a_digest_is_of_shape_and_values() -> None:
    voxels = np.arange(6, dtype=np.float32)
    assert voxel_digest(voxels) == voxel_digest(voxels.copy())
    others = (voxels.reshape(2, 3), voxels + 1, voxels[::-1])
    assert len({voxel_digest(v) for v in (voxels, *others)}) == 4


def test_cases_without_a_digest_are_not_compared() -> None:
    assert same_images([_case("a", ""), _case("b", "")]) == ()


def test_cases_of_one_image_are_warned_of_and_conflicting_label_maps_named() -> None:
    cases = [_case("a", "i"), _case("b", "j"), _case("c", "i"), _case("d", "j", "other"), _case("e", "k")]
    same = "cases a, c are the same, image and label map: they stay in one fold, as scans of one patient; keep one of them"
    conflict = "cases b, d have the same image but different label maps: they stay in one fold; keep the label map that is right"
    assert find_duplicates(cases) == tuple(Finding.of("NS-D018", message) for message in (same, conflict))


def test_many_duplicates_are_counted() -> None:
    cases = [_case(f"{i}{copy}", str(i)) for i in range(8) for copy in "ab"]
    *named, last = find_duplicates(cases)
    assert len(named) == 5
    assert last.message.startswith("3 more images belong to several cases each (cases 5a, 5b, 6a, 6b, 7a and 1 more)")


def test_the_same_voxels_in_other_files_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 99, (4, 3, 4, 5)), rng.integers(0, 2, (4, 3, 4, 5))
    for i in range(3):
        _write(tmp_path, f"case{i}", images[i], labels[i])
    for place in ("images", "labels"):
        content = gzip.decompress((tmp_path / place / "case1.nii.gz").read_bytes())
        (tmp_path / place / "copy.nii.gz").write_bytes(gzip.compress(content, 1))
    _write(tmp_path, "other_reader", images[2], labels[3])
    warnings = [f.message for f in measure(read_dataset(tmp_path)).findings if f.level == "warning"]
    assert [w.split(":")[0] for w in warnings] == [
        "cases case1, copy are the same, image and label map",
        "cases case2, other_reader have the same image but different label maps",
    ]
