"""A model in one file: complete, exact, refused when it does not fit."""

import json
from dataclasses import replace

import pytest
import torch

from nnseg.core.card import ModelCard, TrainingData
from nnseg.core.decisions import ObjectRule, ObjectRules
from nnseg.core.errors import ModelError
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.population import Person, make_population
from nnseg.inference.networks import inference_network
from nnseg.network.build import build_network, build_unet
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.network.checkpoint import load_tensors, save_tensors

CPU = torch.device("cpu")
LABELS = Labels(names=("background", "front", "back"), values=(0, 1, 2))


def _plan(**changes) -> Plan:
    network = Network(
        kind="plain",
        features=(4, 8),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
        blocks=(1, 1),
        decoder_blocks=(1,),
        why={"features": "small"},
    )
    content = {
        "name": "3d",
        "dataset": "phantom",
        "recipe": "default",
        "channels": ("T1", "T2"),
        "patch": (8, 8, 8),
        "labels": LABELS,
        "preprocessing": Preprocessing(axes=(0, 1, 2), spacing=(1, 1, 1), normalization=(Normalization(scheme="zscore"),) * 2),
        "network": network,
        "training": Training(batch_size=2),
        "inference": Inference(mirror_axes=(0, 1, 2)),
    }
    return Plan(**(content | changes))


def _member(seed: int = 0, **changes) -> Member:
    torch.manual_seed(seed)
    plan = _plan(**changes)
    network = build_network(plan)
    return Member(plan=plan, fold=seed, weights=network.state_dict())


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(members=(_member(0), _member(1)), about={"trained_on": "phantoms", "created": "2026-01-01"})


def _changed(member: Member, **weights) -> Member:
    kept = {n: t for n, t in (dict(member.weights) | weights).items() if t is not None}
    return replace(member, weights=kept)


def test_a_model_survives_its_file(model, tmp_path):
    save_model(model, tmp_path / "m.nnseg")
    loaded = load_model_file(tmp_path / "m.nnseg")
    assert loaded.about == model.about
    assert [m.fold for m in loaded.members] == [0, 1]
    for was, now in zip(model.members, loaded.members, strict=True):
        assert now.plan == was.plan
        assert now.weights.keys() == was.weights.keys()
        assert all(torch.equal(now.weights[n], was.weights[n]) for n in was.weights)


def test_a_model_file_is_enough_alone(model, tmp_path):
    save_model(model, tmp_path / "m.nnseg")
    assert [p.name for p in tmp_path.iterdir()] == ["m.nnseg"]
    image = torch.randn(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    before = [inference_network(m, CPU)(image) for m in model.members]
    after = [inference_network(m, CPU)(image) for m in load_model_file(tmp_path / "m.nnseg").members]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(before[0], before[1])


def test_members_tensors_are_told_apart_by_their_prefix(model, tmp_path):
    save_model(model, tmp_path / "m.nnseg")
    tensors, text = load_tensors(tmp_path / "m.nnseg")
    assert {n.split("/")[0] for n in tensors} == {"member_0", "member_1"}
    assert text["members"][1]["plan"]["channels"] == ["T1", "T2"]
    json.dumps(text)


def test_a_built_network_is_ready_to_answer(model):
    network = inference_network(model.members[0], CPU)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert network(torch.zeros(1, 2, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_building_draws_no_random_numbers(model):
    before = torch.get_rng_state()
    inference_network(model.members[0], CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_built_network_gives_what_the_trained_one_gives():
    torch.manual_seed(5)
    plan = _plan()
    trained = build_unet(plan.network, channels=2, heads=3).eval()
    trained.deep_supervision = False
    image = torch.randn(2, 2, 8, 8, 8)
    built = inference_network(Member(plan=plan, fold=0, weights=trained.state_dict()), CPU)
    with torch.no_grad():
        assert torch.equal(built(image), trained(image))


def test_a_models_key_changes_with_what_can_change_a_prediction(model):
    one, other = model.members
    assert Model(members=(one, other), about={"created": "later"}).key() == model.key()
    assert Model(members=(one,)).key() != model.key()
    plan = one.plan.model_copy(update={"inference": Inference()})
    assert Model(members=(replace(one, plan=plan), other)).key() != model.key()
    first, tensor = next(iter(one.weights.items()))
    assert Model(members=(_changed(one, **{first: tensor + 1e-3}), other)).key() != model.key()


def test_a_members_weight_is_kept_and_changes_the_key(model, tmp_path):
    heavier = replace(model, members=(replace(model.members[0], weight=2.0), model.members[1]))
    assert heavier.key() != model.key()
    save_model(heavier, tmp_path / "m.nnseg")
    loaded = load_model_file(tmp_path / "m.nnseg")
    assert [m.weight for m in loaded.members] == [2.0, 1.0]
    assert loaded.key() == heavier.key()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_means_nothing_is_refused(model, weight):
    with pytest.raises(ModelError, match=r"weight of a 3d network is .*; it must be a positive number"):
        Model(members=(replace(model.members[0], weight=weight),))


def test_a_card_is_kept_and_does_not_change_the_key(model, tmp_path):
    material = TrainingData(
        dataset="d", cases=1, channels=("CT",), labels=(), spacing=((1, 1, 1),) * 2, shape=((2, 2, 2),) * 2, key=""
    )
    card = ModelCard(name="m", made="now", purpose="to test", material=material, networks=(), model=model.key())
    save_model(replace(model, card=card), tmp_path / "m.nnseg")
    loaded = load_model_file(tmp_path / "m.nnseg")
    assert loaded.card == card
    assert loaded.key() == model.key()


def test_a_population_is_kept_and_does_not_change_the_key(model, tmp_path):
    others = make_population([Person(volumes={"liver": 1000.0 + i}) for i in range(9)], "training set of d")
    save_model(replace(model, population=others), tmp_path / "m.nnseg")
    loaded = load_model_file(tmp_path / "m.nnseg")
    assert loaded.population == others
    assert loaded.key() == model.key()


def test_weights_in_half_precision_are_widened(model):
    member = model.members[0]
    halves = replace(member, weights={n: t.half() for n, t in member.weights.items()})
    assert {p.dtype for p in inference_network(halves, CPU).parameters()} == {torch.float32}


def test_weights_that_do_not_fit_are_named(model):
    member = model.members[0]
    first = next(iter(member.weights))
    with pytest.raises(ModelError, match=f"{first} is missing"):
        inference_network(_changed(member, **{first: None}), CPU)
    with pytest.raises(ModelError, match=rf"{first} has shape \(7,\), expected"):
        inference_network(_changed(member, **{first: torch.zeros(7)}), CPU)
    with pytest.raises(ModelError, match="stowaway is not in the network"):
        inference_network(_changed(member, stowaway=torch.zeros(1)), CPU)


def test_members_must_agree():
    one = _member()
    others = Labels(names=("background", "front", "rear"), values=(0, 1, 2))
    with pytest.raises(ModelError, match=r"labels.*back=2.*rear=2"):
        Model(members=(one, _member(labels=others)))
    with pytest.raises(ModelError, match=r"channels: 2 \(T1, T2\) and 2 \(T2, T1\)"):
        Model(members=(one, _member(channels=("T2", "T1"))))
    with pytest.raises(ModelError, match="at least one"):
        Model(members=())


def test_rules_for_objects_of_unknown_labels_are_refused(model):
    replace(model, objects=ObjectRules(rules={"back": ObjectRule()}))
    with pytest.raises(ModelError, match=r'its rules for objects name "\.\./liver", which is none of its labels'):
        replace(model, objects=ObjectRules(rules={"../liver": ObjectRule()}))


def test_a_cascades_first_stage_goes_into_the_file_but_is_no_member(model, tmp_path):
    cascade = Model(members=(_member(2, name="3d_cascade", previous="3d"),), previous=model.members)
    save_model(cascade, tmp_path / "m.nnseg")
    loaded = load_model_file(tmp_path / "m.nnseg")
    assert ([m.fold for m in loaded.members], [m.fold for m in loaded.previous]) == ([2], [0, 1])
    for was, now in zip(cascade.previous, loaded.previous, strict=True):
        assert now.plan == was.plan
        assert all(torch.equal(now.weights[n], was.weights[n]) for n in was.weights)
    assert loaded.key() == cascade.key()
    assert inference_network(loaded.members[0], CPU)(torch.zeros(1, 2 + 2, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_a_models_key_changes_with_what_its_cascade_is_shown(model):
    one, other = model.members
    cascade = _member(2, name="3d_cascade", previous="3d")
    shown = [Model(members=(cascade,), previous=previous).key() for previous in ((), (one,), (other,), (one, other))]
    assert len(set(shown)) == 4


def test_a_file_without_a_first_stage_says_nothing_of_one(model, tmp_path):
    save_model(model, tmp_path / "m.nnseg")
    assert set(load_tensors(tmp_path / "m.nnseg")[1]) == {"kind", "format", "members", "about"}
    assert load_model_file(tmp_path / "m.nnseg").previous == ()


def test_the_first_stage_must_agree_with_the_members():
    with pytest.raises(ModelError, match=r"channels: 2 \(T1, T2\) and 2 \(T2, T1\)"):
        Model(members=(_member(),), previous=(_member(channels=("T2", "T1")),))


def _rewritten(model: Model, path, change) -> None:
    save_model(model, path)
    tensors, text = load_tensors(path)
    change(text)
    save_tensors(path, tensors, text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.update(format=0), "has format 0, this nnseg reads format 1"),
        (lambda text: text.update(kind="checkpoint"), 'not a model but a "checkpoint"'),
        (lambda text: text.clear(), "not a model"),
        (lambda text: text.pop("members"), "incomplete: 'members'"),
        (lambda text: text["members"][1].pop("fold"), "incomplete: 'fold'"),
        (lambda text: text["members"][0]["plan"].update(format=9), "member 0: format = 9"),
        (lambda text: text["members"][1]["plan"]["training"].update(epoch=3), "member 1: training.epoch is not a setting"),
        (lambda text: text.update(members=[]), "at least one"),
    ],
)
def test_a_file_that_says_something_else_is_refused(model, tmp_path, change, words):
    _rewritten(model, tmp_path / "m.nnseg", change)
    with pytest.raises(ModelError, match=words):
        load_model_file(tmp_path / "m.nnseg")


def test_a_damaged_model_file_is_refused(model, tmp_path):
    file = tmp_path / "m.nnseg"
    save_model(model, file)
    whole = file.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for cut in range(0, len(whole), len(whole) // 20):
        file.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"m\.nnseg"):
            load_model_file(file)
    for bit in torch.randint(8 * len(whole), (100,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"m\.nnseg"):
            load_model_file(file)
