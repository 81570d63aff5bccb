"""The codes of findings: one table, which the code uses in full, and the documentation lists."""

import re
from pathlib import Path

import pytest

import nnseg
from nnseg.core.codes import ALLOWABLE, CODES
from nnseg.core.dataset import Finding
from nnseg.core.errors import DatasetError, NnsegError, ScanError, coded, split_code
from nnseg.core.options import parse_codes

PACKAGE = Path(nnseg.__file__).parent
CODE = re.compile(r"NS-[A-Z]\d{3}")


def sources() -> dict[Path, str]:
    return {path: path.read_text() for path in PACKAGE.rglob("*.py") if path != PACKAGE / "core" / "codes.py"}


def test_every_code_of_the_table_is_used_and_every_code_that_is_used_is_in_the_table():
    used = {code for text in sources().values() for code in CODE.findall(text)}
    assert used == set(CODES)


def test_findings_are_made_by_their_codes_only():
    made = [path.name for path, text in sources().items() if re.search(r"\bFinding\(", text.replace("class Finding(", ""))]
    assert made == []


def test_the_documentation_lists_every_code_as_the_table_has_it():
    rows = [line for line in (PACKAGE.parent / "docs" / "findings.md").read_text().splitlines() if line.startswith("| NS-")]
    star = {code: " *" if code in ALLOWABLE else "" for code in CODES}
    assert rows == [f"| {c}{star[c]} | {k.severity} | {k.found} | {k.expected} | {k.advice} |" for c, k in CODES.items()]


def test_an_error_has_the_code_of_its_kind_or_else_of_its_class():
    assert ScanError.at("a.nii", "ends early", "all of it", "copy it", "NS-S002").coded.endswith("; copy it [NS-S002]")
    assert (ScanError("bad").kind, DatasetError("bad").kind, ScanError("bad").coded) == ("NS-S001", "NS-D001", "bad")


def test_a_code_is_put_at_the_end_of_a_text_once_and_taken_off_again():
    assert coded(coded("cut", "NS-S002"), "NS-S001") == "cut [NS-S002]"
    assert (split_code("cut [NS-S002]"), split_code("cut")) == (("cut", "NS-S002"), ("cut", ""))


def test_a_finding_says_what_was_found_what_was_expected_and_what_to_do():
    text = "/d/a.nii: ends early; expected all of it; copy it again; it is cut [NS-S002]"
    told = Finding.read(text, "NS-S001", case="a", files=(Path("/d/b.nii"), Path("/d/a.nii"))).explain()
    assert (told["code"], told["severity"], told["case"], told["file"]) == ("NS-S002", "case rejected", "a", "/d/a.nii")
    assert (told["found"], told["expected"], told["advice"]) == ("ends early", "all of it", "copy it again; it is cut")


def test_a_finding_that_does_not_say_what_to_do_says_what_its_kind_says():
    told = Finding.of("NS-D014", "label ghost occurs in no case").explain()
    assert (told["severity"], told["expected"]) == ("run refused", "voxels of every label")
    assert told["advice"] == 'remove it from "labels"'


def test_findings_that_are_allowed_are_named_by_codes_that_can_be():
    assert parse_codes("ns-d014, NS-D012, d014") == ("NS-D014", "NS-D012", "NS-D014")
    with pytest.raises(NnsegError, match="NS-D017"):
        parse_codes("NS-D017")
