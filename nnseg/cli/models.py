"""``nnseg models``: a group of commands that list, pull, push and verify models of a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nnseg.cli.app import USE, app
from nnseg.cli.options import Quiet
from nnseg.cli.output import log_to_terminal, show
from nnseg.cli.usage import Commands

models = typer.Typer(cls=Commands, no_args_is_help=True)
app.add_typer(
    models,
    name="models",
    rich_help_panel=USE,
    help="List, pull, push and verify models of a hub: a folder, https://..., hf://OWNER/NAME or s3://BUCKET/PREFIX.",
)

Hub = Annotated[str, typer.Argument(metavar="HUB", help="Folder, https://..., hf://OWNER/NAME[@REVISION] or s3://BUCKET/PREFIX.")]
AnyHub = Annotated[str | None, typer.Argument(metavar="HUB", help="As for pull. Default: the models on this machine.")]


@models.command("list")
def list_(hub: AnyHub = None) -> None:
    """List the models of a hub, or those on this machine, which --model NAME takes."""
    log_to_terminal()
    from nnseg.commands.models import list_models
    from nnseg.core.dataset import list_some

    for model in list_models(hub):
        labels, channels = (list_some(names, 5) for names in (model.labels, model.channels))
        show(f"{model.title}: {labels} from {channels}; {model.size / 1e6:.1f} MB; licence {model.licence}")


@models.command()
def pull(
    hub: Hub,
    model: Annotated[str, typer.Argument(metavar="NAME", help="NAME, of which the newest is taken, or NAME@VERSION.")],
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the model's licence, and accept it.", metavar="")
    ] = False,
    sha256: Annotated[
        str | None, typer.Option(metavar="HASH", help="SHA-256 that the file must have, as its maker has told it.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download a model, so that --model NAME takes it; repeat the command to continue after an interruption.

    Its licence is shown and must be accepted. Its content must have the hash that the hub lists, and --sha256.
    """
    log_to_terminal(quiet=quiet)
    from nnseg.commands.models import pull as pull_model

    file = pull_model(hub, model, accept_licence=accept_licence, sha256=sha256)
    show(f"pulled: {file}", f"next: nnseg predict SCANS OUT --model {model}")


@models.command()
def push(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Model, made by nnseg export or import.")],
    hub: Annotated[str, typer.Argument(metavar="HUB", help="Folder, or s3://BUCKET/PREFIX; made if missing.")],
    model: Annotated[str, typer.Argument(metavar="NAME", help="NAME, which is version 1, or NAME@VERSION.")],
    licence: Annotated[
        str, typer.Option(metavar="TEXT", help="Licence of the model: its name, such as CC-BY-4.0, or the address of its text.")
    ],
    quiet: Quiet = False,
) -> None:
    """Write a model into a hub, and into its models.json. Another content of the same name and version is never replaced."""
    log_to_terminal(quiet=quiet)
    from nnseg.commands.models import push as push_model

    pushed = push_model(file, hub, model, licence=licence)
    show(f"pushed: {pushed.title}, SHA-256 {pushed.sha256}", f"next: nnseg models pull {hub} {pushed.title}")


@models.command()
def verify(hub: AnyHub = None) -> None:
    """Check that the models of a hub, or those on this machine, have the hashes that are listed; changes nothing.

    The exit code is 1 if one is damaged or missing.
    """
    log_to_terminal()
    from nnseg.commands.models import verify_models

    states = []
    for name, state in verify_models(hub):
        show(f"{state:8} {name}")
        states.append(state)
    if set(states) - {"intact"}:
        raise typer.Exit(1)
