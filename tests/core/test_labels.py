import numpy as np
import pytest
from pydantic import ValidationError

from nnseg.core.labels import Labels, Region

PLAIN = Labels(names=("background", "liver", "tumour"), values=(0, 4, 1001), ignore=7)
NESTED = Labels(
    names=("background", "oedema", "core"),
    values=(0, 1, 2),
    regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)),
)


def test_any_integers_survive_the_way_in_and_back() -> None:
    stored = np.array([[0, 4, 1001, 7]])
    indices = PLAIN.encode(stored)
    assert indices.tolist() == [[0, 1, 2, -1]]
    assert PLAIN.decode(indices).tolist() == stored.tolist()
    assert PLAIN.decode(indices).dtype == np.uint16


def test_values_nobody_declared_are_listed() -> None:
    assert PLAIN.undeclared(np.array([0, 7, 3, -2])) == [-2, 3]


def test_the_likeliest_label_is_decided_with_its_stored_value() -> None:
    probabilities = np.array([[0.2, 0.6, 0.1], [0.5, 0.3, 0.1], [0.3, 0.1, 0.8]]).reshape(3, 1, 1, 3)
    assert PLAIN.decide(probabilities).ravel().tolist() == [4, 0, 1001]


def test_regions_are_painted_in_order() -> None:
    probabilities = np.array([[0.9, 0.9, 0.1, 0.2], [0.8, 0.2, 0.9, 0.1]]).reshape(2, 1, 1, 4)
    assert NESTED.decide(probabilities).ravel().tolist() == [2, 1, 2, 0]
    assert NESTED.heads == NESTED.foreground == ("whole", "core")
    assert NESTED.members().tolist() == [[False, True, True], [False, False, True]]


def test_masks_follow_labels_and_regions() -> None:
    stored = np.array([0, 1, 2])
    assert NESTED.mask("whole", stored).tolist() == [False, True, True]
    assert PLAIN.mask("liver", np.array([0, 4])).tolist() == [False, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": ("background", "a"), "values": (0, 0)},
        {"names": ("background", "a"), "values": (0,)},
        {"names": ("background",), "values": (0,)},
        {"names": ("background", "a" * 1001), "values": (0, 1)},
        {"names": ("background", "a"), "values": (0, 1), "regions": ({"name": "r" * 1001, "values": (1,), "paint": 1},)},
        {"names": ("background", "a"), "values": (0, 1), "ignore": 1},
        {"names": ("background", "a"), "values": (0, 1), "regions": ({"name": "r", "values": (5,), "paint": 1},)},
    ],
)
def test_contradictions_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Labels.model_validate(wrong)


def test_regions_that_overlap_in_part_get_the_value_of_the_overlap():
    regions = (Region(name="a", values=(1, 3), paint=1), Region(name="b", values=(2, 3), paint=2))
    labels = Labels(names=("background", "one", "two", "both"), values=(0, 1, 2, 3), regions=regions)
    masks = np.array([[0, 1, 0, 1], [0, 0, 1, 1]], bool).reshape(2, 1, 1, 4)
    assert labels.paint(masks, (0, 1)).tolist() == labels.decide(masks * 0.9).tolist() == [[[0, 1, 2, 3]]]
    assert labels.paint(masks[1:], (1,)).tolist() == [[[0, 0, 2, 2]]]
    assert labels.painted == (1, 2, 3)


def test_regions_within_each_other_are_painted_in_order_whatever_they_paint():
    regions = (
        Region(name="whole", values=(1, 2, 3), paint=1),
        Region(name="core", values=(2, 3), paint=3),
        Region(name="enhancing", values=(3,), paint=2),
    )
    labels = Labels(names=("background", "a", "b", "c"), values=(0, 1, 2, 3), regions=regions)
    masks = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]], bool).reshape(3, 1, 1, 5)
    assert labels.paint(masks, range(3)).tolist() == [[[1, 3, 2, 2, 2]]]
    assert labels.painted == (1, 3, 2)


def test_borders_are_learned_beside_their_labels_and_are_part_of_them_in_label_maps() -> None:
    learned = PLAIN.with_borders(["tumour", "liver"])
    assert learned.borders == {"tumour border": "tumour", "liver border": "liver"}
    assert (learned.values, learned.ignore) == ((0, 4, 1001, 1002, 1003), 7)
    assert learned.heads == ("background", "liver", "tumour", "tumour border", "liver border")
    assert (learned.whole, learned.whole_indices) == (PLAIN, (0, 1, 2, 2, 1))
    assert (PLAIN.whole is PLAIN, PLAIN.with_borders([]) == PLAIN) == (True, True)
    assert learned.known(["liver"]) == (0, 1, 4)
    assert (learned.known(["liver", "tumour"]), learned.known(None)) == (None, None)


def test_the_value_of_a_border_is_none_of_the_datasets() -> None:
    last = Labels(names=("background", "cell", "cell border"), values=(0, 1, 2), ignore=255).with_borders(["cell"])
    assert last.by_name["cell border of an object"] == 256
    assert last.borders == {"cell border of an object": "cell"}


def test_labels_without_borders_are_written_as_before_there_were_any() -> None:
    assert set(PLAIN.model_dump(mode="json")) == {"names", "values", "ignore", "regions"}
    learned = PLAIN.with_borders(["liver"])
    assert Labels.model_validate_json(learned.model_dump_json()) == learned


@pytest.mark.parametrize("borders", [{"liver": "tumour border"}, {"tumour": "background"}, {"edge": "liver"}, {"liver": "liver"}])
def test_borders_must_be_labels_of_labels(borders: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="border"):
        Labels(names=PLAIN.names, values=PLAIN.values, borders=borders)
    with pytest.raises(ValidationError, match="without regions"):
        Labels(**(NESTED.model_dump() | {"borders": {"core": "oedema"}}))


def test_labels_can_be_compared_after_their_whole_was_asked_for() -> None:
    plain, same = (Labels(names=("background", "cell"), values=(0, 1)) for _ in range(2))
    assert plain.whole is plain
    assert same.whole is same
    assert plain == same
    bordered, again = (plain.with_borders(["cell"]) for _ in range(2))
    assert bordered.whole == plain
    assert bordered == again
    assert again.whole == bordered.whole
