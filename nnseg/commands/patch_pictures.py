"""Pictures of training patches for the report: what the network learns from, augmented, with the outlines of the labels."""

from __future__ import annotations

import numpy as np
import torch

from nnseg.core.errors import NnsegError, suppress_unless_fault
from nnseg.core.geometry import Grid, as_shape
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.pictures import Picture, draw_case
from nnseg.storage.cases import CaseStore
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run
from nnseg.training.patches import Batch, Patches

MOST_PATCHES = 8
MOST_CASES = 8
"""Training cases that patches are drawn from."""


def draw_patches(run: Run) -> list[Picture]:
    """The first patches of a training on a few cases of the first fold; none if preprocessed cases are missing or damaged."""
    folder, (number, fold) = run.plans[0], next(iter(run.folds.items()))
    if folder.plan.previous:
        return []
    with suppress_unless_fault(NnsegError):
        store = CaseStore.of(folder.cases, folder.plan)
        cases = [store.read(name) for name in fold.training[:MOST_CASES]]
        batch = Patches(cases, folder.plan, fold=number, device=torch.device("cpu")).batch(0)
        return [_draw(folder, batch, at) for at in range(min(MOST_PATCHES, len(batch.names)))]
    return []


def _draw(folder: PlanFolder, batch: Batch, at: int) -> Picture:
    labels, image = folder.plan.labels, batch.image[at].numpy()
    values = np.array([*labels.values, labels.values[0] if labels.ignore is None else labels.ignore])
    label_map = values[batch.labels[at].numpy()]  # the last, -1, is ignored
    if label_map.ndim == 2:
        image, label_map = image[:, None], label_map[None]
    case = CaseImages(
        name=batch.names[at],
        caption="training patch",
        image=image,
        grid=Grid(shape=as_shape(label_map.shape)),
        prediction=label_map,
        reference=None,
        labels=labels,
    )
    return draw_case(case).pictures[0]
