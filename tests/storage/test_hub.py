"""Lists of models: what is refused in them, and how a local model is found by its name. Files of hubs, with what servers may do."""

import json
from pathlib import Path

import pytest
from hub_server import served

from nnseg.core.errors import ModelError
from nnseg.storage.hub import HubIndex, ListedModel, model_path, read_index, split_title, store_folder, write_index
from nnseg.storage.hub_files import open_range, parts_of, put

ENTRY = {
    "name": "liver", "version": "1", "file": "liver@1.nnseg", "size": 7, "sha256": "0" * 64, "licence": "CC0-1.0",
    "labels": ["liver"], "channels": ["CT"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def listed(**changes: object) -> ListedModel:
    return ListedModel.model_validate(ENTRY | changes)


def content_of(hub: str, name: str, start: int = 0) -> tuple[int, bytes]:
    with open_range(hub, name, start) as (begins, source):
        return begins, b"".join(parts_of(source, 1000))


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../liver.nnseg"}, {"file": "/etc/passwd"}, {"file": "a\\b"}, {"file": ""}, {"file": "a\x1b[2J"}, {"name": "../x"},
        {"name": "con"}, {"name": "a/b"}, {"name": ".hidden"}, {"name": "a@2"}, {"name": "a" * 101}, {"name": "liver\n"},
        {"version": "../1"}, {"version": ""}, {"size": 0}, {"size": -1}, {"size": "all"}, {"sha256": "0" * 63},
        {"sha256": "G" * 64}, {"licence": ""}, {"licence": "x" * 301}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_list_with_hostile_entries_is_refused_with_the_place(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "models.json").write_text(json.dumps({"format": 1, "models": [ENTRY, ENTRY | changes]}))
    with pytest.raises(ModelError, match=rf"models\.json, models\.1\.{next(iter(changes))}: ") as refused:
        read_index(str(tmp_path))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"format": 2}', '{"models": 1}', "[" * 10**5, '{"format": ' + "9" * 5000 + "}"]
)
def test_what_is_no_list_of_models_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "models.json").write_text(content)
    with pytest.raises(ModelError, match="expected a list of models"):
        read_index(str(tmp_path))


def test_a_list_that_is_too_long_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNSEG_LIMITS", "text_bytes=1000")
    (tmp_path / "models.json").write_text(" " * 1001)
    with pytest.raises(ModelError, match="too long; expected at most 1,000 bytes"):
        read_index(str(tmp_path))


def test_a_folder_without_a_list_is_no_hub_but_may_become_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no models\.json"):
        read_index(str(tmp_path))
    assert read_index(str(tmp_path), new=True) == HubIndex()
    write_index(str(tmp_path / "new"), HubIndex(models=(listed(),)))
    assert read_index(str(tmp_path / "new")).models == (listed(),)


def test_the_newest_model_of_a_name_is_found_and_a_version_by_its_own() -> None:
    index = HubIndex(models=(listed(), listed(version="2"), listed(name="lung")))
    assert index.find("liver") == listed(version="2")
    assert index.find("liver@1") == listed()
    assert index.find("liver@3") is None
    again = index.with_model(listed(licence="MIT"))
    assert [one.licence for one in again.models] == ["CC0-1.0", "CC0-1.0", "MIT"]


def test_a_title_is_a_name_with_a_version_or_without() -> None:
    assert split_title("liver") == ("liver", "1")
    assert split_title("liver@2.0") == ("liver", "2.0")
    for wrong in ("../liver", "liver@../1", "", "li ver"):
        with pytest.raises(ModelError, match="is no name of a model"):
            split_title(wrong)


def test_a_model_is_found_by_its_name_where_nothing_has_this_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNSEG_MODELS", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    assert model_path("liver") == Path("liver")
    write_index(str(tmp_path / "store"), HubIndex(models=(listed(), listed(version="2", file="new.nnseg"))))
    assert model_path("liver") == tmp_path / "store" / "new.nnseg"
    assert model_path("liver@1") == tmp_path / "store" / "liver@1.nnseg"
    assert model_path("./liver") == Path("liver")  # a path; pathlib drops its dot
    assert model_path("run/liver") == Path("run/liver")
    (tmp_path / "liver").mkdir()
    assert model_path("liver") == Path("liver")
    assert model_path("demo").is_file()


def test_the_local_folder_follows_xdg_and_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNSEG_MODELS", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert store_folder() == Path("/home/someone/.local/share/nnseg/models")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert store_folder() == Path("/data/nnseg/models")
    monkeypatch.setenv("NNSEG_MODELS", "/models")
    assert store_folder() == Path("/models")


def test_files_are_read_from_a_byte_on(tmp_path: Path) -> None:
    (tmp_path / "a b@1#?.txt").write_bytes(b"0123456789")
    with served(tmp_path) as server:
        for hub in (str(tmp_path), server.url, f"{server.url}/"):
            assert content_of(hub, "a b@1#?.txt") == (0, b"0123456789")
            assert content_of(hub, "a b@1#?.txt", 4) == (4, b"456789")
            with pytest.raises(FileNotFoundError):
                content_of(hub, "none")
        server.ranges = False
        assert content_of(server.url, "a b@1#?.txt", 4) == (0, b"0123456789")


def test_a_repository_in_the_layout_of_hugging_face_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for revision in ("main", "v1.0"):
        folder = tmp_path / "someone" / "liver" / "resolve" / revision
        folder.mkdir(parents=True)
        (folder / "a").write_text(revision)
    with served(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert content_of("hf://someone/liver", "a") == (0, b"main")
        assert content_of("hf://someone/liver@v1.0", "a") == (0, b"v1.0")
        with pytest.raises(ModelError, match="write hf://OWNER/NAME"):
            content_of("hf://liver", "a")


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,x", "http://127.0.0.2:1/a", "//127.0.0.2:1/a"])
def test_redirects_to_files_and_to_other_servers_without_encryption_are_not_followed(tmp_path: Path, place: str) -> None:
    (tmp_path / "b").write_text("of the same server")
    with served(tmp_path) as server:
        server.redirects = {"/a": place, "/c": "/b", "/round": "/round"}
        with pytest.raises(OSError, match=r"the server answers 302 .*[Rr]edirect") as refused:
            content_of(server.url, "a")
        assert not isinstance(refused.value, FileNotFoundError)
        assert content_of(server.url, "c") == (0, b"of the same server")
        with pytest.raises(OSError, match="302"):
            content_of(server.url, "round")


@pytest.mark.parametrize("hub", ["file:///etc", "ftp://x/y", "HTTP//", "gopher://x", "://x"])
def test_other_kinds_of_hubs_are_refused_by_name(hub: str) -> None:
    with pytest.raises((ModelError, FileNotFoundError)) as refused:
        content_of(hub, "passwd")
    assert isinstance(refused.value, ModelError) == ("://" in hub)


@pytest.mark.parametrize("hub", ["http://127.0.0.1:1", "http://", "https:///x", "http://127.0.0.1:port", "http://a b"])
def test_an_address_that_leads_nowhere_is_an_error_with_its_reason(hub: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be used: .+; expected a hub that answers"):
        read_index(hub)


def test_hubs_of_http_can_only_be_read(tmp_path: Path) -> None:
    for hub in ("https://example.org/models", "hf://someone/liver"):
        with pytest.raises(ModelError, match="can only be read"):
            put(hub, "a", tmp_path / "a")
