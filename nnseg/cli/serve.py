"""``nnseg serve``: models that stay loaded and predict for many clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnseg.cli.app import USE, app
from nnseg.cli.options import Fast, Memory, Quiet, Verbose, find_model, whole_number, with_options
from nnseg.cli.output import loading, log_to_terminal, show
from nnseg.core.errors import RunError
from nnseg.core.options import FAST_STEP, Options

ACCESS, DICOM = "Clients", "DICOM"
"""Groups of options in the help."""


@app.command(rich_help_panel=USE)
@with_options("device", "folds", "devices")
def serve(
    model: Annotated[
        list[Path],
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Run folder, exported file, or name (nnseg models list); repeatable: each is chosen by its name.",
        ),
    ],
    options: Options,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen at.", rich_help_panel=ACCESS)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", help="Port; 0 for any free one.", min=0, max=65535, rich_help_panel=ACCESS)
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token that clients must send. Default: the variable NNSEG_TOKEN; on this machine alone none.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    scans: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="Clients may name scans below it, instead of sending them; repeatable.", rich_help_panel=ACCESS
        ),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole_number("--queue", 1),
            help="Scans without an answer at a time; more are refused. Default: 16.",
            show_default=False,
            rich_help_panel=ACCESS,
        ),
    ] = 16,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FOLDER", help="Answer POST /invoke of grand-challenge.org: its /input.", rich_help_panel=ACCESS
        ),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Likewise its /output.", rich_help_panel=ACCESS)
    ] = None,
    dicom_port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help='Also receive DICOM series, and send their label maps on; needs the extra "dicom-node".',
            rich_help_panel=DICOM,
        ),
    ] = None,
    dicom_title: Annotated[str, typer.Option(metavar="TITLE", help="Title of this node.", rich_help_panel=DICOM)] = "NNSEG",
    send: Annotated[
        str, typer.Option(metavar="HOST:PORT:TITLE", help="Node that label maps are sent to, as DICOM-SEG.", rich_help_panel=DICOM)
    ] = "",
    fast: Fast = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also answer the expected Dice.", metavar="")] = False,
    memory: Memory = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Keep models loaded and predict scans that clients send over HTTP, until it is stopped; needs the extra "serve".

    GET /openapi.json describes the API. Only clients on this machine are answered, unless --host says otherwise.
    """
    log_to_terminal(verbose, quiet=quiet)
    models = tuple(map(find_model, model))
    if (source is None) != (target is None):
        raise RunError("--input and --output belong together; give both or none")
    if (dicom_port is None) != (not send):
        raise RunError("--dicom-port and --send belong together; give both or none")
    from nnseg.system.extras import check_extra

    check_extra("serve", "servers")
    if send:
        check_extra("dicom-node", "DICOM nodes")
    with loading():
        from nnseg.commands.serve import Served, read_token
        from nnseg.commands.serve import serve as serve_models
        from nnseg.serving.messages import PredictionOrder

    order = PredictionOrder(
        models=models, out=Path(), folds=options.folds, device=options.device, step=FAST_STEP if fast else None,
        mirror=False if fast else None, uncertainty=uncertainty, verbose=verbose,
    )  # fmt: skip
    served = Served(
        models=models, host=host, port=port, token=read_token(token_file), folders=tuple(scans or ()),
        sockets=(source, target) if source and target else None, most=queue, dicom_port=dicom_port,
        dicom_title=dicom_title, send=send, devices=options.devices, memory_gb=memory,
    )  # fmt: skip
    serve_models(served, order, show)
