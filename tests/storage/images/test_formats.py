"""The list of formats in the docs is that of the table."""

import re
from pathlib import Path

from nnseg.storage.images.formats import FOLDER_FORMATS, FORMATS

DOCS = Path(__file__).parents[3] / "docs" / "formats.md"


def test_the_docs_name_every_format_that_is_read_and_no_other():
    text = DOCS.read_text(encoding="utf-8")
    single, folders = text.split("## Folders")[0], text.split("## Folders")[1].split("## In Python")[0]
    rows = [line.split("|")[1] for line in single.splitlines() if line.startswith("| `.")]
    named = {suffix for row in rows for suffix in re.findall(r"`(\.[a-z.]+)`", row)}
    assert named - {".img"} == set(FORMATS)
    assert all(name in folders for name in FOLDER_FORMATS)
