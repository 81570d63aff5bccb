"""``nnseg stress`` and ``nnseg channels``: held-out cases of a run predicted from degraded scans, and without each channel."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from nnseg.core.errors import EvaluationError, RunError
from nnseg.core.frozen import FrozenModel
from nnseg.core.image import Scan
from nnseg.core.options import DegradationKind
from nnseg.core.robustness import DEGRADATIONS, Robustness
from nnseg.crossval.degradations import degrade
from nnseg.crossval.degraded import Change, score_changed
from nnseg.storage.run import Run

CASES = 20
"""Held-out cases that are predicted by default."""


class StressedRun(FrozenModel):
    """What ``nnseg stress`` and ``nnseg channels`` find.

    Args:
        robustness: as in ``robustness.json`` and ``channels.json``.
    """

    robustness: Robustness


def stress(run: Run, *, kinds: Sequence[DegradationKind] = (), cases: int = CASES, device: str = "auto") -> Robustness:
    """The Dice of held-out cases whose scans are degraded, at all strengths of each kind; written to ``robustness.json``.

    Args:
        run: with scores of held-out cases.
        kinds: of degradations; () for all.
        cases: most cases that are predicted.
        device: to compute on.

    Raises:
        RunError: the folder holds no run, it is not scored yet, or no case can be predicted.
        ModelError: its networks are missing.
        EvaluationError: the kinds are not of pictures, which the scans are.
    """
    changes = [
        Change(name=kind, strength=strength, apply=_degrading(kind, strength))
        for kind in kinds or DEGRADATIONS
        for strength in DEGRADATIONS[kind].strengths
    ]
    _check(run)
    with run.locked():
        found = score_changed(run, changes, cases=cases, device=device, label="predicting degraded scans")
        if not found.changes:
            raise EvaluationError(f"the scans of {run.path} are pictures, without slices to degrade; choose other --kinds")
        run.robustness = found
    return found


def leave_out_channels(run: Run, *, cases: int = CASES, device: str = "auto") -> Robustness:
    """The Dice of held-out cases without each channel of their scans; written to ``channels.json``.

    Args:
        run: with scores of held-out cases.
        cases: most cases that are predicted.
        device: to compute on.

    Raises:
        EvaluationError: the run has one channel.
        RunError, ModelError: as for `stress`.
    """
    _check(run)
    channels = run.dataset.channels
    if len(channels) < 2:
        raise EvaluationError(f"{run.path} has one channel, {channels[0]}; nnseg channels compares several")
    changes = [Change(name=name, apply=_without(number)) for number, name in enumerate(channels)]
    with run.locked():
        run.channel_scores = found = score_changed(run, changes, cases=cases, device=device, label="predicting without channels")
    return found


def _check(run: Run) -> None:
    if not run.exists or not run.has_dataset:
        raise RunError(f"{run.path} holds no run with a dataset; give the folder that nnseg run made")


def _degrading(kind: DegradationKind, strength: float) -> Callable[[Scan, str], Scan | None]:
    """A function that degrades a scan, the same one always alike."""

    def apply(scan: Scan, case: str) -> Scan | None:
        return degrade(scan, kind, strength, np.random.default_rng([zlib.crc32(text.encode()) for text in (case, kind)]))

    return apply


def _without(channel: int) -> Callable[[Scan, str], Scan]:
    def apply(scan: Scan, case: str) -> Scan:
        return scan.without([channel])

    return apply
