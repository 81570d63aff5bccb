from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from nnseg.core.dataset import Fold, listed
from nnseg.planning.folds import make_folds, missing_labels

NAMES = [f"c{i:02d}" for i in range(10)]
KFOLD_OF_10 = [["c00", "c07"], ["c03", "c09"], ["c04", "c06"], ["c01", "c08"], ["c02", "c05"]]
"""nnU-Net's folds of ten cases, as scikit-learn divides them with the seed 12345."""

Division = tuple[list[str], dict[str, str], dict[str, set[str]]]
"""Names, and the group and labels of each."""


def _held_out(folds: tuple[Fold, ...]) -> list[list[str]]:
    return [list(fold.held_out) for fold in folds]


def _lacking(folds: tuple[Fold, ...], labels: dict[str, set[str]]) -> set[str]:
    """Labels that some training part does not show."""
    every = set().union(*labels.values())
    return set().union(*(every - set().union(*(labels[n] for n in fold.training)) for fold in folds))


@pytest.mark.parametrize("count", [6, 7, 10, 13, 57, 260])
def test_folds_are_those_of_nnunet(count: int) -> None:
    names = np.array([f"case_{i:03d}" for i in range(count)])
    expected = [sorted(names[out]) for _, out in KFold(5, shuffle=True, random_state=12345).split(names)]
    assert _held_out(make_folds(names.tolist())) == expected


def test_labels_that_every_training_part_shows_leave_the_folds_of_nnunet_alone() -> None:
    labels = {name: {"organ", "lesion"} if name in ("c04", "c08") else {"organ"} for name in NAMES}
    assert _held_out(make_folds(NAMES, labels=labels)) == _held_out(make_folds(NAMES)) == KFOLD_OF_10


def test_a_group_for_each_case_gives_the_folds_of_nnunet() -> None:
    assert _held_out(make_folds(NAMES, groups={name: name for name in NAMES})) == KFOLD_OF_10


def test_blocks_keep_neighbours_together() -> None:
    folds = make_folds([f"slice_{i:02d}" for i in range(10)], split="blocks")
    assert folds[0].held_out == ("slice_00", "slice_01")
    assert folds[4].held_out == ("slice_08", "slice_09")


def test_blocks_are_left_as_they_are_and_what_they_cannot_learn_is_named() -> None:
    labels = {name: {"a", "b"} if name in ("c00", "c01") else {"a"} for name in NAMES}
    folds = make_folds(NAMES, split="blocks", labels=labels)
    assert folds == make_folds(NAMES, split="blocks")
    (finding,) = missing_labels(folds, labels)
    assert "label b occurs only in cases c00, c01, which fold 0 holds out" in finding.message


def test_groups_have_precedence_over_blocks() -> None:
    groups = {name: name[-1] if name < "c06" else "rest" for name in NAMES}
    assert make_folds(NAMES, split="blocks", groups=groups) == make_folds(NAMES, groups=groups)


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (3, 3), (4, 4), (7, 5)])
def test_few_cases_give_fewer_folds(count: int, folds: int) -> None:
    made = make_folds(NAMES[:count])
    assert len(made) == folds
    assert sorted(n for f in made for n in f.held_out) == NAMES[:count]
    assert all(sorted(f.training + f.held_out) == NAMES[:count] and f.training and f.held_out for f in made)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_a_single_case_or_group_is_trained_on_and_nothing_is_held_out(names: list[str]) -> None:
    assert make_folds(names, groups=dict.fromkeys(names, "patient")) == (Fold(training=tuple(names), held_out=()),)
    assert make_folds(["a"]) == (Fold(training=("a",), held_out=()),)


def test_large_groups_are_spread_first() -> None:
    sizes = {"P": 6, "Q": 4, "R": 3, "S": 1, "T": 1, "U": 1, "V": 2}
    groups = {f"{group}{i}": group for group, size in sizes.items() for i in range(size)}
    folds = make_folds(list(groups), groups=groups)
    assert [{n[0] for n in f.held_out} for f in folds[:3]] == [{"P"}, {"Q"}, {"R"}]
    assert sorted(len(f.held_out) for f in folds) == [2, 3, 3, 4, 6]


def test_a_label_held_out_as_a_whole_is_divided_by_exchanging_one_case() -> None:
    labels = {name: {"organ", "lesion"} if name in ("c00", "c07") else {"organ"} for name in NAMES}
    folds = make_folds(NAMES, labels=labels)
    assert _held_out(folds) == [["c01", "c07"], *KFOLD_OF_10[1:3], ["c00", "c08"], KFOLD_OF_10[4]]
    assert not missing_labels(folds, labels)


def test_a_label_of_one_large_fold_goes_where_it_upsets_sizes_least() -> None:
    sizes = {"P": 9, "Q": 9, "R": 9, "S": 9, "T": 1, "U": 1}
    groups = {f"{group}{i}": group for group, size in sizes.items() for i in range(size)}
    labels = {name: {"rare"} if group in "TU" else set[str]() for name, group in groups.items()}
    folds = make_folds(list(groups), groups=groups, labels=labels)
    assert sorted(len(f.held_out) for f in folds) == [1, 9, 9, 9, 10]
    assert not missing_labels(folds, labels)


def test_a_label_of_one_case_is_named_with_its_fold() -> None:
    labels = {name: {"organ", "tumour"} if name == "c05" else {"organ"} for name in NAMES}
    folds = make_folds(NAMES, labels=labels)
    assert _held_out(folds) == KFOLD_OF_10
    (finding,) = missing_labels(folds, labels)
    assert finding.level == "warning"
    assert str(finding).startswith("label tumour occurs only in case c05, which fold 4 holds out: that fold cannot learn it")


def test_a_label_of_one_patient_is_named_with_its_cases() -> None:
    groups = {name: name[-1] if name < "c06" else "p" for name in NAMES}
    labels = {name: {"tumour"} if groups[name] == "p" else set[str]() for name in NAMES}
    (finding,) = missing_labels(make_folds(NAMES, groups=groups, labels=labels), labels)
    assert "only in cases c06, c07, c08, c09, which fold 0 holds out" in finding.message


def test_labels_that_cannot_all_be_mended_are_named() -> None:
    names = NAMES[:6]
    labels = {name: {f"{a}{b}" for a, b in combinations(names, 2) if name in (a, b)} for name in names}
    folds = make_folds(names, labels=labels)  # each two cases share a label, and one fold of five holds two of the six
    assert [len(f.held_out) for f in folds] == [2, 1, 1, 1, 1]
    assert len(missing_labels(folds, labels)) == 1


def test_an_edited_fold_that_leaves_cases_out_is_not_said_to_hold_them_out() -> None:
    (finding,) = missing_labels([Fold(training=("a",), held_out=("b",))], {"a": set(), "b": {"x"}, "c": {"x"}})
    assert "only in cases b, c, which fold 0 does not train on" in finding.message


def test_long_lists_of_cases_are_cut() -> None:
    assert listed(["b"]) == "case b"
    assert listed({"b", "a"}) == "cases a, b"
    assert listed(NAMES) == "cases c00, c01, c02, c03, c04 and 5 more"


@st.composite
def _divisions(draw: st.DrawFn) -> Division:
    """Names, groups (or none), and up to four labels on any of the cases."""
    names = [f"n{i:02d}" for i in range(draw(st.integers(1, 24)))]
    groups = {name: str(draw(st.integers(0, 9))) for name in names} if draw(st.booleans()) else {}
    rare = [
        draw(st.sets(st.sampled_from(names), min_size=1, max_size=draw(st.integers(1, 6)))) for _ in range(draw(st.integers(0, 4)))
    ]
    return names, groups, {name: {f"label{i}" for i, cases in enumerate(rare) if name in cases} for name in names}


@settings(max_examples=50, deadline=None)
@given(_divisions())
def test_every_case_is_held_out_once_and_no_group_is_divided(division: Division) -> None:
    names, groups, labels = division
    folds = make_folds(names, groups=groups, labels=labels)
    units = len(set(groups.values())) if groups else len(names)
    assert len(folds) == min(5, units)
    assert sorted(n for f in folds for n in f.held_out) == (names if units > 1 else [])
    for fold in folds:
        assert sorted(fold.training + fold.held_out) == names
        assert not {groups.get(n, n) for n in fold.training} & {groups.get(n, n) for n in fold.held_out}


@settings(max_examples=50, deadline=None)
@given(_divisions())
def test_every_training_part_shows_every_label_of_two_groups(division: Division) -> None:
    names, groups, labels = division
    folds = make_folds(names, groups=groups, labels=labels)
    lacking = _lacking(folds, labels)
    for label in {label for shown in labels.values() for label in shown}:
        carriers = {groups.get(n, n) for n in names if label in labels[n]}
        assert (label in lacking) == (len(carriers) == 1 and len(folds) > 1)
    assert {f.message.split()[1] for f in missing_labels(folds, labels)} == lacking


@settings(max_examples=50, deadline=None)
@given(_divisions())
def test_folds_do_not_depend_on_the_order_of_names(division: Division) -> None:
    names, groups, labels = division
    backwards = {name: labels[name] for name in reversed(names)}
    assert make_folds(names[::-1], groups=groups, labels=backwards) == make_folds(names, groups=groups, labels=labels)


@settings(max_examples=50, deadline=None)
@given(_divisions())
def test_sizes_of_ungrouped_folds_are_kept_and_nothing_changes_without_need(division: Division) -> None:
    names, _, labels = division
    plain, folds = make_folds(names), make_folds(names, labels=labels)
    assert [len(f.held_out) for f in folds] == [len(f.held_out) for f in plain]
    repairable = {label for label in _lacking(plain, labels) if sum(label in shown for shown in labels.values()) > 1}
    assert (folds == plain) == (not repairable)
