"""Patterns of paths fit what they say, in a time that does not explode with their wildcards."""

import pytest

from nnseg.storage.datasets.patterns import _fits


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a/b.nii", "a/b.nii", True),
        ("a/b.nii", "a/b.nii.gz", False),
        ("*.nii", "b.nii", True),
        ("*.nii", "a/b.nii", False),
        ("*", "", True),
        ("a/*/c.nii", "a/b/c.nii", True),
        ("a/*/c.nii", "a/x/b/c.nii", False),
        ("**/c.nii", "c.nii", True),
        ("**/c.nii", "a/b/c.nii", True),
        ("**/c.nii", "a/bc.nii", False),
        ("a/**", "a/b/c.nii", True),
        ("a/**/c/*.nii", "a/c/d.nii", True),
        ("a/**/c/*.nii", "a/b/c/c/d.nii", True),
        ("a/**/c/*.nii", "a/b/cc/d.nii", False),
        ("**x*y", "x/xy", True),
        ("**x*y", "x/x/y", False),
        ("**/a*b*c.nii", "abc/a/axbbxc.nii", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a?", "a", False),
        ("a[1].nii", "a[1].nii", True),
        ("a[1].nii", "a1.nii", False),
        ("*a" * 40 + "b", "a" * 250, False),
        ("**/a" * 40 + "b", "/a" * 100, False),
        ("**a" * 40, "a" * 250, True),
    ],
)
def test_a_pattern_fits(pattern: str, path: str, fits: bool) -> None:
    assert _fits(path, pattern) == fits
