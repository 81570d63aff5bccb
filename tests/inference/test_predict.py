"""Predictions: complete, on the scan's grid, and the same every time."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnseg.core.decisions import ObjectRule, ObjectRules, PostprocessingStep
from nnseg.core.errors import ModelError, ScanError
from nnseg.core.geometry import Grid, Reorientation
from nnseg.core.image import Scan, Source
from nnseg.core.labels import Labels, Region
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.thumbnail import layout, unpack
from nnseg.core.trust import Trust
from nnseg.inference import networks, volumes
from nnseg.inference import predict as predict_module
from nnseg.inference.postprocess import postprocess
from nnseg.inference.predict import Predictor
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.network.load import with_thresholds
from nnseg.preprocessing.preprocess import preprocess, restore

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


def predict(model, scan, *, probabilities=True, **settings):
    predictor = Predictor(model, **settings)
    return predictor.infer(predictor.prepare(scan), probabilities=probabilities)


def _member(plan: Plan, seed: int = 0) -> Member:
    torch.manual_seed(seed)
    network = build_network(plan)
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


def test_the_same_scan_gives_the_same_prediction_by_every_way():
    model, scan = _model(_plan()), _scan()
    predictor = Predictor(model, device=CPU)
    first = predictor(scan).label_map.labels
    predictor(_scan(shape=(9, 9, 9)))
    assert np.array_equal(predictor(scan).label_map.labels, first)
    assert np.array_equal(Predictor(model, device=CPU)(scan).label_map.labels, first)
    assert np.array_equal(predict(model, scan, device=CPU).label_map.labels, first)


def test_a_model_from_a_file_predicts_the_same(tmp_path):
    model, scan = _model(_plan(), _plan(2)), _scan()
    save_model(model, tmp_path / "m.nnseg")
    assert _equal(predict(load_model_file(tmp_path / "m.nnseg"), scan, device=CPU), predict(model, scan, device=CPU))


def test_two_equal_members_predict_as_one():
    member, scan = _member(_plan()), _scan()
    both, one = (predict(Model(members=members), scan, device=CPU) for members in ((member, member), (member,)))
    np.testing.assert_allclose(both.probabilities, one.probabilities, atol=1e-5)


def test_members_of_different_plans_meet_as_probabilities():
    members = (_member(_plan(), 0), _member(_plan(2), 1), _member(_plan(spacing=3.0), 3))
    scan = _scan()
    alone = [predict(Model(members=(m,)), scan, device=CPU).probabilities for m in members]
    together = predict(Model(members=members), scan, device=CPU).probabilities
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-5)


def test_members_that_preprocess_alike_share_the_case(monkeypatch):
    members = (_member(_plan(), 0), _member(_plan(2), 1), _member(_plan(), 2), _member(_plan(spacing=3.0), 3))
    predictor, calls = Predictor(Model(members=members), device=CPU), []
    assert [[v.member.fold for v in group.networks] for group in predictor._groups] == [[0, 2], [1], [3]]
    monkeypatch.setattr(predict_module, "preprocess", lambda *given, **more: calls.append("in") or preprocess(*given, **more))
    predictor(_scan())
    assert len(calls) == 3


def test_step_and_mirroring_are_the_plans_unless_given():
    def settings_of(**settings):
        (group,) = Predictor(_model(_plan()), device=CPU, **settings)._groups
        return group.window.step, group.window.mirror_axes, group.window.logits

    assert settings_of() == (0.5, (0, 1, 2), False)
    assert settings_of(step=0.8, mirror=False) == (0.8, (), False)
    assert settings_of(classic=True) == (0.5, (0, 1, 2), True)


def test_a_scan_with_other_channels_is_refused_with_those_needed():
    with pytest.raises(ScanError, match=r"brain\.nii\.gz.*2 channels.*1 \(MRI\)"):
        predict(_model(_plan()), _scan(channels=2), device=CPU)


def test_a_network_that_gives_no_numbers_is_named():
    member = _member(_plan(), 4)
    broken = replace(member, weights={n: t * float("nan") for n, t in member.weights.items()})
    with pytest.raises(ModelError, match=r"fold 4 \(3d\).*not numbers"):
        predict(Model(members=(broken,)), _scan(), device=CPU)


def _cascade(*, labels=LABELS, **changes) -> Plan:
    plan = _plan(labels=labels, **changes)
    return plan.model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})


def _lowres(seed=0, *, labels=LABELS) -> Member:
    plan = _plan(labels=labels, spacing=3.0).model_copy(update={"name": "3d_lowres"})
    return _member(plan, seed)


def _copies(tiles):
    """Logits that copy the last two channels."""
    return torch.cat([0.5 - tiles[:, 1:].sum(1, keepdim=True), tiles[:, 1:]], 1) * 100


def test_a_network_that_copies_the_previous_segmentation_predicts_it(monkeypatch):
    cascade = _cascade(axes=(2, 0, 1)).model_copy(
        update={
            "preprocessing": Preprocessing(
                axes=(2, 0, 1), spacing=(1.0, 1.5, 2.0), normalization=_plan().preprocessing.normalization
            )
        }
    )  # the scan's own spacing, so that nothing is resampled
    first, scan = (_lowres(1), _lowres(2)), _scan()
    real = networks.inference_network
    monkeypatch.setattr(networks, "inference_network", lambda member, *of: _copies if member.plan.previous else real(member, *of))
    prediction = predict(Model(members=(_member(cascade),), previous=first), scan, device=CPU)
    expected = predict(Model(members=first), scan, device=CPU).label_map.labels
    assert len(np.unique(expected)) == 3
    assert np.array_equal(prediction.label_map.labels, expected)


def test_a_cascade_gets_the_mean_of_all_networks_of_the_first_stage():
    member, scan = _member(_cascade(), 5), _scan()
    one, other, both = (
        predict(Model(members=(member,), previous=p), scan, device=CPU)
        for p in ((_lowres(1),), (_lowres(2),), (_lowres(1), _lowres(2)))
    )
    assert not _equal(one, other)
    assert not _equal(both, one)
    assert not _equal(both, other)


def test_cascades_and_others_predict_together():
    members, first, scan = (_member(_plan(), 0), _member(_cascade(), 1)), (_lowres(),), _scan()
    found = Predictor(Model(members=members, previous=first), device=CPU)
    assert len(found._groups) == 2  # preprocessed alike, but for the previous stage
    alone = [predict(Model(members=(m,), previous=first), scan, device=CPU).probabilities for m in members]
    together = predict(Model(members=members, previous=first), scan, device=CPU).probabilities
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-5)


def test_a_cascade_of_regions_gets_their_labels():
    model = Model(members=(_member(_cascade(labels=REGIONS), 3),), previous=(_lowres(4, labels=REGIONS),))
    assert predict(model, _scan(), device=CPU).probabilities.shape == (2, *_scan().grid.shape)


@pytest.mark.parametrize("previous", [(), ("3d",)])
def test_a_cascade_without_its_first_stage_is_refused(previous):
    model = Model(members=(_member(_cascade()),), previous=tuple(_member(_plan()) for _ in previous))
    with pytest.raises(ModelError, match="the 3d_cascade network needs the label map of 3d_lowres, which this model lacks"):
        Predictor(model, device=CPU)


def test_a_window_swaps_the_heads_that_training_swapped():
    sided = Augmentation(swapped_labels=((1, 2),), swap_axis=2)
    plan = _plan().model_copy(update={"training": Training(batch_size=2, augmentation=sided)})
    window = predict_module.window_of(Member(plan=plan, fold=0, weights={}), CPU)
    assert (window.swap_axis, window.swaps, window.previous_swaps) == (2, ((1, 2),), ())
    cascade = predict_module.window_of(Member(plan=plan.model_copy(update={"previous": "3d_lowres"}), fold=0, weights={}), CPU)
    assert cascade.previous_swaps == ((1, 2),)


def _plain(member: Member, scan: Scan, *, classic=False):
    """Probabilities the plain way: everything on the network's grid, then all logits at once back to the scan."""
    labels = member.plan.labels
    group = Predictor(Model(members=(member,)), device=CPU, classic=classic)._groups[0]
    case = preprocess(scan, None, member.plan)
    outputs = torch.cat(list(predict_module.sliding_window(group.networks, torch.from_numpy(case.image), group.window)), 1)
    if not classic:
        outputs = torch.logit(outputs, 1e-7) if labels.regions else outputs.clamp(min=1e-7).log()
    logits = torch.from_numpy(restore(outputs.numpy(), case.placement, member.plan))
    found = (torch.sigmoid(logits) if labels.regions else torch.softmax(logits, 0)).numpy()
    found[:, :3] = 0 if labels.regions else np.eye(3)[0][:, None, None, None]  # there is nothing in the scan
    return found


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize("labels", [LABELS, REGIONS])
@pytest.mark.parametrize("spacing", [0.7, 2.0, 4.0])
@pytest.mark.parametrize(("dimensions", "axes"), [(3, (0, 1, 2)), (3, (2, 0, 1)), (2, (1, 2, 0))])
def test_restoring_in_blocks_gives_the_plain_result(dimensions, axes, spacing, labels, classic, monkeypatch):
    shape, values = ((9, 11, 12), 1000) if spacing < 1 else ((14, 19, 23), 3000)  # blocks of two slices
    monkeypatch.setattr(predict_module, "BLOCK_VALUES", values)
    scan, member = _scan(shape=shape), _member(_plan(dimensions, axes=axes, spacing=spacing, labels=labels), 7)
    plain = _plain(member, scan, classic=classic)
    expected = labels.decide(plain)
    found = predict(Model(members=(member,)), scan, device=CPU, classic=classic, probabilities=False)
    assert len(np.unique(expected)) > 1
    assert (found.label_map.labels == expected).mean() >= 0.9999
    full = predict(Model(members=(member,)), scan, device=CPU, classic=classic)
    assert (full.label_map.labels == found.label_map.labels).mean() >= 0.9999
    np.testing.assert_allclose(full.probabilities, plain, atol=2e-5)


def test_anisotropic_slices_come_back_one_by_one():
    scan, member = _scan(shape=(12, 30, 33), spacing=(5.0, 1.0, 1.0)), _member(_plan(spacing=1.7), 3)
    np.testing.assert_allclose(predict(Model(members=(member,)), scan, device=CPU).probabilities, _plain(member, scan), atol=2e-5)


def test_plans_of_other_axis_orders_predict_together(monkeypatch):
    monkeypatch.setattr(predict_module, "BLOCK_VALUES", 2000)
    members = (_member(_plan(axes=(2, 0, 1)), 0), _member(_plan(2), 1), _member(_plan(axes=(1, 2, 0), spacing=3.0), 2))
    alone = [predict(Model(members=(m,)), _scan(), device=CPU).probabilities for m in members]
    together = predict(Model(members=members), _scan(), device=CPU)
    np.testing.assert_allclose(together.probabilities, np.mean(alone, 0), atol=1e-5)
    short = predict(Model(members=members), _scan(), device=CPU, probabilities=False)
    assert (short.label_map.labels == together.label_map.labels).mean() > 0.9999


def test_classic_folds_meet_as_logits_and_their_plans_as_probabilities():
    one, other, flat = _member(_plan(), 0), _member(_plan(), 1), _member(_plan(2), 2)
    scan, case = _scan(), preprocess(_scan(), None, one.plan)
    mean = 0
    for member in (one, other):
        group = Predictor(Model(members=(member,)), device=CPU, classic=True)._groups[0]
        mean = (
            mean + torch.cat(list(predict_module.sliding_window(group.networks, torch.from_numpy(case.image), group.window)), 1) / 2
        )
    shares = torch.softmax(torch.from_numpy(restore(mean.numpy(), case.placement, one.plan)), 0).numpy()
    found = predict(Model(members=(one, other, flat)), scan, device=CPU, classic=True).probabilities
    np.testing.assert_allclose(found[:, 3:], (shares + _plain(flat, scan, classic=True))[:, 3:] / 2, atol=2e-5)


def test_a_single_network_is_restored_as_in_classic_mode():
    """Probabilities that were interpolated themselves would blur its edges."""
    plan = _plan(spacing=4.0).model_copy(update={"inference": Inference(step=1.0)})
    scan, model = _scan(), Model(members=(_member(plan, 5),))
    found, classic = (predict(model, scan, device=CPU, classic=c, probabilities=False).label_map.labels for c in (False, True))
    assert len(np.unique(found)) == 3
    assert (found == classic).mean() > 0.9999


@pytest.mark.parametrize("orientation", ["stored", "ras"])
def test_networks_of_another_orientation_see_the_scan_as_they_learned_it(orientation):
    stored = Grid(shape=(23, 14, 19), spacing=(1.0, 1.5, 2.0), direction=((-1, 0, 0), (0, 0, 1), (0, 1, 0)))
    turn = stored.canonical()
    voxels = np.random.default_rng(3).normal(5, 2, (1, *stored.shape)).astype(np.float32)
    source = Source(files=(Path("x.nii.gz"),), grid=stored)
    scan = Scan(image=np.ascontiguousarray(turn.apply(voxels)), grid=stored.reoriented(turn), source=source)
    plan = _plan(axes=(1, 0, 2))
    turned = plan.model_copy(update={"preprocessing": plan.preprocessing.model_copy(update={"orientation": orientation})})
    seen_as = turn.inverse() if orientation == "stored" else Reorientation(flips=(False, True, True))
    as_seen = replace(scan, image=seen_as.apply(scan.image), grid=scan.grid.reoriented(seen_as))
    expected = predict(Model(members=(_member(plan),)), as_seen, device=CPU)
    found = predict(Model(members=(_member(turned),)), scan, device=CPU)
    assert np.array_equal(found.label_map.labels, seen_as.inverse().apply(expected.label_map.labels))
    np.testing.assert_allclose(found.probabilities, seen_as.inverse().apply(expected.probabilities), atol=1e-6)
    mixed = predict(Model(members=(_member(turned), _member(plan, 1))), scan, device=CPU)
    both = [found.probabilities, predict(Model(members=(_member(plan, 1),)), scan, device=CPU).probabilities]
    np.testing.assert_allclose(mixed.probabilities, np.mean(both, 0), atol=1e-5)


def test_many_labels_take_no_more_memory_than_few(monkeypatch):
    largest = []
    real = predict_module.decide_labels

    def watched(stream, block, labels):
        largest.append(int(np.prod([part.stop - part.start for part in block])) * len(labels.heads))
        return real(stream, block, labels)

    monkeypatch.setattr(predict_module, "decide_labels", watched)
    monkeypatch.setattr(predict_module, "BLOCK_VALUES", 20_000)
    for count in (3, 60):
        labels = Labels(names=tuple(f"l{i}" for i in range(count)), values=tuple(range(count)))
        predict(_model(_plan(labels=labels)), _scan(), device=CPU, probabilities=False)
    assert max(largest) < 40_000


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_uncertainty_is_the_doubt_of_the_mean_probabilities(labels, spacing):
    plan, scan = _plan(labels=labels, spacing=spacing), _scan(spacing=(1.0, 1.0, 1.0))
    predictor = Predictor(Model(members=(_member(plan, 1), _member(plan, 2))), device=CPU)
    prepared = predictor.prepare(scan)
    found = predictor.infer(prepared, probabilities=True, uncertainty=True, sample=100)
    assert np.array_equal(found.label_map.labels, predictor(scan).label_map.labels)
    assert found.uncertainty.shape == scan.grid.shape
    if spacing == 1.0:  # nothing is resampled: what is unsure there is unsure here
        doubt = (
            1 - found.probabilities.max(0)
            if not labels.regions
            else np.minimum(found.probabilities, 1 - found.probabilities).max(0)
        )
        np.testing.assert_allclose(found.uncertainty, doubt, atol=1e-5)
    assert found.uncertainty[:3].max() == 0  # nothing is there
    assert 0 < found.confidence.quality < 1
    assert found.confidence.unlike == ()
    z, y, x = found.sample.voxels.T
    assert len(z) == 50  # of those that are not sure, which all are
    if spacing == 1.0:
        np.testing.assert_allclose(found.sample.probabilities, found.probabilities[:, z, y, x].T, atol=1e-5)


def test_probabilities_are_tempered_and_labels_stay():
    member, scan = _member(_plan(), 1), _scan()
    plain, soft = (
        predict(Model(members=(member,), trust=trust), scan, device=CPU) for trust in (None, Trust(cases=9, temperature=2.0))
    )
    assert np.array_equal(soft.label_map.labels, plain.label_map.labels)
    raised = np.sqrt(plain.probabilities)
    np.testing.assert_allclose(soft.probabilities, raised / raised.sum(0), atol=1e-5)


def test_the_models_postprocessing_is_applied():
    model, scan = _model(_plan()), _scan()
    postprocessed = replace(model, postprocessing=(PostprocessingStep(action="largest", labels=(3,)),))
    before, after = (predict(m, scan, device=CPU).label_map.labels for m in (model, postprocessed))
    assert 0 < (after == 3).sum() < (before == 3).sum()
    assert np.array_equal(after, postprocess(before, postprocessed.postprocessing, LABELS))


def test_two_threads_and_one_get_the_same_predictions():
    predictor, scans = Predictor(_model(_plan()), device=CPU), [_scan(shape=(9 + n, 12, 14)) for n in range(6)]
    alone = [predictor(scan).label_map.labels for scan in scans]
    with ThreadPoolExecutor(2) as pool:
        together = [prediction.label_map.labels for prediction in pool.map(predictor, scans)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("limit", [0, 10**9])
def test_large_probabilities_lie_in_a_file_and_are_the_same(limit, monkeypatch, tmp_path):
    monkeypatch.setattr(volumes, "IN_MEMORY_BYTES", limit)
    predictor = Predictor(_model(_plan()), device=CPU)
    found = predictor.infer(predictor.prepare(_scan()), probabilities=True, scratch=tmp_path).probabilities
    assert isinstance(found, np.memmap) == (limit == 0)
    assert not list(tmp_path.iterdir())  # it has no name
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_plans_that_disagree_are_unsure_together():
    """One is certain of a label, the other of another: each alone has no doubt at all."""

    def certain(plan, head):
        member = _member(plan)
        weights = {n: t * 0 if ".heads." in n else t for n, t in member.weights.items()}
        bias = next(n for n in weights if n.endswith("heads.0.bias"))
        return replace(member, weights={**weights, bias: torch.eye(3)[head] * 50})

    members = (certain(_plan(), 1), certain(_plan(spacing=3.0), 2))
    one, both = (Predictor(Model(members=m), device=CPU) for m in (members[:1], members))
    scan = _scan()
    alone, together = (p.infer(p.prepare(scan), uncertainty=True) for p in (one, both))
    assert alone.uncertainty.max() == pytest.approx(0, abs=1e-6)
    assert alone.confidence.agreement.foreground == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(together.uncertainty[3:], 0.5, atol=1e-5)
    assert together.confidence.agreement.labels["front"] < 0.7


def _dropped(plan: Plan) -> Plan:
    return plan.model_copy(update={"network": plan.network.model_copy(update={"dropout": 0.5})})


def test_draws_of_dropout_are_averaged_like_networks_and_are_the_same_each_time():
    model, scan = _model(_dropped(_plan())), _scan()
    plain, drawn = predict(model, scan, device=CPU, mirror=False), predict(model, scan, device=CPU, mirror=False, dropout=3)
    assert not np.array_equal(drawn.probabilities, plain.probabilities)
    assert _equal(drawn, predict(model, scan, device=CPU, mirror=False, dropout=3))
    (group,) = Predictor(model, device=CPU, mirror=False, dropout=3).groups
    tile = torch.randn(1, 1, 8, 12, 8)
    assert len({float(network(tile, group.window).sum()) for network in group.networks}) == 3
    assert torch.equal(group.networks[1].on(CPU)(tile, group.window), group.networks[1](tile, group.window))


def test_draws_need_a_network_with_dropout():
    with pytest.raises(ModelError, match=r"3d network of fold 1 has no dropout to draw from; train one with network\.dropout"):
        Predictor(_model(_dropped(_plan()), _plan()), device=CPU, dropout=2)
    with pytest.raises(ModelError, match="-1 draws of dropout"):
        Predictor(_model(_dropped(_plan())), device=CPU, dropout=-1)


@pytest.mark.parametrize("orientation", ["lps", "ras", "stored"])
def test_a_sample_lies_in_the_canonical_scan(orientation):
    stored = Grid(shape=(23, 14, 19), spacing=(1.0, 1.5, 2.0), direction=((-1, 0, 0), (0, 0, 1), (0, 1, 0)))
    turn = stored.canonical()
    voxels = np.random.default_rng(3).normal(5, 2, (1, *stored.shape)).astype(np.float32)
    voxels[:, :2] = voxels[..., -3:] = 0
    source = Source(files=(Path("x.nii.gz"),), grid=stored)
    scan = Scan(image=np.ascontiguousarray(turn.apply(voxels)), grid=stored.reoriented(turn), source=source)
    plan = _plan(axes=(1, 0, 2))
    plan = plan.model_copy(update={"preprocessing": plan.preprocessing.model_copy(update={"orientation": orientation})})
    predictor = Predictor(Model(members=(_member(plan, 1),)), device=CPU)
    found = predictor.infer(predictor.prepare(scan), probabilities=True, uncertainty=True, sample=200)
    np.testing.assert_allclose(found.sample.probabilities, found.probabilities[:, *found.sample.voxels.T].T, atol=1e-6)


def test_a_cascade_of_many_labels_is_not_taken_for_an_image_of_many_channels():
    labels = Labels(names=tuple(f"l{i}" for i in range(118)), values=tuple(range(118)))
    plan = _plan(labels=labels)
    cascade = plan.model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})
    first = (_lowres(labels=labels),)
    grid = Grid(shape=(400, 512, 512))
    plain = Predictor(Model(members=(_member(plan),)), device=CPU).memory_gb(grid)
    cascaded = Predictor(Model(members=(_member(cascade),), previous=first), device=CPU).memory_gb(grid)
    assert cascaded < 2.5 * plain


def _named(member: Member, name: str, weight: float = 1.0) -> Member:
    return replace(member, plan=member.plan.model_copy(update={"name": name}), weight=weight)


PLANS = {"2d": _plan(2), "3d": _plan(axes=(2, 0, 1)), "3d_lowres": _plan(spacing=3.0)}


def _of_plans(weights: dict[str, float], *, labels=LABELS, folds=1) -> Model:
    """A model of some of the plans, each network of which counts as much as is given."""
    return Model(
        members=tuple(
            _named(_member(plan.model_copy(update={"labels": labels}), 10 * number + fold), name, weights[name])
            for number, (name, plan) in enumerate(PLANS.items())
            if name in weights
            for fold in range(folds)
        )
    )


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_several_ensembles_at_once_predict_as_each_alone(labels):
    ensembles = [{"2d": 1.0}, {"3d": 1.0}, {"2d": 1.0, "3d": 1.0}, {"2d": 2.0, "3d_lowres": 1.0}, dict.fromkeys(PLANS, 1.0)]
    everything = Predictor(_of_plans(dict.fromkeys(PLANS, 1.0), labels=labels), device=CPU)
    found = everything.infer_ensembles(everything.prepare(_scan()), {str(e): e for e in ensembles}, sample=100)
    maps = [prediction.label_map.labels.tobytes() for prediction in found.values()]
    assert len(set(maps)) == len(ensembles)
    for plans in ensembles:
        alone = Predictor(_of_plans(plans, labels=labels), device=CPU)
        expected, prediction = alone.infer(alone.prepare(_scan()), uncertainty=True, sample=100), found[str(plans)]
        assert (prediction.label_map.labels == expected.label_map.labels).mean() >= 0.9999
        agreed, wanted = prediction.confidence.agreement, expected.confidence.agreement
        assert agreed.labels == pytest.approx(wanted.labels, abs=1e-4)
        assert prediction.confidence.facts == expected.confidence.facts
        z, y, x = prediction.sample.voxels.T
        shares = predict(_of_plans(plans, labels=labels), _scan(), device=CPU).probabilities[:, z, y, x].T
        np.testing.assert_allclose(prediction.sample.probabilities, shares, atol=1e-5)


def test_a_weighted_member_counts_as_often_as_its_weight_says():
    shares = {name: predict(_of_plans({name: 1.0}), _scan(), device=CPU).probabilities for name in ("2d", "3d")}
    found = predict(_of_plans({"2d": 1.0, "3d": 3.0}), _scan(), device=CPU).probabilities
    np.testing.assert_allclose(found, (shares["2d"] + 3 * shares["3d"]) / 4, atol=1e-5)
    classic = [predict(_of_plans({"2d": 1.0, "3d": w}, folds=2), _scan(), device=CPU, classic=True) for w in (1.0, 2.0)]
    alone = predict(_of_plans({"3d": 1.0}, folds=2), _scan(), device=CPU, classic=True)
    np.testing.assert_allclose(classic[1].probabilities, (2 * classic[0].probabilities + alone.probabilities) / 3, atol=1e-5)


def test_networks_of_the_same_tiles_and_other_weights_are_kept_apart():
    members = (replace(_member(_plan(), 0), weight=2.0), _member(_plan(), 1), replace(_member(_plan(), 2), weight=2.0))
    groups = Predictor(Model(members=members), device=CPU)._groups
    assert [([v.member.fold for v in g.networks], g.weight) for g in groups] == [([0, 2], 2.0), ([1], 1.0)]


def test_an_ensemble_takes_the_seconds_of_its_plans_and_no_others():
    predictor = Predictor(_of_plans(dict.fromkeys(PLANS, 1.0)), device=CPU)
    names = [("2d",), ("3d",), ("2d", "3d")]
    found = predictor.infer_ensembles(predictor.prepare(_scan()), {"+".join(n): dict.fromkeys(n, 1.0) for n in names})
    seconds = {name: prediction.seconds for name, prediction in found.items()}
    for stage in ("preprocess", "network"):
        assert seconds["2d+3d"][stage] == pytest.approx(seconds["2d"][stage] + seconds["3d"][stage])
        assert seconds["2d"][stage] > 0


def test_a_cascade_takes_also_the_seconds_of_its_first_stage():
    model = Model(members=(_named(_member(_plan(), 0), "3d"), _member(_cascade(), 1)), previous=(_lowres(),))
    predictor = Predictor(model, device=CPU)
    seconds = predictor._with_cascade_cases(predictor.prepare(_scan())).seconds
    plain, cascade = (seconds[group.key] for group in predictor._groups)
    assert plain["network"] == 0
    assert min(plain["preprocess"], cascade["preprocess"], cascade["network"]) > 0


def test_what_is_no_scan_is_refused_by_its_type_in_python():
    with pytest.raises(ScanError, match=r"a scan is expected, not an object of type str; nnseg.read_scan"):
        Predictor.prepare(object.__new__(Predictor), "a.nii.gz")


def test_facts_of_a_scan_are_along_its_own_axes_whatever_those_of_the_plan():
    def facts(axes):
        predictor = Predictor(_model(_plan(axes=axes)), device=CPU)
        return predictor.infer(predictor.prepare(_scan()), uncertainty=True).confidence.facts

    plain, turned = facts((0, 1, 2)), facts((2, 0, 1))
    assert len(set(plain.roughness[0])) == 3
    assert turned.roughness[0] == pytest.approx(plain.roughness[0], rel=0.01)
    likeness, *_ = layout(unpack(turned.thumbnails[0]), unpack(plain.thumbnails[0]))
    assert likeness > 0.99
    assert turned.spreads == plain.spreads


@pytest.mark.parametrize("dimensions", [2, 3])
def test_networks_that_learned_borders_tell_objects_apart(dimensions):
    plan = _plan(dimensions, labels=LABELS.with_borders(["back"]))
    model, scan = _model(plan, plan), _scan()
    prediction = predict(model, scan, device=CPU)
    assert (model.labels, prediction.probabilities.shape[0]) == (LABELS, 3)
    np.testing.assert_allclose(prediction.probabilities.sum(0), 1, atol=1e-5)
    expected = np.array([0, 3, 700])[prediction.probabilities.argmax(0)]
    np.testing.assert_array_equal(prediction.label_map.labels, expected)
    back = expected == 700
    np.testing.assert_array_equal(prediction.objects > 0, back)
    assert prediction.object_counts == {"back": prediction.objects.max()} != {"back": 0}
    assert prediction.intensities.shape == (prediction.objects.max(), 1)
    assert not prediction.interior[~back].any()
    assert 0 < prediction.interior[back].mean() < 255
    plain = predict(model, scan, device=CPU, probabilities=False)
    np.testing.assert_array_equal(plain.objects, prediction.objects)
    predictor = Predictor(model, device=CPU)
    together = predictor.infer(predictor.prepare(scan), objects=False)
    assert (together.objects, together.intensities, together.object_counts) == (None, None, {})
    np.testing.assert_array_equal(together.interior, prediction.interior)


def test_the_models_rules_say_how_objects_are_told_apart():
    model = _model(_plan(labels=LABELS.with_borders(["back"])))
    few = replace(model, objects=ObjectRules(rules={"back": ObjectRule(smallest_mm3=1e6)}))
    assert (few.key() != model.key(), predict(few, _scan(), device=CPU).object_counts) == (True, {"back": 0})


def test_a_model_keeps_its_rules_in_its_file(tmp_path):
    rules = ObjectRules(rules={"back": ObjectRule(seed=0.7)}, cases=3, reason="best")
    model = replace(_model(_plan(labels=LABELS.with_borders(["back"]))), objects=rules)
    save_model(model, tmp_path / "model.nnseg")
    loaded = load_model_file(tmp_path / "model.nnseg")
    assert (loaded.objects, loaded.labels, loaded.key()) == (rules, LABELS, model.key())


def test_models_without_borders_have_no_objects():
    prediction = predict(_model(_plan()), _scan(), device=CPU)
    assert (prediction.objects, prediction.interior, prediction.object_counts) == (None, None, {})


def test_a_threshold_finds_a_label_and_its_components_with_scores():
    model, scan = _model(_plan(), _plan()), _scan()
    plain = predict(model, scan, device=CPU)
    counted = predict(with_thresholds(model, {"front": 0.2}), scan, device=CPU)
    np.testing.assert_array_equal(counted.probabilities, plain.probabilities)
    level = np.rint(plain.probabilities[1] * 255)
    without = np.where(plain.probabilities[2] > plain.probabilities[0], 700, 0)
    near = np.abs(plain.probabilities[1] * 255 - np.rint(plain.probabilities[1] * 255)) > 0.49  # rounding may go either way
    expected = np.where(level >= 0.2 * 255, 3, without)
    np.testing.assert_array_equal(counted.label_map.labels[~near], expected[~near])
    np.testing.assert_array_equal(counted.objects > 0, counted.label_map.labels == 3)
    assert counted.object_counts == {"front": counted.objects.max()}
    inside = counted.objects == 1
    assert counted.object_scores[0] == pytest.approx(plain.probabilities[1][inside].mean(), abs=0.002)


def test_a_label_whose_components_are_objects_is_decided_as_before():
    model = _model(_plan())
    lesions = replace(model, objects=ObjectRules(rules={}, thresholds={"back": None}))
    one, other = predict(model, _scan(), device=CPU), predict(lesions, _scan(), device=CPU)
    assert _equal(one, other)
    assert (lesions.key() != model.key(), other.levels.shape) == (True, (1, *_scan().grid.shape))
    assert other.object_scores.shape == (other.object_counts["back"],)


def test_a_threshold_needs_a_label_that_the_model_finds():
    model = _model(_plan())
    with pytest.raises(
        ModelError, match=r"--threshold 0.3 does not say of which label; write --threshold LABEL=0.3, of front, back"
    ):
        with_thresholds(model, {"": 0.3})
    with pytest.raises(ModelError, match=r"there is no threshold for tumour; the model finds front, back"):
        with_thresholds(model, {"tumour": 0.3})
    bordered = _model(_plan(labels=LABELS.with_borders(["back"])))
    assert with_thresholds(bordered, {"": 0.3}).lesions == ("front",)
    with pytest.raises(ModelError, match="there is no threshold for back"):
        with_thresholds(bordered, {"back": 0.3})
    both = with_thresholds(with_thresholds(model, {"back": 0.3}), {"": 0.4})
    assert (both.objects.thresholds, with_thresholds(model, {})) == ({"back": 0.4}, model)
