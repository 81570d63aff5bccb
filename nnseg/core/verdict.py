"""`Verdict`: whether a model is useful, why not, and what comes next; shown by ``run``, the report and the model card."""

from __future__ import annotations

from typing import Literal

from nnseg.core.frozen import FrozenModel

Level = Literal["good", "fair", "poor", "unknown"]


class Verdict(FrozenModel):
    """The verdict on a model.

    Args:
        level: "good", "fair" or "poor" by its scores; "unknown" without scores.
        headline: the verdict in a few words, with the labels that were not found.
        reasons: what it rests on, in sentences.
        advice: what to do next, in words.
        command: that does it, with RUN for the run folder and DATASET for the data; empty if no single command does.
    """

    level: Level
    headline: str
    reasons: tuple[str, ...] = ()
    advice: str
    command: str = ""

    def named(self, run: str) -> Verdict:
        """The verdict with the name of the run folder in its command."""
        return self.model_copy(update={"command": self.command.replace("RUN", run)})

    @property
    def sentences(self) -> tuple[str, ...]:
        """Headline and reasons."""
        return (self.headline, *self.reasons)
