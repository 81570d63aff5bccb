"""What the rows of gpu.py share: where they compute, on which plans and cases, and what they find."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from learners import made_cases, made_plan

from nnseg.core.dataset import Fold
from nnseg.core.plan import Network, Plan
from nnseg.network.device import autocast_dtype, has_triton
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.files import read_json
from nnseg.training.context import TrainingContext

PREPARED = ("nnunet", "auto")
"""Recipes whose plans are prepared."""


class NotHereError(Exception):
    """A row needs what this machine or the folder lacks."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a row has found.

    Args:
        text: for the table.
        numbers: for the file.
        passed: for a check, whether all is as it must be; None for a measurement.
    """

    text: str
    numbers: dict[str, Any] = field(default_factory=dict)
    passed: bool | None = None

    @property
    def outcome(self) -> str:
        """In a word."""
        return "measured" if self.passed is None else "passed" if self.passed else "failed"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a row computes.

    Args:
        folder: of what was prepared.
        device: of the networks.
        threads: of the processor; 0 for torch's own choice.
        small: use small networks and few steps.
        seconds: that the row may take.
    """

    folder: Path
    device: torch.device
    threads: int = 0
    small: bool = False
    seconds: float = 60.0

    @property
    def on_cuda(self) -> bool:
        """True where there are CUDA's events, graphs and limits of memory."""
        return self.device.type == "cuda"

    def need_triton(self) -> None:
        """Raise NotHereError where kernels in Triton cannot be compiled."""
        if not has_triton(self.device):
            raise NotHereError("needs CUDA and the package triton")

    def context(self, plan: Plan, precision: str = "") -> TrainingContext:
        """Of a training of the plan, in the device's own precision unless one is given."""
        precision = precision or ("float32" if self.small else "auto")
        return TrainingContext(plan=plan, fold=0, device=self.device, dtype=autocast_dtype(self.device, precision))

    def prepared_plan(self, recipe: str) -> Plan:
        """The plan that was prepared with a recipe.

        Raises:
            NotHereError: none was.
        """
        path = self.folder / f"{recipe}.json"
        if not path.exists():
            raise NotHereError(f"{path} is not there; see --prepare")
        plan = Plan.model_validate_json(path.read_text())
        return reduced(plan) if self.small else plan

    def prepared_cases(self) -> tuple[list[StoredCase], list[StoredCase]]:
        """The cases to train on, and those held out.

        Raises:
            NotHereError: none were prepared.
        """
        path = self.folder / "folds.json"
        if not path.exists():
            raise NotHereError(f"{path} is not there; see --prepare")
        store, fold = CaseStore(self.folder / "cases"), read_json(path, tuple[Fold, ...])[0]
        return [store.read(name) for name in fold.training], [store.read(name) for name in fold.held_out]

    def made_plan(self, edge: int, *, residual: bool = False) -> Plan:
        """A U-Net of nnU-Net's size, plain or as its preset ResEnc-L, on cubes of noise, two a batch."""
        plan = made_plan(edge=edge, batch=2)
        return reduced(plan) if self.small else plan.model_copy(update={"network": large_network(residual=residual)})

    def made_cases(self) -> list[Any]:
        """Cases of noise to draw patches of a made plan from."""
        return _made_cases(24 if self.small else 224)


@cache
def _made_cases(edge: int) -> list[Any]:
    return made_cases(edge=edge, count=2)


def large_network(*, residual: bool) -> Network:
    """The U-Net that nnU-Net plans for large patches, and that of its preset ResEnc-L.

    Source: Isensee et al. 2021 and 2024; nnU-Net 2.8.1's planners.
    """
    stages = 6
    return Network(
        kind="residual" if residual else "plain",
        features=(32, 64, 128, 256, 320, 320),
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
        blocks=(1, 3, 4, 6, 6, 6) if residual else (2,) * stages,
        decoder_blocks=(1 if residual else 2,) * (stages - 1),
    )


def reduced(plan: Plan) -> Plan:
    """The plan with a network and patches that a processor computes in no time."""
    network = Network(
        kind=plan.network.kind,
        features=(4, 8),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3),) * 2,
        blocks=(1, 1),
        decoder_blocks=(1,),
    )
    training = plan.training.model_copy(update={"batch_size": 2, "epoch_steps": 2})
    return plan.model_copy(update={"patch": (16, 16, 16), "network": network, "training": training})
