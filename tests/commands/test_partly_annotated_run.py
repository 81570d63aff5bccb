"""Two cases, each with one of two labels annotated: from the files to scores, what nobody annotated is neither right nor wrong."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnseg.commands.preprocess import PreprocessingTask, case_keys
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.schedule import Course
from nnseg.evaluation.evaluate import evaluate
from nnseg.evaluation.pairs import FilePair
from nnseg.planning.folds import find_labels, make_folds
from nnseg.planning.measure import measure
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets.read import read_dataset
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.losses import make_loss
from nnseg.training.patches import Patches
from nnseg.training.validation import Validation

CPU = torch.device("cpu")
SHAPE = (16, 20, 18)
STILL = Augmentation(**{name: 0.0 for name in Augmentation.model_fields if name.endswith("_probability")})


def truth() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:11, 3:9, 5:13] = 1
    labels[5:12, 11:17, 4:12] = 2
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dark and a bright box in both scans; case "dark" has only the dark one in its label map, case "bright" the other."""
    place = tmp_path_factory.mktemp("boxes")
    for seed, name in enumerate(("dark", "bright"), 1):
        image = truth() * 2.0 + np.random.default_rng(seed).normal(1, 0.2, SHAPE)
        for kind, voxels in (("images", image.astype(np.float32)), ("labels", truth() * (truth() == seed))):
            (place / kind).mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(voxels), str(place / kind / f"{name}.nii.gz"))
    content = {"labels": {"background": 0, "dark": 1, "bright": 2}, "annotated_labels": {"dark": ["dark"], "bright": ["bright"]}}
    (place / "dataset.json").write_text(json.dumps(content))
    return place


@pytest.fixture(scope="module")
def dataset(folder):
    return read_dataset(folder)


@pytest.fixture(scope="module")
def plan(dataset) -> Plan:
    return Plan(
        name="3d",
        dataset="boxes",
        recipe="test",
        channels=dataset.channels,
        patch=(12, 12, 12),
        labels=dataset.labels,
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0,) * 3, normalization=(Normalization(scheme="zscore"),)),
        network=Network(
            kind="plain", features=(4, 8), strides=((1,) * 3, (2,) * 3), kernels=((3,) * 3,) * 2, blocks=(1, 1), decoder_blocks=(1,)
        ),
        training=Training(batch_size=2, optimizer="adamw", learning_rate=3e-2, foreground_share=0.5, augmentation=STILL),
        inference=Inference(),
    )


@pytest.fixture(scope="module")
def cases(dataset, plan, tmp_path_factory):
    store = CaseStore(tmp_path_factory.mktemp("store"))
    keys = case_keys(plan, measure(dataset))
    for case in dataset.cases:
        PreprocessingTask(case=case, plan=plan, store=store.folder, key=keys[case.name])()
    return [store.read(name) for name in store.names()]


def test_a_stored_case_knows_its_labels(cases):
    assert {case.name: case.known for case in cases} == {"dark": (0, 1), "bright": (0, 2)}


def test_a_case_is_preprocessed_anew_when_other_labels_count_as_annotated(dataset, plan):
    fingerprint = measure(dataset)
    whole = tuple(case.model_copy(update={"annotated": None}) for case in fingerprint.cases)
    keys, others = case_keys(plan, fingerprint), case_keys(plan, fingerprint.model_copy(update={"cases": whole}))
    assert all(keys[name] != others[name] for name in keys)


def test_folds_go_by_the_labels_that_are_shown(dataset):
    shown = find_labels(measure(dataset))
    assert shown == {"dark": {"dark"}, "bright": {"bright"}}
    assert len(make_folds(shown.keys(), labels=shown)) == 2


def test_the_loss_is_the_same_whatever_is_said_of_labels_that_are_not_known(cases, plan):
    patches, loss = Patches(cases, plan, fold=0, device=CPU), make_loss(plan)
    batch = next(b for b in map(patches.batch, range(20)) if set(b.names) == {"dark"})
    assert batch.known.tolist() == [[True, True, False]] * 2
    logits = torch.randn(2, 3, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    swapped = logits[:, [2, 1, 0]]
    assert float(loss(swapped, batch.labels, batch.known)) == pytest.approx(
        float(loss(logits, batch.labels, batch.known)), rel=1e-5
    )
    assert float(loss(swapped, batch.labels)) != pytest.approx(float(loss(logits, batch.labels)), rel=1e-3)


def test_both_labels_are_learned_and_each_is_scored_where_it_is_known(cases, plan, dataset, tmp_path):
    context = TrainingContext(plan=plan, fold=0, device=CPU, dtype=torch.float32)
    learner, patches = Learner(context, Course.of(100, plan.training)), Patches(cases, plan, fold=0, device=CPU)
    for step in range(100):
        learner.take_step(patches.batch(step))
    estimate = Validation(cases, context).estimate(learner.network, learner.weights())
    assert min(estimate.values()) > 0.85
    pairs, learner.network.deep_supervision = [], False
    for case, stored in zip(sorted(dataset.cases, key=lambda c: c.name), cases, strict=True):
        with torch.no_grad():
            found = learner.network(torch.from_numpy(stored.image)[None])[0].argmax(0).numpy().astype(np.uint8)
        assert 2 * (found == truth())[truth() > 0].sum() / ((found > 0).sum() + (truth() > 0).sum()) > 0.85
        sitk.WriteImage(sitk.GetImageFromArray(found), str(tmp_path / f"{case.name}.nii.gz"))
        pair = FilePair(
            name=case.name, prediction=tmp_path / f"{case.name}.nii.gz", reference=case.labels, annotated=case.annotated
        )
        pairs.append(pair)
    scores = evaluate(pairs, dataset.labels)
    assert scores.failed == ()
    dices = {c.name: {name: s.dice for name, s in c.labels.items()} for c in scores.cases}
    assert dices["dark"]["bright"] is dices["bright"]["dark"] is None
    assert min(dices["dark"]["dark"], dices["bright"]["bright"]) > 0.85
    assert (scores.averages.per_mask["dice"].n, scores.averages.per_mask["dice"].n_undefined) == (2, 2)
