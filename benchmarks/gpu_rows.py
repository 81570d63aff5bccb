"""The process that computes the rows of gpu.py: lines of JSON with a row's name and seconds come in, lines with results go out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_checks import CHECKS, train_a_little
from gpu_measures import MEASUREMENTS
from gpu_setting import Found, NotHereError, Setting
from stepping import answers

ALL: Mapping[str, Callable[[Setting], Found]] = {**CHECKS, **MEASUREMENTS, "a little training": train_a_little}


def main() -> None:
    """Compute rows until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    out = answers()  # what libraries print goes to the log from now on
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", 0)  # limits of memory need a number
    setting = Setting(folder=options.folder, device=device, threads=options.threads, small=options.small)
    _answer(out, *compute(lambda of: Found(text="", numbers=about(of)), setting))
    for line in sys.stdin:
        asked = json.loads(line)
        _answer(out, *compute(ALL[asked["name"]], replace(setting, seconds=asked["seconds"])))


def compute(row: Callable[[Setting], Found], setting: Setting) -> tuple[str, str, dict[str, Any]]:
    """Outcome, text and numbers of a row."""
    try:
        found = row(setting)
    except NotHereError as error:
        return "not here", str(error), {}
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", {}
    finally:
        if setting.on_cuda:
            torch.cuda.empty_cache()
    return found.outcome, found.text, found.numbers


def about(setting: Setting) -> dict[str, Any]:
    """The machine, and versions."""
    numbers = {"torch": f"torch {torch.__version__}", "python": f"Python {platform.python_version()}", "commit": _commit()}
    numbers["processor"] = f"{os.cpu_count()} cores, {platform.machine()}"
    if setting.on_cuda:
        properties = torch.cuda.get_device_properties(setting.device)
        numbers["device"] = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
        numbers["cuda"], numbers["cudnn"] = f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"
    return numbers


def _commit() -> str:
    """Of the checkout, or where it is none, not known."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known"


def _answer(out: Any, outcome: str, text: str, numbers: dict[str, Any]) -> None:
    print(json.dumps({"outcome": outcome, "text": text, "numbers": numbers}), file=out, flush=True)


if __name__ == "__main__":
    main()
