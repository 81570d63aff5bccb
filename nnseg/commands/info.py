"""``nnseg info``: the versions, the machine and the extras that nnseg finds."""

from __future__ import annotations

import platform

from nnseg.core.frozen import FrozenModel
from nnseg.core.processors import default_workers
from nnseg.network.device import autocast_dtype, device_names, resolve_device
from nnseg.system.extras import EXTRAS, has_extra, how_to_install
from nnseg.system.machine import free_ram_gb, total_ram_gb, versions


class Information(FrozenModel):
    """What nnseg finds on a machine.

    Args:
        python: its version.
        system: name and version of the operating system, and the kind of processor.
        packages: versions of those that can change a result.
        cores: processor cores that this process may use.
        ram_gb, free_ram_gb: memory that this process may use, and what is free of it.
        devices: that networks can compute on, the one that "auto" means last.
        precision: that networks are trained in there.
        extras: for each optional part, "" if it is installed, else the command that installs it.
    """

    python: str
    system: str
    packages: dict[str, str]
    cores: int
    ram_gb: float
    free_ram_gb: float
    devices: tuple[str, ...]
    precision: str
    extras: dict[str, str]

    def lines(self) -> tuple[str, ...]:
        """All of it for people."""
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items() if name != "nnseg")
        return (
            f"nnseg {self.packages['nnseg']}, Python {self.python}, {self.system}",
            f"cores: {self.cores}; memory: {self.ram_gb:.1f} GB, {self.free_ram_gb:.1f} GB free",
            f"devices: {', '.join(self.devices)}; networks are trained on {self.devices[-1]} in {self.precision}",
            f"packages: {packages}",
            *(f"extra {name}: {f'not installed; {command}' if command else 'installed'}" for name, command in self.extras.items()),
        )


def information() -> Information:
    """What nnseg finds on this machine; takes seconds, since torch is loaded and types are timed."""
    return Information(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        packages=versions(),
        cores=default_workers(),
        ram_gb=round(total_ram_gb(), 1),
        free_ram_gb=round(free_ram_gb(), 1),
        devices=tuple(device_names()),
        precision=str(autocast_dtype(resolve_device("auto"), "auto")).removeprefix("torch."),
        extras={name: "" if has_extra(name) else how_to_install(name) for name in EXTRAS},
    )
