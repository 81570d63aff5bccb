"""Files of tensors and text: exact, and never loaded when damaged."""

import json
import os
import pickle
import re
import resource
import struct
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from nnseg.core.errors import ModelError, NnsegError, RunError
from nnseg.network import checkpoint
from nnseg.network.checkpoint import flatten_state, load_tensors, save_tensors, unflatten_state
from nnseg.system.parallel import map_items

TENSORS = {
    "weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
}
ABOUT = {"step": 12, "rate": 0.1, "words": "Ä/°", "nested": {"list": [1, None, True]}}


def _equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name])


def _header(entries: dict, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_what_is_loaded_is_what_was_saved(tmp_path):
    save_tensors(tmp_path / "a.nnseg", TENSORS, ABOUT)
    tensors, about = load_tensors(tmp_path / "a.nnseg")
    _equal(tensors, TENSORS)
    assert about == ABOUT


def test_shared_and_strided_tensors_are_saved_as_they_look(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    views = {"whole": whole, "turned": whole.T, "every other": whole[:, ::2]}
    save_tensors(tmp_path / "a", views, {})
    _equal(load_tensors(tmp_path / "a")[0], views)


def test_equal_content_gives_equal_bytes(tmp_path):
    save_tensors(tmp_path / "a", TENSORS, ABOUT)
    save_tensors(tmp_path / "b", dict(reversed(TENSORS.items())), dict(reversed(ABOUT.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loaded_tensors_outlive_their_file(tmp_path):
    file = tmp_path / "a"
    save_tensors(file, TENSORS, ABOUT)
    tensors, _ = load_tensors(file)
    file.write_bytes(b"\xff" * file.stat().st_size)
    _equal(tensors, TENSORS)


def test_a_type_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="complex64"):
        save_tensors(tmp_path / "a", {"z": torch.zeros(2, dtype=torch.complex64)}, {})
    assert not list(tmp_path.iterdir())


def test_the_bytes_are_those_of_safetensors(tmp_path):
    tensors = TENSORS | {name: torch.arange(5).to(dtype) for name, dtype in checkpoint.DTYPES.items()}
    save_tensors(tmp_path / "a", tensors, ABOUT)
    whole = (tmp_path / "a").read_bytes()
    metadata = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    assert whole == save(tensors, metadata)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the size of files")
def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    save_tensors(file, TENSORS, ABOUT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match="File too large"):
            save_tensors(file, {"large": torch.zeros(1000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    _equal(load_tensors(file)[0], TENSORS)
    assert list(tmp_path.iterdir()) == [file]


def test_a_truncated_file_is_never_loaded(tmp_path):
    file = tmp_path / "a"
    save_tensors(file, TENSORS, ABOUT)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            load_tensors(file)


def test_a_file_with_a_flipped_bit_is_never_loaded(tmp_path):
    file = tmp_path / "a"
    save_tensors(file, TENSORS, ABOUT)
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(ModelError):
            load_tensors(file)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child process does not have what is replaced here")
def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """The system would end a process, here a child, that reads beyond the new end of a mapped file."""
    file = tmp_path / "a"
    save_tensors(file, {"large": torch.zeros(100_000)}, {})

    def open_and_cut(*arguments, **options):
        opened = safe_open(*arguments, **options)
        os.truncate(file, 8192)
        return opened

    monkeypatch.setattr(checkpoint, "safe_open", open_and_cut)
    (outcome,) = map_items(load_tensors, [file], workers=1)
    assert re.search(rf"(cannot read )?{file}(:| is damaged)", outcome.reason)


def test_a_pickle_is_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    file = tmp_path / "model.nnseg"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match=r"model\.nnseg is damaged or not a file of nnseg"):
        load_tensors(file)
    torch.save({"weight": Trap()}, file)
    with pytest.raises(ModelError):
        load_tensors(file)
    assert not (tmp_path / "sprung").exists()


def _ours(version: int = 1) -> dict:
    return {"nnseg": checkpoint.compact_json({"about": {}, "digest": "", "format": version})}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "header"),
        (struct.pack("<Q", 2**60) + b"{}", "header is longer"),
        (_header({}), "not one that nnseg writes"),
        (_header({"__metadata__": {"format": "pt"}}), "not one that nnseg writes"),
        (_header({"__metadata__": _ours(2)}), "has format 2: a later nnseg wrote it"),
        (_header({"__metadata__": _ours()}), "does not match its hash"),
        (b"\x00\x10" + bytes(6) + b"[" * 4096, "not one that nnseg writes"),
        (
            _header({"__metadata__": _ours(), "w": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
            "unknown types",
        ),
        (_header({"__metadata__": _ours(), "w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, bytes(8)), "damaged"),
        (
            _header(
                {"__metadata__": _ours()} | {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}
            ),
            "too many tensors",
        ),
    ],
)
def test_a_foreign_file_is_refused_in_one_line(tmp_path, content, words):
    file = tmp_path / "a"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        load_tensors(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ModelError, match="cannot read"):
        load_tensors(tmp_path / name)


def _network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        image = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(image).square().sum().backward()
        optimizer.step()


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=1e-2),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=3e-3, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_training_goes_on_bit_equal_from_a_file(tmp_path, make):
    network = _network()
    optimizer = make(network.parameters())
    _train(network, optimizer, range(3))
    tensors, about = flatten_state({"network": network.state_dict(), "optimizer": optimizer.state_dict()})
    save_tensors(tmp_path / "a", tensors, about)
    _train(network, optimizer, range(3, 6))

    state = unflatten_state(*load_tensors(tmp_path / "a"))
    resumed = _network()
    resumed.load_state_dict(state["network"])
    again = make(resumed.parameters())
    again.load_state_dict(state["optimizer"])
    _train(resumed, again, range(3, 6))
    _equal(dict(resumed.state_dict()), dict(network.state_dict()))


def test_a_state_comes_back_with_its_types():
    state = {
        "state": {0: {"step": torch.tensor(3.0), "buffer": None}, 10: {"step": 2}},
        "param_groups": [{"betas": (0.9, 0.999), "lr": 1e-3, "foreach": None, "fused": False, "params": [0, 10]}],
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        "dict": {"tuple": "a word that is also a mark", "limit": float("inf")},
    }
    tensors, about = flatten_state(state)
    back = unflatten_state(tensors, json.loads(json.dumps(about)))
    assert repr(back) == repr(state)


def test_a_state_that_json_would_change_is_refused():
    with pytest.raises(TypeError, match=r"state\.param_groups\.0\.fn"):
        flatten_state({"param_groups": [{"fn": len}]})


@pytest.mark.parametrize(
    "about", [{}, {"state": {"tensor": "gone"}}, {"state": {"odd": 1}}, {"state": [1]}, {"state": {"dict": 3}}]
)
def test_a_state_with_parts_missing_is_refused(about):
    with pytest.raises(NnsegError, match="state"):
        unflatten_state({}, about)


def test_a_text_that_is_no_object_is_refused(tmp_path):
    save_tensors(tmp_path / "a.nnseg", {"x": torch.zeros(1)}, 3)
    with pytest.raises(ModelError, match=r"a\.nnseg .*its text is no JSON object"):
        load_tensors(tmp_path / "a.nnseg")


def test_text_nested_as_deeply_as_python_reads_is_refused(tmp_path):
    for depth in range(600, 1000, 4):
        text = '{"about":' + "[" * depth + "]" * depth + ',"digest":"x","format":1}'
        header = json.dumps({"__metadata__": {"nnseg": text}}).encode()
        (tmp_path / "m.nnseg").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ModelError, match="is damaged"):
            load_tensors(tmp_path / "m.nnseg")
