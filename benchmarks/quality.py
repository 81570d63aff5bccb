"""Which choice of what is averaged tells best how good a prediction is? One table of mirroring, dropout and deep ensembles.

    python benchmarks/quality.py RUN [--ensemble RUN ...] [--draws 8] [--cases N]

RUN is a finished run with one plan, whose held-out cases are predicted by the network of their fold: alone, with mirrored copies,
with draws of dropout if the plan has it, and together with the networks of the same fold of other runs, which have the same
division into folds. The networks of other folds of a run were trained on these cases, so that folds cannot be compared here; they
differ from a deep ensemble in their cases too. Printed: mean Dice; area under the risk-coverage curve (risk is 1 - Dice; smaller is
better) of the agreement of what is averaged, of nothing else, and its rank correlation with the Dice; ECE and Brier score at
temperature 1; seconds for each case. Nothing is fitted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from bench_trust import risks
from foreign import Seen, read_held_out
from scipy.stats import spearmanr

from nnseg.core.reliability import Reliability
from nnseg.core.trust import Trust
from nnseg.crossval.evidence import SAMPLE, reliability, sample_truth
from nnseg.evaluation.calibration import calibration
from nnseg.evaluation.evaluate import case_score
from nnseg.evaluation.metrics import count
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import load_model_file
from nnseg.network.load import merge
from nnseg.storage.run import Run

Choices = dict[str, Predictor]


def main() -> None:
    """Predict with each choice, and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ensemble", type=Path, nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--cases", type=int, default=0)
    options = parser.parse_args()
    others = [Run(path) for path in options.ensemble]
    seen = list(read_held_out(Run(options.run)))
    seen = seen[:: max(1, len(seen) // options.cases)] if options.cases else seen
    rows: dict[str, list[tuple[float, float, Reliability, float]]] = {}
    for one, choices in _with_choices(seen, others, options.draws):
        for name, predictor in choices.items():
            rows.setdefault(name, []).append(_judge(one, predictor))
    print(f"{len(seen)} held-out cases\n{'choice':<20}{'Dice':>8}{'AURC':>9}{'rank corr.':>12}{'ECE':>9}{'Brier':>9}{'seconds':>9}")
    for name, found in rows.items():
        dice, quality, calibrated, seconds = zip(*found, strict=True)
        aurc, rho = risks(np.array(quality), np.array(dice)).mean(), float(spearmanr(quality, dice)[0])
        fit = calibration(calibrated, 1.0)
        assert fit is not None
        numbers = f"{aurc:9.4f}{rho:12.2f}{fit.before.ece:9.4f}{fit.before.brier:9.4f}{np.mean(seconds):9.2f}"
        print(f"{name:<20}{np.mean(dice):8.4f}{numbers}")


def _with_choices(seen: Sequence[Seen], others: Sequence[Run], draws: int) -> Iterator[tuple[Seen, Choices]]:
    """Each case with the predictors of its fold."""
    made: dict[int, Choices] = {}
    for one in seen:
        if one.fold not in made:
            made = {one.fold: _choices(one, others, draws)}
        yield one, made[one.fold]


def _choices(one: Seen, others: Sequence[Run], draws: int) -> Choices:
    model = one.predictor.model
    found = {name: Predictor(model, device="cpu", mirror=mirror) for name, mirror in (("one network", False), ("mirroring", True))}
    if all(member.plan.network.dropout for member in model.members):
        found[f"dropout, {draws} draws"] = Predictor(model, device="cpu", mirror=False, dropout=draws)
    if others:
        files = [folder.fold(one.fold).model_file for run in others for folder in run.final_plans.values()]
        together = merge([model, *(load_model_file(file) for file in files)])
        found[f"ensemble of {len(together.members)}"] = Predictor(together, device="cpu", mirror=False)
    return found


def _judge(one: Seen, predictor: Predictor) -> tuple[float, float, Reliability, float]:
    """Mean Dice, mean agreement over labels, sums for calibration, and seconds of a case."""
    labels, start = predictor.model.labels, time.perf_counter()
    prediction = predictor.infer(predictor.prepare(one.scan), uncertainty=True, objects=False, sample=SAMPLE)
    seconds = time.perf_counter() - start
    assert prediction.confidence is not None
    assert prediction.sample is not None
    score = case_score(one.case.name, count(prediction.label_map.labels, one.reference.labels, labels))
    truth = sample_truth(prediction.sample, one.reference, labels)
    assert truth is not None
    assert score.mean_dice is not None
    quality = Trust().expected_mean_dice(prediction.confidence.agreement)
    return score.mean_dice, quality, reliability(truth), seconds


if __name__ == "__main__":
    main()
