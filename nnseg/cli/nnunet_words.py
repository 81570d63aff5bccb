"""What people type who know nnU-Net v2: words that mean the same are taken, others are answered with what does it here.

Source: nnunetv2 2.8.1, its commands' argument parsers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from nnseg.core.errors import NnsegError
from nnseg.core.options import CONFIGURATIONS

COMMANDS: Final[Mapping[str, str]] = {
    "plan_and_preprocess": "nnseg run DATASET RUN does it and trains, too; nnseg plan DATASET RUN only plans",
    "extract_fingerprint": "nnseg plan DATASET RUN measures the dataset",
    "plan_experiment": "nnseg plan DATASET RUN",
    "find_best_configuration": "nnseg run chooses among its plans; for several: nnseg run DATASET RUN --plans all",
    "ensemble": "nnseg predict SCANS OUT --model A --model B averages models",
    "apply_postprocessing": "nnseg predict applies what was chosen on held-out cases",
    "determine_postprocessing": "nnseg run chooses it on held-out cases",
    "predict_from_modelfolder": "nnseg import FOLDER model.nnseg, then nnseg predict SCANS OUT --model model.nnseg",
    "evaluate_folder": "nnseg evaluate PREDICTIONS REFERENCES",
    "evaluate_simple": "nnseg evaluate PREDICTIONS REFERENCES",
    "export_model_to_zip": "nnseg export RUN model.nnseg",
    "install_pretrained_model_from_zip": "unpack it, then nnseg import FOLDER model.nnseg",
    "convert_MSD_dataset": "not needed: nnseg run reads the Decathlon's folders as they are",
    "move_plans_between_datasets": "nnseg plan DATASET RUN --init MODEL takes a model's network, patch and grid",
    "nnUNetv2_train": "nnseg run DATASET RUN plans, trains and scores; nnseg train RUN --folds 0 trains a fold",
    "nnUNetv2_predict": "nnseg predict SCANS OUT --model RUN",
}
"""Other commands of nnU-Net, and what does the same here."""

SAME: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "": {"-device": ("--device",), "-f": ("--folds",), "-np": ("--workers",), "-num_gpus": ("--devices",)},
    "predict": {
        "--disable_tta": ("--no-mirror",),
        "--save_probabilities": ("--probabilities",),
        "-step_size": ("--step",),
    },
    "train": {"-pretrained_weights": ("--init",)},
    "run": {"-pretrained_weights": ("--init",), "-c": ("--plans",), "-pl": ("--recipe",)},
    "plan": {"-c": ("--plans",), "-pl": ("--recipe",)},
    "evaluate": {"-djfile": ("--labels",), "-o": ("--out",)},
}
"""Options that mean the same, by command, and what they are called here; those of "" in all."""

OTHERWISE: Final[Mapping[str, str]] = {
    "-d": "datasets have no numbers: give the dataset's folder",
    "-i": "scans and output folder are given as they are: nnseg predict SCANS OUT --model MODEL",
    "-o": "scans and output folder are given as they are: nnseg predict SCANS OUT --model MODEL",
    "-c": "a run holds its plans, and nnseg predict uses what was best on held-out cases; give --model RUN",
    "-tr": "there are no trainers: what they change is in the recipe (--recipe FILE) or in RUN/plan.toml",
    "-p": "plans are in the run; a recipe is given when it is planned: nnseg plan DATASET RUN --recipe nnunet",
    "-chk": "a fold's folder has its last and its best weights as files; --model takes either: --model RUN/fold_0/best.nnseg",
    "-npp": "--memory says how much scans may take at a time",
    "-nps": "--memory says how much scans may take at a time",
    "-prev_stage_predictions": "the first stage of a cascade is part of the model, and is predicted by itself",
    "-gpu_memory_target": "give the memory when planning: nnseg plan DATASET RUN --memory 24",
    "-overwrite_plans_name": "plans belong to a run: give another run folder",
    "--npz": "nnseg run predicts the held-out cases and chooses among plans and ensembles by itself",
    "--c": "it is the default: repeat the command to continue",
    "--continue_prediction": "it is the default: repeat the command to continue",
    "--continue": "it is the default: repeat the command to continue",
    "--val": "nnseg run predicts and scores the held-out cases, and repeats only what is missing",
    "--val_best": "the best weights are in RUN/fold_0/best.nnseg, which nnseg predict takes as --model",
    "--use_compressed": "preprocessed cases are always compressed",
    "--verify_dataset_integrity": "nnseg check DATASET does it, and nnseg run always does",
}
"""Options that mean something else here, or nothing."""

ALL_CASES = (
    'in nnU-Net "-f all" trains one network on all cases, with none held out; here nnseg run DATASET RUN --every-case adds it '
    "as the last fold, and --folds all means every fold"
)


def translated(words: Sequence[str]) -> list[str]:
    """The words of a command line, those of nnU-Net in our own.

    Raises:
        NnsegError: one means something else here; the message says what to type.
    """
    command = next((word for word in words if not word.startswith("-")), "")
    known = COMMANDS.get(command) or COMMANDS.get(command.removeprefix("nnUNetv2_"))
    if known:
        raise NnsegError(f'"{command}" is a command of nnU-Net; here: {known}')
    same = {**SAME[""], **SAME.get(command, {})}
    if command == "train" and any(word in (*CONFIGURATIONS, "2d", "3d_lowres") for word in words[1:]):
        raise NnsegError("a run trains all of its plans, and folds are an option: nnseg train RUN --folds 0")
    given: list[str] = []
    for number, word in enumerate(words):
        if word == "-f" and words[number + 1 : number + 2] == ["all"]:
            raise NnsegError(ALL_CASES)
        if word in same:
            given += same[word]
        elif word in OTHERWISE:
            raise NnsegError(f'"{word}" is an option of nnU-Net; here {OTHERWISE[word]}')
        else:
            given.append(word)
    return given
