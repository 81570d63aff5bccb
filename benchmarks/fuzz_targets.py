"""The readers that `fuzz.py` tries, and examples of what they read."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from fuzz import Target, zip_member
from PIL import Image
from safetensors.torch import save

from nnseg.core.dataset import Case, Dataset, Reading
from nnseg.core.decisions import Choice, Postprocessing
from nnseg.core.errors import NnsegError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.image import LabelMap
from nnseg.core.labels import Labels
from nnseg.core.schedule import Schedule
from nnseg.core.scores import Scores
from nnseg.core.trust import LabelTrust, Trust
from nnseg.evaluation.groups import read_cohorts
from nnseg.interop.nnunet.model import read_nnunet_model
from nnseg.interop.nnunet.summary import read_summary
from nnseg.network.bundle import load_model_file
from nnseg.network.checkpoint import content_digest, load_tensors
from nnseg.planning.recipe import load_recipe
from nnseg.storage.cases import CONTENTS, CaseStore
from nnseg.storage.datasets.groups import read_groups
from nnseg.storage.datasets.layouts import find_layout
from nnseg.storage.datasets.read import read_dataset
from nnseg.storage.datasets.splits import read_split
from nnseg.storage.files import read_json
from nnseg.storage.images.formats import folder_format
from nnseg.storage.images.read import read_header, read_label_map, read_marks, read_scan
from nnseg.storage.images.write import write_label_files
from nnseg.storage.model_header import FORMAT, compact_json
from nnseg.storage.plan_folder import FoldFolder, read_plan
from nnseg.storage.predictions import own_files, read_predictions
from nnseg.storage.run import Run, read_folds
from nnseg.volumetry.population import read_population
from nnseg.volumetry.tables import read_patients, read_people

LABELS = Labels(names=("background", "ball"), values=(0, 1))
SHAPE = (3, 5, 4)
MOST_FILES, MOST_DEPTH = 30, 4
"""Of trees of files made from an input."""


def targets(examples: Path) -> dict[str, Target]:
    """The readers by name.

    Args:
        examples: the folder that `fuzz.make_examples` makes.
    """
    return _of_images(examples) | _of_datasets(examples) | _of_runs(examples) | _of_tables(examples) | _of_nnunet(examples)


def _of_images(examples: Path) -> dict[str, Target]:
    found = {f"image {suffix}": Target(f"x{suffix}", _image, seeds) for suffix, seeds in IMAGES.items()}
    for name, data in (("x.mhd", "x.raw"), ("x.nhdr", "y.raw"), ("x.hdr", "x.img"), ("x+orig.HEAD", "x+orig.BRIK")):
        beside = partial(_with, examples / "images" / data)
        found[f"image .{name.split('.')[1]}"] = Target(name, _image, (f"images/{name}",), beside)
    return found | {
        "DICOM": Target("x", _image, tuple(f"dicom/{kind}" for kind in DICOM)),
        "DICOM series": Target("series/x", lambda p: _image(p.parent), ("dicom/slice",), _into_series),
        "DICOM tags": Target("x", _dicom_tags, ("dicom/slice",)),
        "sidecar": Target("x.json", lambda p: _image(p.with_suffix(".npy")), ("sidecar.json",), _with_array),
        "zarr": Target(
            "zarr.json", lambda p: _image(p.parent), ("store.zarr/zarr.json",), partial(_among, examples / "store.zarr")
        ),
    }


def _of_datasets(examples: Path) -> dict[str, Target]:
    in_dataset = partial(_among, examples / "balls")
    return {
        "dataset.json": Target("dataset.json", _dataset, ("balls/dataset.json", "nnunet.json"), in_dataset),
        "names of files": Target("names", _tree, ("names.txt",)),
        "participants.tsv": Target("participants.tsv", _dataset, ("groups.csv",), in_dataset),
        "split.json": Target("split.json", partial(_split, examples), ("run/folds.json",)),
        "split.csv": Target("split.csv", partial(_split, examples), ("split.csv",)),
    }


def _of_runs(examples: Path) -> dict[str, Target]:
    found = {
        "plan.toml": Target("plan.toml", lambda p: read_plan(p).key(), ("run/plan.toml",)),
        "recipe": Target("recipe.toml", load_recipe, ("recipe.toml",)),
        "history.jsonl": Target("fold_0/history.jsonl", lambda p: FoldFolder(p.parent).history(), ("run/fold_0/history.jsonl",)),
        "predictions.json": Target("predictions.json", _predictions, ("out/predictions.json",)),
        "model": Target("model.nnseg", load_model_file, ("run/model.nnseg",)),
        "model text": Target("model.nnseg", load_model_file, ("model.json",), _model_of(examples)),
        "checkpoint": Target("checkpoint.safetensors", load_tensors, ("run/fold_0/checkpoint.safetensors",)),
        "case": Target("case.case", _case, ("case.case",)),
        "case.json": Target("case.case", _case, ("case.json",), _case_of(examples)),
        "case frame": Target("case.case", _case, ("case.b2nd",), _case_with_frame(examples)),
        "folds.json": Target("folds.json", read_folds, ("run/folds.json",)),
        "run.json": Target("run.json", lambda p: Run(p.parent).record, ("run/run.json",)),
    }
    for seed, kind in KINDS.items():
        found[f"run's {Path(seed).name}"] = Target("x.json", partial(_json, kind), (seed,))
    return found


def _of_tables(examples: Path) -> dict[str, Target]:
    return {
        "groups.csv": Target("groups.csv", partial(_groups, examples), ("groups.csv",)),
        "people.csv": Target("people.csv", _people, ("people.csv",)),
        "volumes.json": Target("volumes.json", lambda p: read_population(p, LABELS), ("out/volumes.json",)),
    }


def _of_nnunet(examples: Path) -> dict[str, Target]:
    place = partial(_among, examples / NNUNET)
    checkpoint = "fold_0/checkpoint_final.pth"
    return {
        "nnU-Net plans.json": Target("plans.json", _nnunet, ("plans.json",), place),
        "nnU-Net dataset.json": Target("dataset.json", _nnunet, ("nnunet_dataset.json",), place),
        "nnU-Net pickle": Target(checkpoint, lambda p: _nnunet(p.parent), ("data.pkl",), _nnunet_pickle(examples)),
        "nnU-Net checkpoint": Target(checkpoint, lambda p: _nnunet(p.parent), ("checkpoint.pth",), place),
        "nnU-Net summary.json": Target("summary.json", read_summary, ("summary.json",)),
    }


KINDS = {
    "run/dataset.json": Dataset,
    "run/fingerprint.json": Fingerprint,
    "run/scores.json": Scores,
    "run/postprocessing.json": Postprocessing,
    "run/fold_0/schedule.json": Schedule,
    "choice.json": Choice,
    "trust.json": Trust,
}
"""Files that are read as one class."""


def _json(kind: type, path: Path) -> object:
    return read_json(path, kind)


def _each(*reads: Callable[[], object]) -> None:
    for read in reads:
        with suppress(NnsegError):
            read()


def _image(path: Path) -> None:
    """Read the file in every way, and write a label map for it."""
    _each(
        partial(read_header, [path]),
        partial(read_label_map, path),
        partial(read_marks, path),
        partial(_scan_and_answer, path),
        partial(read_scan, [path]),
    )


def _scan_and_answer(path: Path) -> None:
    scan = read_scan([path], repair=True)
    if scan.image[0].size < 100_000:
        label_map = LabelMap(labels=np.zeros(scan.image.shape[1:], np.uint8), grid=scan.grid)
        write_label_files(label_map, path.parent / "answers", "x", like=scan.source, labels=LABELS)


def _with(beside: Path, data: bytes, path: Path) -> None:
    shutil.copy(beside, path.parent)
    path.write_bytes(data)


def _with_array(data: bytes, path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros(SHAPE, np.float32))
    path.write_bytes(data)


def _into_series(data: bytes, path: Path) -> None:
    """The input as a slice, and with another position as the next."""
    path.write_bytes(data)
    path.with_name("y").write_bytes(data.replace(b"\\30.0", b"\\33.0", 1))


def _dicom_tags(path: Path) -> None:
    form = folder_format(path)
    if form:
        _each(lambda: form.sort([path]), lambda: form.is_labels(path))


def _among(example: Path, data: bytes, path: Path) -> None:
    """The input in the place of its file in a copy of an example."""
    root = path.parent.parent if path.parent.name == "fold_0" else path.parent
    if not all((root / entry.name).exists() for entry in example.iterdir()):
        shutil.copytree(example, root, dirs_exist_ok=True)
    path.write_bytes(data)


def _dataset(path: Path) -> None:
    _each(lambda: find_layout(path.parent, Reading()), lambda: read_dataset(path.parent))


def _tree(path: Path) -> None:
    """A tree of empty files of the names in the input, one a line."""
    root = path.parent / "tree"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for line in path.read_bytes().split(b"\n")[:MOST_FILES]:
        parts = [
            part.decode("utf-8", "surrogateescape")
            for part in line.split(b"/")[:MOST_DEPTH]
            if part.strip(b".") and b"\0" not in part
        ]
        with suppress(OSError, ValueError):
            file = root.joinpath(*parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.is_dir():
                file.write_bytes(b"")
    _each(lambda: find_layout(root, Reading()))


def _names(examples: Path) -> list[Case]:
    return [Case(name=f"ball_{i:02d}", images=(examples / "balls/imagesTr" / f"ball_{i:02d}.nii.gz",)) for i in range(4)]


def _split(examples: Path, path: Path) -> None:
    read_split(path, _names(examples))


def _groups(examples: Path, path: Path) -> None:
    dataset = read_json(examples / "run" / "dataset.json", Dataset)
    _each(lambda: read_groups(str(path), dataset), lambda: read_cohorts(path))


def _people(path: Path) -> None:
    _each(lambda: read_people(path, ("ball",)), lambda: read_patients(path, ("a", "b")), lambda: read_population(path, LABELS))


def _predictions(path: Path) -> None:
    _each(lambda: read_predictions(path.parent), lambda: own_files(path.parent))


def _case(path: Path) -> None:
    read = CaseStore(path.parent).read("case")
    np.asarray(read.image[:, :2]), np.asarray(read.labels[:2])


def _model_of(examples: Path) -> Callable[[bytes, Path], None]:
    """Files of the example's tensors and any text, with the right hash."""
    tensors, _ = load_tensors(examples / "run" / "model.nnseg")

    def write(data: bytes, path: Path) -> None:
        try:
            about = json.loads(data)
            text = compact_json({"about": about, "digest": content_digest(tensors, about), "format": FORMAT})
            path.write_bytes(save(tensors, metadata={"nnseg": text}))
        except Exception:  # of the composition
            path.write_bytes(data)

    return write


def _case_of(examples: Path) -> Callable[[bytes, Path], None]:
    members = {name: zip_member(examples / "case.case", name) for name in ("image.b2nd", "labels.b2nd", "locations.b2nd")}

    def write(data: bytes, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(CONTENTS, data)
            for name, frame in members.items():
                file.writestr(name, frame)

    return write


def _case_with_frame(examples: Path) -> Callable[[bytes, Path], None]:
    """Cases whose image is the input, with the right size and digest."""
    from nnseg.storage import case_arrays

    content = json.loads(zip_member(examples / "case.case", CONTENTS))
    write_case = _case_of(examples)

    def write(data: bytes, path: Path) -> None:
        content["members"]["image.b2nd"] |= {"bytes": len(data), "digest": case_arrays._digest(data)}
        write_case(json.dumps(content).encode(), path)
        with zipfile.ZipFile(path) as file:
            rest = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, frame in (rest | {"image.b2nd": data}).items():
                file.writestr(name, frame)

    return write


NNUNET = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def _nnunet(path: Path) -> None:
    read_nnunet_model(path.parent)


def _nnunet_pickle(examples: Path) -> Callable[[bytes, Path], None]:
    """Checkpoints whose pickle is the input."""
    with zipfile.ZipFile(examples / "checkpoint.pth") as file:
        members = {name: file.read(name) for name in file.namelist()}
    place = partial(_among, examples / NNUNET)

    def write(data: bytes, path: Path) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            for name, content in members.items():
                file.writestr(name, data if name.endswith("data.pkl") else content)
        place(packed.getvalue(), path)

    return write


SUFFIXES = (
    *(".nii", ".nii.gz", ".mha", ".nrrd", ".gipl", ".mgh", ".mgz", ".mnc"),
    *(".npy", ".png", ".ppm", ".bmp", ".gif", ".tif", ".jpg"),
)
IMAGES = {suffix: (f"images/x{suffix}",) for suffix in SUFFIXES}
IMAGES[".nii"] += ("images/big.nii", "images/scaled.nii")
IMAGES[".tif"] += ("images/ome.tif", "images/imagej.tif")
IMAGES[".nrrd"] += ("images/seg.nrrd",)
DICOM = ("slice", "enhanced", "mosaic", "seg", "rle", "j2k", "jpeg-ls", "deflated")


def write_examples(folder: Path) -> None:
    """Write an example of each kind into the folder, which has a run and a folder of predictions."""
    images = folder / "images"
    images.mkdir()
    _write_images(images)
    (images / "x.mnc").write_bytes(_minc())
    _write_dicom(folder)
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1, "all": [1, 2]}, "file_ending": ".nii.gz"}
    names = (
        "imagesTr/a_0000.nii.gz",
        "imagesTr/b_0000.nii.gz",
        "labelsTr/a.nii.gz",
        "sub-01/anat/sub-01_T1w.nii",
        "B/B_1_flair.nii",
    )
    texts = {
        "sidecar.json": '{"spacing": [1, 2, 3], "unit": "um", "axes": "ZYX"}',
        "nnunet.json": json.dumps(description),
        "names.txt": "\n".join(names),
        "split.csv": "case,fold,test\nball_00,0,\nball_01,1,\nball_02,2,\nball_03,3,\n",
        "groups.csv": "case,group,sex,age\nball_00,a,F,30\nball_01,b,M,40\nball_02,b,M,51\nball_03,c,F,\n",
        "people.csv": "case,age,sex,Ball (ml)\na,30,F,1.5\nb,40,M,2\n",
    }
    choice = Choice(plans={"3d": 1.0}, reason="the best", cases=4, key="0")
    trust = Trust(cases=4, labels={"ball": LabelTrust(offset=-4.0)}, error=0.1, threshold=0.7)
    texts |= {"choice.json": choice.model_dump_json(), "trust.json": trust.model_dump_json()}
    for name, text in texts.items():
        (folder / name).write_text(text)
    case = folder / "run" / "cases" / "ball_00.case"
    with zipfile.ZipFile(folder / "case.case", "w") as file:
        for name in ("case.json", "image.b2nd", "labels.b2nd", "locations.b2nd"):
            data = zip_member(case, name)
            file.writestr(name, data.replace(b'"name":"ball_00"', b'"name":"case"') if name == "case.json" else data)
    (folder / "case.json").write_bytes(zip_member(folder / "case.case", "case.json"))
    (folder / "case.b2nd").write_bytes(zip_member(case, "image.b2nd"))
    (folder / "model.json").write_text(json.dumps(load_tensors(folder / "run" / "model.nnseg")[1]))
    _write_nnunet(folder)
    _write_store(folder / "store.zarr")


def _write_images(folder: Path) -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(SHAPE)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.7, 3.0))
    for name in ("x.mha", "x.mhd", "x.nrrd", "x.gipl", "y.nhdr"):
        sitk.WriteImage(image, str(folder / name))
    shutil.move(folder / "y.nhdr", folder / "x.nhdr")
    sitk.WriteImage(image, str(folder / "seg.nrrd"), useCompression=True)
    affine = np.diag([0.5, 0.7, 3.0, 1.0])
    for name in ("x.nii", "x.nii.gz", "x.mgh", "x.mgz"):
        nib.save((nib.MGHImage if "mg" in name else nib.Nifti1Image)(voxels, affine), folder / name)
    big = nib.Nifti1Image(voxels, affine, nib.Nifti1Header(endianness=">"))
    nib.save(big, folder / "big.nii")
    scaled = nib.Nifti1Image(voxels, affine)
    scaled.header.set_slope_inter(0.5, -3)
    nib.save(scaled, folder / "scaled.nii")
    nib.save(nib.AnalyzeImage(voxels, np.diag([-0.5, 0.7, 3.0, 1.0])), folder / "x.img")
    (folder / "x+orig.HEAD").write_text(AFNI)
    (folder / "x+orig.BRIK").write_bytes(voxels.tobytes())
    np.save(folder / "x.npy", voxels)
    for name in ("x.png", "x.ppm", "x.bmp", "x.gif", "x.jpg"):
        picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
        (picture.convert("P") if name == "x.gif" else picture).save(folder / name)
    for name, options in TIFF.items():
        tifffile.imwrite(folder / f"{name}.tif", voxels.astype(np.uint16), photometric="minisblack", **options)


TIFF: dict[str, Any] = {
    "x": {"compression": "zlib"},
    "ome": {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5}},
    "imagej": {"imagej": True, "resolution": (2, 2), "metadata": {"spacing": 3, "unit": "um"}},
}


AFNI = """
type = integer-attribute
name = DATASET_DIMENSIONS
count = 5
 4 5 3 0 0

type = float-attribute
name = DELTA
count = 3
 0.5 0.7 3

type = float-attribute
name = ORIGIN
count = 3
 0 0 0

type = integer-attribute
name = ORIENT_SPECIFIC
count = 3
 0 3 4

type = integer-attribute
name = DATASET_RANK
count = 2
 3 1

type = integer-attribute
name = BRICK_TYPES
count = 1
 1

type = integer-attribute
name = SCENE_DATA
count = 3
 0 2 0

type = string-attribute
name = BYTEORDER_STRING
count = 10
'LSB_FIRST~

type = string-attribute
name = TEMPLATE_SPACE
count = 5
'ORIG~

type = float-attribute
name = IJK_TO_DICOM
count = 12
 0.5 0 0 0 0 0.7 0 0 0 0 3 0

type = float-attribute
name = IJK_TO_DICOM_REAL
count = 12
 0.5 0 0 0 0 0.7 0 0 0 0 3 0
"""


def _minc() -> bytes:
    """A MINC 1 file: NetCDF 3 with a variable for each axis."""
    from scipy.io import netcdf_file

    path = io.BytesIO()
    file = netcdf_file(path, "w")
    for name, length in zip(("zspace", "yspace", "xspace"), SHAPE, strict=True):
        file.createDimension(name, length)
        axis = file.createVariable(name, "i4", ())
        axis.start, axis.step, axis.length, axis.spacing = 0.0, 2.0, length, b"regular__"
    image = file.createVariable("image", "i2", ("zspace", "yspace", "xspace"))
    image.valid_range, image.signtype = np.array([0.0, 100.0]), b"signed__"
    image[:] = np.arange(60).reshape(SHAPE)
    for name, value in (("image-min", 0.0), ("image-max", 100.0)):
        file.createVariable(name, "f8", ())[...] = value
    file.flush()
    return path.getvalue()


def _write_dicom(folder: Path) -> None:
    from dicom_corpus import AXIAL, Volume, frame_item, ramp, write_classic, write_enhanced, write_mosaic

    place = folder / "dicom"
    place.mkdir()
    volume = Volume(voxels=ramp(3), steps=AXIAL)
    for syntax in ("explicit", "rle", "j2k", "jpeg-ls", "deflated"):
        files = write_classic(folder / f"series_{syntax}", volume, syntax)
        shutil.copy(files[0], place / ("slice" if syntax == "explicit" else syntax))
    write_enhanced(place / "enhanced", [frame_item(volume, k) for k in range(3)])
    write_mosaic(place / "mosaic", volume)
    scan = read_scan([folder / "series_explicit"])
    label_map = LabelMap(labels=(scan.image[0] > 30).astype(np.uint8), grid=scan.grid)
    write_label_files(label_map, folder / "series_seg", "x", like=scan.source, labels=LABELS, suffix=".dcm")
    shutil.copy(next((folder / "series_seg").glob("*.dcm")), place / "seg")


def _write_nnunet(folder: Path) -> None:
    from interop.nnunet.trained import plans_of, write_trained

    place = write_trained(folder, plans_of())
    shutil.copy(place / "plans.json", folder / "plans.json")
    shutil.copy(place / "dataset.json", folder / "nnunet_dataset.json")
    checkpoint = place / "fold_0" / "checkpoint_final.pth"
    shutil.copy(checkpoint, folder / "checkpoint.pth")
    with zipfile.ZipFile(checkpoint) as file:
        name = next(n for n in file.namelist() if n.endswith("data.pkl"))
        (folder / "data.pkl").write_bytes(file.read(name))


def _write_store(folder: Path) -> None:
    import zarr

    array = zarr.create_array(
        store=str(folder), shape=SHAPE, chunks=SHAPE, dtype="int16", zarr_format=3, dimension_names=("z", "y", "x")
    )
    array[:] = struct.unpack("<h", b"\1\0")[0]
