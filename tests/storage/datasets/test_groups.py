from pathlib import Path

import pytest

from nnseg.core.dataset import Case, Dataset, Finding
from nnseg.core.errors import DatasetError
from nnseg.core.labels import Labels
from nnseg.storage.datasets import groups
from nnseg.storage.datasets.groups import find_subjects, read_groups
from nnseg.system import isolation

FOLDER = Path("/sub-projects/sub-99/data")  # folders above the dataset tell no subject


def _dataset(*names: str, files: tuple[str, ...] = (), findings: tuple[Finding, ...] = ()) -> Dataset:
    paths = files or tuple(f"images/{name}.nii.gz" for name in names)
    cases = tuple(Case(name=name, images=(FOLDER / path,)) for name, path in zip(names, paths, strict=True))
    labels = Labels(names=("background", "organ"), values=(0, 1))
    return Dataset(
        name="d", folder=FOLDER, layout="", cases=cases, channels=("CT",), labels=labels, suffix=".nii.gz", findings=findings
    )


def _table(folder: Path, text: str, name: str = "groups.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize("how", ["subject", "bids", "BIDS"])
def test_subjects_are_read_off_names(how: str) -> None:
    dataset = _dataset("sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "site_sub-B7")
    assert read_groups(how, dataset) == {"sub-01_ses-1_T1w": "01", "sub-01_ses-2_T1w": "01", "site_sub-B7": "B7"}


def test_subjects_are_read_off_folders_inside_the_dataset() -> None:
    dataset = _dataset("a", "b", files=("sub-01/anat/a.nii.gz", "sub-02/anat/b.nii.gz"))
    assert read_groups("subject", dataset) == {"a": "01", "b": "02"}


@pytest.mark.parametrize("name", ["liver_01", "subject-01", "hub_nosub-01"])
def test_a_case_without_a_subject_is_named(name: str) -> None:
    with pytest.raises(DatasetError, match=f"case {name}: no BIDS subject"):
        read_groups("subject", _dataset("sub-01_a", name))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("sub-1_a", "sub-1_b", "sub-2_a"), {"sub-1_a": "1", "sub-1_b": "1", "sub-2_a": "2"}),
        (("sub-1", "sub-2", "sub-3"), {}),  # each once: nothing to keep together
        (("sub-1_a", "sub-1_b"), {}),  # one for all: nothing could be held out
        (("sub-1_a", "sub-1_b", "sub-2_a", "phantom"), {}),
    ],
)
def test_subjects_are_found_where_all_cases_tell_them_and_some_recur(names: tuple[str, ...], expected: dict[str, str]) -> None:
    assert find_subjects(_dataset(*names)) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("groups.csv", "case,group\na,1\nb,1\nc,2\n"),
        ("groups.csv", "a,1\n\nb, 1\nc,2\n"),
        ("groups.csv", "case,age,age,group,group\na,1,2,1,9\nb,1,2,1,9,a remark\nc,1,2,2,9\n"),
        ("groups.csv", "\ufeffPatient;age;Case\n1;50;a\n1;51;b\n2;60;c\n"),
        ("groups.tsv", "case\tsubject\tage\na\t1\t50\nb\t1\t51\nc\t2\n"),
        ("GROUPS.CSV", '"case","group"\r\n"a","1"\r\n"b","1"\r\n"c","2"\r\n'),
    ],
)
def test_groups_are_read_off_tables_as_spreadsheets_write_them(tmp_path: Path, name: str, text: str) -> None:
    assert read_groups(_table(tmp_path, text, name), _dataset("a", "b", "c")) == {"a": "1", "b": "1", "c": "2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1\nb,1\nzz,2\n", "lists case zz, not in the dataset; write names like a"),
        ("case,group\na,1\n", "does not list case b"),
        ("", "does not list cases a, b"),
        ("a,1\na,2\nb,1\n", "line 2: case a is in group 1 already, not in 2"),
        ("case,group\na,1\nb\n", 'line 3, column "group": is empty; name the group'),
        ("case,age\na,50\nb,51\n", 'line 1: has the columns case, age; one called "group", patient or subject is expected'),
        ("a,1,x\nb,1,x\n", 'has the columns a, 1, x; one called "case" is expected, or 2 columns without a header'),
        ('a,"1\nb,1\n', "is no readable table"),
    ],
)
def test_tables_that_do_not_group_all_cases_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_groups(_table(tmp_path, text), _dataset("a", "b"))


def test_a_table_may_list_cases_that_could_not_be_used(tmp_path: Path) -> None:
    dataset = _dataset("a", findings=(Finding(level="error", message="has no label map", case="b"),))
    assert read_groups(_table(tmp_path, "a,1\nb,1\n"), dataset) == {"a": "1"}


def test_missing_and_undecodable_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.csv: there is no such table"):
        read_groups("nowhere.csv", _dataset("a"))
    (tmp_path / "latin.csv").write_bytes("a,M\xfcller\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="save it as CSV in UTF-8"):
        read_groups(str(tmp_path / "latin.csv"), _dataset("a"))


def test_groups_are_read_off_names_by_a_regular_expression() -> None:
    groups = read_groups(r"^(p\d+)_", _dataset("p1_early", "p1_late", "p22_early"))
    assert groups == {"p1_early": "p1", "p1_late": "p1", "p22_early": "p22"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(p\d+)_", 'case b7: ".*" finds no group in its name'),
        (r"(\d*)", 'case p1_a: ".*" finds no group'),
        (r"(p\d+", "nor a regular expression: missing"),
        (r"p\d+", "has 0 pairs of parentheses"),
        (r"(p)(\d+)", "has 2 pairs of parentheses"),
    ],
)
def test_expressions_that_do_not_group_all_cases_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_groups(pattern, _dataset("p1_a", "b7"))


@pytest.mark.parametrize("pattern", ["(a{99999999999999})", "(" * 2000 + "a" + ")" * 2000, "(a"])
def test_what_is_no_regular_expression_is_refused(pattern: str) -> None:
    with pytest.raises(DatasetError, match="nor a regular expression"):
        read_groups(pattern, _dataset("a"))


def test_an_expression_without_end_is_ended_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "PATTERN_SECONDS", 0.2)
    monkeypatch.setattr(isolation, "POLL_INTERVAL", 0.1)
    with pytest.raises(
        DatasetError, match=r'"\(\(\?:a\|aa\)\+\)\$" is not done with the names of 1 case after 0 s; write it without'
    ):
        read_groups("((?:a|aa)+)$", _dataset("a" * 60 + "b"))
