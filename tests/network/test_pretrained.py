"""Weights that were trained elsewhere: ResNets compute what their authors' do, and what does not fit its description is refused."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from nnseg.core.errors import ModelError, PlanError
from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.pretrained import RESNETS, Pretrained
from nnseg.network.build import build_network
from nnseg.network.nnunet_names import nnunet_name
from nnseg.network.pretrained import load_pretrained
from nnseg.network.transfer import freeze, transfer_weights
from nnseg.storage.pretrained import description_file, read_pretrained, write_pretrained

RGB = ("red", "green", "blue")
UNET = {
    "kind": "residual",
    "features": (4, 6),
    "strides": ((1, 1), (2, 2)),
    "kernels": ((3, 3), (3, 3)),
    "blocks": (1, 1),
    "decoder_blocks": (1,),
}


def about(**changes) -> Pretrained:
    content = {
        "weights": "weights.safetensors",
        "licence": "BSD-2-Clause",
        "architecture": "resnet20",
        "channels": RGB,
        "spacing": "any",
        "orientation": "any",
    } | changes
    normalization = [{"scheme": "rgb_to_0_1"}] * len(content["channels"])
    return Pretrained.model_validate({"normalization": normalization} | content)


def own_plan(channels=("image",), patch=(30, 34)) -> Plan:
    """A plan as it is made without weights."""
    return Plan(
        name="2d",
        dataset="cells",
        recipe="auto",
        channels=channels,
        patch=patch,
        labels=Labels(names=("background", "cell"), values=(0, 1)),
        preprocessing=Preprocessing(
            axes=(0, 1, 2), spacing=(0.5, 0.5), normalization=(Normalization(scheme="zscore"),) * len(channels)
        ),
        network=Network(kind="plain", features=(4,), strides=((1, 1),), kernels=((3, 3),), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=2),
        inference=Inference(),
    )


def encoder_weights(description: Pretrained, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of an encoder, with statistics, as its authors would name them."""
    state = build_network(description.plan_for(own_plan())).encoder.state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(value.shape, generator=generator) * 0.2 + 0.1 * ("var" in name) for name, value in state.items()}


def written(folder: Path, description: Pretrained, state: dict[str, torch.Tensor]) -> Path:
    file = folder / description.weights
    save_file(state, file) if file.suffix == ".safetensors" else torch.save({"state_dict": state}, file)
    write_pretrained(folder / "encoder.toml", description)
    return folder / "encoder.toml"


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032), ("resnet20", 269_072)]
)
def test_encoders_have_as_many_parameters_as_published_without_the_last_layer(name, count):
    with torch.device("meta"):
        encoder = build_network(about(architecture=name).plan_for(own_plan())).encoder
    assert sum(parameter.numel() for parameter in encoder.parameters()) == count


def test_a_resnet_for_cifar_computes_what_its_definition_says():
    description = about()
    network, state, image = build_network(description.plan_for(own_plan())), encoder_weights(description), torch.randn(2, 3, 16, 24)
    network.encoder.load_state_dict(state)

    def normalized(x, name):
        return functional.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = normalized(functional.conv2d(image, state["conv1.weight"], padding=1), "bn1").relu()
    for layer in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = functional.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = functional.conv2d(normalized(y, f"{name}.bn1").relu(), state[f"{name}.conv2.weight"], padding=1)
            zeros = torch.zeros_like(y[:, : (y.shape[1] - x.shape[1]) // 2])
            x = (normalized(y, f"{name}.bn2") + torch.cat([zeros, x[:, :, ::stride, ::stride], zeros], 1)).relu()
    torch.testing.assert_close(network.train().encoder(image)[-1], x)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_give_features_from_full_resolution_down(name):
    plan = about(architecture=name).plan_for(own_plan())
    with torch.device("meta"):
        image, network = torch.zeros(1, 3, 32, 48), build_network(plan)
    shapes = [tuple(features.shape[1:]) for features in network.encoder(image)]
    assert shapes == [(width, 32 >> k, 48 >> k) for k, width in enumerate(RESNETS[name][1])]
    assert network(image).shape == (1, 2, 32, 48)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_an_encoder_of_colours_starts_a_network_of_one_channel(tmp_path, file):
    description = about(weights=file, prefix="module.")
    state = encoder_weights(description)
    toml = written(
        tmp_path,
        description,
        {f"module.{name}": value for name, value in state.items()} | {"module.linear.bias": torch.zeros(10)},
    )
    given = description.plan_for(own_plan())
    plan = given.model_copy(update={"channels": ("image",)})
    network = build_network(plan)
    transfer = transfer_weights(network, plan, load_pretrained(toml, own_plan()))
    assert (transfer.new_from, transfer.misfit, transfer.heads) == ("decoder", "the weights are those of an encoder", ())
    torch.testing.assert_close(network.encoder.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))
    assert all(torch.equal(network.encoder.state_dict()[name], value) for name, value in state.items() if name != "conv1.weight")
    freeze(network, "encoder")
    assert not any(parameter.requires_grad for parameter in network.encoder.parameters())


@pytest.mark.parametrize("decoder", [False, True])
def test_a_unet_of_nnunet_starts_with_the_decoder_only_where_the_file_has_it(tmp_path, decoder):
    description = about(architecture=None, network=UNET, names="nnunet", spacing=(2.0, 1.0), channels=("T1",))
    trained = build_network(description.plan_for(own_plan())).state_dict()
    state = {nnunet_name(name): value for name, value in trained.items() if decoder or name.startswith("encoder.")}
    toml = written(tmp_path, description, state)
    plan = description.plan_for(own_plan())
    assert plan.preprocessing.spacing == (2.0, 1.0)
    network = build_network(plan)
    heads = [head.weight.clone() for head in network.heads]
    transfer = transfer_weights(network, plan, load_pretrained(toml, own_plan()))
    assert transfer.new_from == ("" if decoder else "decoder")
    copied = {name for name in trained if (decoder or name.startswith("encoder.")) and ".heads." not in name}
    assert all(torch.equal(network.state_dict()[name], trained[name]) for name in copied)
    assert all(torch.equal(head.weight, before) for head, before in zip(network.heads, heads, strict=True))
    assert transfer.new_heads == ("background", "cell")


def test_patches_are_enlarged_to_what_the_network_divides():
    assert about().plan_for(own_plan(patch=(30, 34))).patch == (32, 36)
    assert about(patch=(64, 32)).plan_for(own_plan()).patch == (64, 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prefix": "backbone."}, "lacks backbone.conv1.weight of a resnet20; it has bn1.bias"),
        ({"architecture": "resnet32"}, "lacks layer1.3.conv1.weight of a resnet32"),
        (
            {"channels": ("a", "b")},
            r"conv1.weight has the shape \(16, 3, 3, 3\), and the resnet20 of its description has \(16, 2, 3, 3\)",
        ),
        ({"weights": "others.pth"}, "there is no file .*others.pth"),
    ],
)
def test_weights_that_do_not_fit_their_description_are_refused(tmp_path, changes, words):
    written(tmp_path, about(), encoder_weights(about()))
    write_pretrained(tmp_path / "encoder.toml", about(**changes))
    with pytest.raises(ModelError, match=words):
        load_pretrained(tmp_path / "encoder.toml", own_plan())


@pytest.mark.parametrize("kind", ["sparse", "meta", "complex", "float8"])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, kind):
    description = about(weights="weights.pth")
    state = encoder_weights(description)
    name, value = next(iter(state.items()))
    others = {
        "sparse": value.to_sparse,
        "meta": lambda: value.to("meta"),
        "complex": lambda: value.to(torch.complex64),
        "float8": lambda: value.to(torch.float8_e4m3fn),
    }
    with pytest.raises(ModelError, match="no plain tensor"):
        load_pretrained(written(tmp_path, description, state | {name: others[kind]()}), own_plan())


def test_programs_of_weights_that_take_long_are_refused_before_they_are_read(tmp_path):
    description = about(weights="weights.pth")
    file = written(tmp_path, description, {}).with_name("weights.pth")
    for words, method in (("is compressed", zipfile.ZIP_DEFLATED), ("has 5000000 bytes", zipfile.ZIP_STORED)):
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("a/data.pkl", bytes(5_000_000))
        with pytest.raises(ModelError, match=words):
            load_pretrained(tmp_path / "encoder.toml", own_plan())
    file.write_bytes(b"\x80\x02" + b"}" * 300_000 + b".")
    with pytest.raises(ModelError, match="over 200000 steps"):
        load_pretrained(tmp_path / "encoder.toml", own_plan())
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ModelError, match="is a pipe"):
        load_pretrained(tmp_path / "encoder.toml", own_plan())


def test_files_that_hold_no_tensors_are_refused(tmp_path):
    for name, content in (("weights.pth", b"text"), ("weights.safetensors", b"text")):
        (tmp_path / name).write_bytes(content)
        write_pretrained(tmp_path / "encoder.toml", about(weights=name))
        with pytest.raises(ModelError, match="cannot be read as tensors"):
            load_pretrained(tmp_path / "encoder.toml", own_plan())
    torch.save(Path, tmp_path / "weights.pth")
    write_pretrained(tmp_path / "encoder.toml", about(weights="weights.pth"))
    with pytest.raises(ModelError, match="cannot be read as tensors"):
        load_pretrained(tmp_path / "encoder.toml", own_plan())


def test_descriptions_come_back_as_written_and_need_a_licence(tmp_path):
    written_one = about(architecture=None, network=UNET, channels=("T1",), spacing=(2.0, 1.0))
    file = tmp_path / "weights.toml"
    write_pretrained(file, written_one)
    assert description_file(tmp_path) == description_file(file) == file
    assert read_pretrained(file).settings == written_one.settings
    assert description_file(tmp_path / "model.nnseg") is None
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("licence")))
    with pytest.raises(PlanError, match="licence"):
        read_pretrained(file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": UNET}, "not both"),
        ({"spacing": (1.0, 1.0, 1.0)}, "spacing must have 2 values"),
        ({"normalization": [{"scheme": "none"}]}, "normalization has 1 entries, but there are 3 channels"),
    ],
)
def test_parts_of_a_description_belong_together(changes, words):
    with pytest.raises(ValueError, match=words):
        about(**changes)


def test_a_published_encoder_is_read_alike_from_both_of_its_files(tmp_path, shared_data):
    folder = shared_data / "WEIGHTS" / "cifar10_resnet"
    found = []
    for suffix, prefix in ((".safetensors", ""), (".th", "module.")):
        (tmp_path / f"resnet{suffix}").symlink_to(next(folder.glob(f"*{suffix}")))
        write_pretrained(tmp_path / "encoder.toml", about(weights=f"resnet{suffix}", prefix=prefix))
        found.append(load_pretrained(tmp_path / "encoder.toml", own_plan()).members[0].weights)
    assert len(found[0]) == 95
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
