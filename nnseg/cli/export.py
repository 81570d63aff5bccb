"""Commands for models in files, of nnseg and of others: export, card, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from nnseg.cli.app import USE, app
from nnseg.cli.options import Force, Quiet, check_path, check_suffix, find_model, with_options
from nnseg.cli.output import loading, log_to_terminal, show
from nnseg.core.errors import NnsegError
from nnseg.core.options import ExportRuntime, Options


@app.command(rich_help_panel=USE)
@with_options("folds")
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of the run; for other runtimes also an exported file, or a name.")
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File to write, named *.nnseg; with --nnunet or a runtime a new folder.")
    ],
    options: Options,
    nnunet: Annotated[bool, typer.Option("--nnunet", help="Write a folder with which nnU-Net v2 predicts.", metavar="")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write a folder for ONNX Runtime.", metavar="")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="Write a folder for OpenVINO.", metavar="")] = False,
    torch: Annotated[bool, typer.Option("--torch", help="Write a folder for torch alone, without nnseg.", metavar="")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="With --openvino: compute in 8-bit integers, by training cases of the run.", metavar="")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(metavar="SCANS", help="Scans that a runtime is checked on. Default: 3 held-out scans of the run."),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's model as one self-contained file of tensors and text, which predict can use.

    Its model card is written beside it, as Markdown and in the JSON of RSNA's ATLAS. A folder for another runtime has the networks,
    all constants, and a program that needs NumPy and the runtime alone; it is written only where its labels are those of nnseg.
    """
    log_to_terminal(quiet=quiet)
    if chosen := [name for name, given in (("onnx", onnx), ("openvino", openvino), ("torch", torch)) if given]:
        if len(chosen) + nnunet > 1:
            raise NnsegError(f"--{chosen[0]} writes one folder; give the others in commands of their own")
        _export_runtime(run, file, cast(ExportRuntime, chosen[0]), check, options, int8=int8)
        return
    check_path(run, "run")
    if nnunet:
        _export_nnunet(run, file, options)
        return
    check_suffix(file, "model")
    with loading():
        from nnseg.commands.export import ATLAS_SUFFIX, CARD_SUFFIX
        from nnseg.commands.export import export as write_model
        from nnseg.storage.overwrite import check_overwrite
        from nnseg.storage.run import Run

    check_overwrite(file, "model", force=force)
    check_overwrite(file.with_suffix(CARD_SUFFIX), "model card", force=force)
    check_overwrite(file.with_suffix(ATLAS_SUFFIX), "model card of ATLAS", force=force)
    model = write_model(Run(run), file, folds=options.folds)
    _print_size(file, len(model.members))


def _export_nnunet(run: Path, folder: Path, options: Options) -> None:
    with loading():
        from nnseg.commands.export import export_nnunet
        from nnseg.storage.run import Run

    for made in export_nnunet(Run(run), folder, folds=options.folds):
        folds = " ".join(sorted(path.name.removeprefix("fold_") for path in made.glob("fold_*")))
        show(f"next: nnUNetv2_predict_from_modelfolder -i SCANS -o OUT -m {made} -f {folds}")


def _export_runtime(model: Path, folder: Path, runtime: ExportRuntime, scans: Path | None, options: Options, *, int8: bool) -> None:
    path = find_model(model)
    if scans:
        check_path(scans, "scans")
    with loading():
        from nnseg.commands.export_runtime import export_runtime

    found = export_runtime(path, folder, runtime, scans=scans, folds=options.folds, int8=int8)
    show(f"{folder}: at least {found.agreement:.3%} of the voxels of {len(found.scans)} scans have the labels of nnseg")
    if found.dice_loss is not None:
        show(f"mean Dice {found.dice_loss:.4f} lower than that of nnseg")
    show(f"next: python {folder / 'run.py'} SCAN LABELS")


@app.command(rich_help_panel=USE)
def card(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Run folder, exported file, or name (nnseg models list).")],
) -> None:
    """Print a model card: intended use, training data, performance and limitations."""
    log_to_terminal()
    path = find_model(model)
    from nnseg.commands.export import read_card

    show(read_card(path).removesuffix("\n"), block=True)


@app.command("import", rich_help_panel=USE)
@with_options("folds")
def import_(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NNUNET_FOLDER",
            help="TRAINER__PLANS__CONFIGURATION for one model, or a dataset's folder for an ensemble of all in it.",
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, named *.nnseg.")],
    options: Options,
    configurations: Annotated[
        str | None,
        typer.Option(
            "--plans",
            metavar="NAMES",
            help="Configurations of a dataset's folder, by nnU-Net's names: 2d,3d_fullres. Default: all.",
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Convert a model of nnU-Net v2 into one of nnseg: none of its code is run, and unsupported settings are refused by name.

    The first stage of a cascade is found beside the second. Postprocessing is converted for a single configuration.
    """
    log_to_terminal(quiet=quiet)
    check_path(folder, "model of nnU-Net")
    check_suffix(file, "model")
    with loading():
        from nnseg.interop.nnunet.model import read_nnunet_model
        from nnseg.network.bundle import save_model
        from nnseg.storage.overwrite import check_overwrite

    check_overwrite(file, "model", force=force)
    chosen = [name.strip() for name in configurations.split(",")] if configurations else []
    model = read_nnunet_model(folder, folds=options.folds, configurations=chosen)
    save_model(model, file)
    _print_size(file, len(model.members))
    show(f"next: nnseg predict SCANS OUT --model {file}")


def _print_size(file: Path, networks: int) -> None:
    from nnseg.core.dataset import counted

    show(f"{file}: {counted(networks, 'network')}, {file.stat().st_size / 1e6:.1f} MB")
