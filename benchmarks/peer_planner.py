"""Plan datasets as nnU-Net v2 does, with its own planners, in one process.

    python benchmarks/peer_planner.py WORK [--limit 60] [--real] [--names NAME ...]       (in the peer's own environment)

WORK/raw/NAME/dataset.json and WORK/preprocessed/NAME/dataset_fingerprint.json describe each dataset; images are not needed. The
plans lie beside the fingerprint, and outcome.json says of each planner how long it took and why it failed, if it did. Datasets that
have an outcome are skipped. Networks are built on torch's "meta" device, without numbers, since planners only look at their shapes;
``--real`` builds them as usual.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLANNERS = {
    "nnunet": ("default_experiment_planner", "ExperimentPlanner"),
    "resenc-m": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncM"),
    "resenc-l": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncL"),
    "resenc-xl": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncXL"),
}
"""By the name of the recipe that stands for them."""


class TooLongError(Exception):
    """A planner did not come to an end."""


def main() -> None:
    """Plan what has not been planned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--names", nargs="*", help="of datasets; all if none")
    parser.add_argument("--limit", type=float, default=60, help="seconds of processor time for one planner and dataset")
    parser.add_argument("--real", action="store_true", help="build networks with their numbers")
    options = parser.parse_args()
    os.environ.update(nnUNet_raw=str(options.work / "raw"), nnUNet_preprocessed=str(options.work / "preprocessed"))
    os.environ.update(nnUNet_results=str(options.work / "results"), nnUNet_n_proc_DA="1", OMP_NUM_THREADS="1")
    planners = _load(options.real)
    for name in options.names or sorted(p.name for p in (options.work / "raw").iterdir()):
        outcome = options.work / "preprocessed" / name / "outcome.json"
        if not outcome.exists():
            found = {recipe: _plan(planner, name, options.limit) for recipe, planner in planners.items()}
            outcome.write_text(json.dumps(found, indent=1) + "\n")
            print(name, {recipe: of["failed"] or of["seconds"] for recipe, of in found.items()}, flush=True)


def _load(real: bool) -> dict[str, Any]:
    import importlib  # noqa: PLC0415 (torch reads the environment when it is loaded)

    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    if not real:
        torch.set_default_device("meta")
    room = "nnunetv2.experiment_planning.experiment_planners"
    return {recipe: getattr(importlib.import_module(f"{room}.{module}"), name) for recipe, (module, name) in PLANNERS.items()}


def _plan(planner: Any, dataset: str, limit: float) -> dict[str, Any]:
    start, failed = time.process_time(), ""
    try:
        with contextlib.redirect_stdout(io.StringIO()), _at_most(limit):
            planner(dataset).plan_experiment()
    except TooLongError:
        failed = f"no end after {limit:g} s"
    except Exception as error:  # whatever a planner stumbles over is what we want to know
        place = traceback.extract_tb(error.__traceback__)[-1]
        failed = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} ({place.name})"
    return {"seconds": round(time.process_time() - start, 2), "failed": failed}


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


if __name__ == "__main__":
    main()
