"""Probabilities of held-out cases by the networks of their folds, on the network's grid, for a network that learns from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from nnseg.core.frozen import digest
from nnseg.inference.networks import MemberNetwork, window_of
from nnseg.inference.sliding_window import sliding_window
from nnseg.network.bundle import Member, load_model_file
from nnseg.network.device import resolve_device
from nnseg.network.load import with_own_window
from nnseg.storage.case_levels import levels_of
from nnseg.storage.cases import CaseStore, StoredCase
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Folds, Run
from nnseg.system.progress import stage

VERSION = 1
"""Raised when the code gives other probabilities for the same network and case, so that they are predicted anew."""


def write_probabilities(
    run: Run, folder: PlanFolder, folds: Folds, keys: Mapping[str, str], store: CaseStore, *, device: str = "auto"
) -> dict[str, str]:
    """Predict the held-out preprocessed cases of each fold with the fold's network, and write the probabilities into a store.

    Those that are there already, by the same network, are kept; cases that failed preprocessing are left out.

    Args:
        run: with its sliding windows.
        folder: of a plan that is no cascade, with its trained folds.
        folds: that are trained.
        keys: of the plan's preprocessed cases, by name.
        store: for the probabilities, see `nnseg.storage.case_levels`.
        device: to compute on.

    Returns:
        The keys of the cases in the store, by name.

    Raises:
        DamagedCaseError: a preprocessed case is missing or damaged.
        ModelError: a network gives no numbers.
    """
    images, found, due = CaseStore.of(folder.cases, folder.plan), dict[str, str](), list[tuple[Member, str]]()
    for number, fold in folds.items():
        model = load_model_file(folder.fold(number).model_file)
        member = with_own_window(model.members[0], run)
        made_by = digest([VERSION, model.key(), member.plan.key("inference")])
        for name in (name for name in fold.held_out if name in keys and images.has(name, keys[name])):
            found[name] = digest([keys[name], made_by])
            if not (store.has(name, found[name]) and store.is_intact(name)):
                due.append((member, name))
    target, network = resolve_device(device), None
    with stage("probabilities of held-out cases" if due else "", total=len(due), count=len(due)) as shown:
        for member, name in due:
            if network is None or network.member is not member:
                network = MemberNetwork.of(member, target)
            case = images.read(name)
            store.write_levels(case, _predict(case, network), found[name], dimensions=member.plan.dimensions)
            shown.advance()
    return found


def _predict(case: StoredCase, network: MemberNetwork) -> npt.NDArray[np.uint8]:
    """The levels (F, Z, Y, X) of a network's probabilities of a preprocessed case."""
    image, plan = torch.from_numpy(np.asarray(case.image[...])), network.member.plan
    with torch.inference_mode():
        slabs = sliding_window([network], image, window_of(network.member, network.device))
        return np.concatenate([levels_of(slab.cpu().numpy(), plan.labels) for slab in slabs], axis=1)
