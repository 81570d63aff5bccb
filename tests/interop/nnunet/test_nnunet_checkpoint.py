"""Files that PyTorch wrote are read, and files that were written to do harm are refused, with nothing run."""

import collections
import datetime
import fractions
import io
import pickle
import pickletools
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnseg.core.errors import ModelError
from nnseg.interop.nnunet.checkpoint import open_checkpoint
from nnseg.interop.nnunet.pickle_interpreter import Storage, StoredTensor

TOUCH = b"touch ran"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """In a folder in which a file "ran" would show that something was run."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("ran").exists()


def _content():
    weights = collections.OrderedDict(
        a=torch.arange(24.0).reshape(2, 3, 4),
        half=torch.tensor([[1.5, -2.0]], dtype=torch.float16),
        bfloat=torch.tensor([0.5], dtype=torch.bfloat16),
        whole=torch.tensor([[1], [2**40]]),
        flag=torch.tensor(True),
        turned=torch.arange(6.0).reshape(2, 3).T,
        part=torch.arange(10.0)[3:7],
        parameter=torch.nn.Parameter(torch.tensor([3.0])),
    )
    weights._metadata = {"": {"version": 1}}
    return {
        "weights": weights,
        "plain": [None, True, -1, 300, 70000, 2**40, 1.5, "é", b"bytes", (), (1,), (1, (2, 3), "4"), {"a": {}, 7: []}],
        "size": torch.Size([1, 2]),
        "noted": [np.float64(0.25), np.float32(1), np.int64(3), np.array([1, 2])],
        "device": torch.device("cuda", 0),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_pytorch_saves_is_read(protocol):
    content = _content()
    torch.save(content, "model.pth", pickle_protocol=protocol)
    with open_checkpoint(Path("model.pth")) as checkpoint:
        read = checkpoint.content
        tensors = {name: checkpoint.read(stored) for name, stored in read["weights"].items()}
    assert [*tensors] == [*content["weights"]]
    assert all(torch.equal(tensors[n], t) and tensors[n].dtype == t.dtype for n, t in content["weights"].items())
    plain = [p for p in content["plain"] if not isinstance(p, bytes)]
    assert [p for p in read["plain"] if not isinstance(p, bytes) and p is not ...] == plain
    assert read["size"] == (1, 2)
    assert read["noted"] == [..., ..., ..., ...]


def test_a_tensor_is_a_copy_that_outlives_its_file():
    torch.save({"a": torch.zeros(3)}, "model.pth")
    with open_checkpoint(Path("model.pth")) as checkpoint:
        first, second = (checkpoint.read(checkpoint.content["a"]) for _ in range(2))
    first += 1
    assert second.tolist() == [0, 0, 0]


def _archive(program: bytes, *, data: bytes = bytes(16), order: bytes = b"little", compression=zipfile.ZIP_STORED) -> Path:
    path = Path("made.pth")
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("any name/data.pkl", program)
        file.writestr("any name/byteorder", order)
        file.writestr("any name/data/0", data)
    return path


class _Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _pickled(function, *arguments, protocol=2):
    return pickle.dumps({"a": [_Calls(function, *arguments)]}, protocol)


SYSTEM = b"cposix\nsystem\n"
"""The opcode that pushes os.system."""

ZERO = b"X\x01\x00\x00\x000"

HARMFUL = {
    "os.system": (b"cos\nsystem\n(X\x09\x00\x00\x00" + TOUCH + b"tR.", "os.system"),
    "posix.system": (SYSTEM + b"(X\x09\x00\x00\x00" + TOUCH + b"tR.", "posix.system"),
    "by protocol 0": (b"cos\nsystem\n(S'touch ran'\ntR.", "os.system"),
    "eval": (_pickled(eval, "open('ran', 'w')"), "__builtin__.eval"),
    "exec": (_pickled(exec, "open('ran', 'w')", protocol=4), "builtins.exec"),
    "popen": (_pickled(subprocess.Popen, ["touch", "ran"], protocol=4), "subprocess.Popen"),
    "open": (_pickled(io.open, "ran", "w"), "io.open"),
    "getattr": (b"cbuiltins\ngetattr\n(ctorch\nSize\nX\x01\x00\x00\x00atR.", "builtins.getattr"),
    "torch.hub": (b"ctorch.hub\nload\n(X\x01\x00\x00\x00atR.", "torch.hub.load"),
    "a pickle in a pickle": (b"ctorch.storage\n_load_from_bytes\n(C\x01atR.", "torch.storage._load_from_bytes"),
    "numpy.load": (b"cnumpy\nload\n(X\x01\x00\x00\x00atR.", "numpy.load"),
    "partial": (b"cfunctools\npartial\n(ctorch\nSize\ntR.", "functools.partial"),
    "attrgetter": (b"coperator\nattrgetter\n(X\x01\x00\x00\x00atR.", "operator.attrgetter"),
    "reconstructor": (b"ccopyreg\n_reconstructor\n.", "copyreg._reconstructor"),
    "a fraction": (pickle.dumps(fractions.Fraction(1, 2), 2), "fractions.Fraction"),
    "a name on the stack": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x09" + TOUCH + b"\x85R.", "posix.system"),
    "a dotted name": (b"\x80\x04\x8c\x05torch\x8c\x0eSize.__class__\x93.", "torch.Size.__class__"),
    "a name that is no text": (b"\x80\x04K\x01\x8c\x06system\x93.", "no text"),
    "a name never used": (SYSTEM + b"0N.", "posix.system"),
    "INST": (b"(X\x09\x00\x00\x00" + TOUCH + b"ios\nsystem\n.", "INST"),
    "OBJ": (b"(ctorch\nSize\nX\x01\x00\x00\x00ao.", "OBJ"),
    "NEWOBJ": (b"\x80\x02ctorch\nSize\n)\x81.", "NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04ctorch\nSize\n)}\x92.", "NEWOBJ_EX"),
    "EXT1": (b"\x80\x02\x82\x01.", "EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
    "attributes of a name": (b"ctorch\nSize\n}X\x01\x00\x00\x00aK\x01sb.", "sets attributes of"),
    "attributes of a list": (b"]}b.", "sets attributes of"),
    "a call of a storage": (b"ctorch\nFloatStorage\n(K\x08tR.", "torch.FloatStorage"),
    "a call of text": (b"X\x01\x00\x00\x00a)R.", "calls"),
    "a call with a list": (b"ctorch\nSize\n]R.", "calls"),
    "a call of a tensor": (b"ccollections\nOrderedDict\n)R)R.", "calls"),
    "a text for a persistent id": (b"Pos.system\n.", "PERSID"),
    "a number for a persistent id": (b"K\x01Q.", "not a storage"),
    "a short persistent id": (b"(X\x07\x00\x00\x00storagetQ.", "not a storage"),
    "another persistent id": (b"(X\x06\x00\x00\x00moduleNNNNtQ.", "not a storage"),
    "a storage of no kind": (b"(X\x07\x00\x00\x00storageX\x01\x00\x00\x00a" + ZERO + b"NK\x04tQ.", "unknown kind"),
    "a storage of another kind": (b"(X\x07\x00\x00\x00storagectorch\nSize\n" + ZERO + b"NK\x04tQ.", "unknown kind"),
    "an append to a name": (b"ctorch\nSize\nNa.", "appends to"),
    "an item of a list": (b"]X\x01\x00\x00\x00aNs.", "sets items"),
    "a place of memory that is no small number": (b"Np281474976710656\n.", "other than a small number"),
    "many arguments": (b"ctorch._utils\n_rebuild_parameter\n(" + b"N" * 9 + b"tR.", "9 arguments"),
    "a buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
    "bytes to change": (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "bytearray8"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_what_could_run_something_is_refused_by_its_name(name):
    program, reason = HARMFUL[name]
    with pytest.raises(ModelError, match=r"made\.pth") as refusal, open_checkpoint(_archive(program)):
        pass
    assert reason in str(refusal.value)


def test_the_harmful_files_are_harmful():
    """Python's own unpickler does run the first of them."""
    pickle.loads(HARMFUL["os.system"][0])
    assert Path("ran").exists()
    Path("ran").unlink()


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"N",
        b"NN.",
        b"t.",
        b"a.",
        b"s.",
        b"R.",
        b"h\x05.",
        b"q\x00.",
        b"\x85.",
        b"(",
        b"\xff",
        b"X\xff\xff\xff\xff",
        b"I1x\n.",
    ],
)
def test_programs_without_sense_are_refused(program):
    with pytest.raises(ModelError, match="damaged"), open_checkpoint(_archive(program)):
        pass


def test_a_far_place_of_memory_takes_no_memory():
    with open_checkpoint(_archive(b"\x80\x02Kr\xff\xff\xff\xff.".replace(b"K", b"K\x07"))) as checkpoint:
        assert checkpoint.content == 7


def _tensor(offset=0, shape=(2, 2), strides=(2, 1), count=4, key="0") -> bytes:
    """A program for one tensor of 32-bit floats."""

    def number(n):
        return b"J" + n.to_bytes(4, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    text = b"X" + len(key).to_bytes(4, "little") + key.encode()
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + text + b"X\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89NtR."


def _read(program: bytes, **how) -> torch.Tensor:
    with open_checkpoint(_archive(program, **how)) as checkpoint:
        return checkpoint.read(checkpoint.content)


def test_a_tensor_by_hand():
    data = np.array([1, 2, 3, 4], "<f4").tobytes()
    assert _read(_tensor(), data=data).tolist() == [[1, 2], [3, 4]]
    assert _read(_tensor(strides=(1, 2)), data=data).tolist() == [[1, 3], [2, 4]]
    assert _read(_tensor(offset=3, shape=(1,), strides=(1,)), data=data).tolist() == [4]
    assert _read(_tensor(shape=(), strides=()), data=data).item() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (2, 3)},
        {"shape": (-1, 2)},
        {"shape": (2,)},
        {"strides": (-2, 1)},
        {"strides": (0, 0), "shape": (2**20, 2**20)},
        {"strides": (2**30, 1)},
        {"count": 3},
        {"shape": (1,) * 9, "strides": (1,) * 9},
        {"count": -4},
    ],
)
def test_tensors_outside_their_numbers_are_refused(wrong):
    with pytest.raises(ModelError):
        _read(_tensor(**wrong))


@pytest.mark.parametrize("wrong", [{"count": 2**30}, {"key": "1"}, {"key": "../data.pkl"}, {"count": 5}])
def test_numbers_that_are_not_there_are_refused(wrong):
    with pytest.raises(ModelError, match=r"made\.pth (lacks|holds|has)"):
        _read(_tensor(**wrong))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_of_other_kinds_are_refused():
    with pytest.raises(ModelError, match="compressed"):
        _read(_tensor(), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="order of bytes"):
        _read(_tensor(), order=b"big")
    with zipfile.ZipFile(_archive(_tensor()), "a") as file:
        file.writestr("any name/data/0", bytes(16))
    with pytest.raises(ModelError, match="all different"), open_checkpoint(Path("made.pth")):
        pass
    with zipfile.ZipFile(_archive(_tensor()), "a") as file:
        file.writestr("other/data.pkl", _tensor())
    with pytest.raises(ModelError, match="several"), open_checkpoint(Path("made.pth")):
        pass
    with pytest.raises(ModelError, match=r"over 4000000"), open_checkpoint(_archive(b"N" * 16_000_001)):
        pass


def test_entries_that_share_their_bytes_are_refused():
    path = _archive(_tensor(), data=bytes(4096))
    with zipfile.ZipFile(path, "a") as file:
        first = file.getinfo("any name/data/0")
        for i in range(9):
            again = zipfile.ZipInfo(f"any name/data/0{i}")
            again.header_offset, again.file_size, again.compress_size, again.CRC = first.header_offset, 4096, 4096, first.CRC
            file.filelist.append(again)
        file._didModify = True
    with pytest.raises(ModelError, match="overlap"), open_checkpoint(path):
        pass


def test_other_files_are_refused_with_advice():
    torch.save({"a": torch.zeros(2)}, "old.pth", _use_new_zipfile_serialization=False)
    Path("text.pth").write_text("hello")
    Path("empty.pth").touch()
    for name, advice in {"old": "before 1.6", "text": "no checkpoint", "empty": "no checkpoint", "missing": "cannot read"}.items():
        with pytest.raises(ModelError, match=advice), open_checkpoint(Path(f"{name}.pth")):
            pass


def _real_program() -> bytes:
    buffer = io.BytesIO()
    torch.save(_content(), buffer)
    with zipfile.ZipFile(buffer) as file:
        return file.read(next(n for n in file.namelist() if n.endswith("data.pkl")))


REAL = _real_program()


@settings(max_examples=150, deadline=None)
@example(at=0, byte=0)
@given(at=st.integers(0, len(REAL) - 1), byte=st.integers(0, 255))
def test_a_damaged_program_is_read_or_refused(at, byte):
    changed = bytes([*REAL[:at], byte, *REAL[at + 1 :]])
    with zipfile.ZipFile("changed.pth", "w") as file:
        file.writestr("a/data.pkl", changed)
    try:
        with open_checkpoint(Path("changed.pth")) as checkpoint:
            assert _is_plain(checkpoint.content)
    except ModelError:
        pass


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_is_harmless_and_not_needed_is_left_out(protocol):
    counts = collections.defaultdict(list, a=[1])
    noted = [{1, "b"}, frozenset([1]), Path("/a/b/c/d/e/f/g/h/i/j"), datetime.datetime.now(datetime.UTC), datetime.timedelta(1)]
    noted += [counts, collections.Counter("aab"), collections.deque([1, 2]), np.arange(3), np.float32(1), {None, (1,)}]
    types = {"a": torch.float32, "b": torch.bfloat16, "c": torch.int64, "d": torch.bool}
    keyed = {0.5: 1, None: 2, True: 3, (1, 2): 4, -1: 5, 2**48: 6, 7: "kept", "text": "kept"}
    content = {"noted": noted, "types": types, "keyed": keyed, "weight": torch.ones(2)}
    torch.save(content, "model.pth", pickle_protocol=protocol)
    with open_checkpoint(Path("model.pth")) as checkpoint:
        read = checkpoint.content
        assert checkpoint.read(read["weight"]).tolist() == [1, 1]
    assert read["noted"] == [...] * len(noted)
    assert read["keyed"] == {7: "kept", "text": "kept"}
    assert [*read["types"]] == [*types]


def test_empty_and_repeated_tensors_are_read():
    torch.save({"empty": torch.zeros(0, 3), "repeated": torch.tensor([1.0, 2.0]).expand(3, 2)}, "model.pth")
    with open_checkpoint(Path("model.pth")) as checkpoint:
        read = {name: checkpoint.read(stored) for name, stored in checkpoint.content.items()}
    assert (read["empty"].shape, read["repeated"].tolist()) == ((0, 3), [[1, 2]] * 3)


def test_a_tensor_that_is_not_needed_may_lie_outside_its_numbers():
    with open_checkpoint(_archive(_tensor(shape=(9, 9)))) as checkpoint, pytest.raises(ModelError, match=r"shape \(9, 9\)"):
        checkpoint.read(checkpoint.content)


DEEP = b"K\x01K\x01\x86" + b"q\x00h\x00\x86" * 60
"""A tuple of a tuple twice, sixty times over: as text it would have 2 ** 60 numbers."""


@pytest.mark.parametrize(
    "program",
    [
        b"ctorch\nSize\n" + DEEP + b"\x85R.",
        b"ctorch\nSize\n(" + b"N" * 100_000 + b"t\x85R.",
        _tensor()[:-17] + DEEP + b"\x89NtR.",
    ],
)
def test_shapes_of_what_is_shared_over_and_over_are_refused_at_once(program):
    start = time.monotonic()
    with pytest.raises(ModelError, match="something other than numbers") as refusal, open_checkpoint(_archive(program)):
        pass
    assert len(str(refusal.value)) < 1000
    assert time.monotonic() - start < 5


def _is_plain(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    ours = ("_Name", "type")  # a name that is known, or the mark, left on the stack
    return (
        value is ... or isinstance(value, str | int | float | bytes | StoredTensor | Storage | None) or type(value).__name__ in ours
    )


def test_the_corpus_covers_every_instruction_that_makes_objects():
    """Whatever Python's pickles can do that is not plain data is among the harmful files, or harmless here."""
    makers = {
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "EXT1",
        "EXT2",
        "EXT4",
        "REDUCE",
        "BUILD",
        "GLOBAL",
        "STACK_GLOBAL",
        "BINPERSID",
        "PERSID",
    }
    known = {opcode.name for opcode in pickletools.opcodes}
    used = set()
    for program, _ in HARMFUL.values():
        try:
            used |= {opcode.name for opcode, _, _ in pickletools.genops(program)}
        except ValueError:
            continue
    assert makers <= known
    assert makers <= used
