"""Scans to predict may be listed in a table."""

import pytest

from nnseg.core.errors import DatasetError, ScanError
from nnseg.storage.datasets.find_scans import find_scans


def table(folder, text, name="scans.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_table_names_scans_and_their_files(tmp_path):
    found = find_scans(table(tmp_path, "case,image\nb,two/t1.nii.gz\na,/elsewhere/scan.nrrd\n"), channels=2)
    assert [(case.name, [str(path) for path in case.images]) for case in found.cases] == [
        ("a", ["/elsewhere/scan.nrrd"]),
        ("b", [str(tmp_path / "two" / "t1.nii.gz")]),
    ]


def test_an_empty_cell_is_a_channel_that_a_scan_lacks(tmp_path):
    found = find_scans(table(tmp_path, "T1\tcase\tFLAIR\na1.nii\ta\ta2.nii\n\tb\tb2.nii\n", "scans.tsv"), channels=2)
    assert [([path.name for path in case.images], case.missing) for case in found.cases] == [
        (["a1.nii", "a2.nii"], ()),
        (["b2.nii"], (0,)),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,image\na,1.nii\na,2.nii\n", "a is in line 2 already"),
        ("name,image\na,1.nii\n", 'one called "case" is expected'),
        ("case,T1,FLAIR\na,1.nii,2.nii\n", "one of paths, or one for each of 3 channels"),
        ("case,image\na,\n", "has no file for the case a"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(tmp_path, text, said):
    with pytest.raises(DatasetError, match=said):
        find_scans(table(tmp_path, text), channels=3)


def test_names_that_some_systems_take_for_one_are_refused(tmp_path):
    with pytest.raises(ScanError, match="would both be called"):
        find_scans(table(tmp_path, "case,image\na,1.nii\nA,2.nii\n"), channels=1)


def test_a_table_in_parquet_says_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra cluster is not installed")
    import pyarrow

    file = tmp_path / "scans.parquet"
    parquet.write_table(pyarrow.table({"case": ["a", "b"], "T1": ["a1.nii", None], "FLAIR": ["a2.nii", "b2.nii"]}), file)
    text = table(tmp_path, "case,T1,FLAIR\na,a1.nii,a2.nii\nb,,b2.nii\n")
    assert find_scans(file, channels=2) == find_scans(text, channels=2)
    parquet.write_table(pyarrow.table({"case": ["a", "a"], "T1": ["1.nii", "2.nii"]}), file)
    with pytest.raises(DatasetError, match="has a case twice"):
        find_scans(file, channels=1)
    file.write_bytes(b"no table")
    with pytest.raises(DatasetError, match="expected a table in Parquet"):
        find_scans(file, channels=1)


@pytest.mark.parametrize(
    ("columns", "limits", "said"),
    [
        ({"case": [["a"], ["b"]], "T1": ["1", "2"]}, "", "has the column case of list"),
        ({"case": ["a", "b"], "T1": ["1", "2"]}, "text_entries=3", "has 4 cells"),
        ({"case": ["a", "b"], "T1": ["x" * 5000] * 2}, "run_bytes=10000", "has texts of 10,002 bytes"),
    ],
)
def test_a_parquet_file_that_would_take_much_memory_is_refused(tmp_path, monkeypatch, columns, limits, said):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra cluster is not installed")
    import pyarrow

    monkeypatch.setenv("NNSEG_LIMITS", limits)
    parquet.write_table(pyarrow.table(columns), tmp_path / "scans.parquet")
    with pytest.raises(DatasetError, match=said):
        find_scans(tmp_path / "scans.parquet", channels=1)
