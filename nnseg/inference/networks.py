"""The networks of a model, which turn tiles of preprocessed cases into logits, grouped by the tiles they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nnseg.core.errors import ModelError, RunError
from nnseg.core.labels import swapped_heads
from nnseg.core.options import Runtime
from nnseg.core.plan import Plan
from nnseg.inference.tiles import Window, batch_for
from nnseg.network.blocks import draw_channels
from nnseg.network.build import build_network
from nnseg.network.bundle import Member
from nnseg.network.device import autocast_dtype
from nnseg.network.inputs import network_input
from nnseg.network.runtimes import compile_network, fastest_network


class MemberNetwork:
    """A member's network on a device. The one-hot labels that a cascade's network gets are made tile by tile, to save memory.

    Args:
        member: the plan and weights of the network.
        network: maps tiles (B, C, *space) to logits (B, K, *space), or to a list of them, finest first.
        device: where it computes.
        make_network: the function that made the network from its plan, if it is the user's own.
        draw: number of the draw of channels that dropout drops; 0 to keep all.
    """

    def __init__(
        self,
        member: Member,
        network: nn.Module,
        device: torch.device,
        make_network: Callable[[Plan], nn.Module] | None = None,
        draw: int = 0,
    ) -> None:
        self.member, self.network, self.device, self._make_network, self._draw = member, network, device, make_network, draw
        if draw:
            draw_channels(network, draw)

    @classmethod
    def of(
        cls,
        member: Member,
        device: torch.device,
        make_network: Callable[[Plan], nn.Module] | None = None,
        draw: int = 0,
    ) -> MemberNetwork:
        """The network of a member, with its weights.

        Raises:
            ModelError: the weights are not those of the network that the plan describes.
        """
        return cls(member, inference_network(member, device, make_network or build_network), device, make_network, draw)

    @property
    def dtype(self) -> torch.dtype:
        """Of autocast on its device."""
        return autocast_dtype(self.device, self.member.plan.training.precision)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (C, *space) of the tiles that it computes."""
        return (self.member.plan.input_channels, *self.member.plan.patch)

    def on(self, device: torch.device) -> MemberNetwork:
        """A copy of the network on another device; this one is left as it is."""
        return MemberNetwork.of(self.member, device, self._make_network, self._draw)

    def compiled(self, runtime: Runtime, window: Window) -> MemberNetwork:
        """The network as another runtime computes it; itself for "torch".

        Raises:
            NnsegError: the extra for it is not installed.
            RunError: the network is on another device than the CPU.
        """
        if runtime == "torch":
            return self
        if self.device.type != "cpu":
            raise RunError(f"--runtime {runtime} computes on the CPU, and the device is {self.device}; add --device cpu")
        if runtime == "auto":
            network = fastest_network(self.network, self.input_shape, window.dtype, regions=window.sigmoid)
        else:
            network = compile_network(self.network, runtime, self.input_shape, window.dtype)
        return MemberNetwork(self.member, network, self.device, self._make_network)

    def randomized(self, share: float, seed: int) -> MemberNetwork:
        """A copy with the random weights of an untrained network in a share of the layers, from the last one on."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            untrained = (self._make_network or build_network)(self.member.plan).state_dict()
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in untrained))
        drawn = {*layers[len(layers) - math.ceil(share * len(layers)) :]}
        weights = {n: untrained[n] if n.rpartition(".")[0] in drawn else w for n, w in self.member.weights.items()}
        return MemberNetwork.of(replace(self.member, weights=weights), self.device, self._make_network)

    def __call__(self, tiles: Tensor, window: Window) -> Tensor:
        """Logits (B, K, z, y, x), float32, of tiles (B, C, z, y, x)."""
        tiles = network_input(tiles.to(self.device), self.member.plan)
        with torch.autocast(self.device.type, dtype=window.dtype, enabled=window.dtype != torch.float32):
            outputs = self.network(tiles.squeeze(2) if len(window.patch) == 2 else tiles)
        logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
        return (logits.unsqueeze(2) if len(window.patch) == 2 else logits).float()


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkGroup:
    """Networks with the same input tiles.

    Args:
        key: digest of the preprocessing of their scans.
        plan: of one of them; all preprocess alike.
        weight: of each network, relative to those of other groups.
    """

    key: str
    plan: Plan
    networks: tuple[MemberNetwork, ...]
    window: Window
    weight: float


def group_networks(
    networks: Sequence[MemberNetwork], windows: Sequence[Window], *, by_plan: bool = False
) -> tuple[NetworkGroup, ...]:
    """The networks grouped by preprocessing, window, weight and name of the plan (or the whole plan), in order of appearance."""
    found: dict[tuple[str, Window, float, str], list[MemberNetwork]] = {}
    for network, window in zip(networks, windows, strict=True):
        plan, weight = network.member.plan, network.member.weight
        name = plan.key() if by_plan else plan.name
        found.setdefault((plan.key("preprocessing", "previous"), window, weight, name), []).append(network)
    return tuple(
        NetworkGroup(key=key, plan=group[0].member.plan, networks=tuple(group), window=window, weight=weight)
        for (key, window, weight, _), group in found.items()
    )


def window_of(
    member: Member, device: torch.device, *, step: float | None = None, mirror: bool | None = None, classic: bool = False
) -> Window:
    """The sliding window of a member's network on a device; options as for `nnseg.inference.predict.Predictor`."""
    plan = member.plan
    axes = plan.inference.mirror_axes
    if mirror is not None:
        axes = (axes or plan.training.augmentation.mirror_axes) if mirror else ()
    return Window(
        patch=plan.patch,
        heads=len(plan.labels.heads),
        step=plan.inference.step if step is None else step,
        mirror_axes=axes,
        sigmoid=bool(plan.labels.regions),
        logits=classic,
        swap_axis=plan.training.augmentation.swap_axis,
        swaps=swapped_heads(plan.labels, plan.training.augmentation.swapped_labels) or (),
        previous_swaps=plan.training.augmentation.swapped_labels if plan.previous else (),
        batch=batch_for(plan.patch, max(plan.network.features[0], len(plan.labels.heads)), device),
        dtype=torch.float32 if classic else autocast_dtype(device, plan.training.precision),
        slices=plan.network.slices,
    )


def inference_network(member: Member, device: torch.device, make_network: Callable[[Plan], nn.Module] = build_network) -> nn.Module:
    """A member's network on ``device``, for inference: one tensor of logits, no gradients.

    It shares the member's memory where type and device allow.

    Args:
        make_network: from the plan to the network that the weights belong to.

    Raises:
        ModelError: the weights do not fit the network; names the first that does not.
    """
    # On "meta" no time and no random numbers go into initial weights that are overwritten; a user's network may not allow it.
    with torch.device("meta") if make_network is build_network else nullcontext():
        built = make_network(member.plan)
    expected = built.state_dict()
    _check_weights(expected, member)
    built.load_state_dict({n: member.weights[n].detach().to(t.dtype) for n, t in expected.items()}, assign=True)
    return built.requires_grad_(False).to(device).eval()


def _check_weights(expected: Mapping[str, Tensor], member: Member) -> None:
    where = f"the weights of fold {member.fold} do not fit their {member.plan.name} plan"
    for name, tensor in expected.items():
        found = member.weights.get(name)
        if found is None:
            raise ModelError(f"{where}: {name} is missing")
        if found.shape != tensor.shape:
            raise ModelError(f"{where}: {name} has shape {tuple(found.shape)}, expected {tuple(tensor.shape)}")
    extra = sorted(set(member.weights) - set(expected))
    if extra:
        raise ModelError(f"{where}: {extra[0]} is not in the network")
