"""Is a GPU right? Checks of gpu.py: gradients, repeated trainings, too little memory, two processes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from gpu import START, Worker, arguments
from gpu_convolutions import convolutions, large_convolution, relative_difference
from gpu_setting import Found, NotHereError, Setting
from learners import seconds_of
from torch import Tensor, nn

from nnseg.core.plan import Plan
from nnseg.core.schedule import Course
from nnseg.inference.networks import MemberNetwork, window_of
from nnseg.inference.sliding_window import sliding_window
from nnseg.network.bundle import Member
from nnseg.network.device import exact
from nnseg.training.learner import Learner, fresh_network
from nnseg.training.losses import make_loss
from nnseg.training.patches import Batch, Patches

# --- gradients of a network, computed in several ways

EDGE = 64
"""Of the patches of checks, in voxels."""

AGREEMENT = {"float32": 1e-2, "bfloat16": 0.3}
"""Largest relative difference of a network's gradients; errors grow with its depth (bfloat16: 0.14 on a CPU)."""


def low_precision(setting: Setting) -> Found:
    """Gradients in bfloat16 against those in float32."""
    return _compared(setting, lambda network: network, precision="bfloat16")


def channels_last(setting: Setting) -> Found:
    """Gradients in the layout channels-last against those in PyTorch's own."""
    return _compared(setting, lambda network: network.to(memory_format=torch.channels_last_3d))


def triton_norm(setting: Setting) -> Found:
    """Gradients of the network channels-last, with instance norm in Triton."""
    setting.need_triton()

    def changed(network: nn.Module) -> nn.Module:
        from nnseg.network.triton_norm import use_triton_norm  # noqa: PLC0415 (where there is Triton)

        use_triton_norm(network)
        return network

    return _compared(setting, changed)


def compiled(setting: Setting) -> Found:
    """Gradients of the network compiled by torch.compile."""
    backend = "aot_eager" if setting.small else "inductor"  # the compiler's own part takes long for the smallest network too
    return _compared(setting, lambda network: torch.compile(network, dynamic=False, backend=backend))


def _compared(setting: Setting, change: Callable[[nn.Module], Any], *, precision: str = "float32") -> Found:
    """Gradients of a changed network, or in another precision, against those of the network as it is, in float32."""
    plan = setting.made_plan(EDGE)
    batch = Patches(setting.made_cases(), plan, fold=0, device=setting.device).batch(0)
    with _full_float32():
        loss, right = gradients(setting, plan, batch, lambda network: network)
        other, found = gradients(setting, plan, batch, change, precision)
    error = relative_difference(found, right)
    numbers = {
        "loss": loss,
        "other loss": other,
        "relative difference": error,
        "cosine": float(F.cosine_similarity(found, right, 0)),
    }
    return Found(text=f"relative difference {error:.2g}", numbers=numbers, passed=error <= AGREEMENT[precision])


def gradients(
    setting: Setting, plan: Plan, batch: Batch, change: Callable[[nn.Module], Any], precision: str = "float32"
) -> tuple[float, Tensor]:
    """The loss of a plan's untrained network, and the gradients of all its weights in one vector."""
    context = setting.context(plan, precision)
    network = fresh_network(context).to(setting.device)
    forward, loss_function = change(network), make_loss(plan)
    with context.autocast():
        outputs = forward(batch.image)
    loss = loss_function(outputs, batch.labels, batch.known)
    loss.backward()
    return float(loss.detach()), _gradient_vector(network)


def _gradient_vector(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@contextmanager
def _full_float32() -> Iterator[None]:
    """A context in which CUDA does not round float32 before it multiplies."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def captured(setting: Setting) -> Found:
    """Gradients of a step that was captured as a CUDA graph and is replayed with another batch; and seconds of both."""
    if not setting.on_cuda:
        raise NotHereError("needs CUDA")
    plan = setting.made_plan(EDGE)
    patches = Patches(setting.made_cases(), plan, fold=0, device=setting.device)
    first, second = patches.batch(0), patches.batch(1)
    context, loss_function = setting.context(plan), make_loss(plan)
    network = fresh_network(context).to(setting.device)

    def work() -> None:
        network.zero_grad(set_to_none=False)
        with context.autocast():
            outputs = network(first.image)
        loss_function(outputs, first.labels, first.known).backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    first.image.copy_(second.image)
    first.labels.copy_(second.labels)
    graph.replay()
    found = _gradient_vector(network).clone()
    work()
    error = relative_difference(found, _gradient_vector(network))
    plain, replayed = (median(seconds_of(of, setting.device) for _ in range(10)) for of in (work, graph.replay))
    text = f"relative difference {error:.2g}; {replayed * 1e3:.1f} ms instead of {plain * 1e3:.1f} ms without the optimizer's part"
    numbers = {"relative difference": error, "plain_s": plain, "replayed_s": replayed}
    return Found(text=text, numbers=numbers, passed=error <= AGREEMENT["float32"])


# --- trainings

STEPS = 4
"""Of the trainings of checks."""


def deterministic(setting: Setting) -> Found:
    """Whether a training repeated with ``--deterministic`` gives the same bits; and what differs without."""
    (first, seconds), (second, _) = (_trained(setting, wanted=True) for _ in range(2))
    (other, plain), (another, _) = (_trained(setting, wanted=False) for _ in range(2))
    without = relative_difference(other, another)
    same = torch.equal(first, second)
    words = "the same bits" if same else f"weights differ by {relative_difference(first, second):.2g}"
    text = f"{words}; without, they differ by {without:.2g}; {seconds / plain:.2f} times as long"
    return Found(text=text, numbers={"without": without, "times": seconds / plain}, passed=same)


def train_a_little(setting: Setting) -> Found:
    """The losses of a few deterministic steps, and the seconds of more of them: what `two_processes` lets processes do."""
    plan = setting.made_plan(EDGE)
    patches = Patches(setting.made_cases(), plan, fold=0, device=setting.device)
    with exact(setting.device, wanted=True):
        learner = _learner(setting, plan)
        losses = [float(learner.take_step(patches.batch(number))) for number in range(STEPS)]
        batch = patches.batch(STEPS)
        count = STEPS if setting.small else 10 * STEPS
        seconds = seconds_of(lambda: [learner.take_step(batch) for _ in range(count)], setting.device)
    return Found(text="", numbers={"losses": losses, "seconds": seconds})


def two_processes(setting: Setting) -> Found:
    """Two processes that train on the device at the same time: whether each learns as it does alone, and how fast."""
    log = setting.folder / "gpu_processes.log"
    of = arguments(Namespace(folder=setting.folder, device=setting.device, threads=setting.threads, small=setting.small))
    workers = [Worker(of, log, nested=True) for _ in range(2)]
    try:
        for worker in workers:
            worker.about(START)
        alone = _answer_of(workers[0].ask("a little training", setting.seconds))
        for worker in workers:
            worker.begin("a little training", setting.seconds)
        both = [_answer_of(worker.finish(setting.seconds)) for worker in workers]
    finally:
        for worker in workers:
            worker.end()
    same = all(numbers["losses"] == alone["losses"] for numbers in both)
    slower = max(numbers["seconds"] for numbers in both) / alone["seconds"]
    text = f"{'the same losses' if same else 'other losses'} as alone; a step takes {slower:.2f} times as long"
    return Found(text=text, numbers={"alone": alone, "both": both, "times": slower}, passed=same)


def _answer_of(row: dict[str, Any]) -> dict[str, Any]:
    if row["outcome"] != "measured":
        raise RuntimeError(row["text"])
    return dict(row["numbers"])


def _trained(setting: Setting, *, wanted: bool) -> tuple[Tensor, float]:
    """The weights of a training of a few steps in one vector, and its seconds without the first step."""
    plan = setting.made_plan(EDGE)
    patches = Patches(setting.made_cases(), plan, fold=0, device=setting.device)
    with exact(setting.device, wanted=wanted):
        learner = _learner(setting, plan)
        learner.take_step(patches.batch(0))
        seconds = seconds_of(lambda: [learner.take_step(patches.batch(n)) for n in range(1, STEPS)], setting.device)
    return torch.cat([tensor.flatten().float() for tensor in learner.weights().values()]), seconds


def _learner(setting: Setting, plan: Plan) -> Learner:
    return Learner(setting.context(plan), Course.of(100, plan.training))


# --- memory

PATCHES = 8
"""Of the batch that does not fit."""

FITTING = 0.7
"""Share of the memory needed that there is."""


def too_little_memory(setting: Setting) -> Found:
    """Whether a step and a prediction that do not fit into memory are computed in smaller parts, with the same result."""
    plan = setting.made_plan(EDGE)
    plan = plan.model_copy(update={"training": plan.training.model_copy(update={"batch_size": PATCHES})})
    batch = Patches(setting.made_cases(), plan, fold=0, device=setting.device).batch(0)
    with exact(setting.device, wanted=True):
        whole, cramped = _learner(setting, plan), _learner(setting, plan)
        with _needed(setting) as needed:
            loss = float(whole.take_step(batch))
        with _limited(setting, cramped.network, needed[0]):
            in_parts = float(cramped.take_step(batch))
        labels, fewer, before, after = _predicted(setting, plan, whole)
    agreement = float((labels == fewer).float().mean())
    numbers = {"parts": cramped.parts, "loss": loss, "loss in parts": in_parts, "same voxels": agreement}
    text = f"step in {cramped.parts} parts, loss {in_parts:.4f} instead of {loss:.4f}; {after} tiles at once instead of {before}"
    close = abs(in_parts - loss) <= 0.01 * abs(loss)
    return Found(text=text, numbers=numbers, passed=cramped.parts > 1 and close and after < before and agreement > 0.999)


def _predicted(setting: Setting, plan: Plan, learner: Learner) -> tuple[Tensor, Tensor, int, int]:
    """A case predicted with the memory needed and with less: label indices of both, and the most tiles at once of both."""
    member = Member(plan=plan, fold=0, weights=dict(learner.weights()))
    network, window = MemberNetwork.of(member, setting.device), window_of(member, setting.device)
    counts: list[int] = []
    image = torch.from_numpy(setting.made_cases()[0].image)

    def predicted() -> tuple[Tensor, int]:
        counts.clear()
        labels = torch.cat([slab.argmax(0).cpu() for slab in sliding_window([network], image, window)])
        return labels, max(counts)

    with _needed(setting) as needed:
        network.network.register_forward_hook(lambda _module, inputs, _output: counts.append(len(inputs[0])))
        labels, before = predicted()
    with _limited(setting, network.network, needed[0]):
        fewer, after = predicted()
    return labels, fewer, before, after


@contextmanager
def _needed(setting: Setting) -> Iterator[list[int]]:
    """The bytes that work takes at most, in a list that has one entry when it ends."""
    found: list[int] = []
    if setting.on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
        before = torch.cuda.memory_allocated(setting.device)
    yield found
    found.append(torch.cuda.max_memory_allocated(setting.device) - before if setting.on_cuda else 0)


@contextmanager
def _limited(setting: Setting, network: nn.Module, needed: int) -> Iterator[None]:
    """A context in which there is too little memory for work that needs so many bytes; on a CPU, as if there were."""
    if setting.on_cuda:
        torch.cuda.empty_cache()
        allowed = torch.cuda.memory_reserved(setting.device) + FITTING * needed
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info(setting.device)[1], setting.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, setting.device)
        return
    seen: list[int] = []

    def refuse(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(len(inputs[0]))
        if len(inputs[0]) == seen[0] > 1:  # as many as at first
            raise torch.OutOfMemoryError("as if there were too little memory")

    handle = network.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


CHECKS: dict[str, Callable[[Setting], Found]] = {
    "3D convolutions, output and gradients": convolutions,
    "3D convolution of 2^31 values": large_convolution,
    "network in bfloat16, gradients": low_precision,
    "network channels-last, gradients": channels_last,
    "norm in Triton, gradients": triton_norm,
    "network in a captured graph, gradients": captured,
    "training repeated, deterministic": deterministic,
    "too little memory": too_little_memory,
    "network compiled, gradients": compiled,
    "two processes on one device": two_processes,
}
"""By the names of rows."""
