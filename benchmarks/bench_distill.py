"""What does a distilled network lose against the ensemble of the folds, and what does it save?

    python benchmarks/bench_distill.py RUN [--threads 2]

RUN is a finished run with labelled cases in none of its folds (``--split`` with test cases), on which ``nnseg distill RUN`` and
``nnseg distill RUN --small`` have been run; none of the networks has seen these cases. For the ensemble, the network of the first
fold, the distilled and the small network: mean Dice, its difference from the ensemble with a 95 % bootstrap interval over cases,
seconds a scan (preprocessed, predicted and restored; the median, all models in turn on each scan), and MB of the file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nnseg.core.dataset import Case
from nnseg.evaluation.evaluate import case_score
from nnseg.evaluation.metrics import count
from nnseg.evaluation.statistics import bootstrap_weights, interval
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import Model, save_model
from nnseg.network.load import load_model, with_folds
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.storage.run import Run


def main() -> None:
    """Predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = Run(options.run)
    models = dict(_models(run))
    predictors = {name: Predictor(model) for name, model in models.items()}
    dice, seconds = {name: list[float]() for name in models}, {name: list[float]() for name in models}
    cases = _test_cases(run)
    for case in cases:
        for name, predictor in predictors.items():
            value, spent = _dice_and_seconds(predictor, case)
            dice[name].append(value)
            seconds[name].append(spent)
    base, draws = np.array(dice["ensemble"]), bootstrap_weights(len(cases)) / len(cases)
    print(f"{len(cases)} held-out cases, {options.threads} threads")
    print(f"{'':12}{'networks':>10}{'Dice':>10}{'difference':>12}{'95 %':>22}{'s/scan':>10}{'MB':>10}")
    for name, model in models.items():
        differences = np.array(dice[name]) - base
        low, high = interval(draws @ differences) or (0.0, 0.0)
        numbers = f"{np.mean(dice[name]):10.4f}{differences.mean():+12.4f}{f'[{low:+.4f}, {high:+.4f}]':>22}"
        print(f"{name:12}{len(model.members):10}{numbers}{median(seconds[name]):10.3f}{_megabytes(model):10.1f}")


def _models(run: Run) -> Iterator[tuple[str, Model]]:
    """The models to compare, as they are predicted with, by name."""
    ensemble = load_model(run.path)
    yield "ensemble", ensemble
    yield "one fold", with_folds(ensemble, (ensemble.members[0].fold,))
    for name in ("distilled", "distilled_small"):
        for file in run.path.glob(f"**/{name}/model.nnseg"):
            yield name.replace("distilled_", ""), load_model(file)


def _test_cases(run: Run) -> list[Case]:
    """The labelled cases that are in no fold."""
    used = {name for fold in run.folds.values() for name in (*fold.training, *fold.held_out)}
    found = [case for case in run.dataset.cases if case.labels is not None and case.name not in used]
    if not found:
        raise SystemExit(f"all labelled cases of {run.path} are in its folds: give nnseg run --split a file with test cases")
    return found


def _dice_and_seconds(predictor: Predictor, case: Case) -> tuple[float, float]:
    """Mean Dice of a case over the labels that it has, and the seconds of its prediction."""
    scan = read_scan(case.images, repair=True, spacing=case.spacing)
    assert case.labels is not None
    reference = read_labels_of(case.labels, scan)
    start = time.perf_counter()
    label_map = predictor(scan).label_map
    seconds = time.perf_counter() - start
    score = case_score(case.name, count(label_map.labels, reference.labels, predictor.model.labels, annotated=case.annotated))
    return 1.0 if score.mean_dice is None else score.mean_dice, seconds


def _megabytes(model: Model) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.nnseg"
        save_model(model, file)
        return file.stat().st_size / 1e6


if __name__ == "__main__":
    main()
