import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from nnseg.storage.tables import FORMULA, csv_text, read_rows


@given(st.text(st.sampled_from("=+-@'a1"), max_size=6))
def test_no_cell_of_text_begins_a_formula(text):
    ((cell, number),) = csv.reader(io.StringIO(csv_text((text, "-1"), [])))
    assert not cell.startswith(FORMULA)
    assert number == "'-1"


def test_names_that_look_like_formulas_come_back_as_they_were_and_numbers_stay_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(csv_text(("case", "ml"), [["=two", -1.5], ["o'clock", None], ["'quoted'", 2.0]]))
    assert path.read_text().splitlines()[1:] == ["'=two,-1.5", "o'clock,", "'quoted',2.0"]
    assert [cells for _, cells in read_rows(path)] == [["case", "ml"], ["=two", "-1.5"], ["o'clock", ""], ["'quoted'", "2.0"]]
