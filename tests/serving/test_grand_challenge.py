"""The program in containers of grand-challenge.org: which images it takes, what it writes, and how its server answers."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from small_models import array_of, itk_image, model_of

from nnseg.core.errors import ScanError
from nnseg.serving.grand_challenge import make_server, predict_case
from nnseg.serving.segmenter import Segmenter
from nnseg.serving.sockets import find_images


def case(folder: Path, *slugs: str, listed: str = "socket") -> Path:
    """A case with an image in each socket; inputs.json in the words of today, of older cases, or not at all."""
    for seed, slug in enumerate(slugs):
        (folder / "images" / slug).mkdir(parents=True)
        sitk.WriteImage(itk_image(array_of(10, 14, 9, seed=seed)), folder / "images" / slug / f"{seed}.mha")
    (folder / "images" / "other").mkdir()
    if listed:
        entries = [{listed: {"slug": slug, "relative_path": f"images/{slug}"}} for slug in reversed(slugs)]
        entries.append({listed: {"slug": "age", "relative_path": "age.json"}})
        (folder / "inputs.json").write_text(json.dumps(entries))
    else:
        (folder / "images" / "other").rmdir()
    return folder


@pytest.mark.parametrize("listed", ["socket", "interface", ""])
def test_images_are_found_in_the_order_of_the_channels(listed: str, tmp_path: Path):
    source = case(tmp_path, "t1-weighted", "t2-flair", listed=listed)
    expected = (source / "images/t2-flair/1.mha", source / "images/t1-weighted/0.mha")
    assert find_images(source, ("T2 FLAIR", "t1_weighted")) == expected
    assert find_images(source, ("a", "b"), ("t2-flair", "t1-weighted")) == expected
    with pytest.raises(ScanError, match=r"the sockets .* are there; expected one for each of a, b"):
        find_images(source, ("a", "b"))
    with pytest.raises(ScanError, match="has no socket ct"):
        find_images(source, ("a",), ("ct",))


def test_the_only_image_is_taken_whatever_its_name(tmp_path: Path):
    source = case(tmp_path, "brain-mri")
    assert find_images(source, ("MRI",)) == (source / "images/brain-mri/0.mha",)
    (source / "images/brain-mri/more.mha").write_bytes(b"")
    with pytest.raises(ScanError, match="holds 2 images; expected one"):
        find_images(source, ("MRI",))


def status(url: str, *, post: bool = False) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=b"{}" if post else None), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_answers_and_goes_on_after_a_bad_case(tmp_path: Path):
    source, target = case(tmp_path / "input", "mri"), tmp_path / "output"
    model = Segmenter(model_of(), device="cpu")
    with make_server(lambda: predict_case(model, source, target, output="images/result"), host="127.0.0.1", port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert [status(f"{url}/health"), status(f"{url}/elsewhere"), status(f"{url}/health", post=True)] == [200, 404, 404]
        assert status(f"{url}/invoke", post=True) == 201
        first = (target / "images/result/output.mha").read_bytes()
        image = source / "images/mri/0.mha"
        whole = image.read_bytes()
        image.write_bytes(whole[:200])
        assert status(f"{url}/invoke", post=True) == 500
        image.write_bytes(whole)
        assert status(f"{url}/invoke", post=True) == 201
        server.shutdown()
    assert (target / "images/result/output.mha").read_bytes() == first
    found, scan = (sitk.ReadImage(str(file)) for file in (target / "images/result/output.mha", source / "images/mri/0.mha"))
    assert (found.GetSize(), found.GetSpacing()) == (scan.GetSize(), scan.GetSpacing())
    assert {*np.unique(sitk.GetArrayFromImage(found))} <= {0, 3, 700}
