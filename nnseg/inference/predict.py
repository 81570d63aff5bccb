"""From a model and a scan to a label map on the scan's own grid."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nnseg.core.errors import ModelError, RunError
from nnseg.core.image import Floats, LabelMap, Scan
from nnseg.core.plan import Plan
from nnseg.core.sides import swapped_heads
from nnseg.inference.ensemble import average, groups
from nnseg.inference.sliding_window import Window, batch_for, sliding_window
from nnseg.network.bundle import Member, Model, build
from nnseg.network.device import autocast_dtype, resolve_device
from nnseg.network.inputs import network_input
from nnseg.preprocessing.preprocess import OwnNormalizer, preprocess, restore

log = logging.getLogger(__name__)

Answerer = tuple[Member, Callable[[Tensor], Tensor], Window]
"""A member, its network for tiles of preprocessed cases, and how they are cut."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a model says about a scan.

    Args:
        label_map: the decision, on the scan's canonical grid.
        probabilities: float32 (K, Z, Y, X) on the same grid, one for each of ``labels.heads``.
    """

    label_map: LabelMap
    probabilities: Floats


def predict(
    model: Model, scan: Scan, *, device: torch.device | str = "auto", step: float | None = None, mirror: bool = True
) -> Prediction:
    """The model's label map and probabilities for one scan; for many scans make one `Predictor`.

    Args:
        model: one or more members; in a cascade the previous networks answer first, and the members are shown what they say.
        scan: with the model's channels, in their order.
        device: where the networks compute: "auto", "cpu", "cuda:1", ...
        step: distance of neighbouring tiles as a share of the patch; absent for the plan's.
        mirror: also average over mirrored copies, along the plan's axes.

    Raises:
        ScanError: the scan has another number of channels.
        ModelError: weights do not fit their plan, or give no numbers, or a cascade's previous networks are missing.
    """
    return Predictor(model, device=device, step=step, mirror=mirror)(scan)


class Predictor:
    """A model made ready once, for many scans. Calls change nothing in it, so that threads may share one.

    Args: as for `predict`, and

        network: the function that made the networks, if they are of one's own.
        normalizer: that the cases were preprocessed with, if it is one's own.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: torch.device | str = "auto",
        step: float | None = None,
        mirror: bool = True,
        network: Callable[[Plan], nn.Module] | None = None,
        normalizer: OwnNormalizer | None = None,
    ) -> None:
        device = resolve_device(device) if isinstance(device, str) else device
        _check_shown(model)
        self.model = model
        self._device = device
        self._normalizer = normalizer
        self._groups = [
            [(m, network_of(m, device, network), window_of(m, device, step=step, mirror=mirror)) for m in g]
            for g in groups(model.members)
        ]
        self._previous: Predictor | None = None
        if model.previous:
            first = Model(members=model.previous)
            self._previous = Predictor(first, device=device, step=step, mirror=mirror, normalizer=normalizer)

    def __call__(self, scan: Scan) -> Prediction:
        """The prediction for one scan; raises as `predict` does."""
        previous = self._previous(scan).label_map if self._previous else None
        answers = (self._answer(group, scan, previous) for group in self._groups)
        probabilities = average(answers, [float(len(group)) for group in self._groups])
        label_map = LabelMap(labels=self.model.labels.decide(probabilities), grid=scan.grid)
        return Prediction(label_map=label_map, probabilities=probabilities)

    def _answer(self, group: list[Answerer], scan: Scan, previous: LabelMap | None) -> Floats:
        """Mean probabilities on the scan's grid of members that share their preprocessing."""
        plan = group[0][0].plan
        case = preprocess(scan, None, plan, previous=previous if plan.previous else None, normalizer=self._normalizer)
        image = torch.from_numpy(case.image).to(self._device)
        mean = average(_probabilities(network, image, window, m).cpu().numpy() for m, network, window in group)
        return restore(mean, case.placement, plan)


def network_of(member: Member, device: torch.device, own: Callable[[Plan], nn.Module] | None = None) -> Callable[[Tensor], Tensor]:
    """A member's network, made ready for tiles of preprocessed cases: what a cascade is shown takes room only tile by tile.

    Raises:
        ModelError: the weights are not those of the network that the plan describes.
    """
    network, plan = build(member, device, own), member.plan
    if plan.previous is None and own is None:
        return network

    def answer(tiles: Tensor) -> Tensor:
        outputs: Tensor | list[Tensor] = network(network_input(tiles, plan))
        return outputs if isinstance(outputs, Tensor) else outputs[0]  # of all its stages, the finest

    return answer


def window_of(member: Member, device: torch.device, *, step: float | None = None, mirror: bool = True) -> Window:
    """How a member's tiles are cut and sent through its network on a device."""
    plan = member.plan
    return Window(
        patch=plan.patch,
        heads=len(plan.labels.heads),
        step=plan.inference.step if step is None else step,
        mirror_axes=plan.inference.mirror_axes if mirror else (),
        sigmoid=bool(plan.labels.regions),
        swap_axis=plan.training.augmentation.swap_axis,
        swaps=swapped_heads(plan.labels, plan.training.augmentation.swapped_labels) or (),
        previous_swaps=plan.training.augmentation.swapped_labels if plan.previous else (),
        batch=batch_for(plan.patch, plan.network.features[0], device),
        dtype=autocast_dtype(device, plan.training.precision),
    )


def _check_shown(model: Model) -> None:
    for plan in (member.plan for member in model.members):
        if plan.previous and all(shown.plan.name != plan.previous for shown in model.previous):
            raise ModelError(
                f"the {plan.name} network is shown the answer of {plan.previous}, which this model lacks; use the run "
                "folder, or a file that nnseg export made of it"
            )


def _probabilities(network: Callable[[Tensor], Tensor], image: Tensor, window: Window, member: Member) -> Tensor:
    """One member's answer on the network's grid, with smaller batches where the device's memory is too small."""
    while True:
        try:
            probabilities = sliding_window(network, image, window)
            break
        except torch.OutOfMemoryError:
            if window.batch == 1:
                raise RunError(f"{image.device} has too little memory for one {window.patch} patch; use --device cpu") from None
            window = replace(window, batch=window.batch // 2)
            log.warning("%s is out of memory; going on with %d tiles at a time", image.device, window.batch)
    if not bool(torch.isfinite(probabilities).all()):
        raise ModelError(f"the network of fold {member.fold} ({member.plan.name}) gave values that are not numbers; train it again")
    return probabilities
