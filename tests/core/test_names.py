"""Names from data: of cases, and of labels and channels of two datasets."""

import pytest

from nnseg.core.names import fault_of_name, match_channels, match_names, printable, shortened


@pytest.mark.parametrize(
    ("names", "known", "places"),
    [
        (("b", "a"), ("a", "b"), (1, 0)),
        (("Liver", "tumour"), ("background", "liver"), (1, None)),
        (("Left kidney", "LEFT-LUNG"), ("left_lung", "left_kidney"), (1, 0)),
        (("liver", "Liver"), ("Liver", "liver"), (1, 0)),  # the same name first
        (("LIVER",), ("Liver", "liver"), (None,)),  # which of them?
        (("Liver", "liver"), ("LIVER",), (None, None)),
        (("liver", "Liver"), ("liver",), (0, None)),
        ((), ("a",), ()),
    ],
)
def test_names_are_matched(names: tuple[str, ...], known: tuple[str, ...], places: tuple[int | None, ...]) -> None:
    assert match_names(names, known) == places


@pytest.mark.parametrize(
    ("names", "known", "places"),
    [
        (("b", "A"), ("a", "b"), (1, 0)),
        (("channel 0", "channel 1"), ("T1", "T2"), (0, 1)),
        (("image", "image"), ("image", "image"), (0, 1)),
        (("T1", "PET"), ("T1", "T2"), (0, None)),
        (("PET", "CT", "T2"), ("T1", "FLAIR"), (None, None, None)),
    ],
)
def test_channels_are_matched(names: tuple[str, ...], known: tuple[str, ...], places: tuple[int | None, ...]) -> None:
    assert match_channels(names, known) == places


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("../x", "is a path"),
        ("/etc/x", "is a path"),
        ("a/b", "is a path"),
        ("a\\b", "is a path"),
        ("C:x", "is a path"),
        ("..", "is a path"),
        (".", "is a path"),
        ("a\x1b[2J", "has control characters, or bytes that are no text"),
        ("a\nb", "has control characters, or bytes that are no text"),
        ("a\x85b", "has control characters, or bytes that are no text"),
        ("a\u202etxt.exe", "has control characters, or bytes that are no text"),
        ("a\udcff", "has control characters, or bytes that are no text"),
        ("NUL", "is the name of a device in Windows"),
        ("com1.scan", "is the name of a device in Windows"),
        ("x" * 201, "has 201 bytes, and 200 are allowed"),
        ("脳" * 67, "has 201 bytes, and 200 are allowed"),
        ("脳" * 66, ""),
        ("a b..c-001 [2]", ""),
        ("001", ""),
        (".hidden", ""),
        ("console", ""),
        ("می‌خواهم", ""),  # with a joiner, which is part of the word
    ],
)
def test_a_name_is_that_of_a_file_in_its_folder_or_has_a_fault(name: str, fault: str) -> None:
    assert fault_of_name(name) == fault


def test_what_would_steer_a_terminal_is_shown_as_python_writes_it() -> None:
    assert printable("a\x1b[31m\x9b\u202eb\r\n\udcff") == "a\\x1b[31m\\x9b\\u202eb\\r\\n\\udcff"
    assert printable("a\tb\nc\x07", lines=True) == "a\tb\nc\\x07"
    assert printable("脳 Übung می‌خواهم") == "脳 Übung می‌خواهم"


def test_a_long_name_is_shortened_to_its_beginning_and_a_digest() -> None:
    long = "脳" * 100
    short = shortened(long)
    assert short.startswith("脳" * 61 + "~")
    assert len(short.encode()) <= 200
    assert short == shortened(long) != shortened("脳" * 101)
    assert shortened("脳" * 66) == "脳" * 66
