import numpy as np
from sklearn.model_selection import KFold

from nnseg.core.dataset import make_folds


def test_every_case_is_held_out_once() -> None:
    folds = make_folds([f"c{i:02d}" for i in range(13)])
    assert sorted(n for f in folds for n in f.held_out) == [f"c{i:02d}" for i in range(13)]
    assert all(not set(f.training) & set(f.held_out) and len(f.training) + len(f.held_out) == 13 for f in folds)


def test_folds_are_those_of_nnunet() -> None:
    names = np.array([f"case_{i:03d}" for i in range(57)])
    expected = [sorted(names[out]) for _, out in KFold(5, shuffle=True, random_state=12345).split(names)]
    assert [list(f.held_out) for f in make_folds(names.tolist())] == expected


def test_blocks_keep_neighbours_together() -> None:
    folds = make_folds([f"slice_{i:02d}" for i in range(10)], blocks=True)
    assert folds[0].held_out == ("slice_00", "slice_01")
    assert folds[4].held_out == ("slice_08", "slice_09")


def test_few_cases_give_fewer_folds() -> None:
    assert [len(f.held_out) for f in make_folds(["a", "b", "c"])] == [1, 1, 1]
    (only,) = make_folds(["a"])
    assert only.training == ("a",)
    assert only.held_out == ()
