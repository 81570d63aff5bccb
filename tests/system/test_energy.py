"""Energy counters, on files as Linux shows them and on a stand-in for NVIDIA's library."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from nnseg.core.schedule import Epoch
from nnseg.system.energy import EnergyMeter


def zone(folder: Path, place: str, *, name: str, count: int, span: int = 262143328850) -> Path:
    path = folder / place
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{span}\n")
    (path / "energy_uj").write_text(f"{count}\n")
    return path / "energy_uj"


@pytest.fixture(autouse=True)
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_the_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", name="package-0", count=1_000_000)
    second = zone(tmp_path, "intel-rapl:1", name="package-1", count=7_000_000)
    cores = zone(tmp_path, "intel-rapl:0:0", name="core", count=500_000)
    platform = zone(tmp_path, "intel-rapl:2", name="psys", count=0)
    again = zone(tmp_path, "intel-rapl-mmio:0", name="package-0", count=0)
    meter = EnergyMeter(powercap=tmp_path)
    assert meter.joules() == 0
    first.write_text("3500000\n")
    second.write_text("7250000\n")
    for other in (cores, platform, again):
        other.write_text("900000000\n")
    assert meter.joules() == pytest.approx(2.75)


def test_a_counter_that_began_anew_goes_on(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", name="package-0", count=99_000_000, span=100_000_000)
    meter = EnergyMeter(powercap=tmp_path)
    for count, total in ((2_000_000, 3), (52_000_000, 53), (1_000_000, 102)):
        file.write_text(f"{count}\n")
        assert meter.joules() == pytest.approx(total)


def test_there_is_no_energy_where_nothing_counts_or_may_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyMeter(powercap=tmp_path / "missing").joules() is None
    file = zone(tmp_path, "intel-rapl:0", name="package-0", count=1)
    meter = EnergyMeter(powercap=tmp_path)
    read = Path.read_text

    def refuse(path: Path, *arguments: object) -> str:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert EnergyMeter(powercap=tmp_path).joules() is None
    assert meter.joules() is None


def test_cards_are_counted_by_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, millijoules = ModuleType("pynvml"), {"GPU-a": 1000, "GPU-b": 9000}
    library.NVMLError = type("NVMLError", (Exception,), {})
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetCount = lambda: 2
    library.nvmlDeviceGetHandleByIndex = list(millijoules).__getitem__
    library.nvmlDeviceGetHandleByUUID = str
    library.nvmlDeviceGetTotalEnergyConsumption = millijoules.__getitem__
    monkeypatch.setitem(sys.modules, "pynvml", library)
    package = zone(tmp_path, "intel-rapl:0", name="package-0", count=0)
    all_cards, one_card = EnergyMeter(powercap=tmp_path), EnergyMeter(powercap=tmp_path, gpus=["GPU-b"])
    millijoules.update({"GPU-a": 3000, "GPU-b": 9500})
    package.write_text("250000\n")
    assert all_cards.joules() == pytest.approx(2.75)
    assert one_card.joules() == pytest.approx(0.75)

    def old(card: str) -> int:
        raise library.NVMLError("Not Supported")

    library.nvmlDeviceGetTotalEnergyConsumption = old
    assert one_card.joules() is None
    assert EnergyMeter(powercap=tmp_path / "missing").joules() is None


def test_there_is_no_energy_with_the_library_but_without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})

    def init() -> None:
        raise library.NVMLError("Driver Not Loaded")

    library.nvmlInit = init
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert EnergyMeter(powercap=tmp_path).joules() is None


def test_lines_of_a_history_from_before_energy_was_counted_can_be_read() -> None:
    old = '{"number":1,"step":50,"steps":100,"loss":1.5,"learning_rate":0.1,"dice":{"a":null},"seconds":2.0,"total_seconds":2.0}'
    epoch = Epoch.model_validate_json(old)
    assert epoch.joules is None
    assert epoch.cpu_seconds is None
    counted = epoch.model_copy(update={"joules": 12.5, "cpu_seconds": 3.0})
    assert Epoch.model_validate_json(counted.model_dump_json()) == counted
