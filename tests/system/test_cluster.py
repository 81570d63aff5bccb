"""Work on the machines of a cluster: nothing is lost or done twice when processes, machines and the command itself are killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from standin import start, task, write_scan
from warm import nnseg

from nnseg.commands.train import train
from nnseg.core.errors import NnsegError, RunError
from nnseg.core.options import Options
from nnseg.serving.folder import predict_scans
from nnseg.serving.messages import PredictionOrder
from nnseg.serving.pool import WorkerPool
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.predictions import SHARDS
from nnseg.system.cluster import Share, computed_on, connected
from nnseg.system.parallel import map_items


def test_a_process_takes_a_gpu_with_its_part_of_the_cores_or_else_a_machine():
    two_cards, one_card, none = {"CPU": 16.0, "GPU": 2.0}, {"CPU": 6.0, "GPU": 1.0}, {"CPU": 4.0}
    assert Share.of([two_cards, one_card, none]) == Share(cores=6, gpus=1, of_machine=0.5, count=3)
    assert Share.of([two_cards, one_card, none], gpus=False) == Share(cores=4, gpus=0, of_machine=1.0, count=3)
    assert Share.of([none, {"memory": 1e9}]) == Share(cores=4, gpus=0, of_machine=1.0, count=1)
    with pytest.raises(RunError, match="no machine of the cluster has processor cores"):
        Share.of([{"memory": 1e9}])


def test_without_the_extra_a_cluster_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("nnseg.system.extras.has_extra", lambda name: False)
    with pytest.raises(NnsegError, match=r'clusters need an extra: pip install "nnseg\[cluster\]"'), connected("local"):
        pass


def test_an_address_without_a_cluster_is_named():
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    with pytest.raises(NnsegError, match=r"there is no Ray cluster at 127\.0\.0\.1:9 "), connected("127.0.0.1:9"):
        pass


def test_without_an_address_there_is_no_cluster():
    with connected(None) as cluster, computed_on(None):
        assert cluster is None
        assert sorted(one.result for one in map_items(abs, [-1, -2, -3], workers=1)) == [1, 2, 3]


class TwoMachines:
    """A cluster of two machines with a core each, both of them this one."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        few = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": f"{folder}/ray", **few})
        self._few, self.address = few, self._cluster.address
        self.add()

    def add(self) -> None:
        """Add the second machine."""
        self.second = self._cluster.add_node(num_cpus=1, **self._few)

    def lose(self) -> None:
        """Kill the second machine's own process, with which all others on it end, and add another machine."""
        os.kill(self.second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self.add()

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def machines():
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short paths
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[1]))))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)  # TMPDIR may be long, or without a folder ray
        two = TwoMachines(folder)
        yield two
        two.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def kill_one_of(command: str) -> None:
    """Kill one of the processes that have a word on their command line."""
    for process in psutil.process_iter(["cmdline"]):
        if command in (process.info["cmdline"] or ()):
            process.kill()
            return
    raise AssertionError(f"no process of {command} is there")


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_each_item_is_done_once_though_processes_and_a_machine_die(machines, tmp_path):
    def work(number: int) -> int:
        with (tmp_path / f"{number}").open("a") as file:
            file.write("x")
        times = (tmp_path / f"{number}").stat().st_size
        if number == 13 or (number == 7 and times == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 21:
            raise NnsegError("no result of this")
        time.sleep(0.02)
        return number**2

    found = []
    with computed_on(machines.address):
        for outcome in map_items(work, range(300), workers=1):
            found.append(outcome)
            if len(found) == 100:
                machines.lose()
    assert sorted(one.item for one in found) == list(range(300))
    failed = {one.item: one.reason for one in found if one.reason}
    assert failed.keys() == {13, 21}
    assert failed[21] == "no result of this"
    assert failed[13].endswith("was lost, or its process there was killed (3 times)")
    assert 3 <= (tmp_path / "13").stat().st_size <= 6  # alone, and before with others: again where the reply before was lost too
    assert {one.item: one.result for one in found if not one.reason} == {n: n**2 for n in range(300) if n not in failed}


def predict(address: str, scans: Path, out: Path, disturb=None):
    """The prediction of a folder by stand-ins, with something else done after each case."""
    order = PredictionOrder(models=(Path("model"),), out=out, device="cpu")
    with connected(address) as cluster:
        share = cluster.share()
        with WorkerPool(order, cluster=cluster, start=lambda _: cluster.launch("standin", share), memory_gb=100.0) as workers:
            if disturb:
                predicted = workers.predict

                def disturbed(tasks):
                    for number, one in enumerate(predicted(tasks)):
                        yield one
                        disturb(number)

                workers.predict = disturbed
            return predict_scans(scans, workers)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("seed", range(2))
def test_scans_are_predicted_as_on_one_machine_though_processes_and_a_machine_die(machines, tmp_path, seed):
    names = [f"scan_{number:02}" for number in range(20)] + ["deadly", "fragile"]
    kill_at, lose_at = random.Random(seed).sample(range(17), 2)
    for name in names:
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")

    def disturb(number: int) -> None:
        if number == kill_at:
            kill_one_of("standin")
        if number == lose_at:
            machines.lose()

    done = predict(machines.address, tmp_path / "scans", tmp_path / "out", disturb)
    assert [name for name, record in done.scans.items() if record.status == "failed"] == ["deadly"]
    assert done.scans.keys() == set(names)
    assert done.scans["deadly"].attempts == 3
    assert "third attempt, alone" in done.scans["deadly"].reason
    assert done.scans["fragile"].attempts in (2, 3)  # in the first, its process may have been killed before by others
    seen = Counter(path.name.split("_", 2)[2] for path in tmp_path.glob("seen_*"))
    assert len(seen) == len(names)
    (tmp_path / "scans" / "deadly.nii.gz").unlink()
    again = predict(machines.address, tmp_path / "scans", tmp_path / "out")
    assert len(again.kept) == len(names) - 1
    assert Counter(path.name.split("_", 2)[2] for path in tmp_path.glob("seen_*")) == seen
    shutil.move(tmp_path / "out", tmp_path / "cluster")
    with WorkerPool(PredictionOrder(models=(Path("model"),), out=tmp_path / "out", device="cpu"), start=start) as workers:
        workers.ready()
        alone = dict(workers.predict([task(tmp_path / "scans", name) for name in names[:-2]]))
    for name, record in alone.items():
        assert record.hash == done.scans[name].hash, name
        assert (tmp_path / "cluster" / record.file).read_bytes() == (tmp_path / "out" / record.file).read_bytes(), name


COMMAND = """
import sys
from pathlib import Path
from test_cluster import predict
from nnseg.storage import shards
shards.MOST_LINES = 4
address, scans, out = sys.argv[1:]
predict(address, Path(scans), Path(out))
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_another_command_continues_what_a_killed_one_has_begun(machines, tmp_path):
    names = [f"scan_{number:03}" for number in range(150)]
    for name in names:
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")
    out = tmp_path / "out"
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, machines.address, tmp_path / "scans", out], cwd=Path(__file__).parent
    )
    while not len(list((out / SHARDS).glob("*.jsonl"))) > 3:
        assert command.poll() is None
        time.sleep(0.05)
    command.kill()
    command.wait()
    lines = [json.loads(line) for path in (out / SHARDS).glob("*.jsonl") for line in path.read_text().splitlines()]
    recorded = {line["case"] for line in lines}
    assert len(lines) == len(recorded) > 15
    done = predict(machines.address, tmp_path / "scans", out)
    assert done.kept == recorded
    assert {record.status for record in done.scans.values()} == {"done"}
    assert sorted(done.scans) == names == sorted(path.name.split(".")[0] for path in out.glob("*.nii.gz"))
    assert not (out / SHARDS).exists()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_training_goes_on_elsewhere_when_its_machine_is_lost(machines, ball_dataset, tiny_recipe, tmp_path):
    run, calm = tmp_path / "run", tmp_path / "calm"
    nnseg("plan", ball_dataset, run, "--recipe", tiny_recipe, "--no-probe", "--device", "cpu")
    nnseg("preprocess", run)
    plan = run / "plan.toml"
    plan.write_text(plan.read_text().replace('precision = "auto"', 'precision = "float32"'))
    shutil.copytree(run, calm)
    train(calm, Options(folds=(0, 1), device="cpu", steps=300, workers=1), predict=NotImplemented)
    checkpoints = [PlanFolder(run).fold(number).checkpoint_file for number in (0, 1)]
    command = [sys.executable, "-m", "nnseg", "train", run, "--cluster", machines.address, "--device", "cpu", "--folds", "0,1"]
    with subprocess.Popen(
        [*command, "--steps", "300", "--checkpoint", "0.5s"], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as training:
        while not all(map(Path.exists, checkpoints)):
            assert training.poll() is None
            time.sleep(0.05)
        machines.lose()
        said = training.communicate()[1]
    assert training.returncode == 0, said
    assert "it goes on elsewhere from its last checkpoint" in said, said
    assert "resuming from step" in said
    for number in (0, 1):
        one, other = (PlanFolder(folder).fold(number).model_file.read_bytes() for folder in (run, calm))
        assert one == other, number
