"""A model grows: by a label, by a channel and by cases in which what it knows is not annotated, which it then predicts itself."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnseg.commands.measure import measure_dataset
from nnseg.commands.plan import plan
from nnseg.commands.preprocess import preprocess_plans, preprocessed_keys
from nnseg.commands.train import train
from nnseg.core.errors import DatasetError, ModelError
from nnseg.core.geometry import Grid
from nnseg.core.image import LabelMap, Scan, Source
from nnseg.core.labels import Labels
from nnseg.core.options import Options
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.schedule import Course, Origin
from nnseg.crossval.pseudo_labels import predict_pseudo_labels
from nnseg.inference.predict import Predictor
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.network.load import load_model
from nnseg.preprocessing.preprocess import preprocess
from nnseg.storage.cases import CaseStore, in_memory
from nnseg.storage.files import read_json
from nnseg.storage.images.read import read_label_map, read_scan
from nnseg.storage.predictions import Predictions
from nnseg.storage.run import Run
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.patches import Patches
from nnseg.training.schedule import load_initial_weights

CPU = torch.device("cpu")
SHAPE = (16, 20, 18)
STILL = Augmentation(**{name: 0.0 for name in Augmentation.model_fields if name.endswith("_probability")})
VALUES = {"bright": 1, "dark": 2}
"""Of the grown dataset; in the model "dark" has the value 1, and "bright" is unknown."""


def boxes(number: int) -> dict[str, np.ndarray]:
    """The masks of two boxes, in another place for each case."""
    found = {name: np.zeros(SHAPE, bool) for name in VALUES}
    found["dark"][4:11, 3:9, 4:12] = True
    found["bright"][5:12, 11:17, 3:11] = True
    return {name: np.roll(mask, (number % 3, number % 2, number % 4), (0, 1, 2)) for name, mask in found.items()}


def draw(number: int) -> np.ndarray:
    """T1: both boxes in noise."""
    masks = boxes(number)
    return (2.0 * masks["dark"] + 4.0 * masks["bright"] + np.random.default_rng(number).normal(1, 0.2, SHAPE)).astype(np.float32)


def write(folder: Path, annotated: dict[str, list[str]]) -> Path:
    """A dataset of two channels; label maps show what is annotated in each case, which is named after its number."""
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for name, labels in annotated.items():
        number = int(name[-1])
        noise = np.random.default_rng(100 + number).normal(5, 1, SHAPE).astype(np.float32)
        shown = sum(VALUES[label] * boxes(number)[label] for label in labels).astype(np.uint8)
        for file, voxels in (
            (f"imagesTr/{name}_0000", noise),
            (f"imagesTr/{name}_0001", draw(number)),
            (f"labelsTr/{name}", shown),
        ):
            sitk.WriteImage(sitk.GetImageFromArray(voxels), str(folder / f"{file}.nii.gz"))
    content = {
        "channel_names": {"0": "T2", "1": "T1"},
        "labels": {"background": 0, **VALUES},
        "file_ending": ".nii.gz",
        "numTraining": len(annotated),
        "annotated_labels": annotated,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was trained to find the dark box in T1."""
    known = Plan(
        name="3d",
        dataset="dark boxes",
        recipe="test",
        channels=("T1",),
        patch=(12, 12, 12),
        labels=Labels(names=("background", "Dark"), values=(0, 1)),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0,) * 3, normalization=(Normalization(scheme="zscore"),)),
        network=Network(
            kind="plain", features=(4, 8), strides=((1,) * 3, (2,) * 3), kernels=((3,) * 3,) * 2, blocks=(1, 1), decoder_blocks=(1,)
        ),
        training=Training(batch_size=2, optimizer="adamw", learning_rate=3e-2, foreground_share=0.5, augmentation=STILL),
        inference=Inference(),
    )
    grid, cases = Grid(shape=SHAPE, spacing=(1.0, 1.0, 1.0)), []
    for number in range(10, 14):
        scan = Scan(image=draw(number)[None], grid=grid, source=Source(files=(), grid=grid))
        reference = LabelMap(labels=boxes(number)["dark"].astype(np.uint8), grid=grid)
        cases.append(in_memory(preprocess(scan, reference, known, name=f"known_{number}")))
    context = TrainingContext(plan=known, fold=0, device=CPU, dtype=torch.float32)
    learner, patches = Learner(context, Course.of(100, known.training)), Patches(cases, known, fold=0, device=CPU)
    for step in range(100):
        learner.take_step(patches.batch(step))
    file = tmp_path_factory.mktemp("model") / "dark.nnseg"
    save_model(Model(members=(Member(plan=known, fold=0, weights=learner.weights()),)), file)
    return file


@pytest.fixture(scope="module")
def options(tiny_recipe: Path, model_file: Path) -> Options:
    return Options(recipe=str(tiny_recipe), probe=False, device="cpu", workers=1, init=model_file, folds=(0,))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Either box is annotated in some cases, and both in one."""
    annotated = {"case_0": ["bright"], "case_1": ["bright"], "case_2": ["bright"], "case_3": ["dark"], "case_4": ["bright", "dark"]}
    return write(tmp_path_factory.mktemp("grown") / "data", annotated)


def planned(dataset: Path, folder: Path, options: Options) -> Run:
    run = Run(folder)
    measure_dataset(run, dataset, 1)
    plan(run, options)
    return run


@pytest.fixture
def run(dataset: Path, options: Options, tmp_path: Path) -> Run:
    return planned(dataset, tmp_path / "run", options)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_the_model_predicts_its_labels_where_they_were_not_annotated(
    run: Run, options: Options, caplog: pytest.LogCaptureFixture
) -> None:
    before = preprocessed_keys(run, run.plans[0])
    with caplog.at_level(logging.INFO):
        predict_pseudo_labels(run, options)
    assert f"{options.init}: predicts what was not annotated, for training and not for scores: dark in 3 cases" in caplog.text
    record = read_json(run.pseudo_labels_folder / "predictions.json", Predictions)
    assert (record.labels.by_name, record.model["paths"]) == ({"background": 0, "dark": 2}, [str(options.init)])
    assert set(record.cases) == {"case_0", "case_1", "case_2"}
    for name, of_case in record.cases.items():
        found = read_label_map(run.pseudo_labels_folder / of_case.file).labels
        assert set(np.unique(found)) == {0, 2}
        assert dice(found == 2, boxes(int(name[-1]))["dark"]) > 0.7
    after = preprocessed_keys(run, run.plans[0])
    assert {name for name in after if after[name] != before[name]} == set(record.cases)


def test_training_takes_them_and_what_was_annotated_stays(run: Run, options: Options) -> None:
    predict_pseudo_labels(run, options)
    assert preprocess_plans(run, run.plans) == ()
    store, labels = CaseStore(run.plans[0].cases), run.plans[0].plan.labels
    assert {name: store.read(name).known for name in store.names()} == {
        "case_0": None, "case_1": None, "case_2": None, "case_3": labels.known(["dark"]), "case_4": None,
    }  # fmt: skip
    stored = np.asarray(store.read("case_0").labels)
    assert np.array_equal(stored == labels.names.index("bright"), boxes(0)["bright"])
    assert dice(stored == labels.names.index("dark"), boxes(0)["dark"]) > 0.7
    assert set(np.unique(store.read("case_3").labels)) == {0, labels.names.index("dark")}


def test_what_is_predicted_is_not_predicted_again_and_goes_when_it_is_not_wanted(run: Run, options: Options) -> None:
    before = preprocessed_keys(run, run.plans[0])
    predict_pseudo_labels(run, options)
    times = {file: file.stat().st_mtime_ns for file in run.pseudo_labels_folder.glob("*.nii.gz")}
    made = preprocessed_keys(run, run.plans[0])
    predict_pseudo_labels(run, options)
    predict_pseudo_labels(run, replace(options, init=None))
    assert times == {file: file.stat().st_mtime_ns for file in run.pseudo_labels_folder.glob("*.nii.gz")}
    assert made == preprocessed_keys(run, run.plans[0]) != before
    (run.pseudo_labels_folder / "case_1.nii.gz").unlink()
    predict_pseudo_labels(run, options)
    assert made == preprocessed_keys(run, run.plans[0])
    assert (run.pseudo_labels_folder / "case_1.nii.gz").exists()
    predict_pseudo_labels(run, replace(options, pseudo_labels=False))
    assert not run.pseudo_labels_folder.exists()
    assert before == preprocessed_keys(run, run.plans[0])


def test_cases_are_preprocessed_anew_when_the_model_is_another(run: Run, options: Options, tmp_path: Path) -> None:
    predict_pseudo_labels(run, options)
    before, known = preprocessed_keys(run, run.plans[0]), load_model_file(options.init).members[0]
    torch.manual_seed(0)
    other = replace(known, weights=build_network(known.plan).state_dict())
    save_model(Model(members=(other,)), tmp_path / "other.nnseg")
    predict_pseudo_labels(run, replace(options, init=tmp_path / "other.nnseg"))
    after = preprocessed_keys(run, run.plans[0])
    assert {name for name in after if after[name] != before[name]} == {"case_0", "case_1", "case_2"}


def test_a_model_of_a_channel_that_the_dataset_lacks_predicts_nothing_and_that_is_said(
    run: Run, options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = load_model_file(options.init).members[0]
    normalization = known.plan.preprocessing.normalization * 2
    preprocessing = known.plan.preprocessing.model_copy(update={"normalization": normalization})
    two = known.plan.model_copy(update={"channels": ("T1", "FLAIR"), "preprocessing": preprocessing})
    save_model(Model(members=(replace(known, plan=two, weights=build_network(two).state_dict()),)), tmp_path / "two.nnseg")
    predict_pseudo_labels(run, replace(options, init=tmp_path / "two.nnseg"))
    assert "cannot predict what was not annotated: the dataset lacks its channel FLAIR" in caplog.text
    assert not run.pseudo_labels_folder.exists()


def test_a_label_that_is_annotated_nowhere_needs_a_model_that_has_it(options: Options, tmp_path: Path) -> None:
    dataset = write(tmp_path / "data", {f"case_{i}": ["bright"] for i in range(3)})
    with pytest.raises(DatasetError, match=r"dark: annotated in none of 3 cases, so it cannot be learned; begin with a model"):
        planned(dataset, tmp_path / "alone", replace(options, init=None))
    run = planned(dataset, tmp_path / "run", options)
    assert [finding.code for finding in run.fingerprint.findings if "dark" in finding.message] == ["NS-D030", "NS-D039"]


def test_a_channel_without_weights_is_not_frozen(run: Run, model_file: Path) -> None:
    grown = run.plans[0].plan
    origin = Origin(model=str(model_file), key=load_model(model_file).key(), freeze="encoder")
    with pytest.raises(ModelError, match="--freeze encoder would leave T2 without effect"):
        load_initial_weights(build_network(grown), grown, 0, origin)


def test_a_model_learns_a_label_and_keeps_one_that_is_annotated_nowhere(
    options: Options, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write(tmp_path / "data", {f"case_{i}": ["bright"] for i in range(5)})
    run = planned(dataset, tmp_path / "run", options)
    with caplog.at_level(logging.INFO):
        train(run.path, replace(options, steps=150), predict=lambda *_: (), complete=predict_pseudo_labels)
    assert "heads: background, dark from the model, bright new" in caplog.text
    assert "new channels, whose weights start at 0: T2" in caplog.text
    predictor, labels = Predictor(load_model_file(run.fold(0).model_file), device=CPU), run.dataset.labels
    for name in run.folds[0].held_out:
        found = predictor(read_scan(run.cases[name].images)).label_map.labels
        assert all(dice(labels.mask(label, found), boxes(int(name[-1]))[label]) > 0.7 for label in VALUES)
