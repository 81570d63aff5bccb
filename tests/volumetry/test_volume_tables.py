import csv
import io

import pytest

from nnseg.core.errors import DatasetError
from nnseg.core.population import Person, make_population
from nnseg.volumetry.tables import LONG, long_table, read_patients, read_people, wide_table
from nnseg.volumetry.volumes import CaseVolumes, LabelVolume, Patient, Volumetry, describe_volumes

NAMES = ("Left Kidney", "Right Kidney")


def volumetry(*names: str) -> Volumetry:
    others = make_population([Person(volumes=dict.fromkeys(NAMES, 100.0 + i)) for i in range(40)], "others")
    cases = [
        describe_volumes(n, {"Left Kidney": 150.0, "Right Kidney": 100.0}, patient=Patient(age=70.5, sex="F"), population=others)
        for n in names
    ]
    return Volumetry(names=NAMES, cases=(*cases, CaseVolumes(name="broken", failed="it is no image")))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_long_table_has_a_line_for_each_case_and_label_and_for_each_failure():
    found = rows(long_table(volumetry("a")))
    assert [(r["case"], r["label"], r["ml"]) for r in found] == [
        ("a", NAMES[0], "150.0"),
        ("a", NAMES[1], "100.0"),
        ("broken", "", ""),
    ]
    assert found[0] | {"percentile": ""} == dict.fromkeys(LONG, "") | {
        "case": "a", "label": "Left Kidney", "ml": "150.0", "n": "40", "among": "all 40", "unusual": "high",
        "asymmetry_percent": "40.0", "age": "70.5", "sex": "F",
    }  # fmt: skip
    assert found[2]["failed"] == "it is no image"


def test_no_name_becomes_a_formula_and_all_come_back(tmp_path):
    names = ["=1+1", "+2", "-x", "@sum", "a,b", 'say "b"', "plain"]
    for write, table in ((long_table, "long.csv"), (wide_table, "wide.csv")):
        text = write(volumetry(*names))
        assert not any(row["case"].startswith(("=", "+", "-", "@")) for row in rows(text))
        (tmp_path / table).write_text(text)
        assert set(read_patients(tmp_path / table, names) if write is wide_table else names) == set(names)
        others = read_people(tmp_path / table, NAMES)
        assert [p.volumes for p in others.people] == [{"Left Kidney": 150.0, "Right Kidney": 100.0}] * len(names)
        assert {(p.age, p.sex) for p in others.people} == {(70.5, "F")}


@pytest.mark.parametrize(
    "text",
    [
        "case,age,sex,Left Kidney,right_kidney_ml\na,70.5,F,1.5,2\n",
        "case;age;sex;left kidney (ml);Right-Kidney [ml]\na;70,5;female;1,5;2,0\n",
        "\ufeffCase\tAge\tSex\tLEFT KIDNEY\tRight Kidney\tliver\na\t70.5\tw\t1.5\t2\tx\n\n",
        "case,label,ml,age,sex\na,Left Kidney,1.5,70.5,F\na,Right Kidney,2,70.5,F\na,Liver,9,70.5,F\n",
    ],
    ids=["commas", "semicolons and decimal commas", "tabs, a byte order mark and more columns", "a line for each label"],
)
def test_tables_of_all_spreadsheets_are_read_alike(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    (person,) = read_people(tmp_path / "t.csv", NAMES).people
    assert person == Person(volumes={"Left Kidney": 1.5, "Right Kidney": 2.0}, age=70.5, sex="F")


def test_empty_cells_are_unknown_values(tmp_path):
    (tmp_path / "t.csv").write_text("case,age,sex,Left Kidney,Right Kidney\na,n/a,,1.5,\nb,3\n")
    first, second = read_people(tmp_path / "t.csv", NAMES).people
    assert first == Person(volumes={"Left Kidney": 1.5})
    assert second == Person(volumes={}, age=3.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "t.csv is empty"),
        ("age,sex,Left Kidney\n3,F,1\n", 't.csv, line 1: has the columns age, sex, Left Kidney; one called "case" is expected'),
        ("case,age,spleen\na,3,1\n", "line 1: has the columns case, age, spleen; a column for each label is expected"),
        ("case,Left Kidney\na,large\n", 'line 2, column "left_kidney": "large" is no number'),
        ("case,Left Kidney\n\na,1\nb,-1\n", 'line 4, column "left_kidney": -1 cannot be; a number 0 or more is expected'),
        ("case,Left Kidney\na,1e999\n", 'line 2, column "left_kidney": 1e999 cannot be'),
        ("case,age,Left Kidney\na,200,1\n", 'line 2, column "age": 200 cannot be; a number between 0 and 130'),
        ("case,sex,Left Kidney\na,2,1\n", 'line 2, column "sex": "2" is not known; write F or M'),
        ("case,Left Kidney\na,1\na,2\n", 'line 3, column "case": a is in line 2 already'),
        ("case,Left Kidney\n,1\n", 'line 2, column "case": is empty'),
        ("case,Left Kidney\na,1,5\n", "line 2: has 3 cells below 2 columns; a decimal comma in a table separated by commas"),
        ("case,Left Kidney,left_kidney\na,1,2\n", 'line 1, column "left_kidney": there are two columns of this name'),
        ("case,label,ml\na,Left Kidney,1\na,Left Kidney,1\n", 'line 3, column "label": Left Kidney of a is listed before'),
        ("case,label,ml\na,spleen,1\n", 'column "label": none of the model\'s labels is listed'),
    ],
)
def test_errors_in_a_table_name_line_and_column(tmp_path, text, expected):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_people(tmp_path / "t.csv", NAMES)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_in_another_encoding_or_missing_is_an_error(tmp_path):
    (tmp_path / "latin.csv").write_bytes("case,Left Kidney\nMüller,1\n".encode("latin-1"))
    for path in (tmp_path / "latin.csv", tmp_path / "missing.csv", tmp_path):
        with pytest.raises(DatasetError):
            read_people(path, NAMES)


def test_patients_of_more_scans_than_there_are_may_be_listed(tmp_path):
    (tmp_path / "t.csv").write_text("case,age,sex\na,70,F\nb,,m\nelse,3,F\n")
    assert read_patients(tmp_path / "t.csv", ["a", "b"]) == {"a": Patient(age=70.0, sex="F"), "b": Patient(sex="M")}


def test_a_misspelt_case_is_noticed_by_the_scan_without_a_line(tmp_path):
    (tmp_path / "t.csv").write_text("case,age\na,70\nbb,3\n")
    with pytest.raises(DatasetError, match=r'line 3, column "case": there is no scan "bb"; the table has no line for case b'):
        read_patients(tmp_path / "t.csv", ["a", "b"])


def test_a_table_of_patients_needs_age_or_sex(tmp_path):
    (tmp_path / "t.csv").write_text("case,weight\na,70\n")
    with pytest.raises(DatasetError, match="has the columns case, weight; age or sex, or both, are expected"):
        read_patients(tmp_path / "t.csv", ["a"])


def test_intervals_have_columns():
    volume = LabelVolume(ml=2.0, interval=(1.5, 3.0), expected_dice=0.8, dice_interval=(0.71234567, 0.9))
    case = CaseVolumes(name="a", labels={NAMES[0]: volume, NAMES[1]: LabelVolume(ml=1.0)})
    known, unknown = rows(long_table(Volumetry(names=NAMES, cases=(case,))))
    ends = ("low", "high", "dice_low", "dice_high")
    assert [known[end] for end in ends] == ["1.5", "3.0", "0.7123", "0.9"]
    assert [unknown[end] for end in ends] == [""] * 4
