"""Train a zoo of small real nnU-Net v2 models, one of each kind, and have nnU-Net predict scans with them, for bench_import.py.

    python benchmarks/peer_zoo.py WORK [--kinds NAME ...] [--steps 250]                     (in the peer's own environment)
    python benchmarks/peer_zoo.py WORK --steps 400 --keep tests/interop/data                the small ones that tests use

Data (bright balls with a brighter core, on scans of many spacings and orientations) are made here. Planner, preprocessing, trainer,
loss and augmentation are nnU-Net's own; only sizes in plans.json are changed, and trainings are short. WORK/zoo.json says of each
kind which folders hold models, scans and nnU-Net's predictions of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

Voxels = np.ndarray
HALVES = {"background": 0, "rim": 1, "core": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
TRAINING_CASES, TEST_CASES = 6, 2


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One entry of the zoo.

    Args:
        channels: names, by which nnU-Net chooses normalizations.
        spacing: least and greatest mm of scans along (z, y, x).
        target: mm of the network's grid.
        patch: voxels of a 3D patch; a 2D one has the last two.
        configurations: in the order of training.
        margin: share of each axis that is zero around the object, so that normalization is masked.
        turned: scans are stored in all sorts of orientations.
        mirror: average over mirrored copies in prediction.
        features: of the first stage.
        convolutions: of each stage.
    """

    reader: str = "SimpleITKIO"
    suffix: str = ".nii.gz"
    channels: tuple[str, ...] = ("MRI",)
    labels: dict[str, Any]
    order: tuple[int, ...] | None = None
    spacing: tuple[tuple[float, float], ...] = ((0.9, 1.6),) * 3
    target: tuple[float, float, float] = (1.2, 1.2, 1.2)
    patch: tuple[int, int, int] = (32, 32, 32)
    configurations: tuple[str, ...] = ("3d_fullres",)
    residual: bool = False
    folds: tuple[int, ...] = (0,)
    margin: float = 0.0
    turned: bool = False
    mirror: bool = True
    features: int = 8
    convolutions: int = 2
    extent: float = 48.0


ANISOTROPIC = {"spacing": ((3.0, 5.0), (0.8, 1.2), (0.8, 1.2)), "target": (4.0, 1.0, 1.0), "patch": (8, 32, 32)}
CASCADE = ("3d_lowres", "3d_cascade_fullres")

KINDS = {
    "2d": Kind(labels=HALVES, configurations=("2d",), spacing=ANISOTROPIC["spacing"], turned=True),
    "2d_residual": Kind(labels=HALVES, configurations=("2d",), residual=True),
    "3d_fullres": Kind(labels=HALVES, turned=True, folds=(0, 1, 2)),
    "3d_residual": Kind(labels=HALVES, residual=True, channels=("CT",)),
    "3d_lowres": Kind(labels=HALVES, configurations=("3d_lowres",)),
    "cascade": Kind(labels=HALVES, configurations=CASCADE, folds=(0, 1)),
    "cascade_residual": Kind(labels=REGIONS, order=(1, 2), configurations=CASCADE, residual=True),
    "anisotropic": Kind(labels=HALVES, turned=True, **ANISOTROPIC),
    "regions": Kind(labels=REGIONS, order=(1, 2), channels=("T1", "T2"), margin=0.25),
    "regions_2d": Kind(labels=REGIONS, order=(1, 2), configurations=("2d",), channels=("CT",)),
    "ignore": Kind(labels={**HALVES, "ignore": 3}),
    "ras_nibabel": Kind(labels=HALVES, reader="NibabelIOWithReorient", turned=True, mirror=False, folds=(0, 1)),
    "ras_sitk": Kind(labels=HALVES, reader="SimpleITKIOWithReorient", turned=True, mirror=False),
    "stored_nibabel": Kind(
        labels=HALVES, reader="NibabelIO", turned=True, mirror=False, spacing=((0.8, 1.2), (1.5, 2.5), (0.8, 1.2))
    ),
    "stored_sitk": Kind(labels=HALVES, turned=True, mirror=False, residual=True, spacing=((0.8, 1.2), (0.8, 1.2), (1.6, 3.0))),
    "rescaled_and_raw": Kind(labels=HALVES, channels=("rescale_to_0_1", "noNorm"), suffix=".mha"),
    "tiff": Kind(labels=HALVES, reader="Tiff3DIO", suffix=".tif", channels=("zscore",)),
    "rgb": Kind(labels=HALVES, reader="NaturalImage2DIO", suffix=".png", channels=("rgb_to_0_1",) * 3, configurations=("2d",)),
    "masked_ct": Kind(labels=HALVES, channels=("CT", "MRI"), margin=0.25, **ANISOTROPIC),
}

TINY = {
    "tiny_regions_2d": Kind(
        labels=REGIONS, order=(1, 2), configurations=("2d",), channels=("CT",), features=6, convolutions=1, turned=True,
        extent=32.0, spacing=ANISOTROPIC["spacing"],
    ),
    "tiny_folds_3d": Kind(
        labels=HALVES, folds=(0, 1), features=4, convolutions=1, turned=True, extent=30.0, patch=(16, 24, 16),
        spacing=((1.2, 1.8), (0.9, 1.4), (1.2, 1.8)), target=(1.5, 1.2, 1.5), reader="NibabelIOWithReorient",
    ),
    "tiny_cascade": Kind(
        labels=HALVES, configurations=CASCADE, residual=True, features=3, convolutions=1, extent=30.0, patch=(16, 16, 16),
        target=(1.5, 1.5, 1.5), channels=("T1", "T2"), margin=0.15,
    ),
}  # fmt: skip
"""Those whose models are small enough to lie beside the tests."""


def main() -> None:
    """Make what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--kinds", nargs="*", help="names; all but the tiny ones if none")
    parser.add_argument("--steps", type=int, default=250, help="of each training")
    parser.add_argument("--keep", type=Path, help="folder for models, one scan each and its predictions, of the tiny kinds")
    options = parser.parse_args()
    work = options.work.resolve()
    folders = {name: work / name.removeprefix("nnUNet_") for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    threads = os.environ.get("OMP_NUM_THREADS", "2")
    os.environ.update({name: str(folder) for name, folder in folders.items()})
    os.environ.update(nnUNet_def_n_proc="1", nnUNet_compile="f", OMP_NUM_THREADS=threads)
    known = {**KINDS, **TINY}
    for name in options.kinds or (TINY if options.keep else KINDS):
        number = 100 + list(known).index(name)
        record = work / "zoo.json"
        if name not in recorded(record):
            start = time.time()
            made = make(known[name], number, f"Dataset{number}_{name}", work, options.steps)
            record.write_text(json.dumps({**recorded(record), name: made}, indent=1) + "\n")
            print(name, f"{time.time() - start:.0f} s", made, flush=True)
        if options.keep:
            keep(recorded(record)[name], options.keep / name.removeprefix("tiny_"))


def recorded(record: Path) -> dict[str, Any]:
    """What is known about the kinds that are done."""
    return dict(json.loads(record.read_text())) if record.exists() else {}


def make(kind: Kind, number: int, dataset: str, work: Path, steps: int) -> dict[str, Any]:
    """Data, plans, models and predictions of one kind; where they are."""
    write_data(kind, number, work / "raw" / dataset)
    plans_name = plan_and_preprocess(kind, number, work / "preprocessed" / dataset)
    for configuration in kind.configurations:
        for fold in kind.folds:
            train(work / "preprocessed" / dataset, plans_name, configuration, fold, steps)
    predictions = predict(kind, number, dataset, plans_name, work)
    model = work / "results" / dataset / f"nnUNetTrainer__{plans_name}__{kind.configurations[-1]}"
    scans, references = (work / "raw" / dataset / sub for sub in ("imagesTs", "labelsTs"))
    places = {"model": model, "scans": scans, "predictions": predictions, "references": references}
    return {**{k: str(v) for k, v in places.items()}, "mirror": kind.mirror, "suffix": kind.suffix}


def keep(made: dict[str, str], folder: Path) -> None:
    """Copy what a test needs: the configurations' folders with their final checkpoints, the first scan, and its prediction."""
    shutil.rmtree(folder, ignore_errors=True)
    for source in Path(made["model"]).parent.iterdir():
        for file in (source / "plans.json", source / "dataset.json", *sorted(source.glob("fold_*/checkpoint_final.pth"))):
            target = folder / "model" / file.relative_to(source.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    first = sorted(Path(made["references"]).glob(f"*{made['suffix']}"))[0].name
    shutil.copyfile(Path(made["predictions"]) / first, folder / f"nnunet{made['suffix']}")
    (folder / "scan").mkdir()
    for channel in sorted(Path(made["scans"]).glob(f"{first.removesuffix(made['suffix'])}_*")):
        shutil.copyfile(channel, folder / "scan" / channel.name)


def write_data(kind: Kind, number: int, folder: Path) -> None:
    """A raw dataset of nnU-Net's layout, with scans to test it on."""
    shutil.rmtree(folder, ignore_errors=True)
    for sub in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / sub).mkdir(parents=True)
    rng = np.random.default_rng(number)
    for i in range(TRAINING_CASES + TEST_CASES):
        end = "Tr" if i < TRAINING_CASES else "Ts"
        image, labels, affine = phantom(kind, rng)
        case = f"case_{i:02d}"
        if kind.suffix == ".png":
            write(np.moveaxis(image, 0, -1), folder / f"images{end}" / f"{case}_0000.png", affine)
        else:
            for c, channel in enumerate(image):
                write(channel, folder / f"images{end}" / f"{case}_{c:04d}{kind.suffix}", affine)
        write(labels, folder / f"labels{end}" / f"{case}{kind.suffix}", affine)
        if kind.suffix == ".tif":
            spacing = json.dumps({"spacing": np.linalg.norm(affine[:3, :3], axis=0)[::-1].tolist()})
            for sub in ("images", "labels"):
                (folder / f"{sub}{end}" / f"{case}.json").write_text(spacing)
    described = {
        "channel_names": {str(i): name for i, name in enumerate(kind.channels)},
        "labels": kind.labels,
        "numTraining": TRAINING_CASES,
        "file_ending": kind.suffix,
        "overwrite_image_reader_writer": kind.reader,
    }
    if kind.order:
        described["regions_class_order"] = list(kind.order)
    (folder / "dataset.json").write_text(json.dumps(described, indent=1))


def phantom(kind: Kind, rng: np.random.Generator) -> tuple[Voxels, Voxels, Voxels]:
    """An image (C, z, y, x), its labels, and the affine (RAS, of x, y, z) that puts them in the world."""
    spacing = np.array([rng.uniform(*of) for of in kind.spacing])
    extent = kind.extent * rng.uniform(0.85, 1.15, 3)
    shape = np.maximum(np.round(extent / spacing).astype(int), 4)
    if kind.suffix == ".png":
        spacing, shape = np.ones(3), np.array([1, *rng.integers(72, 96, 2)])
        extent = shape.astype(float)
    axes = [np.arange(n) * s for n, s in zip(shape, spacing, strict=True)]
    position = np.stack(np.meshgrid(*axes, indexing="ij"))
    centre = extent * rng.uniform(0.42, 0.58, 3) * (shape > 1)
    radii = np.minimum(extent, extent[1:].min()) * rng.uniform(0.22, 0.3, 3)
    away, beside = (
        np.sqrt((((position - middle.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)) ** 2).sum(0))
        for middle in (centre, centre + radii * 0.25 * (shape > 1))
    )
    labels = (away < 1).astype(np.uint8) + ((away < 1) & (beside < 0.5))
    levels = np.array([60.0, 140.0, 220.0])
    image = np.stack([levels[labels] if c % 2 == 0 else levels[::-1][labels] for c in range(len(kind.channels))])
    image = np.clip(image + rng.normal(0, 8, image.shape), 1, 255)
    if kind.margin:
        inside = np.all(np.abs(position / extent.reshape(3, 1, 1, 1) - 0.5) < 0.5 - kind.margin / 2, axis=0) | (labels > 0)
        image *= inside
    if "ignore" in kind.labels:
        labels[labels.shape[0] // 2 :: 3] = kind.labels["ignore"]
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return (np.round(image).astype(np.uint8 if kind.suffix == ".png" else np.int16), *turned(labels, affine, kind, rng))


def turned(labels: Voxels, affine: Voxels, kind: Kind, rng: np.random.Generator) -> tuple[Voxels, Voxels]:
    """The same, the world turned about the voxels if the kind asks for it: right angles, and a few degrees of tilt."""
    if not kind.turned:
        return labels, affine
    turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], (3, 1))
    a, b = rng.uniform(-0.15, 0.15, 2)
    tilt = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = tilt @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    result = affine.copy()
    result[:3, :3] = tilt @ turn @ affine[:3, :3]
    return labels, result


def write(voxels: Voxels, path: Path, affine: Voxels) -> None:
    """Voxels (z, y, x) as the suffix says."""
    if path.name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(voxels.T, affine), path)
    elif path.suffix == ".png":
        from skimage import io  # noqa: PLC0415

        io.imsave(path, voxels[0], check_contrast=False)
    elif path.suffix == ".tif":
        import tifffile  # noqa: PLC0415

        tifffile.imwrite(path, voxels)
    else:
        import SimpleITK as sitk  # noqa: PLC0415

        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(np.linalg.norm(affine[:3, :3], axis=0).tolist())
        sitk.WriteImage(image, path, True)


def plan_and_preprocess(kind: Kind, number: int, folder: Path) -> str:
    """nnU-Net's own plans with small networks put in, and its preprocessed cases; the plans' name."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (  # noqa: PLC0415
        extract_fingerprints,
        plan_experiments,
        preprocess_dataset,
    )

    shutil.rmtree(folder, ignore_errors=True)
    os.environ.update(nnUNet_n_proc_DA="1")
    extract_fingerprints([number], num_processes=1, clean=True)
    planner = "nnUNetPlannerResEncM" if kind.residual else "ExperimentPlanner"
    target = None if kind.suffix == ".png" else kind.target
    plan_experiments([number], planner, overwrite_target_spacing=target)
    [plans_file] = folder.glob("*Plans.json")
    plans = json.loads(plans_file.read_text())
    plans["configurations"] = configurations(plans["configurations"], kind)
    plans_file.write_text(json.dumps(plans, indent=1))
    names = [name for name in kind.configurations if name != "3d_cascade_fullres"]
    names += ["3d_fullres"] if "3d_cascade_fullres" in kind.configurations else []
    preprocess_dataset(number, plans["plans_name"], names, [1] * len(names))
    cases = [
        f"case_{i:02d}" for i in range(TRAINING_CASES)
    ]  # all validated in each fold, since second stages train with the answers
    splits = [{"train": cases[:i] + cases[i + 1 :], "val": cases} for i in range(5)]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return str(plans["plans_name"])


def configurations(planned: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The planned configurations, smaller, and those of a cascade whether they were planned or not."""
    small = {name: shrunk(planned[name], kind) for name in ("2d", "3d_fullres") if name in planned}
    if "3d_lowres" in kind.configurations:
        full = small["3d_fullres"]
        low = {**full, "spacing": [1.6 * s for s in full["spacing"]], "data_identifier": full["data_identifier"] + "_lowres"}
        small["3d_lowres"] = {**low, "batch_dice": False}
    if "3d_cascade_fullres" in kind.configurations:
        small["3d_lowres"]["next_stage"] = "3d_cascade_fullres"
        small["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return small


def shrunk(planned: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """A planned configuration with a network of three stages."""
    dimensions = len(planned["patch_size"])
    flat = dimensions == 3 and kind.patch[0] < kind.patch[1] / 2
    kernels = [[3] * dimensions for _ in range(3)]
    strides = [[1] * dimensions, [2] * dimensions, [2] * dimensions]
    if flat:
        kernels[0], strides[1] = [1, 3, 3], [1, 2, 2]
    kwargs = planned["architecture"]["arch_kwargs"] | {
        "n_stages": 3,
        "features_per_stage": [kind.features * 2**i for i in range(3)],
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage_decoder": [kind.convolutions] * 2,
    }
    kwargs["n_blocks_per_stage" if kind.residual else "n_conv_per_stage"] = [kind.convolutions] * 3
    patch = [64, 64] if kind.suffix == ".png" else list(kind.patch[-dimensions:])
    return planned | {
        "patch_size": patch,
        "batch_size": 2 if dimensions == 3 else 8,
        "architecture": planned["architecture"] | {"arch_kwargs": kwargs},
    }


def train(folder: Path, plans_name: str, configuration: str, fold: int, steps: int) -> None:
    """The stock trainer for so many steps; a first stage also predicts what the second is trained with."""
    import torch  # noqa: PLC0415
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: PLC0415

    os.environ.update(nnUNet_n_proc_DA="0")  # augmentation in this process; the planner wants one at least
    plans = json.loads((folder / f"{plans_name}.json").read_text()) | {"continue_training": False}
    described = json.loads((folder / "dataset.json").read_text())
    torch.manual_seed(fold)
    np.random.seed(fold)
    trainer = nnUNetTrainer(plans, configuration, fold, described, torch.device("cpu"))
    trainer.num_epochs, trainer.num_val_iterations_per_epoch = 4, 1
    trainer.num_iterations_per_epoch = steps // trainer.num_epochs
    trainer.logger.plot_progress_png = lambda _: None
    trainer.run_training()
    if configuration == "3d_lowres" and "3d_cascade_fullres" in plans["configurations"]:
        trainer.perform_actual_validation(False)


def predict(kind: Kind, number: int, dataset: str, plans_name: str, work: Path) -> Path:
    """``nnUNetv2_predict`` on the test scans, one stage after the other; the folder of the last one's label maps."""
    scans, previous = work / "raw" / dataset / "imagesTs", None
    for configuration in kind.configurations:
        out = work / "predictions" / dataset / configuration
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        command = [
            str(Path(sys.executable).parent / "nnUNetv2_predict"), "-i", str(scans), "-o", str(out), "-d", str(number),
            "-c", configuration, "-p", plans_name, "-f", *map(str, kind.folds), "-device", "cpu", "-npp", "0", "-nps", "0",
            "--disable_progress_bar",
        ]  # fmt: skip
        command += ["-prev_stage_predictions", str(previous)] if previous and configuration == "3d_cascade_fullres" else []
        command += [] if kind.mirror else ["--disable_tta"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        previous = out
    return out


if __name__ == "__main__":
    main()
