"""Patients of several cases, as names, folders and BIDS subjects show them; and names that show none."""

from pathlib import Path

import pytest

from nnseg.core.dataset import Case, Dataset
from nnseg.core.labels import Labels
from nnseg.storage.datasets.patients import find_patients

LABELS = Labels(names=("background", "organ"), values=(0, 1))


def _dataset(names: list[str], subjects: tuple[str, ...] = ()) -> Dataset:
    told = subjects or [""] * len(names)
    cases = tuple(Case(name=n, images=(Path(f"/d/{n}.nii"),), subject=s) for n, s in zip(names, told, strict=True))
    return Dataset(name="d", folder=Path("/d"), layout="", cases=cases, channels=("CT",), labels=LABELS, suffix=".nii")


def _patients(names: list[str], subjects: tuple[str, ...] = ()) -> dict[str, str]:
    found = find_patients(_dataset(names, subjects))
    return dict(found.of) if found else {}


@pytest.mark.parametrize(
    ("first", "second", "patient"),
    [
        ("patient00{}_ED", "patient00{}_ES", "patient00{}"),
        ("patient00{}_frame01", "patient00{}_frame12", "patient00{}"),
        ("sub-0{}_ses-1", "sub-0{}_ses-2", "0{}"),
        ("siteA_subject_{}_x", "siteA_subject_{}_y", "siteA_subject_{}"),
        ("p0{}_t0", "p0{}_t1", "p0{}"),
        ("case_00{}_pre", "case_00{}_post", "case_00{}"),
        ("case_00{}", "case_00{}_followup", "case_00{}"),
        ("knee{}_left", "knee{}_right", "knee{}"),
        ("0{}_L", "0{}_R", "0{}"),
        ("Image_0{}L", "Image_0{}R", "Image_0{}"),
        ("P{}_20190101", "P{}_20210615", "P{}"),
        ("vol{}_session2_run-1", "vol{}_session2_run-2", "vol{}"),
        ("volume-{}_slice_07", "volume-{}_slice_08", "volume-{}"),
        ("slide{}_x0_y512", "slide{}_x512_y0", "slide{}"),
        ("BraTS-GLI-0200{}-100", "BraTS-GLI-0200{}-101", "BraTS-GLI-0200{}"),
        ("BraTS-GLI-0000{}-000", "BraTS-GLI-0000{}-001", "BraTS-GLI-0000{}"),
    ],
)
def test_names_show_patients(first: str, second: str, patient: str) -> None:
    names = {form.format(i): patient.format(i) for i in range(1, 5) for form in (first, second)}
    assert _patients(list(names)) == names


@pytest.mark.parametrize(
    "form",
    ["slice_{:03}", "img{:04}", "case_{:05}", "BRATS_{:03}", "{}_training", "hippocampus_{:03}", "t{}", "study_{}",
     "FLARE22_Tr_{:04}", "BraTS20_Training_{:03}", "BraTS19_CBICA_{}_1", "tile_{}", "LUNG1-{:03}", "s{:04}", "volume-{}",
     "ED_{}", "MR_{}_T1"],
)  # fmt: skip
def test_numbers_of_cases_show_no_patients(form: str) -> None:
    assert find_patients(_dataset([form.format(i) for i in range(1, 25)])) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"{year}_{i:03}" for year in (2019, 2020) for i in range(9)],
        [f"site{site}_scan{i:02}" for site in (1, 2) for i in range(9)],
        [f"center_{site}_{i:02}" for site in (1, 2) for i in range(9)],
        ["patient1_a", "patient1_b"],  # one patient: nothing could be held out
        ["1023509cf8d4c155", "10328b822b836e67", "10ba6cbee4873b32"],
    ],
)
def test_years_sites_and_a_single_patient_are_no_groups(names: list[str]) -> None:
    assert _patients(names) == {}


def test_a_patient_with_one_time_point_more_is_noticed() -> None:
    found = find_patients(_dataset([f"BraTS-GLI-{name}" for name in ("00000-000", "00002-000", "00003-000", "00003-001")]))
    assert found and len(set(found.of.values())) == 3
    assert found.message.startswith(
        "cases of one patient stay in one fold: 3 patients, 1 with several cases, from names like BraTS-GLI-00003-000"
    )


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        ([f"{i:02}_{kind}" for i in range(1, 5) for kind in ("dr", "g", "h")], "01_dr and 01_g"),  # HRF: other patients
        (["10005_1000005", "10005_1000006", "10006_1000007", "10006_1000008"], "10005_1000005 and 10005_1000006"),
        ([f"TCGA-{site}-{i:04}" for site in ("02", "06") for i in (3, 119, 350)], "TCGA-02-0003 and TCGA-02-0119"),
    ],
)
def test_names_that_only_may_show_patients_give_a_hint_and_no_groups(names: list[str], alike: str) -> None:
    found = find_patients(_dataset(names))
    assert found and not found.of
    assert found.message.startswith(f"names like {alike} begin alike: if they are scans of one patient, keep them in one fold with")
    assert found.message.endswith(r'--group-by "(.+)[_\-. ].+"')


def test_folders_of_patients_are_used_first_and_may_show_time_points_themselves() -> None:
    assert _patients(["a", "b", "c"], ("x", "x", "y")) == {"a": "x", "b": "x", "c": "y"}
    scans = ("P-0001-000", "P-0001-001", "P-0002-000")
    assert _patients(list(scans), scans) == {"P-0001-000": "P-0001", "P-0001-001": "P-0001", "P-0002-000": "P-0002"}
    assert _patients(["p1_t0", "p1_t1", "p2_t0"], ("1", "2", "3")) == {}


@pytest.mark.parametrize(
    ("place", "patients"),
    [
        ("ACDC/images", 80),
        ("Task04_Hippocampus/imagesTr", 0),
        ("DRIVE/images", 0),
        ("DSB2018/images", 0),
        ("ISBI2012_EM/images", 0),
    ],
)
def test_real_datasets(shared_data: Path, place: str, patients: int) -> None:
    names = sorted(file.name.split(".")[0] for file in (shared_data / place).iterdir() if not file.name.startswith("."))
    assert len(set(_patients(names).values())) == patients
