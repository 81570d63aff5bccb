"""Networks as other programs than torch compute them, on the CPU, and the files that these programs read.

OpenVINO gets the file of ONNX, in which instance norm is one operation; converted from torch's own graph it is a dozen, which were
measured to be 1.5 times as slow, and in bfloat16 less exact.
"""

from __future__ import annotations

import io
import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnseg.network.device import time_calls
from nnseg.system.extras import check_extra

log = logging.getLogger(__name__)

OPSET = 20
"""Version of ONNX's operations."""

ROUNDS = 3
"""Times that each runtime computes a tile, of which the fastest counts."""

MOST_WRONG = 0.001
"""Share of voxels that may get another label than torch gives in float32."""

Tiles = npt.NDArray[np.float32]
Compute = Callable[[Tiles], Tiles]
"""From tiles (B, C, *space) to logits (B, K, *space)."""


def trace(network: nn.Module, shape: Sequence[int]) -> torch.export.ExportedProgram:
    """The network's operations on tiles float32 (B, *shape), of any batch B."""
    example = torch.zeros(2, *shape)  # a batch of one would be taken as the only one
    with _quiet():
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def onnx_file(network: nn.Module, shape: Sequence[int]) -> bytes:
    """The content of a file of ONNX that computes the logits of tiles float32 (B, *shape), of any batch B.

    Raises:
        NnsegError: the extra for it is not installed.
    """
    check_extra("runtimes", "other runtimes")
    with _quiet():
        program = torch.onnx.export(trace(network, shape), (), input_names=["image"], opset_version=OPSET, verbose=False)
    return cast(bytes, program.model_proto.SerializeToString())  # type: ignore[union-attr]


def save_network(network: nn.Module, runtime: str, shape: Sequence[int], file: Path, calibration: Sequence[Tiles] = ()) -> None:
    """Write a network for tiles (B, *shape) as a runtime reads it; OpenVINO's weights go into a second file, named *.bin.

    Args:
        runtime: one of `WRITERS`, whose suffix the file has.
        calibration: tiles by which OpenVINO chooses the ranges of 8-bit integers, in which it then computes; () for float32.

    Raises:
        NnsegError: the extra for it is not installed.
        OSError: the file cannot be written.
    """
    try:
        WRITERS[runtime][1](network, shape, file, calibration)
    except RuntimeError as error:  # of all three, most often for a full disk
        raise OSError(f"{runtime} ended with: {str(error).splitlines()[0]}") from error


def _save_onnx(network: nn.Module, shape: Sequence[int], file: Path, _: Sequence[Tiles]) -> None:
    file.write_bytes(onnx_file(network, shape))


def _save_openvino(network: nn.Module, shape: Sequence[int], file: Path, calibration: Sequence[Tiles]) -> None:
    content = onnx_file(network, shape)
    import openvino  # noqa: PLC0415 (an optional part)

    model = openvino.Core().read_model(content)
    openvino.save_model(_quantized(model, calibration) if calibration else model, file, compress_to_fp16=False)


def _quantized(model: Any, calibration: Sequence[Tiles]) -> Any:
    """A model of OpenVINO with 8-bit weights and activations."""
    import nncf  # noqa: PLC0415 (an optional part)

    nncf.set_log_level(logging.ERROR)
    with _quiet(), redirect_stdout(io.StringIO()):  # which is for results; it draws progress there
        return nncf.quantize(model, nncf.Dataset(list(calibration)), subset_size=len(calibration))


def _save_torch(network: nn.Module, shape: Sequence[int], file: Path, _: Sequence[Tiles]) -> None:
    with _quiet():
        torch.export.save(trace(network, shape), file)


class CompiledNetwork(nn.Module):
    """A network that another program computes; in place of the torch module. Threads take turns."""

    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self._compute, self._lock = compute, threading.Lock()

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits (B, K, *space), float32, of tiles (B, C, *space) on the CPU."""
        with self._lock:
            return torch.from_numpy(self._compute(tiles.float().contiguous().numpy()))


def compile_network(network: nn.Module, runtime: str, shape: Sequence[int], dtype: torch.dtype) -> CompiledNetwork:
    """A network for tiles (B, *shape) as one of `COMPILERS` computes it.

    Args:
        dtype: bfloat16 where that is wanted; a runtime without it computes in float32.

    Raises:
        NnsegError: the extra for it is not installed.
    """
    return CompiledNetwork(COMPILERS[runtime](onnx_file(network, shape), dtype))


def fastest_network(network: nn.Module, shape: Sequence[int], dtype: torch.dtype, *, regions: bool) -> nn.Module:
    """The network as the fastest of torch and `COMPILERS` computes it, of those that agree with torch in float32.

    They compute one tile of smooth noise in turn, several times. One that gives more than one voxel in a thousand another label is
    not used.

    Args:
        shape: of a tile (C, *space).
        dtype: of torch's autocast.
        regions: the logits are those of regions, each by itself.

    Raises:
        NnsegError: the extra for it is not installed.
    """
    tile, content = _smooth_noise(shape), onnx_file(network, shape)
    compiled = {name: CompiledNetwork(compiler(content, dtype)) for name, compiler in COMPILERS.items()}
    candidates: dict[str, nn.Module] = {"torch": network, **compiled}
    with torch.inference_mode():
        exact = _labels(network(tile), regions)
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(ROUNDS):
            for name, candidate in candidates.items():
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    seconds[name] += time_calls(lambda candidate=candidate: candidate(tile))  # type: ignore[misc]
        wrong = {name: (_labels(one(tile), regions) != exact).float().mean().item() for name, one in candidates.items()}
    usable = {name: min(taken) for name, taken in seconds.items() if name == "torch" or wrong[name] <= MOST_WRONG}
    fastest = min(usable, key=lambda name: usable[name])
    log.info("networks are computed by %s: %s", fastest, ", ".join(f"{name} {s * 1e3:.0f} ms" for name, s in usable.items()))
    return candidates[fastest]


def _smooth_noise(shape: Sequence[int]) -> Tensor:
    """A tile (1, *shape), float32, of noise that neighbouring voxels share in part, as in scans."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, shape[0], *(math.ceil(n / 4) for n in shape[1:]), generator=random)
    mode = "bilinear" if len(shape) == 3 else "trilinear"
    smooth = nn.functional.interpolate(coarse, tuple(shape[1:]), mode=mode)
    return smooth + 0.1 * torch.randn(1, *shape, generator=random)


def _labels(logits: Tensor, regions: bool) -> Tensor:
    return logits > 0 if regions else logits.argmax(1)


def _onnx(content: bytes, _: torch.dtype) -> Compute:
    import onnxruntime  # noqa: PLC0415 (an optional part)

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return lambda tiles: cast(Tiles, session.run(None, {"image": tiles})[0])


def _openvino(content: bytes, dtype: torch.dtype) -> Compute:
    import openvino  # noqa: PLC0415 (an optional part)

    core = openvino.Core()
    precision = "bf16" if dtype == torch.bfloat16 else "f32"
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
    return lambda tiles: cast(Tiles, request.infer([tiles])[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without what torch says of itself while it exports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


COMPILERS: dict[str, Callable[[bytes, torch.dtype], Compute]] = {"onnx": _onnx, "openvino": _openvino}
"""By the name of the runtime, from the content of a file of ONNX to what computes it."""

WRITERS: dict[str, tuple[str, Callable[[nn.Module, Sequence[int], Path, Sequence[Tiles]], None]]] = {
    "onnx": (".onnx", _save_onnx),
    "openvino": (".xml", _save_openvino),
    "torch": (".pt2", _save_torch),
}
"""By the name of the runtime, the suffix of its files and what writes one."""
