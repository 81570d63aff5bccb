"""Held-out cases whose predictions are wrong in known ways, and what is made of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from nnseg.core.dataset import Case, Dataset, Fold
from nnseg.core.decisions import PostprocessingStep
from nnseg.core.image import Integers
from nnseg.core.labels import Labels, Region
from nnseg.crossval.components import CaseRequest, PostprocessedCase, dice_difference, measure_case, search_steps
from nnseg.crossval.postprocessing import assess, assess_candidates, choose_postprocessing, mean_over_names, select_steps
from nnseg.evaluation.metrics import count, dice
from nnseg.evaluation.pairs import FilePair
from nnseg.inference.postprocess import postprocess
from nnseg.storage.files import write_json
from nnseg.storage.predictions import RECORD, Predictions, ScanRecord
from nnseg.storage.run import Run

LABELS = Labels(names=("background", "organ", "tumour"), values=(0, 1, 2))
SHAPE = (6, 14, 14)
Draw = Callable[[int], tuple[Integers, Integers]]


def save(voxels: Integers, file: Path, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


def write(folder: Path, cases: int, draw: Draw) -> list[FilePair]:
    """Pairs of (reference, prediction) as drawn for each case number."""
    pairs = []
    for number in range(cases):
        files = folder / f"r{number:02d}.nii.gz", folder / f"p{number:02d}.nii.gz"
        for file, voxels in zip(files, draw(number), strict=True):
            save(voxels, file)
        pairs.append(FilePair(name=f"case_{number:02d}", reference=files[0], prediction=files[1]))
    return pairs


def folds_of(pairs: list[FilePair]) -> dict[str, int]:
    return {pair.name: number % 5 for number, pair in enumerate(pairs)}


def blocks(number: int) -> Integers:
    """An organ of 3 x 6 x 6 voxels with a tumour of 3 x 2 x 2 beside it, in a place of its own for each number."""
    voxels = np.zeros(SHAPE, np.uint8)
    y, x = 1 + number % 3, 1 + number % 2
    voxels[1:4, y : y + 6, x : x + 6] = 1
    voxels[1:4, y : y + 2, x + 6 : x + 8] = 2
    return voxels


def far_from_it(number: int) -> tuple[Integers, Integers]:
    """Every second case has specks of organ in a far corner."""
    prediction = blocks(number)
    if number % 2:
        prediction[5, 12, 10 : 12 + number % 3] = 1
    return blocks(number), prediction


def test_far_away_false_positives_are_removed_by_the_largest_component(tmp_path: Path):
    pairs = write(tmp_path, 20, far_from_it)
    chosen = select_steps(pairs, folds_of(pairs), LABELS)
    assert chosen.steps == (PostprocessingStep(action="largest", labels=(1, 2)),)
    assert chosen.cases == 20
    organ, tumour = chosen.effects["organ"], chosen.effects["tumour"]
    assert organ.dice_after == tumour.dice_before == tumour.dice_after == 1.0
    # specks of 3, 2, 3, 4 ... voxels beside 108: every second Dice is 216 / (216 + specks)
    specks = [len(range(10, 12 + number % 3)) for number in range(1, 20, 2)]
    expected = np.mean([1.0] * 10 + [216 / (216 + n) for n in specks])
    assert organ.dice_before == pytest.approx(expected)
    assert organ.gain == pytest.approx(1 - expected)
    assert organ.p < 0.01
    assert (tumour.gain, tumour.p, organ.cases) == (0.0, 1.0, 20)


def test_two_true_components_stay(tmp_path: Path):
    def pair_of_kidneys(number: int) -> tuple[Integers, Integers]:
        reference = np.zeros(SHAPE, np.uint8)
        reference[1:4, 2:8, 1:5] = 1
        reference[1:4, 2:8, 9:12] = 1
        prediction = reference.copy()
        prediction[1, 2, 1 : 2 + number % 3] = 0
        return reference, prediction

    pairs = write(tmp_path, 15, pair_of_kidneys)
    chosen = select_steps(pairs, folds_of(pairs), Labels(names=("background", "kidney"), values=(0, 1)))
    assert (chosen.steps, chosen.effects) == ((), {})
    largest = next(t for t in chosen.tried if t.step.action == "largest")
    assert not largest.accepted
    assert (largest.cases, largest.reason) == (15, "mean Dice does not rise")
    assert largest.gain < -0.2


def test_specks_beside_two_true_components_are_removed_by_volume(tmp_path: Path):
    def two_and_a_speck(number: int) -> tuple[Integers, Integers]:
        reference = np.zeros(SHAPE, np.uint8)
        reference[1:4, 2:8, 1:4] = 1
        reference[1:4, 2:8, 9:11] = 1
        prediction = reference.copy()
        prediction[5, 12, 2 : 3 + number % 3] = 1
        return reference, prediction

    pairs = write(tmp_path, 15, two_and_a_speck)
    chosen = select_steps(pairs, folds_of(pairs), Labels(names=("background", "kidney"), values=(0, 1)))
    assert chosen.steps == (PostprocessingStep(action="smaller", labels=(1,), mm3=36.0),)  # half of 36 voxels of 2 mm3
    assert chosen.effects["kidney"].dice_after == 1.0


def test_false_alarms_where_the_label_is_absent_are_removed_by_volume(tmp_path: Path):
    """The largest component cannot: somegroup stays. Dice of 0 becomes undefined, which is a gain."""

    def sometimes(number: int) -> tuple[Integers, Integers]:
        reference = blocks(number)
        prediction = reference.copy()
        if number % 2:
            reference[reference == 2] = prediction[prediction == 2] = 0
            prediction[5, 12, 12] = 2
        return reference, prediction

    pairs = write(tmp_path, 16, sometimes)
    chosen = select_steps(pairs, folds_of(pairs), LABELS)
    assert chosen.steps == (PostprocessingStep(action="largest", labels=(1, 2)),)
    tumour = chosen.effects["tumour"]
    assert (tumour.dice_before, tumour.dice_after, tumour.gain, tumour.cases) == (0.5, 1.0, 0.5, 16)


def test_holes_are_filled(tmp_path: Path):
    def hollow(number: int) -> tuple[Integers, Integers]:
        prediction = blocks(number)
        prediction[2, 3 + number % 3, 3] = 0
        return blocks(number), prediction

    pairs = write(tmp_path, 12, hollow)
    chosen = select_steps(pairs, folds_of(pairs), LABELS)
    assert chosen.steps == (PostprocessingStep(action="holes", labels=(1,), fill=1),)
    assert chosen.effects["organ"].dice_after == 1.0


def test_few_cases_prove_nogroup(tmp_path: Path):
    pairs = write(tmp_path, 9, far_from_it)
    chosen = select_steps(pairs, folds_of(pairs), LABELS)
    assert (chosen.steps, chosen.cases) == ((), 9)
    assert "10 are needed" in chosen.reason


def test_a_gain_in_few_of_many_cases_may_be_chance(tmp_path: Path):
    pairs = write(tmp_path, 14, lambda number: far_from_it(number if number < 6 else 0))
    chosen = select_steps(pairs, folds_of(pairs), LABELS)
    assert chosen.steps == ()
    tried = chosen.tried[0]
    assert (tried.cases, tried.p, tried.accepted) == (3, 1 / 8, False)
    assert "chance" in tried.reason


def test_the_choice_depends_neither_on_workers_nor_on_order(tmp_path: Path):
    pairs = write(tmp_path, 12, far_from_it)
    parts = folds_of(pairs)
    assert select_steps(pairs[::-1], parts, LABELS, workers=2) == select_steps(pairs, parts, LABELS)


@pytest.mark.parametrize("folds", [1, 2])
def test_few_folds_are_divided_for_the_cross_validated_gain(tmp_path: Path, folds: int):
    pairs = write(tmp_path, 14, far_from_it)
    chosen = select_steps(pairs, {p.name: number % folds for number, p in enumerate(pairs)}, LABELS)
    assert chosen.steps
    assert chosen.effects["organ"].gain > 0


def test_the_reported_gain_is_of_cases_that_had_no_say(tmp_path: Path):
    """Four of five parts are one way, the last the other: what the four chose harms the last, and that is in the gain."""

    def kidney(number: int) -> tuple[Integers, Integers]:
        reference = np.zeros(SHAPE, np.uint8)
        reference[1:4, 2:8, 1:7] = 1
        prediction = reference.copy()
        prediction[1:4, 2:8, 10:12] = 1
        return (prediction if number % 5 == 4 else reference), prediction

    pairs = write(tmp_path, 40, kidney)
    labels = Labels(names=("background", "kidney"), values=(0, 1))
    chosen = select_steps(pairs, folds_of(pairs), labels)
    assert chosen.steps == (PostprocessingStep(action="largest", labels=(1,)),)
    full, part = 108 + 36, 108
    before = 2 * part / (full + part)
    gain, loss = 1 - before, 1 - before
    assert chosen.effects["kidney"].gain == pytest.approx(0.8 * gain - 0.2 * loss)


def test_an_unreadable_case_has_no_say(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pairs = write(tmp_path, 14, far_from_it)
    pairs[3].prediction.write_bytes(b"nogroup")
    chosen = select_steps(pairs, folds_of(pairs), LABELS)
    assert chosen.steps
    assert chosen.cases == 13
    assert "case_03" in caplog.text


def test_cases_that_cannot_be_compared_choose_nogroup(tmp_path: Path):
    pairs = write(tmp_path, 10, far_from_it)
    for pair in pairs:
        pair.reference.unlink()
    chosen = select_steps(pairs, folds_of(pairs), LABELS)
    assert (chosen.steps, chosen.tried) == ((), ())


def changes(*columns: list[float]) -> np.ndarray:
    return np.array(columns, float).T


ANY = PostprocessingStep(action="largest", labels=(1,))
NAN = float("nan")


def test_a_rise_in_five_cases_is_enough_and_in_four_it_is_not():
    assert assess(ANY, changes([0.1] * 5 + [0.0] * 5), ["a"]).accepted  # p = 1/32
    assert not assess(ANY, changes([0.1] * 4 + [0.0] * 6), ["a"]).accepted  # p = 1/16


@pytest.mark.parametrize(
    ("other", "worse"),
    [
        ([0.0] * 20, False),
        ([-0.2] + [0.0] * 19, True),  # one case is too few to tell, so the step is kept
        ([-0.002, 0.001] * 10, True),  # p = 0.11
        ([-0.0105, 0.01] * 10, False),  # as good as chance
        ([NAN] * 20, False),
    ],
)
def test_a_label_that_gets_worse_stops_it(other: list[float], worse: bool):
    found = assess(ANY, changes([0.1] * 20, other), ["a", "b"])
    assert found.accepted is not worse
    assert ("b would get worse" in found.reason) is worse


def test_the_mean_weighs_labels_alike_and_leaves_out_what_is_undefined():
    assert mean_over_names(changes([0.3, NAN, NAN], [0.1, 0.1, 0.1], [NAN] * 3)) == pytest.approx(0.2)
    assert mean_over_names(changes([NAN], [NAN])) == 0.0


def test_a_false_alarm_gone_is_a_gain_and_nogroup_at_all_is_undefined():
    before, after = np.array([0.0, NAN, 0.5, NAN]), np.array([NAN, NAN, 0.25, 0.0])
    np.testing.assert_array_equal(dice_difference(before, after), [1.0, NAN, -0.25, -1.0])


REGIONS = Labels(
    names=("background", "oedema", "core", "enhancing"),
    values=(0, 1, 2, 3),
    ignore=9,
    regions=(
        Region(name="whole", values=(1, 2, 3), paint=1),
        Region(name="inner", values=(2, 3), paint=2),
        Region(name="enhancing", values=(3,), paint=3),
    ),
)
PLAIN = Labels(names=("background", "a", "b", "c"), values=(0, 5, 7, 300), ignore=9)


@given(st.integers(0, 10_000), st.sampled_from([REGIONS, PLAIN]), st.booleans())
@settings(deadline=None, max_examples=25)
def test_the_change_that_is_estimated_is_the_change_that_postprocessing_makes(
    tmp_path_factory, seed: int, labels: Labels, partly: bool
):
    random, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("estimated")
    dense = random.uniform(0.2, 0.95)
    prediction, reference = (
        np.array(labels.values)[random.integers(0, 4, (3, 5, 6))] * (random.random((3, 5, 6)) < dense) for _ in "ab"
    )
    reference[0, 0] = 9
    annotated = labels.names[1:3] if partly else None
    pair = FilePair(name="x", prediction=folder / "p.nii.gz", reference=folder / "r.nii.gz", annotated=annotated)
    save(prediction.astype(np.uint16), pair.prediction, spacing=(1.0, 1.0, 0.7))
    save(reference.astype(np.uint16), pair.reference, spacing=(1.0, 1.0, 0.7))

    def dices(voxels: Integers) -> np.ndarray:
        found = [dice(c) for c in count(voxels, reference, labels, annotated=annotated).values()]
        return np.array([np.nan if d is None else d for d in found])

    for step in search_steps(labels):
        measured: PostprocessedCase = measure_case(
            CaseRequest(pair=pair, postprocessed=frozenset({()}), search=step), labels=labels
        )[()]
        for number, group in enumerate(step.groups):
            for tried in (
                (PostprocessingStep(action="holes", labels=group.labels, fill=group.fill),)
                if step.action == "fill"
                else (
                    PostprocessingStep(action="largest", labels=group.labels),
                    PostprocessingStep(action="smaller", labels=group.labels, mm3=2.0),
                )
            ):
                made = dice_difference(dices(prediction), dices(postprocess(prediction, [tried], labels, voxel_mm3=0.7)))
                np.testing.assert_allclose(measured.dice_change(number, tried), made, atol=1e-12)


def test_nnunets_order_is_kept():
    """All of the foreground, then label by label; a single label has no step of its own for the foreground."""
    assert [(s.action, [o.labels for o in s.groups]) for s in search_steps(LABELS)] == [
        ("remove", [(1, 2)]),
        ("remove", [(1,), (2,)]),
        ("fill", [(1,), (2,)]),
    ]
    regions = [r.values for r in REGIONS.regions]
    assert [[o.labels for o in s.groups] for s in search_steps(REGIONS)] == [[(1, 2, 3)], *([r] for r in regions for _ in "12")]
    assert len(search_steps(Labels(names=("background", "a"), values=(0, 1)))) == 2


def test_candidates_that_change_no_case_are_not_listed(tmp_path: Path):
    pairs = write(tmp_path, 3, lambda number: (blocks(number), blocks(number)))
    step = search_steps(LABELS)[1]
    measured = [measure_case(CaseRequest(pair=p, postprocessed=frozenset({()}), search=step), labels=LABELS)[()] for p in pairs]
    assert [m.components[1].smallest_mm3 for m in measured] == [24.0] * 3  # 12 voxels of 2 mm3
    assert assess_candidates(step, measured, LABELS.foreground) == []


@pytest.fixture
def run(tmp_path: Path) -> tuple[Run, dict[int, Fold]]:
    """A run of one plan, whose two folds' held-out predictions have specks."""
    pairs = write(tmp_path, 20, far_from_it)
    cases = tuple(Case(name=p.name, images=(), labels=p.reference) for p in pairs)
    dataset = Dataset(name="d", folder=tmp_path, layout="", cases=cases, channels=("CT",), labels=LABELS, suffix=".nii.gz")
    place = Run(tmp_path / "run")
    place.dataset = dataset
    folds = {}
    for number, held_out in enumerate((pairs[:10], pairs[10:])):
        out = place.fold(number).predictions
        out.mkdir(parents=True)
        for pair in held_out:
            pair.prediction.rename(out / f"{pair.name}.nii.gz")
        written = {p.name: ScanRecord(status="done", file=f"{p.name}.nii.gz", hash=p.name) for p in held_out}
        write_json(out / RECORD, Predictions(cases=written))
        folds[number] = Fold(training=(), held_out=tuple(p.name for p in held_out))
    return place, folds


def test_a_runs_choice_is_written_and_the_predictions_stay(run, monkeypatch: pytest.MonkeyPatch):
    place, folds = run
    monkeypatch.setattr(Run, "predictions_folder", place.path)
    before = {file: file.read_bytes() for file in place.path.rglob("*.nii.gz")}
    chosen = choose_postprocessing(place, folds)
    assert chosen is not None
    assert chosen.steps == (PostprocessingStep(action="largest", labels=(1, 2)),)
    assert place.postprocessing == chosen
    assert {file: file.read_bytes() for file in place.path.rglob("*.nii.gz")} == before


def test_an_edited_choice_stays_until_the_predictions_are_others(run, monkeypatch: pytest.MonkeyPatch):
    place, folds = run
    monkeypatch.setattr(Run, "predictions_folder", place.path)
    chosen = choose_postprocessing(place, folds)
    assert chosen is not None
    place.postprocessing = chosen.model_copy(update={"steps": ()})
    assert choose_postprocessing(place, folds).steps == ()
    record = place.fold(0).predictions / RECORD
    record.write_text(record.read_text().replace('"hash": "case_00"', '"hash": "another"'))
    assert choose_postprocessing(place, folds) == choose_postprocessing(place, folds)
    assert place.postprocessing.steps == chosen.steps


def test_a_run_that_held_nogroup_out_gets_no_choice(run, monkeypatch: pytest.MonkeyPatch):
    place, _ = run
    monkeypatch.setattr(Run, "predictions_folder", place.path)
    assert choose_postprocessing(place, {}) is None
    assert not (place.path / "postprocessing.json").exists()
