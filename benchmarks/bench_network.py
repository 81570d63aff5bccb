"""How long is a training step of our network on this CPU, against the same network with torch's own parts?

    python benchmarks/bench_network.py [--threads 2] [--repeats 20] [--channels]

Both train the same weights on the same patches (4 x 40 x 56 x 40, 16 to 128 features, deep supervision, Dice + cross-entropy,
bfloat16, AdamW). "torch's parts" is contiguous layout, torch's instance norm, one-hot Dice and the unfused optimizer.

With ``--channels``: processor time of a forward pass over 64 x 64 x 64 voxels with fewer and fewer channels, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from nnseg.core.plan import Network
from nnseg.network import blocks
from nnseg.network.build import build_unet
from nnseg.training.loss_terms import LossTarget
from nnseg.training.losses import LOSSES, downsample, stage_weights

STAGES = 4
NETWORK = Network(
    kind="plain",
    features=(16, 32, 64, 128),
    strides=((1, 1, 1), *((2, 2, 2),) * (STAGES - 1)),
    kernels=((3, 3, 3),) * STAGES,
    blocks=(2,) * STAGES,
    decoder_blocks=(2,) * (STAGES - 1),
)
HEADS = 3
CHANNELS = ((32, 64, 128, 256), (16, 32, 64, 128), (8, 16, 32, 64), (8, 8, 16, 32), (4, 8, 16, 32))


def main() -> None:
    """Time both in turn and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--channels", action="store_true")
    options = parser.parse_args()
    if options.channels:
        time_channels(options.repeats)
        return
    torch.set_num_threads(options.threads)
    image, labels = torch.randn(4, 1, 40, 56, 40), torch.randint(0, HEADS, (4, 40, 56, 40))
    ours, theirs = _stepper(_our_loss, image, labels, fused=True), _stepper(_plain_loss, image, labels, fused=False)
    times: dict[str, list[float]] = {"ours": [], "torch's parts": []}
    for _ in range(options.repeats + 1):
        times["ours"].append(_seconds(ours))
        native, blocks._use_cpu_kernels = blocks._use_cpu_kernels, lambda _: False
        times["torch's parts"].append(_seconds(theirs))
        blocks._use_cpu_kernels = native
    for name, values in times.items():
        print(f"{name:15} median {median(values[1:]) * 1e3:6.0f} ms, fastest {min(values[1:]) * 1e3:6.0f} ms")
    ratio = median(a / b for a, b in zip(times["ours"][1:], times["torch's parts"][1:], strict=True))
    print(f"ratio, pair by pair, median: {ratio:.3f} ({options.threads} threads, {options.repeats} pairs)")


def time_channels(repeats: int) -> None:
    """Print the least processor time of a forward pass for networks of `CHANNELS`, all in turn."""
    torch.set_num_threads(1)
    image = torch.randn(1, 1, 64, 64, 64)
    networks = [build_unet(NETWORK.model_copy(update={"features": f}), channels=1, heads=HEADS).eval() for f in CHANNELS]
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(repeats + 1):
            for network, spent in zip(networks, times, strict=True):
                start = time.process_time()
                network(image)
                spent.append(time.process_time() - start)
    for features, spent in zip(CHANNELS, times, strict=True):
        print(f"{', '.join(map(str, features)):18} {min(spent[1:]) * 1e3:6.0f} ms")


def _stepper(loss: Callable[[list[Tensor], Tensor], Tensor], image: Tensor, labels: Tensor, *, fused: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    network = build_unet(NETWORK, channels=1, heads=HEADS)
    network.deep_supervision = True
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=fused)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(image)
        loss(outputs, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _our_loss(outputs: list[Tensor], labels: Tensor) -> Tensor:
    members = torch.eye(HEADS, dtype=torch.bool)
    parts = [
        weight * LOSSES["dice_ce"](logits, LossTarget(labels=downsample(labels, logits.shape[2:]).long(), members=members))
        for weight, logits in zip(stage_weights(len(outputs)), outputs, strict=True)
        if weight
    ]
    return torch.stack(parts).sum()


def _plain_loss(outputs: list[Tensor], labels: Tensor) -> Tensor:
    parts = []
    for weight, logits in zip(stage_weights(len(outputs)), outputs, strict=True):
        if weight:
            here = downsample(labels, logits.shape[2:]).long()
            probabilities, truth = logits.float().softmax(1), F.one_hot(here, HEADS).movedim(-1, 1).float()
            both, total = (probabilities * truth).sum((2, 3, 4)), (probabilities + truth).sum((2, 3, 4))
            dice = (2 * both + 1e-5) / (total + 1e-5)
            parts.append(weight * (F.cross_entropy(logits.float(), here) - dice[:, 1:].mean()))
    return torch.stack(parts).sum()


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
