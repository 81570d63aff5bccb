"""What does a training step take: against nnU-Net's, of the machine's peak, as work grows, and what is learned in the time?

    python benchmarks/bench_training.py patch DATASET WORK --peer PEER_PYTHON [--rounds 3] [--steps 3]
    python benchmarks/bench_training.py share DATASET WORK
    python benchmarks/bench_training.py growth WORK
    python benchmarks/bench_training.py curve WORK --run "auto, 20 min=RUN" ... --peer-run "float32, 20 min=report.json,log.txt" ...

DATASET is in Decathlon layout; WORK may be that of bench_against_nnunet.py, whose preprocessed data are used again. PEER_PYTHON is
the interpreter of an environment with nnunetv2 and psutil. WORK/training.json has the numbers, WORK/*.svg the figures.

Add ``--device cuda --steps 250`` for a GPU (not tried on one so far): steps are then timed without waiting for each, and the share
of time that the card computes is given. nnU-Net's large plans come with large volumes, such as make_ct.py makes; for its residual
networks add ``--recipe resenc-l --peer-plans nnUNetResEncUNetLPlans``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_against_nnunet import NAME, peer_environment, run_peer
from learners import make_learner, name_of, peak_rates, seconds_of, step_flops
from measure import measure
from stepping import Clock, Stepper, answers, serve
from torch.profiler import ProfilerActivity, profile, record_function
from training_curve import curve
from training_growth import growth

from nnseg.core.dataset import Fold
from nnseg.core.patch_growth import DRAWN_AHEAD
from nnseg.core.plan import Plan
from nnseg.interop.nnunet.dataset import write_raw_dataset
from nnseg.storage.cases import CaseStore
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.files import read_json
from nnseg.storage.run import Run
from nnseg.training.learner import Learner
from nnseg.training.loop import memory_for, prefetched
from nnseg.training.patches import Patches

HERE = Path(__file__).resolve().parent
PLANNERS = {"nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM", "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL"}


def main() -> None:
    """Run one of the benchmarks and keep its numbers."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.what == "serve":
        with memory_for(torch.device(options.device)):  # as trainings do
            serve_steps(options)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "training.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    with memory_for(torch.device(options.device)):
        found = {"patch": patch, "share": share, "growth": growth, "curve": curve}[options.what](options)
    results.setdefault(options.what, {})[options.device if options.what == "growth" else options.recipe] = found
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="what", required=True)
    for name in ("patch", "share", "growth", "curve", "serve"):
        verb = verbs.add_parser(name)
        if name in ("patch", "share"):
            verb.add_argument("dataset", type=Path)
        verb.add_argument("work", type=Path)
        verb.add_argument("--device", default="cpu")
        verb.add_argument("--threads", type=int, default=2)
        verb.add_argument("--recipe", default="nnunet")
        verb.add_argument("--steps", type=int, default=3, help="of a round")
        verb.add_argument("--rounds", type=int, default=3)
        verb.add_argument("--warm-up", type=int, default=3, help="steps before the first round; memory is measured in them")
        verb.add_argument("--precision", default="auto")
        verb.add_argument("--peer", type=Path, help="interpreter with nnunetv2")
        verb.add_argument("--peer-plans", default="nnUNetPlans")
        verb.add_argument("--peer-loaders", type=int, default=1, help="processes that augment for the peer")
        verb.add_argument("--run", action="append", default=[], metavar="NAME=RUN")
        verb.add_argument("--peer-run", action="append", default=[], metavar="NAME=REPORT[,LOG]")
        verb.add_argument("--reference", type=float, help="a mean Dice to draw a line at")
    return parser.parse_args()


# --- a patch, ours and the peer's in turn


def patch(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a patch of whole training steps at one plan: nnseg in float32 and in what it chooses, and the peer, in turn."""
    run = planned(options)
    precisions = ("float32", "auto") if options.device == "cpu" else ("auto",)
    ours = {f"nnseg {name}": ["--precision", name] for name in precisions}
    common = ["--device", options.device, "--threads", str(options.threads)]
    with ExitStack() as stack:
        steppers = {}
        for name, arguments in ours.items():
            command = [sys.executable, str(HERE / "bench_training.py"), "serve", str(run), *arguments, *common]
            steppers[name] = stack.enter_context(Stepper(command, options.work / f"{name.replace(' ', '_')}.log"))
        if options.peer:
            command = [
                *peer_environment(options.work, loaders=options.peer_loaders),
                str(options.peer),
                str(HERE / "peer_steps.py"),
            ]
            arguments = [NAME, "--plans", options.peer_plans, *common]
            steppers["nnunet"] = stack.enter_context(Stepper([*command, *arguments], options.work / "peer_steps.log"))
        found: dict[str, Any] = {name: {**s.about, "peak_mb": s.peak_mb(options.warm_up)} for name, s in steppers.items()}
        rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(options.rounds):
            for name, stepper in steppers.items():
                rounds[name].append(stepper.take(options.steps))
    for name, taken in rounds.items():
        found[name] |= {key: round(median(t[key] for t in taken), 5) for key in taken[0]}
        found[name]["rounds"] = [round(t["s_per_patch"], 5) for t in taken]
        if options.peer and name != "nnunet":
            for key in ("s_per_patch", "cpu_s_per_patch"):
                ratios = [peers[key] / mine[key] for mine, peers in zip(taken, rounds["nnunet"], strict=True)]
                found[name][f"peer / ours, {key}"] = round(median(ratios), 3)
    return found


def planned(options: argparse.Namespace) -> Path:
    """The run folder with plan and cases of the recipe; the peer's plan and cases are made too. What is there is kept."""
    work, run = options.work, options.work / f"run_{options.recipe}"
    options.work.mkdir(parents=True, exist_ok=True)
    if not (run / "plan.toml").exists():
        budget = ["--budget", "20m"] if options.recipe == "auto" else ["--no-probe"]
        _nnseg("plan", str(options.dataset), str(run), "--recipe", options.recipe, "--plans", "3d", "--folds", "0", *budget)
    if not (run / "cases").exists():
        _nnseg("preprocess", str(run))
    if options.peer and not (work / "raw" / NAME).exists():
        write_raw_dataset(read_dataset(options.dataset), work / "raw" / NAME)
    if options.peer and not (work / "preprocessed" / NAME / f"{options.peer_plans}.json").exists():
        planner = ["-pl", PLANNERS[options.peer_plans]] if options.peer_plans in PLANNERS else []
        run_peer(options, "nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "3d_fullres", *planner)
    return run


def _nnseg(*arguments: str) -> None:
    if measure([sys.executable, "-m", "nnseg", *arguments])["exit_code"]:
        raise SystemExit(f"nnseg {' '.join(arguments)} failed; run it by hand to see why")


def serve_steps(options: argparse.Namespace) -> None:
    """Take nnseg's steps on demand, for `patch`."""
    out, device = answers(), torch.device(options.device)
    plan, cases = _plan_and_cases(options.work)
    learner = make_learner(plan, device, options.precision)
    batches = prefetched(Patches(cases, plan, fold=0, device=device).batch, 0, ahead=0 if device.type == "cpu" else DRAWN_AHEAD)
    about = {
        "batch_size": plan.training.batch_size,
        "patch": list(plan.patch),
        "precision": name_of(learner.context.dtype),
        "parameters": sum(p.numel() for p in learner.network.parameters()),
    }
    serve(out, about, load=lambda: next(batches), step=learner.take_step, clock=Clock(torch, device))


def _plan_and_cases(run: Path) -> tuple[Plan, list[Any]]:
    [folder] = Run(run).plans
    store = CaseStore(folder.cases)
    training = read_json(run / "folds.json", tuple[Fold, ...])[0].training
    return folder.plan, [store.read(name) for name in training]


# --- share of the machine's peak


def share(options: argparse.Namespace) -> dict[str, Any]:
    """What a training step reaches of the machine's peak, and where its time goes."""
    device = torch.device(options.device)
    plan, cases = _plan_and_cases(planned(options))
    learner, patches = make_learner(plan, device, options.precision), Patches(cases, plan, fold=0, device=device)
    dtype = learner.context.dtype
    rates = {kind: peak_rates(device, kind) for kind in (dtype, torch.float32)}
    batches = [patches.batch(n) for n in range(options.steps)]
    for batch in batches[:2]:
        learner.take_step(batch)
    step_s = median(seconds_of(lambda batch=batch: learner.take_step(batch), device) for batch in batches * options.rounds)
    load_s = median(seconds_of(lambda n=n: patches.batch(n), device) for n in range(options.steps * options.rounds))
    parts = step_parts(learner, patches, options.steps) if device.type == "cpu" else {}
    for kind in rates:
        rates[kind] += peak_rates(device, kind)  # again, since other work on the machine may have disturbed the first
    peak, flops = max(rates[dtype]), step_flops(plan)
    return {
        "precision": name_of(dtype),
        "peak_gflops": round(peak / 1e9, 1),
        "peak_float32_gflops": round(max(rates[torch.float32]) / 1e9, 1),
        "step_gflop": round(flops / 1e9, 2),
        "step_s": round(step_s, 4),
        "load_s": round(load_s, 4),
        "share_of_peak_step": round(flops / step_s / peak, 4),
        "share_of_peak_step_and_loader": round(flops / (step_s + load_s) / peak, 4),
        "parts_s": {name: round(seconds, 4) for name, seconds in parts.items()},
        "parts_share": {name: round(seconds / sum(parts.values()), 4) for name, seconds in parts.items()},
    }


KINDS = (
    ("augmentation and loader", r"^LOADER"),
    ("convolutions, backward", r"evaluate_function: (Mkldnn)?Convolution(Overrideable)?Backward"),
    ("convolutions, forward", r"^aten::_?conv"),
    ("norm and activation", r"_NormActivation|instance_norm|leaky_relu|LeakyRelu|BatchNorm"),
    ("concatenation", r"_Concatenation|CatBackward|^aten::cat$"),
    ("optimizer, clipping and average", r"^Optimizer|foreach|clip_grad|AccumulateGrad|zero_grad|ToCopyBackward"),
    ("loss", r"^LOSS|evaluate_function"),
)
"""What an operation belongs to: the first kind that it, or one that it is part of, is named like; else "other"."""


def step_parts(learner: Learner, patches: Patches, steps: int) -> dict[str, float]:
    """Seconds of a step by kind of work, on a CPU, as PyTorch's profiler sees it."""
    plain = learner._loss_function

    def marked(*arguments: Any) -> Any:
        with record_function("LOSS"):
            return plain(*arguments)

    learner._loss_function = marked
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for number in range(steps):
            with record_function("LOADER"):
                batch = patches.batch(number)
            learner.take_step(batch)
    learner._loss_function = plain
    spent: dict[str, float] = dict.fromkeys((*(name for name, _ in KINDS), "other"), 0.0)
    for event in seen.events():
        spent[_kind(event)] += event.self_cpu_time_total / 1e6 / steps
    return spent


def _kind(event: Any) -> str:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return next((kind for kind, like in KINDS if any(re.search(like, name) for name in names)), "other")


if __name__ == "__main__":
    main()
