"""``nnseg export``: a run's model as one file that is enough alone, with its card beside it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nnseg.core.card import ModelCard
from nnseg.core.errors import ModelError, RunError
from nnseg.network.bundle import Model, load_model_file, save_model
from nnseg.reporting.model_card import markdown
from nnseg.storage.files import write_text
from nnseg.storage.runs import RunFolder
from nnseg.verbs.card import make_card
from nnseg.verbs.model import load_model
from nnseg.verbs.record import read_record

CARD_SUFFIX = ".md"
"""Of the card beside a model."""


def export(run: RunFolder, path: Path, *, folds: tuple[int, ...] | None = None) -> Model:
    """Write a run's model as one file, and its card as Markdown beside it. A file of the same model and card stays as it is.

    Raises:
        RunError: the run is empty, the file would be called as its card is, or the files cannot be written.
        ModelError: a fold is not trained.
    """
    if not run.record_file.exists():
        raise RunError(f"{run.path} is not a run folder")
    if path.suffix.lower() == CARD_SUFFIX:
        raise RunError(f"{path} is what the card beside the model would be called; call the model {path.stem}.nnseg")
    model = load_model(run.path, folds=folds)
    card, before = make_card(run, model), _known_card(path)
    if before and before.content() == card.content():
        card = before
    else:
        about = {**model.about, "exported": datetime.now(UTC).isoformat(timespec="seconds")}
        about |= {f"trained with {k}": str(v) for k, v in read_record(run).get("versions", {}).items()}
        model = replace(model, about=about, card=card)
        save_model(model, path)
    write_text(path.with_suffix(CARD_SUFFIX), markdown(card))
    return replace(model, card=card)


def card_of(path: Path) -> str:
    """The card of a model as Markdown.

    Args:
        path: an exported file, or a run folder.

    Raises:
        ModelError: there is no model, or it has no card.
    """
    if path.is_dir():
        return markdown(make_card(RunFolder(path), load_model(path)))
    card = load_model_file(path).card
    if card is None:
        raise ModelError(f"{path} has no card: an older nnseg made it, or it was another tool's; nnseg export RUN writes one")
    return markdown(card)


def _known_card(path: Path) -> ModelCard | None:
    with suppress(ModelError):
        return load_model_file(path).card
    return None
