import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from nnseg.storage.tables import csv_text, read_rows


@given(st.text(st.sampled_from(" =+-@'a1\t\u3000"), max_size=6))
def test_no_cell_of_text_begins_a_formula(text):
    ((cell, number),) = csv.reader(io.StringIO(csv_text((text, "-1"), [])))
    assert not cell.strip().startswith(("=", "+", "-", "@"))
    assert number == "'-1"


def test_text_that_a_spreadsheet_would_compute_gets_an_apostrophe():
    cells = ("=1+1", " =1+1", "\u3000+1", "\uff1d1+1", "a=1", " a")
    (found,) = csv.reader(io.StringIO(csv_text(cells, []), newline=""))
    assert found == ["'=1+1", "' =1+1", "'\u3000+1", "'\uff1d1+1", "a=1", " a"]


def test_text_begins_no_line_of_its_own():
    (found,) = csv.reader(io.StringIO(csv_text(("\t=1", "a\r=1", "a\n=1"), []), newline=""))
    assert found == [r"\t=1", r"a\r=1", r"a\n=1"]


def test_names_that_look_like_formulas_come_back_as_they_were_and_numbers_stay_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(csv_text(("case", "ml"), [["=two", -1.5], ["o'clock", None], ["'quoted'", 2.0]]))
    assert path.read_text().splitlines()[1:] == ["'=two,-1.5", "o'clock,", "'quoted',2.0"]
    assert [cells for _, cells in read_rows(path)] == [["case", "ml"], ["=two", "-1.5"], ["o'clock", ""], ["'quoted'", "2.0"]]
