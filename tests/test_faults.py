"""Commands of which a call fails, or a process is killed, leave nothing half-written, lose nothing, and converge when repeated.

A seeded sample of what `benchmarks/faults.py` does for every call of every command.
"""

import random
import shutil
import sys
from collections.abc import Iterator

import pytest
from faults import COMMANDS, DAMAGE, KINDS, Rig, rig

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None,
    reason="needs Linux and a C compiler to stand between nnseg and the system",
)
LONG = ("submit", "package", "export --torch", "export --onnx")
"""Commands of a thousand calls, or of many seconds, which benchmarks/faults.py alone disturbs."""

SLOW = [name for name in COMMANDS if name not in ("plan", "preprocess", "run", "run again", "card", *LONG)]


@pytest.fixture(scope="module")
def made() -> Iterator[Rig]:
    with rig() as made:
        yield made


def _fail(made: Rig, name: str, kind: str, seed: int) -> None:
    """Let a random call of a command fail."""
    count = made.reference(name).count(kind)
    if count:
        at = random.Random(f"{name} {kind} {seed}").randint(1, count)
        ended, wrong = made.disturb(name, kind, at)
        assert ended.reached, f"call {at} of {count} was not made"
        assert not wrong, f"{kind} at call {at}: {wrong}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["plan", "preprocess"])
def test_a_failing_call_loses_nothing(made: Rig, name: str, kind: str) -> None:
    _fail(made, name, kind, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SLOW)
def test_a_failing_call_of_any_command_loses_nothing(made: Rig, name: str, kind: str) -> None:
    _fail(made, name, kind, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no space", "killed"])
def test_label_maps_whose_record_could_not_be_written_are_known_again(made: Rig, kind: str) -> None:
    calls = made.reference("predict").calls
    last = max(k for k, call in enumerate(calls) if (call.what, call.path) == ("rename", "new/predictions.json"))
    at = sum(call.what != "read" for call in calls[: last + 1])
    ended, wrong = made.disturb("predict", kind, at)
    assert ended.reached and not wrong


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_killed_process_loses_nothing(made: Rig, seed: int) -> None:
    chance = random.Random(seed)
    _, wrong = made.kill(chance.choice(("plan", "preprocess", "train", "predict", "export")), chance)
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("run/fold_0/model.nnseg", "predict"),
        ("balls/imagesTr/ball_01.nii.gz", "check"),
        ("run/scores.json", "compare"),
        ("nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth", "import"),
    ],
)
def test_a_damaged_file_is_refused_or_does_no_harm(made: Rig, path: str, name: str, how: str) -> None:
    assert made.damage(path, how, name, random.Random(f"{path} {how}")) in ("refused", "no other result")
