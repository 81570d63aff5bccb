"""What is returned by any public function shows itself on at most a screen."""

import shutil

import pytest

import nnseg
from nnseg.commands.convert import ConvertedFolder
from nnseg.commands.explain import ExplainedFolder
from nnseg.core.dataset import Finding
from nnseg.core.frozen import LINES, WIDTH, FrozenModel, short_repr
from nnseg.core.labels import Labels
from nnseg.core.plan import Budget
from nnseg.core.trust import Trust
from nnseg.pipeline import FinishedRun
from nnseg.serving.folder import PredictedFolder
from nnseg.storage.predictions import read_predictions
from nnseg.storage.run import Run


def is_a_screen(text):
    """Whether a terminal shows it at once: a path is shown whole, and a long one takes more than one of its lines."""
    return sum(max(1, -(-len(line) // WIDTH)) for line in text.splitlines()) <= LINES


@pytest.fixture(scope="module")
def results(ball_dataset, ball_run, tiny_recipe, tmp_path_factory):
    """What each public function returns, and some of what that holds."""
    place = tmp_path_factory.mktemp("place")
    dataset = nnseg.read_dataset(ball_dataset)
    fingerprint, recipe = nnseg.measure(dataset, workers=1), nnseg.load_recipe(str(tiny_recipe))
    plans = nnseg.make_plans(fingerprint, Budget(steps=2), recipe)
    scan = nnseg.read_scan(dataset.cases[0].images)
    label_map = nnseg.read_label_map(dataset.cases[0].labels)
    case = nnseg.preprocess(scan, label_map, plans[0], name="ball")
    training = nnseg.train(plans[0], [case], steps=2, device="cpu")
    epochs = list(training)
    model = nnseg.load(training.model(), device="cpu")
    done = Run(ball_run)
    audited = shutil.copytree(ball_run, place / "audited")
    return {
        "audit": nnseg.audit(audited, workers=1),
        "check": nnseg.check(ball_dataset, workers=1),
        "convert": ConvertedFolder(
            folder=place, forms=("masks",), labels=("ball",), converted={f"case_{i}": ("a.nii.gz",) * 9 for i in range(99)}
        ),
        "explain": ExplainedFolder(folder=place, explanations=()),
        "validate": nnseg.validate(ball_dataset, place / "validated", ball_run, device="cpu"),
        "evaluate": (evaluated := nnseg.evaluate(ball_run)),
        "information": nnseg.information(),
        "load": model,
        "load_recipe": recipe,
        "make_plans": plans[0],
        "measure": fingerprint,
        "plan": nnseg.plan(ball_run / "fingerprint.json", place / "run", recipe=tiny_recipe, device="cpu"),
        "predict_folder": PredictedFolder(folder=place, scans=read_predictions(done.plans[0].fold(0).predictions)),
        "prepare": nnseg.prepare(ball_dataset / "imagesTr", place / "prepared", steps="normalize"),
        "prepare_scan": nnseg.prepare_scan(scan, "normalize"),
        "preprocess": case,
        "read_dataset": dataset,
        "read_label_map": label_map,
        "read_scan": scan,
        "run": FinishedRun(run=done, problems=(), scores=done.scores),
        "train": training,
        "Segmenter.predict": model.predict(scan, probabilities=True, uncertainty=True),
        "an epoch": epochs[-1],
        "a model": training.model(),
        "a network": training.model().members[0],
        "a case": dataset.cases[0],
        "a scan's source": scan.source,
        "a placement": case.placement,
        "scores": evaluated.scores,
        "averages": evaluated.scores.averages.per_mask,
        "a case's scores": evaluated.scores.cases[0],
        "a finding": Finding.of("NS-S001", "damaged; " * 300, case="a"),
        "a fold": done.folds[0],
        "trust": Trust(),
        "a run": done,
    }


def test_every_result_shows_itself_on_a_screen(results):
    assert {name: found for name, found in results.items() if not is_a_screen(repr(found))} == {}
    assert [name for name, found in results.items() if not is_a_screen(str(found))] == ["a finding"]  # a line of a log
    assert [name for name, found in results.items() if type(found).__name__ not in repr(found) and name != "load"] == []


def test_the_results_are_of_all_public_functions(results):
    functions = {name for name in nnseg.__all__ if not isinstance(getattr(nnseg, name), type)}
    arrays_and_files = {"restore", "write_label_map"}
    assert functions - results.keys() == arrays_and_files
    assert all(is_a_screen(repr(getattr(nnseg, name))) for name in nnseg.__all__)


class Example(FrozenModel):
    name: str
    numbers: tuple[float, ...] = ()
    by_name: dict[str, tuple[int, ...]] = {}
    labels: Labels | None = None


def test_short_content_is_shown_whole_in_one_line():
    assert repr(Example(name="a", numbers=(1.0, 2.5))) == "Example(name='a', numbers=(1.0, 2.5), by_name={}, labels=None)"


def test_long_content_is_abbreviated_a_line_for_each_field():
    labels = Labels(names=tuple(f"structure {n}" for n in range(200)), values=tuple(range(200)))
    found = repr(Example(name="n" * 500, numbers=(1.0,) * 10**5, by_name={f"k{n}": (n,) * 50 for n in range(99)}, labels=labels))
    lines = found.splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("Example(", ")", 6)
    assert "numbers=(1.0, 1.0, 1.0, 1.0, ... 99996 more)" in found
    assert is_a_screen(found)


def test_more_fields_than_lines_are_counted():
    wide = type("Wide", (FrozenModel,), {"__annotations__": {f"setting_{n}": "str" for n in range(60)}, "__module__": __name__})
    found = repr(wide(**{f"setting_{n}": "a value" for n in range(60)}))
    assert len(found.splitlines()) == LINES
    assert "... 39 more" in found


def test_a_finding_is_shown_whole():
    finding = Finding.of("NS-S001", "b.nii.gz: is truncated; expected a whole file; copy it again from where it came", case="b")
    assert repr(finding).replace("\n", " ") == f"Finding(error: {finding})"


def test_arrays_are_shown_by_type_and_shape(results):
    assert "image=<float32 (1, " in repr(results["read_scan"])
    assert "array(" not in repr(results["preprocess"])
    assert short_repr(results["a network"]).count("\n") < LINES
