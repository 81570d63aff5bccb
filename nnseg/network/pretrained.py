"""Weights that were trained elsewhere, as a model that a training begins with."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nnseg.core.errors import ModelError
from nnseg.core.limits import limit
from nnseg.core.plan import Plan
from nnseg.core.pretrained import Pretrained
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model
from nnseg.network.checkpoint import read_tensors
from nnseg.network.nnunet_names import nnunet_name
from nnseg.storage.bounded import check_archive
from nnseg.storage.pretrained import read_pretrained
from nnseg.system.regular import check_regular, open_regular

PYTORCH = (".pth", ".pt", ".th")
"""Suffixes of PyTorch's files."""

WITHIN = ("state_dict", "network_weights", "model_state_dict", "model")
"""Entries of a checkpoint that may hold the weights."""

PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)
"""Types of tensors that are taken."""

LEGACY_PICKLES = 5
"""Magic number, version, machine, content, and names of storages. Source: torch.serialization, _legacy_save."""

ENCODER, DECODER, HEADS = "encoder.", "decoder.", "decoder.heads."


def load_pretrained(description: Path, plan: Plan) -> Model:
    """The weights of a description: of the encoder and, where the file has them, of the decoder; never of heads.

    Args:
        description: file in TOML, with the weights beside it.
        plan: of the network that begins with them.

    Raises:
        PlanError: the description is wrong.
        ModelError: the file of the weights cannot be read, lacks some of the encoder, or has them in another shape.
    """
    about = read_pretrained(description)
    file, own = description.parent / about.weights, about.plan_for(plan)
    found = _read(file)
    with torch.device("meta"):
        expected = build_network(own).state_dict()
    names = {name: about.prefix + _stored_name(name, about) for name in expected if not name.startswith(HEADS)}
    encoder = [name for name in names if name.startswith(ENCODER)]
    decoder = [name for name in names if name.startswith(DECODER)]
    wanted = [*encoder, *(decoder if all(names[name] in found for name in decoder) else ())]
    for name in wanted:
        _check(found, names[name], expected[name], file, about)
    return Model(members=(Member(plan=own, fold=0, weights={name: found[names[name]].float() for name in wanted}),))


def _stored_name(name: str, about: Pretrained) -> str:
    """The name in the file of one of our parameters."""
    if about.network:
        return nnunet_name(name) if about.names == "nnunet" else name
    return name.removeprefix(ENCODER)


def _check(found: Mapping[str, Tensor], name: str, expected: Tensor, file: Path, about: Pretrained) -> None:
    if name not in found:
        example = f"it has {min(found)[:100]}" if found else "it has no tensors"
        raise ModelError(f"{file} lacks {name} of a {about.name}; {example}: correct prefix or architecture in its description")
    if not _is_plain(found[name]):
        raise ModelError(f"{file}: {name} is no plain tensor of real numbers ({found[name].dtype}); save it as float32")
    if found[name].shape != expected.shape:
        shapes = f"{tuple(found[name].shape)}, and the {about.name} of its description has {tuple(expected.shape)}"
        raise ModelError(f"{file}: {name} has the shape {shapes}; correct architecture or channels")
    if not bool(torch.isfinite(found[name]).all()):
        raise ModelError(f"{file}: {name} has values that are not finite; take other weights")


def _is_plain(tensor: Tensor) -> bool:
    """False for sparse, nested, quantized and complex tensors, and for those without values."""
    return tensor.dtype in PLAIN and tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested


def _check_program(file: Path) -> None:
    """Raise ValueError for a file of PyTorch whose pickle is compressed, or has more steps than those of weights."""
    with open_regular(file) as opened:
        if zipfile.is_zipfile(opened):
            check_archive(opened, limit("model_tensors"))
            with zipfile.ZipFile(opened) as archive:
                entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it is compressed, which PyTorch's files are not")
            large = [e for e in entries if e.filename.endswith(".pkl") and e.file_size > limit("checkpoint_program_bytes")]
            if large:
                raise ValueError(f"{large[0].filename[:100]} has {large[0].file_size} bytes")
            return
        opened.seek(0)
        steps = sum(1 for _ in islice(_steps(opened), limit("checkpoint_steps") + 1))
        if steps > limit("checkpoint_steps"):
            raise ValueError(f"its pickle has over {limit('checkpoint_steps')} steps")


def _steps(opened: BinaryIO) -> Iterator[object]:
    """The steps of the pickles at the beginning of a file, as PyTorch wrote them before 1.6."""
    return (step for _ in range(LEGACY_PICKLES) for step in pickletools.genops(opened))


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    try:
        check_regular(file)
        if file.suffix in PYTORCH:
            _check_program(file)
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
        else:
            content = read_tensors(file)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {file}; weights lie beside their description") from error
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}; check its permissions and the disk") from error
    except Exception as error:  # what interprets PyTorch's files meets damage with exceptions of many kinds
        first = str(error).partition("\n")[0][:200]
        raise ModelError(f"{file} cannot be read as tensors ({first}); save its state_dict alone, as safetensors") from error
    for name in WITHIN:
        content = content[name] if isinstance(content, dict) and isinstance(content.get(name), dict) else content
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, no state_dict; save that, as safetensors")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
