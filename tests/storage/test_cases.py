import json
import linecache
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest

from nnseg.core.errors import DamagedCaseError, ScanError
from nnseg.core.geometry import Box, Grid, Placement
from nnseg.core.image import PreprocessedCase
from nnseg.storage import case_arrays, cases
from nnseg.storage.cases import CaseStore
from nnseg.system.parallel import map_items


def made(name="case 1", shape=(9, 10, 11), channels=2, values=(0, 0, 0, 1, 2), seed=0) -> PreprocessedCase:
    random = np.random.default_rng(seed)
    grid = Grid(shape=shape, spacing=(1 / 3, 0.1, 2.0), origin=(-1.5, 2.0, 1e-9))
    return PreprocessedCase(
        name=name,
        image=random.normal(size=(channels, *shape)).astype(np.float32),
        labels=random.choice(np.array(values, np.int16), shape),
        placement=Placement(scan=grid, crop=Box.whole(shape), axes=(0, 1, 2), shape=shape, spacing=grid.spacing),
    )


@pytest.fixture
def store(tmp_path) -> CaseStore:
    return CaseStore(tmp_path / "cases")


@contextmanager
def members_of(file: Path) -> Iterator[dict[str, bytes]]:
    """The members of a case by name; changed ones are written in the end."""
    with zipfile.ZipFile(file) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    yield members
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)


@pytest.fixture
def on_disk(monkeypatch) -> None:
    """Every case counts as a large one."""
    monkeypatch.setattr(cases, "IN_MEMORY_BYTES", 0)


def test_a_case_comes_back_as_it_was_written(store):
    case = made()
    store.write(case, "key")
    back = store.read("case 1")
    assert back.name == "case 1"
    assert back.image.dtype == np.float32
    assert back.labels.dtype == np.int8
    assert np.array_equal(back.image, case.image)
    assert np.array_equal(back.labels, case.labels)
    assert back.placement == case.placement
    assert back.image.flags.writeable  # torch.from_numpy warns otherwise


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_large_case_stays_on_disk_and_is_sliced_as_numpy_slices(store, on_disk, dimensions):
    case = made(shape=(40, 70, 130))
    store.write(case, "key", dimensions=dimensions)
    back = store.read("case 1")
    assert isinstance(back.image.array, blosc2.NDArray)
    assert isinstance(back.labels.array, blosc2.NDArray)
    assert back.image.shape == case.image.shape
    for where in (np.s_[...], np.s_[:, 3:30, 60:70, 0:129], np.s_[1, 5], np.s_[:, 2, 3:9], np.s_[0:1, -3:]):
        part = back.image[where]
        assert isinstance(part, np.ndarray)
        assert np.array_equal(part, case.image[where])
    assert np.array_equal(back.labels[3:30, 60:70, 120:], case.labels[3:30, 60:70, 120:])


def test_a_large_case_is_cut_into_cubes_for_3d_and_slices_for_2d(store, on_disk):
    case = made(shape=(70, 150, 40), channels=1)
    store.write(case, "key")
    assert store.read("case 1").image.array.chunks == (1, 35, 50, 40)  # two, three and one equal parts of at most 64
    assert store.read("case 1").image.array.blocks == (1, 18, 25, 20)
    store.write(case, "key", dimensions=2)
    assert store.read("case 1").image.array.chunks == (1, 14, 75, 40)
    assert store.read("case 1").image.array.blocks == (1, 1, 38, 40)


def test_arrays_are_compressed_without_loss_by_lz4_after_shuffling(store, on_disk):
    store.write(made(), "key")
    cparams = store.read("case 1").image.array.schunk.cparams
    assert cparams.codec == blosc2.Codec.LZ4
    assert cparams.clevel == 5
    assert [f for f in cparams.filters if f != blosc2.Filter.NOFILTER] == [blosc2.Filter.SHUFFLE]


def test_many_labels_need_and_get_int16(store):
    store.write(made(values=(0, 127)), "key")
    assert store.read("case 1").labels.dtype == np.int8
    store.write(made(values=(0, 128)), "key")
    assert store.read("case 1").labels.dtype == np.int16


def test_few_locations_are_all_there(store):
    case = made()
    store.write(case, "key")
    locations = store.read("case 1").locations
    assert list(locations) == [1, 2]
    for index, where in locations.items():
        assert where.dtype == np.int32
        assert np.array_equal(where, np.argwhere(case.labels == index))


@pytest.mark.parametrize(("voxels", "kept"), [(10_000, 10_000), (10_001, 10_000), (1_000_000, 10_000), (1_000_001, 10_001)])
def test_at_most_ten_thousand_or_a_hundredth_of_a_label_are_kept(store, voxels, kept):
    labels = np.zeros((11, 400, 250), np.int16)
    labels.reshape(-1)[:voxels] = 1
    case = replace(made(shape=labels.shape, channels=1), labels=labels, image=np.zeros((1, *labels.shape), np.float32))
    store.write(case, "key")
    where = store.read("case 1").locations[1]
    assert len(where) == len(np.unique(where, axis=0)) == kept
    assert np.all(labels[tuple(where.T)] == 1)


def test_locations_depend_on_name_and_labels_only(tmp_path):
    case = made(shape=(30, 40, 50), values=(0, 1))
    drawn = {}
    for folder, name in (("a", "x"), ("b", "x"), ("c", "y")):
        store = CaseStore(tmp_path / folder)
        store.write(replace(case, name=name), folder)
        drawn[folder] = store.read(name).locations[1]
    assert np.array_equal(drawn["a"], drawn["b"])
    assert not np.array_equal(drawn["a"], drawn["c"])


def test_locations_are_spread_evenly_over_a_label(store):
    case = replace(made(shape=(40, 40, 40), channels=1), labels=np.ones((40, 40, 40), np.int16))
    store.write(case, "key")
    # 10,000 draws over 40 planes: 250 in each, give or take (hypergeometric, sd 14.4)
    planes = np.bincount(store.read("case 1").locations[1][:, 0], minlength=40)
    assert np.abs(planes - 250).max() < 5 * 14.4


def test_without_foreground_there_are_no_locations(store):
    store.write(made(values=(0,)), "key")
    back = store.read("case 1")
    assert dict(back.locations) == {}
    assert back.annotated is None


def test_annotated_voxels_are_listed_where_some_are_ignored(store):
    case = made(values=(-1, -1, 0, 1))
    store.write(case, "key")
    back = store.read("case 1")
    assert list(back.locations) == [1]
    assert np.array_equal(back.annotated, np.argwhere(case.labels >= 0))


def test_has_asks_for_the_same_key(store):
    assert not store.has("case 1", "key")
    store.write(made(), "key")
    assert store.has("case 1", "key")
    assert not store.has("case 1", "other key")
    store.write(made(seed=1), "other key")
    assert store.has("case 1", "other key")
    assert np.array_equal(store.read("case 1").image, made(seed=1).image)


@pytest.mark.parametrize("name", ["a b", "v1.2.nii", ".hidden", "100%", "Übung (1)", "a:b?*", "x.case", "%2E", "~", "[!.]"])
def test_odd_names_are_kept(store, name):
    store.write(made(name=name), "key")
    assert store.names() == (name,)
    assert store.has(name, "key")
    assert store.read(name).name == name


@pytest.mark.parametrize("name", ["脳" * 30, "脳" * 66, "Ü" * 100, "%" * 200], ids=["90 bytes", "198 bytes", "umlauts", "percent"])
def test_names_too_long_for_a_file_are_kept_under_a_digest(store, name):
    store.write(made(name=name), "key")
    store.write(made(name=name[:-1], seed=1), "key")
    assert store.names() == (name[:-1], name)
    assert np.array_equal(store.read(name).image, made().image)
    assert all(len(path.name.encode()) <= 245 for path in store.folder.iterdir())


def test_names_lists_what_is_complete_in_order(store):
    assert store.names() == ()
    for name in ("b", "a", "c"):
        store.write(made(name=name), "key")
    file = store.folder / "b.case"
    file.write_bytes(file.read_bytes()[:-100])
    (store.folder / "d.case").write_bytes(b"")
    (store.folder / ".0123abcd.a.case").write_bytes((store.folder / "a.case").read_bytes())  # as a killed writer leaves it
    (store.folder / "notes.txt").write_text("not a case")
    assert store.names() == ("a", "c")


def test_the_same_case_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        CaseStore(tmp_path / folder).write(made(), "key")
    assert (tmp_path / "a" / "case 1.case").read_bytes() == (tmp_path / "b" / "case 1.case").read_bytes()


def test_a_case_is_one_file_and_nothing_else_is_left(store):
    store.write(made(), "key")
    assert [p.name for p in store.folder.iterdir()] == ["case 1.case"]
    with zipfile.ZipFile(store.folder / "case 1.case") as file:
        assert file.namelist() == ["case.json", "image.b2nd", "labels.b2nd", "locations.b2nd"]
        assert {i.compress_type for i in file.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("cut", [1, 100, 2000])
def test_a_truncated_case_counts_as_missing(store, cut):
    store.write(made(), "key")
    file = store.folder / "case 1.case"
    file.write_bytes(file.read_bytes()[:-cut])
    assert not store.has("case 1", "key")
    with pytest.raises(ScanError, match=r"case 1\.case: .*missing or damaged"):
        store.read("case 1")


def test_a_case_without_one_of_its_members_counts_as_missing(store):
    store.write(made(), "key")
    with members_of(store.folder / "case 1.case") as members:
        del members["labels.b2nd"]
    assert not store.has("case 1", "key")


def test_a_missing_case_is_named(store):
    with pytest.raises(ScanError, match=r"nobody\.case.*preprocess it again"):
        store.read("nobody")


@pytest.mark.parametrize("member", ["case.json", "image.b2nd", "labels.b2nd", "locations.b2nd"])
def test_a_flipped_bit_is_noticed(store, member):
    store.write(made(), "key")
    file = store.folder / "case 1.case"
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as opened:
        info = opened.getinfo(member)
    content[info.header_offset + 30 + len(member) + info.file_size // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ScanError, match="damaged"):
        store.read("case 1")


def test_an_exchanged_member_is_noticed_though_the_zip_is_sound(store):
    """Bytes that pass the zip's own checksum but are not those that were written."""
    store.write(made(), "key")
    with members_of(store.folder / "case 1.case") as members:
        frame = bytearray(members["image.b2nd"])
        frame[len(frame) // 2] ^= 1
        members["image.b2nd"] = bytes(frame)
    with pytest.raises(ScanError, match=r"image\.b2nd is not what was written"):
        store.read("case 1")


def _flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << place % 8
    file.write_bytes(content)


def test_no_flipped_bit_of_a_case_on_disk_gives_other_voxels(store, on_disk):
    case = made(shape=(40, 70, 130), channels=1, values=(-1, 0, 0, 1))
    store.write(case, "key")
    file, written = store.folder / "case 1.case", store.read("case 1")
    refused, content = 0, file.read_bytes()
    with zipfile.ZipFile(file) as opened:
        headers = [opened.getinfo(n).header_offset + d for n in opened.namelist() for d in (31, 45, 55, 70, 90, 130, 180, 230)]
    for place in [*headers, *range(17, len(content), len(content) // 150)]:
        _flip(file, place)
        try:
            back = store.read("case 1")
            assert np.array_equal(back.image[...], case.image)
            assert np.array_equal(back.labels[...], case.labels)
            assert np.array_equal(back.locations[1], written.locations[1])
            assert np.array_equal(back.annotated, written.annotated)
        except ScanError as error:
            assert "as the same command does" in str(error)
            assert not store.has("case 1", "key") or not store.is_intact("case 1")
            refused += 1
        file.write_bytes(content)
    assert refused > 150
    assert store.is_intact("case 1")


def test_only_the_chunks_of_a_slice_are_verified_and_once(store, on_disk):
    case = made(shape=(40, 70, 130), channels=2)
    store.write(case, "key")
    image = store.read("case 1").image
    assert image.array.chunks == (1, 40, 35, 44)
    read = []
    image.array = _Spy(image.array, read)
    for where, chunks in (
        (np.s_[1, :, 40, 50:60], [10]),
        (np.s_[..., 44], [1, 4, 7]),
        (np.s_[0, :, -1:, 87:89], [5]),
        (np.s_[:, 3:3], []),
    ):
        read.clear()
        assert np.array_equal(image[where], case.image[where])
        assert read == chunks
        read.clear()
        assert np.array_equal(image[where], case.image[where])
        assert read == []


class _Spy:
    """An array that notes the numbers of the chunks that are asked for."""

    def __init__(self, array, read: list[int]) -> None:
        self._array, self._read, self.chunks, self.schunk = array, read, array.chunks, self

    def get_chunk(self, number: int) -> bytes:
        self._read.append(number)
        return self._array.schunk.get_chunk(number)

    def __getitem__(self, index):
        return self._array[index]


def test_a_case_of_an_earlier_version_is_verified_whole(store, on_disk):
    store.write(made(shape=(40, 70, 130)), "key")
    file = store.folder / "case 1.case"
    with members_of(file) as members:
        members["case.json"] = re.sub(rb',"sums":"[0-9a-f]+"', b"", members["case.json"])
    assert np.array_equal(store.read("case 1").image[0], made(shape=(40, 70, 130)).image[0])
    _flip(file, file.stat().st_size // 2)
    with pytest.raises(ScanError, match="damaged"):
        store.read("case 1")


@pytest.mark.skipif(sys.platform == "win32", reason="there nothing is mapped")
def test_a_case_that_is_cut_while_it_is_mapped_is_refused_by_name(store, on_disk):
    """Without a check the system ends the process, here a child."""
    store.write(made(shape=(40, 70, 130)), "key")
    file = store.folder / "case 1.case"

    def read_while_it_is_cut(_):
        image = store.read("case 1").image
        image[:, :2]
        os.truncate(file, 4096)
        return image[...]

    (outcome,) = map_items(read_while_it_is_cut, [0], workers=1)
    assert re.search(r"case 1\.case: this preprocessed case was cut to 4,096 of [\d,]+ bytes while it was in use", outcome.reason)


@pytest.mark.parametrize("limit", [0, cases.IN_MEMORY_BYTES])
def test_a_case_with_other_channels_or_labels_than_its_plan_is_not_intact(store, monkeypatch, limit):
    monkeypatch.setattr(cases, "IN_MEMORY_BYTES", limit)
    store.write(made(channels=2), "key")
    assert CaseStore(store.folder, 2, 3).is_intact("case 1")
    assert CaseStore(store.folder, 2, 3).read("case 1").image.shape[0] == 2
    for channels, labels, found in ((1, 3, "2 channels, and its plan 1"), (2, 2, "label 2, and its plan 2 with the background")):
        other = CaseStore(store.folder, channels, labels)
        assert not other.is_intact("case 1")
        with pytest.raises(DamagedCaseError, match=rf"case 1\.case: this preprocessed case has {found}"):
            other.read("case 1")


@pytest.mark.parametrize("limit", [0, cases.IN_MEMORY_BYTES])
def test_labels_that_a_case_does_not_count_are_refused(store, monkeypatch, limit):
    monkeypatch.setattr(cases, "IN_MEMORY_BYTES", limit)
    store.write(made(shape=(40, 70, 130)), "key")
    with members_of(store.folder / "case 1.case") as members:
        members["labels.b2nd"] = case_arrays.pack(np.full((40, 70, 130), 3, np.int8), 3)
        about = json.loads(members["case.json"])
        about["members"]["labels.b2nd"] = case_arrays.describe(members["labels.b2nd"]).model_dump()
        members["case.json"] = json.dumps(about).encode()
    with pytest.raises(DamagedCaseError, match="has other labels than it says"):
        store.read("case 1").labels[...]


def test_a_file_under_anothers_name_is_not_that_case(store):
    store.write(made(name="a"), "key")
    (store.folder / "a.case").rename(store.folder / "b.case")
    assert store.names() == ()
    assert not store.has("b", "key")


def test_an_older_case_stays_readable_while_it_is_replaced(store, on_disk):
    store.write(made(shape=(40, 70, 130)), "key")
    old = store.read("case 1")
    store.write(made(shape=(40, 70, 130), seed=1), "key")
    assert np.array_equal(old.image[:, :5], made(shape=(40, 70, 130)).image[:, :5])


@pytest.mark.parametrize("change", [{"labels": None}, {"name": ""}])
def test_a_case_without_name_or_labels_is_refused(store, change):
    with pytest.raises(ScanError, match="needs a name and a label map"):
        store.write(replace(made(), **change), "key")


def test_a_store_travels_to_worker_processes(store):
    store.write(made(), "key")
    assert pickle.loads(pickle.dumps(store)).has("case 1", "key")


def test_a_writer_killed_at_any_moment_leaves_only_complete_cases(tmp_path):
    code = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_cases import CaseStore, made
store = CaseStore(Path(sys.argv[1]))
print("ready", flush=True)
for i in range(10**6):
    store.write(made(name=f"case {i % 3}", shape=(30, 60, 60), seed=i), f"key {i}")
"""
    here = str(Path(__file__).parent)
    for i in range(2):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        while not list(tmp_path.glob("*.case")):
            time.sleep(0.01)
        time.sleep(0.2 + 0.017 * i)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found = {p.name.removesuffix(".case") for p in tmp_path.glob("[!.]*.case")}
        assert set(CaseStore(tmp_path).names()) == found
        for name in found:
            CaseStore(tmp_path).read(name)


@pytest.mark.parametrize("known", [None, (0, 2)])
def test_labels_that_were_annotated_come_back(store, known):
    store.write(replace(made(), known=known), "key")
    assert store.read("case 1").known == known


def test_a_file_of_before_there_were_partial_labels_knows_all(store):
    store.write(made(), "key")
    with members_of(store.folder / "case 1.case") as members:
        assert b'"known":null,' in members["case.json"]
        members["case.json"] = members["case.json"].replace(b'"known":null,', b"")
    assert store.has("case 1", "key")
    assert store.read("case 1").known is None


@pytest.mark.parametrize("values", [(0, 0, 1, 2), (-1, 0, 1), (0,), (0, 128)])
def test_a_case_in_memory_is_as_it_would_be_read_back(store, values):
    case = replace(made(shape=(40, 30, 50), values=values), known=(0, 1))
    store.write(case, "key")
    back, direct = store.read("case 1"), cases.in_memory(case)
    assert direct.image is case.image
    assert (direct.name, direct.placement, direct.known) == (back.name, back.placement, back.known)
    assert direct.labels.dtype == back.labels.dtype
    assert np.array_equal(direct.labels, back.labels)
    assert direct.locations.keys() == back.locations.keys()
    assert all(np.array_equal(direct.locations[i], back.locations[i]) for i in back.locations)
    assert (direct.annotated is None) == (back.annotated is None)
    assert back.annotated is None or np.array_equal(direct.annotated, back.annotated)


def test_a_case_without_labels_cannot_be_trained_on_in_memory():
    with pytest.raises(ScanError, match="needs a name and a label map"):
        cases.in_memory(replace(made(), labels=None))


def _with_image(path: Path, frame: bytes, **about) -> None:
    """Put another frame, with the digest of it, into the place of a case's image."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    contents = json.loads(parts[cases.CONTENTS]) | about
    contents["members"][cases.IMAGE] = {"bytes": len(frame), "digest": case_arrays._digest(frame)}
    with zipfile.ZipFile(path, "w") as file:
        for name, part in (parts | {cases.CONTENTS: json.dumps(contents).encode(), cases.IMAGE: frame}).items():
            file.writestr(name, part)


def test_a_frame_that_holds_a_program_is_refused_and_not_run(store, on_disk, tmp_path, monkeypatch):
    """Blosc2 can store a function of Python with an array, and before version 4.14 defined it when the array was opened."""
    store.write(made(channels=1), "key")
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text("def work(inputs, output, offset):\n    output[:] = inputs[0]\n")
    work = runpy.run_path("program.py")["work"]
    linecache.checkcache()
    there = blosc2.asarray(made(channels=1).image, urlpath="operand.b2nd")
    blosc2.lazyudf(work, (there,), np.float32).save("program.b2nd")
    _with_image(next((tmp_path / "cases").glob("*.case")), Path("program.b2nd").read_bytes())
    with pytest.raises(ScanError, match=r"is damaged \(Encountered active serialized value 'LazyArray'"):
        store.read("case 1")


def test_a_frame_of_an_impossible_type_is_damage(store):
    store.write(made(channels=1), "key")
    path = next(store.folder.glob("*.case"))
    with zipfile.ZipFile(path) as file:
        frame = file.read(cases.IMAGE)
    _with_image(path, frame.replace(b"<f4", b"<f(", 1))
    with pytest.raises(ScanError, match=r"case 1.case: this preprocessed case is damaged \(.*preprocess it again"):
        store.read("case 1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": np.zeros((2, 3, 3, 3), np.float32)},
        {"image": np.zeros(5, np.float32)},
        {"labels": np.zeros((9, 10, 11), np.float32)},
        {"locations": np.full((1, 3), 10)},
        {"counts": {"2": -1}},
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_each_other_are_named(store, wrong):
    store.write(made(), "k")
    (path,) = store.folder.iterdir()
    with zipfile.ZipFile(path) as file:
        about = json.loads(file.read("case.json")) | {key: value for key, value in wrong.items() if key == "counts"}
        frames = {name: file.read(name) for name in file.namelist() if name != "case.json"}
    frames |= {f"{name}.b2nd": case_arrays.pack(array, 0) for name, array in wrong.items() if name != "counts"}
    about["members"] = {name: case_arrays.describe(frame).model_dump() for name, frame in frames.items()}
    if "locations" in wrong:
        about["counts"] = {"2": 1}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in ({"case.json": json.dumps(about)} | frames).items():
            file.writestr(zipfile.ZipInfo(name), content)
    with pytest.raises(ScanError, match=r"\.case: the arrays of this preprocessed case do not fit each other; delete it"):
        store.read("case 1")
