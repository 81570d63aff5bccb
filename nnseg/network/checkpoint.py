"""Files of tensors and text that can run no code: safetensors with one JSON text in its metadata and a hash of the content."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nnseg.core.errors import ModelError
from nnseg.storage.files import write_aside
from nnseg.storage.model_header import FORMAT, compact_json, damaged, read_model_header

DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types by name, in the order in which their tensors stand in a file: largest first, so that each is aligned."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and anything JSON can hold about them, to a file that never appears half-written.

    Equal content gives equal bytes. Dtypes are kept; tensors of any device are copied to the CPU.

    Raises:
        RunError: the file cannot be written.
    """
    copies = {n: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for n, t in tensors.items()}
    unsupported = [f"{n} ({t.dtype})" for n, t in copies.items() if t.dtype not in DTYPES.values()]
    if unsupported:
        raise TypeError(f"tensors of these types cannot be stored: {', '.join(unsupported)}")
    content = json.loads(json.dumps(about))
    text = compact_json({"about": content, "digest": content_digest(copies, content), "format": FORMAT})
    with write_aside(path) as aside:
        _write(aside, copies, {"nnseg": text})


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors of the CPU, byte for byte as safetensors does, which makes temporary files of names of its own.

    Source: safetensors, README, "Format".
    """
    kinds, order, end = {dtype: name for name, dtype in DTYPES.items()}, list(DTYPES.values()), 0
    entries: dict[str, Any] = {"__metadata__": metadata}
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        entries[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the text that `save_tensors` wrote; the tensors own their memory.

    Raises:
        ModelError: there is no such file, or it is damaged, of another version, or not written by nnseg.
    """
    try:
        header = read_model_header(path)
        tensors = read_tensors(path)
    except FileNotFoundError as error:  # safetensors calls any file missing that cannot be opened
        fault = OSError(errno.EIO, "Input/output error when it was opened") if path.exists() else error
        missing = fault.strerror if fault is not error else "there is no such file"
        raise ModelError(f"cannot read {path}: {missing}; check its permissions and the disk") from fault
    except (OSError, RuntimeError) as error:  # torch raises the latter where it cannot open the file
        fault = error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
        raise ModelError(f"cannot read {path}: {fault.strerror or fault}; check its permissions and the disk") from fault
    except SafetensorError as error:
        raise damaged(path, str(error)) from error
    about = header["about"]
    if not isinstance(about, dict):
        raise damaged(path, "its text is no JSON object")
    if content_digest(tensors, about) != header["digest"]:
        raise damaged(path, "its content does not match its hash")
    return tensors, about


def content_digest(tensors: Mapping[str, Tensor], about: object) -> str:
    """A hash of tensors (names, types, shapes, every bit) and of JSON content about them; does not depend on their order."""
    state = hashlib.blake2b(compact_json(about).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(compact_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def join_groups(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several groups in one, named ``group/name``."""
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def split_groups(tensors: Mapping[str, Tensor]) -> defaultdict[str, dict[str, Tensor]]:
    """The groups that `join_groups` joined; others are empty."""
    groups: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for full, tensor in tensors.items():
        group, _, name = full.partition("/")
        groups[group][name] = tensor
    return groups


def flatten_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimizer's ``state_dict()``, and the rest as JSON, for `save_tensors`.

    Args:
        state: nested dicts (with text or integer keys), lists, tuples, tensors, numbers, text, booleans and None.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, {"state": _pack(state, "state", tensors)}


def unflatten_state(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `flatten_state` was given, equal in every value and type.

    Raises:
        ModelError: the two do not belong together.
    """
    try:
        state = _unpack(about["state"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the stored state is incomplete: {error}; start again from an earlier checkpoint") from error
    if not isinstance(state, dict):
        raise ModelError(f"the stored state is a {type(state).__name__}, not a dict")
    return state


def _pack(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    """JSON for ``value``: types that JSON lacks become an object with one key, the name of the type."""
    if isinstance(value, Tensor):
        name = f"{len(tensors)}.{path}"  # the number makes it unique whatever the keys
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[k, _pack(v, f"{path}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [_pack(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}, which cannot be stored")


def _unpack(packed: object, tensors: Mapping[str, Tensor]) -> object:
    if isinstance(packed, list):
        return [_unpack(p, tensors) for p in packed]
    if not isinstance(packed, dict):
        return packed
    [(kind, content)] = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_unpack(p, tensors) for p in content)
    if kind == "dict":
        return {key: _unpack(p, tensors) for key, p in content}
    raise ValueError(f'"{kind}" is not a kind of value')


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors, read and not mapped: the system ends a process that reads a mapped file beyond an end that was cut meanwhile."""
    with safe_open(path, framework="pt", backend="pread") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
