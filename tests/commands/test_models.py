"""Models are pulled whole or not at all, whatever a hub, a connection or another process does; and pushed without replacing any."""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer, s3_server, served
from plan_examples import small_plan
from warm import nnseg

from nnseg import cli
from nnseg.commands import models
from nnseg.commands.models import list_models, pull, push, verify_models
from nnseg.core.errors import ModelError, WriteError
from nnseg.core.labels import Labels
from nnseg.core.options import Options
from nnseg.network.build import build_network
from nnseg.network.bundle import Member, Model, load_model_file, save_model
from nnseg.storage.hub import model_path, store_folder
from nnseg.storage.path_kinds import with_found_init


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two small models of different weights."""
    folder, plan = tmp_path_factory.mktemp("models"), small_plan(Labels(names=("background", "ball"), values=(0, 1)))
    made = folder / "a.nnseg", folder / "b.nnseg"
    for seed, file in enumerate(made):
        torch.manual_seed(seed)
        save_model(Model(members=(Member(plan=plan, fold=0, weights=build_network(plan).state_dict()),)), file)
    return made


@pytest.fixture
def hub(tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the model "ball"; nothing was pulled yet."""
    monkeypatch.setenv("NNSEG_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(models, "PAUSE_SECONDS", 0.01)
    push(files[0], str(tmp_path / "hub"), "ball", licence="CC-BY-4.0")
    return tmp_path / "hub"


@pytest.fixture
def server(hub: Path) -> Iterator[HubServer]:
    with served(hub) as found:
        yield found


def stored() -> set[str]:
    """What is in the local folder, also hidden files."""
    return {path.name for path in store_folder().glob("*")} | {path.name for path in store_folder().glob(".*")}


def test_a_pulled_model_is_that_which_was_pushed_and_predicts_by_its_name(hub: Path, files: tuple[Path, Path]) -> None:
    file = pull(str(hub), "ball", accept_licence=True)
    assert file.read_bytes() == files[0].read_bytes()
    assert model_path("ball") == file
    (model,) = list_models(str(hub))
    assert (model.title, model.labels, model.size) == ("ball@1", ("ball",), file.stat().st_size)
    assert [one.title for one in list_models()] == ["ball@1", "demo@1"]
    assert dict(verify_models(str(hub))) == {f"ball@1 in {hub}": "intact"}
    assert stored() == {"ball@1.nnseg", "models.json", ".lock"}


def test_a_licence_must_be_accepted_and_is_shown(hub: Path) -> None:
    with pytest.raises(ModelError, match=r"ball@1 has the licence CC-BY-4.0; .* --accept-licence"):
        pull(str(hub), "ball")
    assert not store_folder().exists()


def test_a_cut_download_goes_on_where_it_was(
    hub: Path, server: HubServer, files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    whole = files[0].read_bytes()
    server.cut = len(whole) // 3 - 1
    file = pull(server.url, "ball", accept_licence=True)
    assert file.read_bytes() == whole
    assert [start for path, start in server.asked if path.endswith(".nnseg")] == [server.cut * i for i in range(4)]
    assert "is not encrypted" in caplog.text


def test_a_download_that_ended_is_continued_by_the_same_command(hub: Path, server: HubServer, files: tuple[Path, Path]) -> None:
    whole = files[0].read_bytes()
    server.cut, half = 0, len(whole) // 2
    store_folder().mkdir()
    part = store_folder() / f".{hashlib.sha256(whole).hexdigest()}.part"
    part.write_bytes(whole[:half])
    with pytest.raises(ModelError, match=f"{half:,} of {len(whole):,} bytes of ball@1 came: .*repeat the command"):
        pull(server.url, "ball", accept_licence=True)
    assert part.read_bytes() == whole[:half]
    server.cut = None
    server.asked.clear()
    assert pull(server.url, "ball", accept_licence=True).read_bytes() == whole
    assert ("/ball@1.nnseg", half) in server.asked
    assert stored() == {"ball@1.nnseg", "models.json", ".lock"}


def test_a_server_without_ranges_sends_the_whole_again(hub: Path, server: HubServer, files: tuple[Path, Path]) -> None:
    whole = files[0].read_bytes()
    store_folder().mkdir()
    (store_folder() / f".{hashlib.sha256(whole).hexdigest()}.part").write_bytes(whole[: len(whole) // 2])
    server.ranges = False
    assert pull(server.url, "ball", accept_licence=True).read_bytes() == whole


@pytest.mark.parametrize("change", ["a bit", "more", "less", "another"])
def test_a_file_that_is_not_the_listed_one_is_refused_and_nothing_is_left(
    hub: Path, server: HubServer, files: tuple[Path, Path], change: str
) -> None:
    whole = bytearray(files[0].read_bytes())
    if change == "a bit":
        whole[len(whole) // 2] ^= 1
    changed = {"more": whole + b"x", "another": bytes(len(whole)), "less": whole[:-1]}.get(change, whole)
    (hub / "ball@1.nnseg").write_bytes(changed)
    with pytest.raises(ModelError, match="bytes of ball@1 came" if change == "less" else "has another content"):
        pull(server.url, "ball", accept_licence=True)
    assert {name for name in stored() if not name.endswith(".part")} == {".lock"}
    assert any(name.endswith(".part") for name in stored()) == (change == "less")
    assert model_path("ball") == Path("ball")
    assert [state for _, state in verify_models(server.url)] == ["damaged"]


def test_what_is_listed_but_no_model_is_refused(hub: Path) -> None:
    content = b"cos\nsystem\n(S'true'\ntR."
    index = json.loads((hub / "models.json").read_text())
    index["models"][0] |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (hub / "models.json").write_text(json.dumps(index))
    (hub / "ball@1.nnseg").write_bytes(content)
    with pytest.raises(ModelError, match="damaged or not a file of nnseg"):
        pull(str(hub), "ball", accept_licence=True)
    assert stored() == {".lock"}


def test_a_file_larger_than_the_disk_is_refused_before_it_is_read(hub: Path, server: HubServer) -> None:
    index = json.loads((hub / "models.json").read_text())
    index["models"][0]["size"] = 10**18
    (hub / "models.json").write_text(json.dumps(index))
    with pytest.raises(WriteError, match=r"it has 1,000,000,000,000.0 MB, and .* MB are free"):
        pull(server.url, "ball", accept_licence=True)
    assert [path for path, _ in server.asked] == ["/models.json"]


def test_a_hash_that_its_maker_has_told_pins_the_model(hub: Path, files: tuple[Path, Path]) -> None:
    right, wrong = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    with pytest.raises(ModelError, match=f"ball@1 has the SHA-256 {right}; expected {wrong}"):
        pull(str(hub), "ball", accept_licence=True, sha256=wrong)
    pull(str(hub), "ball", accept_licence=True, sha256=right.upper())


def test_a_damaged_local_file_is_pulled_again_but_another_model_of_the_name_stays(hub: Path, files: tuple[Path, Path]) -> None:
    file = pull(str(hub), "ball", accept_licence=True)
    file.write_bytes(b"damaged")
    assert [state for _, state in verify_models()] == ["damaged", "intact"]
    assert pull(str(hub), "ball", accept_licence=True).read_bytes() == files[0].read_bytes()
    other = hub.parent / "other"
    push(files[1], str(other), "ball", licence="MIT")
    with pytest.raises(ModelError, match=r"is another model, .*; delete it to take the other one"):
        pull(str(other), "ball", accept_licence=True)
    file.unlink()
    assert pull(str(other), "ball", accept_licence=True).read_bytes() == files[1].read_bytes()
    assert [one.licence for one in list_models()][:1] == ["MIT"]


def test_unknown_names_are_answered_with_those_that_there_are(hub: Path) -> None:
    for title in ("bal", "ball@2", "../ball", ""):
        with pytest.raises(ModelError, match=r"has no model .*; expected ball@1;"):
            pull(str(hub), title, accept_licence=True)


def _pull(url: str, barrier: Any) -> None:
    barrier.wait(60)
    pull(url, "ball", accept_licence=True)
    os._exit(0)  # without the ends of pytest


def test_four_processes_that_pull_at_once_download_once(hub: Path, server: HubServer, files: tuple[Path, Path]) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    children = [context.Process(target=_pull, args=(server.url, barrier)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 4
    assert [path for path, _ in server.asked if path.endswith(".nnseg")] == ["/ball@1.nnseg"]
    assert (store_folder() / "ball@1.nnseg").read_bytes() == files[0].read_bytes()
    assert stored() == {"ball@1.nnseg", "models.json", ".lock"}


def test_a_push_replaces_nothing_and_repairs_its_own_file(hub: Path, files: tuple[Path, Path]) -> None:
    before = (hub / "models.json").read_bytes()
    with pytest.raises(ModelError, match=r"has another ball@1 already; .* push it as another version"):
        push(files[1], str(hub), "ball", licence="CC-BY-4.0")
    push(files[0], str(hub), "ball", licence="CC-BY-4.0")
    assert (hub / "models.json").read_bytes() == before
    (hub / "ball@1.nnseg").write_bytes(b"damaged")
    push(files[0], str(hub), "ball", licence="CC-BY-4.0")
    assert (hub / "ball@1.nnseg").read_bytes() == files[0].read_bytes()
    (hub / "ball@2.nnseg").write_bytes(b"of somebody who lists nothing")
    with pytest.raises(ModelError, match="has another ball@2 already"):
        push(files[1], str(hub), "ball@2", licence="CC-BY-4.0")
    left = [folder / ".nnseg-00000000-1-00000000.models.json" for folder in (hub, store_folder())]  # by processes that were killed
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    push(files[1], str(hub), "ball@3", licence="CC-BY-4.0")
    assert pull(str(hub), "ball", accept_licence=True).name == "ball@3.nnseg"
    assert not any(file.exists() for file in left)


def test_only_models_are_pushed_with_a_licence_and_a_name(hub: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model")
    for file, title, licence, message in (
        (tmp_path / "text", "x", "MIT", "damaged or not a file of nnseg"),
        (tmp_path / "none", "x", "MIT", "there is no model"),
        (tmp_path, "x", "MIT", "is a folder; .*nnseg export"),
        (files[0], "../x", "MIT", "is no name of a model"),
        (files[0], "x", " ", "the licence is empty"),
    ):
        with pytest.raises(ModelError, match=message):
            push(file, str(hub), title, licence=licence)
    with pytest.raises(ModelError, match="can only be read"):
        push(files[0], "hf://someone/else", "x", licence="MIT")


def test_models_are_pushed_to_a_server_of_s3_and_pulled_from_it(
    hub: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3", reason='needs the extra "hub"')
    pytest.importorskip("moto.server", reason="needs the server of S3 of the tests", exc_type=ImportError)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="models")
        place = "s3://models/of/us"
        push(files[0], place, "ball", licence="MIT")
        with pytest.raises(ModelError, match="has another ball@1"):
            push(files[1], place, "ball", licence="MIT")
        whole = files[0].read_bytes()
        store_folder().mkdir()
        part = store_folder() / f".{hashlib.sha256(whole).hexdigest()}.part"
        part.write_bytes(bytes(100) + whole[100:1000])  # what stands there is not asked for again
        with pytest.raises(ModelError, match="has another content"):
            pull(place, "ball", accept_licence=True)
        part.write_bytes(whole[:1000])
        assert pull(place, "ball", accept_licence=True).read_bytes() == whole
        assert [state for _, state in verify_models(place)] == ["intact"]
        with pytest.raises(ModelError, match=r"cannot be used: .*NoSuchBucket"):
            list_models("s3://none/of/us")
        boto3.client("s3").delete_object(Bucket="models", Key="of/us/ball@1.nnseg")
        assert [state for _, state in verify_models(place)] == ["missing"]


def test_the_commands_push_list_pull_verify_and_show_a_card_by_name(
    hub: Path,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def printed(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["nnseg", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) == code
        return "".join(capfd.readouterr())

    assert "next: nnseg models pull hub ball@2" in printed("models", "push", str(files[1]), "hub", "ball@2", "--licence", "MIT")
    assert printed("models", "list", "hub").splitlines() == [
        f"ball@{version}: ball from CT; {file.stat().st_size / 1e6:.1f} MB; licence {licence}"
        for version, file, licence in zip((1, 2), files, ("CC-BY-4.0", "MIT"), strict=True)
    ]
    assert "--accept-licence" in printed("models", "pull", "hub", "ball", code=2)
    assert "--model ball" in printed("models", "pull", "hub", "ball", "--accept-licence")
    assert printed("models", "verify").startswith("intact   ball@2 in ")
    shutil.copy(files[0], tmp_path / "store" / "ball@2.nnseg")
    assert printed("models", "verify", code=1).startswith("damaged  ball@2")
    assert "Model card: HeadPhantoms" in printed("card", "demo")
    assert "there is no model here" in printed("card", "bal", code=2)
    assert "did you mean ball?" in printed("card", "bal", code=2)
    assert with_found_init(Options(init=Path("ball"))).init == tmp_path / "store" / "ball@2.nnseg"
    with pytest.raises(ModelError, match=r"there is no model here.*did you mean ball"):
        with_found_init(Options(init=Path("bal")))


def test_the_model_of_the_demonstration_is_small_and_intact() -> None:
    file = model_path("demo")
    assert file.stat().st_size < 3e6
    assert [state for name, state in verify_models() if name.startswith("demo@")] == ["intact"]
    model = load_model_file(file)
    assert (model.labels.foreground, model.channels) == (("nuclei", "lesion"), ("T1", "FLAIR"))
    assert model.card is not None
    assert b"/home" not in file.read_bytes()


def _set_store(folder: str) -> None:
    os.environ["NNSEG_MODELS"] = folder


@pytest.mark.slow
def test_phantoms_are_predicted_by_two_commands_without_training(tmp_path: Path) -> None:
    phantoms, out = tmp_path / "demo" / "phantoms", tmp_path / "out"
    written = nnseg("demo", tmp_path / "demo", "--data-only")
    assert written.stdout.splitlines()[-1] == f"next: nnseg predict {phantoms / 'imagesTr'} OUT --model demo"
    store = partial(_set_store, str(tmp_path / "store"))
    nnseg("predict", phantoms / "imagesTr", out, "--model", "demo", "--device", "cpu", inside=store)
    scored = nnseg("evaluate", out, phantoms / "labelsTr", "--tolerances", "none", "--json")
    dice = json.loads(scored.stdout)["result"]["scores"]["averages"]["per_mask"]["dice"]
    assert min(dice["labels"].values()) > 0.8
    assert not (tmp_path / "store").exists()
