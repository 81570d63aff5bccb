"""The server of nnseg serve: what it answers, whom it refuses, and what a scan that fails or a client that leaves costs others."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from serving_api import served, until
from standin import write_scan

from nnseg.core.errors import NnsegError, ScanError
from nnseg.serving import server
from nnseg.serving.server_uploads import TooLargeError, images_of

httpx = pytest.importorskip("httpx", reason="the tests' client is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "data" / "a.nii.gz")


def asked(url: str, **settings: object) -> "httpx.Client":
    return httpx.Client(base_url=url, timeout=120, **settings)


def test_a_scan_is_answered_by_its_label_map_or_its_volumes(scan: Path, tmp_path: Path) -> None:
    expected = np.asarray(nib.load(scan).dataobj) > 0
    with served(tmp_path, folders=(scan.parent,)) as (url, jobs), asked(url) as client:
        sent = client.post("/predict", content=scan.read_bytes())
        assert (sent.status_code, sent.headers["content-type"]) == (200, "application/octet-stream")
        label_map = nib.Nifti1Image.from_bytes(gzip.decompress(sent.content))
        np.testing.assert_array_equal(np.asarray(label_map.dataobj), expected)
        assert client.post("/predict", json={"scan": str(scan)}).content == sent.content
        answer = client.post("/predict", params={"answer": "json"}, json={"scan": [str(scan)]}).json()
        assert (answer["state"], answer["volumes_ml"]) == ("done", {"bright": pytest.approx(expected.sum() * 2e-3)})
        mha = client.post("/predict", params={"format": ".mha"}, content=scan.read_bytes()).content
        assert mha.startswith(b"ObjectType = Image")
        until(lambda: not [*jobs])
        assert not [*tmp_path.glob("out_bright/*"), *tmp_path.glob("uploads/*")]


def test_a_job_is_asked_for_until_its_answer_is_fetched_and_removed(scan: Path, tmp_path: Path) -> None:
    with served(tmp_path) as (url, _), asked(url) as client:
        job = client.post("/predict", params={"wait": "no"}, content=scan.read_bytes())
        place = job.headers["location"]
        assert (job.status_code, place) == (202, f"/jobs/{job.json()['id']}")
        until(lambda: client.get(place, params={"seconds": 20}).json()["state"] == "done")
        assert client.get(f"{place}/label-map").content == client.post("/predict", content=scan.read_bytes()).content
        assert [client.delete(place).status_code, client.get(place).status_code] == [204, 404]
        assert list(tmp_path.glob("out_bright/*")) == []


def test_several_models_are_chosen_by_name(scan: Path, tmp_path: Path) -> None:
    with served(tmp_path, "one", "two@1") as (url, _), asked(url) as client:
        assert [model["name"] for model in client.get("/models").json()["models"]] == ["one", "two@1"]
        asked_for = [client.post("/predict", params={"answer": "json", **more}, content=scan.read_bytes()).json()["model"]
                     for more in ({}, {"model": "two@1"}, {"model": "two"})]  # fmt: skip
        assert asked_for == ["one", "two@1", "two@1"]
        refused = client.post("/predict", params={"model": "three"}, content=scan.read_bytes())
        assert (refused.status_code, refused.json()["error"][:23]) == (404, "there is no model three")
        unknown = [client.get("/"), client.get("/predict")]
        assert [(answer.status_code, list(answer.json())) for answer in unknown] == [(404, ["error"]), (405, ["error"])]


def test_only_files_below_an_allowed_folder_are_read(scan: Path, tmp_path: Path) -> None:
    other = write_scan(tmp_path / "other" / "b.nii.gz")
    (scan.parent / "link.nii.gz").symlink_to(other)
    named = [str(other), f"{scan.parent}/../other/b.nii.gz", str(scan.parent / "link.nii.gz"), str(scan.parent / "missing"), "a\0b"]
    with served(tmp_path, folders=(scan.parent,)) as (url, _), asked(url) as client:
        answers = [client.post("/predict", json={"scan": name}) for name in named]
        assert {answer.status_code for answer in answers} == {403}
        assert len({answer.text for answer in answers}) == 1
        for body in (b"{", b"[]", b'{"scan": 5}', b'{"scan": []}'):
            wrong = client.post("/predict", content=body, headers={"content-type": "application/json"})
            assert (wrong.status_code, "the body must be" in wrong.text) == (422, True)


def test_without_the_token_only_the_health_is_told(scan: Path, tmp_path: Path) -> None:
    with served(tmp_path, token="secret") as (url, _):
        for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer sécret".encode()}):
            with asked(url, headers=headers) as client:
                assert client.get("/health").status_code == 200
                paths = ("/models", "/metrics", "/openapi.json", "/jobs/x", "/nothing")
                assert {client.get(path).status_code for path in paths} == {401}
                assert client.post("/predict", content=scan.read_bytes()).status_code == 401
        with asked(url, headers={"Authorization": "Bearer secret"}) as client:
            assert client.post("/predict", content=scan.read_bytes()).status_code == 200


def test_without_a_token_another_name_of_this_machine_is_not_answered(tmp_path: Path) -> None:
    with served(tmp_path) as (url, _), asked(url) as client:
        assert client.get("/models", headers={"Host": "attacker.example"}).status_code == 400


def test_too_many_bytes_and_unknown_formats_are_refused(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNSEG_LIMITS", "upload_bytes=100")
    with served(tmp_path) as (url, jobs), asked(url) as client:
        large = client.post("/predict", content=bytes(101))
        assert (large.status_code, "at most 100; send a smaller scan" in large.text) == (413, True)
        for wrong in ({"suffix": "/../x"}, {"suffix": ".exe"}, {"format": ".jpg"}, {"wait": "perhaps"}):
            assert client.post("/predict", params=wrong, content=b"x").status_code == 422
        broken = client.post("/predict", content=b"no image")
        assert (broken.status_code, broken.json()["error"].startswith("upload.nii.gz: is not a NIfTI file")) == (422, True)
        assert [*jobs] == []


def test_a_header_that_names_files_and_an_archive_that_is_not_deflated_are_refused(scan: Path, tmp_path: Path) -> None:
    header = f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {scan}\n"
    for suffix in (".mhd", ".mha"):
        (tmp_path / f"upload{suffix}").write_text(header)
    for suffix in (".nhdr", ".nrrd"):
        (tmp_path / f"upload{suffix}").write_text(f"NRRD0004\ntype: uchar\ndimension: 1\nsizes: 4\ndata file: {scan}\n\n")
    for suffix in (".mhd", ".mha", ".nhdr", ".nrrd"):
        with pytest.raises(ScanError, match="names other files"):
            images_of(tmp_path / f"upload{suffix}", ["MRI"])
    for number, method in enumerate((zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED)):
        (tmp_path / str(number)).mkdir()
        upload = tmp_path / str(number) / "upload.zip"
        with zipfile.ZipFile(upload, "w", method) as archive:
            archive.writestr("a.mhd", header)
        with pytest.raises(ScanError, match="not deflated" if number < 2 else "names other files"):
            images_of(upload, ["MRI"])


def test_pages_of_other_machines_and_clients_that_send_too_slowly_are_refused(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STALLED_SECONDS", 0.3)
    with served(tmp_path) as (url, jobs), asked(url) as client:
        for origin, status in (("http://attacker.example", 403), ("null", 403), ("http://localhost:3000", 200)):
            assert client.post("/predict", content=scan.read_bytes(), headers={"Origin": origin}).status_code == status
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
            until(lambda: [*jobs])
            until(lambda: connection.sendall(b"x") or not [*jobs])
            assert b" 422 " in connection.recv(100)


def test_a_connection_without_a_whole_header_is_closed(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnseg.serving.server_protocol.HEADER_SECONDS", 0.3)
    with served(tmp_path) as (url, _):
        port, request = int(url.rpartition(":")[2]), b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for sent in (b"", request[:-2], request + request[:-2]):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(sent)
                answered = b"".join(iter(lambda: connection.recv(1000), b""))
                assert answered.count(b" 200 OK") == sent.count(request)


def test_a_full_disk_costs_an_answer_and_no_place_in_the_queue(scan: Path, tmp_path: Path) -> None:
    with served(tmp_path, most=1) as (url, jobs), asked(url) as client:
        (tmp_path / "uploads").write_text("in the place of the folder")
        for _ in range(2):
            answer = client.post("/predict", content=scan.read_bytes())
            assert (answer.status_code, "the server cannot store it" in answer.text, [*jobs]) == (503, True, [])
        (tmp_path / "uploads").unlink()
        assert client.post("/predict", content=scan.read_bytes()).status_code == 200


def test_a_full_queue_is_told_and_cancelled_scans_make_room(scan: Path, tmp_path: Path) -> None:
    stuck = write_scan(tmp_path / "data" / "stuck.nii.gz")
    with served(tmp_path, most=2, folders=(scan.parent,)) as (url, jobs), asked(url) as client:
        places = [client.post("/predict", params={"wait": "no"}, json={"scan": str(stuck)}).headers["location"] for _ in range(2)]
        full = client.post("/predict", content=scan.read_bytes())
        assert (full.status_code, full.headers["retry-after"], jobs.refused) == (503, "5", 1)
        assert client.get(f"{places[0]}/label-map").status_code == 409
        assert client.delete(places[1]).status_code == 204
        assert client.post("/predict", params={"wait": "no"}, content=scan.read_bytes()).status_code == 202
        assert 'outcome="cancelled"} 1' in client.get("/metrics").text


def test_a_scan_in_the_network_ends_at_its_next_tile_when_it_is_cancelled(scan: Path, tmp_path: Path) -> None:
    endless = write_scan(tmp_path / "data" / "tiles.nii.gz")  # of so many tiles that only a cancellation ends it
    with served(tmp_path, folders=(scan.parent,)) as (url, jobs), asked(url) as client:
        place = client.post("/predict", params={"wait": "no"}, json={"scan": str(endless)}).headers["location"]
        until(lambda: [*tmp_path.glob("seen_*_tiles.nii.gz")])
        assert client.delete(place).status_code == 204
        assert client.post("/predict", content=scan.read_bytes()).status_code == 200
        until(lambda: jobs.models["bright"].states == {"waiting": 0, "predicting": 0})
        assert [*(tmp_path / "out_bright").iterdir()] == []


def test_a_client_that_goes_away_withdraws_its_scan(scan: Path, tmp_path: Path) -> None:
    stuck = write_scan(tmp_path / "data" / "stuck.nii.gz")
    with served(tmp_path, folders=(scan.parent,)) as (url, jobs):
        body = json.dumps({"scan": str(stuck)})
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        port = int(url.rpartition(":")[2])
        for sent in (head + body, head + body[:5]):  # while it waits for the answer, and while it sends
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(sent.encode())
                until(lambda: [*jobs])
            until(lambda: not [*jobs])


def test_a_scan_that_kills_its_process_costs_its_own_answer_alone(scan: Path, tmp_path: Path) -> None:
    deadly = write_scan(tmp_path / "data" / "deadly.nii.gz")
    found: dict[int, httpx.Response] = {}
    with served(tmp_path, folders=(scan.parent,)) as (url, _), asked(url) as client:

        def ask(number: int) -> None:
            given = {"json": {"scan": str(deadly)}} if number == 2 else {"content": scan.read_bytes()}
            found[number] = client.post("/predict", **given)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {number: answer.status_code for number, answer in found.items()} == {n: 422 if n == 2 else 200 for n in range(6)}
        assert len({answer.content for number, answer in found.items() if number != 2}) == 1
        assert "SIGKILL" in found[2].json()["error"]
        assert client.post("/predict", content=scan.read_bytes()).status_code == 200


def test_cases_of_grand_challenge_are_answered(scan: Path, tmp_path: Path) -> None:
    place = tmp_path / "input" / "images" / "mri"
    place.mkdir(parents=True)
    sockets = (tmp_path / "input", tmp_path / "output")
    with served(tmp_path, sockets=sockets) as (url, _), asked(url) as client:
        assert client.post("/invoke").status_code == 422
        (place / "a.nii.gz").write_bytes(scan.read_bytes())
        assert client.post("/invoke", content=b"{}").status_code == 201
        assert (tmp_path / "output/images/segmentation/output.mha").read_bytes().startswith(b"ObjectType = Image")
    (tmp_path / "second").mkdir()
    with served(tmp_path / "second") as (url, _), asked(url) as client:
        assert client.post("/invoke").status_code == 404


def zipped(folder: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(file := folder / "upload.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def test_files_of_an_archive_choose_no_path(tmp_path: Path) -> None:
    members = {"../../evil.nii.gz": b"1", "/etc/T1.nii.gz": b"2", "__MACOSX/._T1.nii.gz": b"", "notes.txt": b"3"}
    found = images_of(zipped(tmp_path, **members), ("T1", "evil"))
    assert [path.read_bytes() for path in found] == [b"2", b"1"]
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "unpacked/000000.nii.gz", "unpacked/000001.nii.gz", "unpacked/000002.dcm",
    }  # fmt: skip


def test_channels_in_an_archive_are_ordered_by_names_or_numbers_or_refused(tmp_path: Path) -> None:
    for number, (names, expected) in enumerate(
        [(("p_0001.nii", "p_0000.nii"), [b"1", b"0"]), (("t2.nii", "FLAIR.nii"), [b"1", b"0"])]
    ):
        (folder := tmp_path / str(number)).mkdir()
        found = images_of(zipped(folder, **{name: str(place).encode() for place, name in enumerate(names)}), ("FLAIR", "T2"))
        assert [path.read_bytes() for path in found] == expected
    (folder := tmp_path / "wrong").mkdir()
    with pytest.raises(ScanError, match=r"images a\.nii, b\.nii; expected one for each of FLAIR, T2"):
        images_of(zipped(folder, **{"a.nii": b"", "b.nii": b""}), ("FLAIR", "T2"))


def test_archives_that_unpack_to_too_much_or_are_damaged_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNSEG_LIMITS", "upload_bytes=1000 data_files=2")
    for name, members in {"large": {"a.nii": bytes(1001)}, "many": dict.fromkeys("abc", b"")}.items():
        (folder := tmp_path / name).mkdir()
        with pytest.raises(TooLargeError if name == "large" else ScanError, match=r"1,001 bytes|over 2 entries"):
            images_of(zipped(folder, **members), ("T1",))
    file = zipped(tmp_path, a=bytes(500))
    file.write_bytes(file.read_bytes().replace(b"\x63\x60", b"\x00\x00", 1))
    with pytest.raises(NnsegError, match="cannot be unpacked"):
        images_of(file, ("T1",))


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    scans = [write_scan(tmp_path / f"scan_{channel:04d}.nii.gz", slices=12) for channel in range(2)]
    upload = zipped(tmp_path, **{scan.name: scan.read_bytes() for scan in scans})
    (temporary := tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "nnseg", "serve", "--model", "demo", "--port", "0", "--fast", "--device", "cpu"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as server:
        try:
            assert server.stdout
            url = server.stdout.readline().split()[-1]
            with asked(url) as client:
                answer = client.post("/predict", params={"suffix": ".zip", "format": ".nii"}, content=upload.read_bytes())
            assert (answer.status_code, nib.Nifti1Image.from_bytes(answer.content).shape) == (200, (6, 5, 12))
            server.terminate()
            assert server.wait(60) == 143
        finally:
            server.kill()
    assert list(temporary.glob("nnseg-serve-*")) == []
