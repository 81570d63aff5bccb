"""From a model and a scan to a label map: whole, in place, and the same every time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnseg.core.errors import ModelError, RunError, ScanError
from nnseg.core.geometry import Grid
from nnseg.core.image import Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.inference import predict as room
from nnseg.inference.ensemble import groups
from nnseg.inference.predict import Predictor, predict
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.network.unet import build_network

CPU = torch.device("cpu")
LABELS = Labels(names=("background", "front", "back"), values=(0, 3, 700))
REGIONS = Labels(
    names=("background", "rim", "core"),
    values=(0, 1, 2),
    regions=(Region(name="whole", values=(1, 2), paint=1), Region(name="core", values=(2,), paint=2)),
)


def _plan(dimensions=3, *, labels=LABELS, spacing=2.0, channels=("MRI",), axes=(0, 1, 2)) -> Plan:
    network = Network(
        kind="plain",
        features=(4, 8),
        strides=((1,) * dimensions, (2,) * dimensions),
        kernels=((3,) * dimensions,) * 2,
        blocks=(1, 1),
        decoder_blocks=(1,),
    )
    return Plan(
        name=f"{dimensions}d",
        dataset="phantom",
        recipe="default",
        channels=channels,
        patch=(8, 12, 8)[-dimensions:],
        labels=labels,
        preprocessing=Preprocessing(
            axes=axes, spacing=(spacing,) * dimensions, normalization=(Normalization(scheme="zscore"),) * len(channels)
        ),
        network=network,
        training=Training(batch_size=2, precision="float32"),
        inference=Inference(mirror_axes=tuple(range(dimensions))),
    )


def _member(plan: Plan, seed: int = 0) -> Member:
    torch.manual_seed(seed)
    network = build_network(plan.network, channels=plan.inputs, heads=len(plan.labels.heads))
    weights = {n: t + 0.5 * torch.randn_like(t) for n, t in network.state_dict().items()}  # far from a start that favours no label
    return Member(plan=plan, fold=seed, weights=weights)


def _model(*plans: Plan) -> Model:
    return Model(members=tuple(_member(plan, seed) for seed, plan in enumerate(plans)))


def _scan(channels=1, shape=(14, 19, 23), spacing=(1.5, 2.0, 1.0)) -> Scan:
    image = np.random.default_rng(0).normal(5, 2, (channels, *shape)).astype(np.float32)
    image[:, :3] = 0  # so that there is something to crop
    grid = Grid(shape=shape, spacing=spacing, origin=(7.0, -3.0, 11.0))
    return Scan(image=image, grid=grid, source=Source(files=(Path("brain.nii.gz"),), grid=grid))


def _equal(one, other) -> bool:
    return np.array_equal(one.probabilities, other.probabilities) and np.array_equal(one.label_map.labels, other.label_map.labels)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_prediction_lies_on_the_scans_grid(dimensions, axes):
    scan = _scan()
    prediction = predict(_model(_plan(dimensions, axes=axes)), scan, device=CPU)
    assert prediction.label_map.grid == scan.grid
    assert prediction.label_map.labels.shape == scan.grid.shape
    assert prediction.probabilities.shape == (3, *scan.grid.shape)
    assert prediction.probabilities.dtype == np.float32
    np.testing.assert_allclose(prediction.probabilities.sum(0), 1, atol=1e-5)


def test_the_label_map_shows_the_likeliest_stored_value():
    prediction = predict(_model(_plan()), _scan(), device=CPU)
    expected = np.array([0, 3, 700])[prediction.probabilities.argmax(0)]
    assert np.array_equal(prediction.label_map.labels, expected)
    assert len(np.unique(expected)) > 1


def test_outside_the_crop_is_background():
    prediction = predict(_model(_plan()), _scan(), device=CPU)
    assert np.all(prediction.label_map.labels[:3] == 0)
    assert np.all(prediction.probabilities[0, :3] == 1)


def test_regions_are_painted_in_order():
    prediction = predict(_model(_plan(labels=REGIONS)), _scan(), device=CPU)
    whole, core = prediction.probabilities > 0.5
    assert np.array_equal(prediction.label_map.labels, np.where(core, 2, np.where(whole, 1, 0)))
    assert np.all(prediction.probabilities[:, :3] == 0)
    assert {1, 2} & set(np.unique(prediction.label_map.labels))


def test_a_scan_smaller_than_the_patch_is_predicted():
    scan = _scan(shape=(5, 3, 4))
    assert predict(_model(_plan()), scan, device=CPU).label_map.labels.shape == (5, 3, 4)


def test_the_same_scan_gives_the_same_answer_whoever_asks():
    model, scan = _model(_plan()), _scan()
    predictor = Predictor(model, device=CPU)
    first = predictor(scan)
    predictor(_scan(shape=(9, 9, 9)))
    assert _equal(predictor(scan), first)
    assert _equal(predict(model, scan, device=CPU), first)


def test_a_model_from_a_file_predicts_the_same(tmp_path):
    model, scan = _model(_plan(), _plan(2)), _scan()
    save_model(model, tmp_path / "m.nnseg")
    assert _equal(predict(load_model_file(tmp_path / "m.nnseg"), scan, device=CPU), predict(model, scan, device=CPU))


def test_two_equal_members_answer_as_one():
    member, scan = _member(_plan()), _scan()
    assert _equal(predict(Model(members=(member, member)), scan, device=CPU), predict(Model(members=(member,)), scan, device=CPU))


def test_members_of_different_plans_meet_as_probabilities():
    members = (_member(_plan(), 0), _member(_plan(2), 1), _member(_plan(), 2), _member(_plan(spacing=3.0), 3))
    scan = _scan()
    alone = [predict(Model(members=(m,)), scan, device=CPU).probabilities for m in members]
    together = predict(Model(members=members), scan, device=CPU).probabilities
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-5)


def test_members_that_preprocess_alike_share_the_way(monkeypatch):
    members = (_member(_plan(), 0), _member(_plan(2), 1), _member(_plan(), 2), _member(_plan(spacing=3.0), 3))
    assert [[m.fold for m in group] for group in groups(members)] == [[0, 2], [1], [3]]
    calls = []
    monkeypatch.setattr(room, "preprocess", lambda *given, **more: calls.append("in") or preprocess(*given, **more))
    monkeypatch.setattr(room, "restore", lambda *given: calls.append("back") or restore(*given))
    predict(Model(members=members), _scan(), device=CPU)
    assert calls == ["in", "back"] * 3


preprocess, restore = room.preprocess, room.restore


def test_step_and_mirroring_are_the_plans_unless_told(monkeypatch):
    seen = []

    def window(network, image, window):
        seen.append((window.step, window.mirror_axes))
        return torch.zeros(3, *image.shape[1:])

    monkeypatch.setattr(room, "sliding_window", window)
    predict(_model(_plan()), _scan(), device=CPU)
    predict(_model(_plan()), _scan(), device=CPU, step=0.8, mirror=False)
    assert seen == [(0.5, (0, 1, 2)), (0.8, ())]


def test_a_scan_with_other_channels_is_refused_with_those_needed():
    with pytest.raises(ScanError, match=r"brain\.nii\.gz.*2 channels.*1 \(MRI\)"):
        predict(_model(_plan()), _scan(channels=2), device=CPU)


def test_a_network_that_gives_no_numbers_is_named():
    member = _member(_plan(), 4)
    broken = replace(member, weights={n: t * float("nan") for n, t in member.weights.items()})
    with pytest.raises(ModelError, match=r"fold 4 \(3d\).*not numbers"):
        predict(Model(members=(broken,)), _scan(), device=CPU)


@pytest.mark.parametrize(("room_for", "tried"), [(3, [9, 4, 2]), (0, [9, 4, 2, 1])])
def test_a_full_device_gets_smaller_batches(monkeypatch, room_for, tried):
    seen = []

    def window(network, image, window):
        seen.append(window.batch)
        if window.batch > room_for:
            raise torch.OutOfMemoryError
        return torch.zeros(3, *image.shape[1:])

    monkeypatch.setattr(room, "sliding_window", window)
    monkeypatch.setattr(room, "batch_for", lambda *given: 9)
    if room_for:
        predict(_model(_plan()), _scan(), device=CPU)
    else:
        with pytest.raises(RunError, match="too little memory for one"):
            predict(_model(_plan()), _scan(), device=CPU)
    assert seen == tried


def _cascade(*, labels=LABELS, **changes) -> Plan:
    plan = _plan(labels=labels, **changes)
    return plan.model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})


def _lowres(seed=0, *, labels=LABELS) -> Member:
    plan = _plan(labels=labels, spacing=3.0).model_copy(update={"name": "3d_lowres"})
    return _member(plan, seed)


def _copies(tiles):
    """Certain of what it is shown in the two last channels."""
    return torch.cat([0.5 - tiles[:, 1:].sum(1, keepdim=True), tiles[:, 1:]], 1) * 100


def test_a_network_that_copies_the_previous_answer_predicts_it(monkeypatch):
    cascade = _cascade(axes=(2, 0, 1)).model_copy(
        update={
            "preprocessing": Preprocessing(
                axes=(2, 0, 1), spacing=(1.0, 1.5, 2.0), normalization=_plan().preprocessing.normalization
            )
        }
    )  # the scan's own spacing, so that nothing is resampled
    first, scan = (_lowres(1), _lowres(2)), _scan()
    real = room.build
    monkeypatch.setattr(room, "build", lambda member, *of: _copies if member.plan.previous else real(member, *of))
    answer = predict(Model(members=(_member(cascade),), previous=first), scan, device=CPU)
    expected = predict(Model(members=first), scan, device=CPU).label_map.labels
    assert len(np.unique(expected)) == 3
    assert np.array_equal(answer.label_map.labels, expected)


def test_a_cascade_is_shown_the_mean_of_all_first_networks():
    member, scan = _member(_cascade(), 5), _scan()
    one, other, both = (
        predict(Model(members=(member,), previous=p), scan, device=CPU)
        for p in ((_lowres(1),), (_lowres(2),), (_lowres(1), _lowres(2)))
    )
    assert not _equal(one, other)
    assert not _equal(both, one)
    assert not _equal(both, other)


def test_cascades_and_others_answer_together():
    members, first, scan = (_member(_plan(), 0), _member(_cascade(), 1)), (_lowres(),), _scan()
    assert len(groups(members)) == 2  # preprocessed alike, but for what one is shown
    alone = [predict(Model(members=(m,), previous=first), scan, device=CPU).probabilities for m in members]
    together = predict(Model(members=members, previous=first), scan, device=CPU).probabilities
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-5)


def test_a_cascade_of_regions_is_shown_their_labels():
    model = Model(members=(_member(_cascade(labels=REGIONS), 3),), previous=(_lowres(4, labels=REGIONS),))
    assert predict(model, _scan(), device=CPU).probabilities.shape == (2, *_scan().grid.shape)


@pytest.mark.parametrize("previous", [(), ("3d",)])
def test_a_cascade_without_its_first_stage_is_refused(previous):
    model = Model(members=(_member(_cascade()),), previous=tuple(_member(_plan()) for _ in previous))
    with pytest.raises(ModelError, match="the 3d_cascade network is shown the answer of 3d_lowres, which this model lacks"):
        Predictor(model, device=CPU)


def test_a_window_swaps_the_heads_that_training_swapped():
    sided = Augmentation(swapped_labels=((1, 2),), swap_axis=2)
    plan = _plan().model_copy(update={"training": Training(batch_size=2, augmentation=sided)})
    window = room.window_of(Member(plan=plan, fold=0, weights={}), CPU)
    assert (window.swap_axis, window.swaps, window.previous_swaps) == (2, ((1, 2),), ())
    cascade = room.window_of(Member(plan=plan.model_copy(update={"previous": "3d_lowres"}), fold=0, weights={}), CPU)
    assert cascade.previous_swaps == ((1, 2),)
