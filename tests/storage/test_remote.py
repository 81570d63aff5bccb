"""Scans may lie at addresses, and are copied one by one while they are predicted."""

from pathlib import Path

import pytest
from hub_server import s3_server, served
from standin import start, write_scan

from nnseg.core.errors import ScanError
from nnseg.serving.folder import predict_scans
from nnseg.serving.messages import PredictionOrder
from nnseg.serving.pool import WorkerPool
from nnseg.storage.remote import address_of, fetch, path_of


@pytest.mark.parametrize("address", ["s3://scans/a/b.nii.gz", "https://some.where/scan 1.nrrd", "http://127.0.0.1:8000/a.mha"])
def test_a_path_stands_for_an_address(address):
    path = path_of(address, Path("/data"))
    assert address_of(path) == address
    assert path.absolute() == path
    assert address_of(path_of("scan.nii.gz", Path("/data"))) == address_of(Path("/")) == address_of(Path("/s3:")) == ""


def test_what_cannot_be_fetched_is_named(tmp_path, monkeypatch):
    (tmp_path / "large.nii").write_bytes(bytes(100))
    with served(tmp_path) as server:
        with pytest.raises(ScanError, match=rf"{server.url}/none\.nii: cannot be read \(the server answers 404"):
            fetch([path_of(f"{server.url}/none.nii", tmp_path)], tmp_path)
        monkeypatch.setenv("NNSEG_LIMITS", "upload_bytes=40")
        with pytest.raises(ScanError, match="has 41 bytes or more; expected at most 40"):
            fetch([tmp_path / "here.nii", path_of(f"{server.url}/large.nii", tmp_path)], tmp_path)


def predicted(table: Path, out: Path):
    with WorkerPool(PredictionOrder(models=(Path("model"),), out=out, device="cpu"), start=start) as workers:
        return predict_scans(table, workers)


def compare(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict a scan at an address beside the same in a folder: label maps are the same bytes, and no copy is left."""
    (tmp_path / "copies").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "copies"))
    monkeypatch.setattr("tempfile.tempdir", None)
    table = tmp_path / "scans.csv"
    table.write_text(f"case,image\nfar,{url}/near.nii.gz\nnear,scans/near.nii.gz\nnone,{url}/none.nii.gz\n")
    done = predicted(table, tmp_path / "out")
    assert {name: record.status for name, record in done.scans.items()} == {"far": "done", "near": "done", "none": "failed"}
    assert f"{url}/none.nii.gz: cannot be read" in done.scans["none"].reason
    assert (tmp_path / "out" / "far.nii.gz").read_bytes() == (tmp_path / "out" / "near.nii.gz").read_bytes()
    assert done.scans["far"].input == done.scans["near"].input
    assert list((tmp_path / "copies").iterdir()) == []
    assert predicted(table, tmp_path / "out").kept == {"far", "near"}


def test_a_scan_on_a_server_is_predicted_like_one_in_a_folder(tmp_path, monkeypatch):
    write_scan(tmp_path / "scans" / "near.nii.gz")
    with served(tmp_path / "scans") as server:
        compare(tmp_path, server.url, monkeypatch)


@pytest.mark.slow
def test_a_scan_in_a_bucket_is_predicted_like_one_in_a_folder(tmp_path, monkeypatch):
    boto3 = pytest.importorskip("boto3", reason='needs the extra "hub"')
    pytest.importorskip("moto.server", reason="needs the server of S3 of the tests", exc_type=ImportError)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    write_scan(tmp_path / "scans" / "near.nii.gz")
    with s3_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        client = boto3.client("s3")
        client.create_bucket(Bucket="scans")
        client.upload_file(str(tmp_path / "scans" / "near.nii.gz"), "scans", "of/us/near.nii.gz")
        compare(tmp_path, "s3://scans/of/us", monkeypatch)
