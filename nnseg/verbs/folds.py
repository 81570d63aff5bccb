"""``folds.json``: which cases are held out when; kept once written, because people may edit it and trainings hang on it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nnseg.core.dataset import Dataset, Finding, Fold, counted, make_folds, missing_labels
from nnseg.core.errors import RunError
from nnseg.planning.fingerprint import Fingerprint
from nnseg.storage.groups import TABLES, find_subjects, read_groups
from nnseg.storage.runs import RunFolder, read_json, write_json
from nnseg.verbs.options import Split
from nnseg.verbs.record import read_record, update_record

log = logging.getLogger(__name__)


class Division(BaseModel):
    """How a run's cases were asked to be divided; in the run's record.

    Args:
        split: shuffled or in blocks.
        group_by: what keeps cases together, as `read_groups` takes it; None for the subjects of BIDS names, if there are any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split = "auto"
    group_by: str | None = None


def decide_folds(
    run: RunFolder, dataset: Dataset | None, fingerprint: Fingerprint, *, split: Split = "auto", group_by: str | None = None
) -> tuple[Fold, ...]:
    """The run's folds: those on file if they divide the usable cases as asked for, else made anew and written.

    What a fold cannot learn, and that nothing is held out, is logged as a warning.

    Args:
        run: whose folds they are.
        dataset: whose names and paths may tell groups; None for the one that the run was made from.
        fingerprint: of the dataset: the usable cases, and the labels that each shows.
        split: "auto" for what was asked for before.
        group_by: as `read_groups` takes it; None for what was asked for before.

    Raises:
        DatasetError: the groups asked for cannot be told.
        RunError: the folds on file leak: a case or a group is both trained on and held out.
    """
    before = _asked_before(run)
    asked = Division(split=before.split if split == "auto" else split, group_by=_absolute(group_by) or before.group_by)
    groups = _groups(asked.group_by, dataset or _known_dataset(run))
    labels = shown_labels(fingerprint)
    folds = _folds_on_file(run, fingerprint, changed=asked != before)
    if folds is None:
        blocks = not groups and (asked.split == "blocks" or (asked.split == "auto" and _is_a_stack(fingerprint)))
        if blocks:
            log.info("folds are blocks of neighbours, as for numbered slices of one stack (--split random to shuffle)")
        folds = make_folds(labels.keys(), blocks=blocks, groups=groups, labels=labels)
        write_json(run.folds_file, folds)
        update_record(run, folds=asked.model_dump())  # after the file, so that a kill between leaves no unmet request
    _refuse_divided(run.folds_file, folds, groups)
    for finding in (*_nothing_held_out(folds, groups), *missing_labels(folds, labels)):
        log.warning("%s: %s", finding.level, finding)
    return folds


def read_folds(run: RunFolder) -> tuple[Fold, ...]:
    """The run's folds, which people may have edited.

    Raises:
        RunError: they are missing, or a case is both trained on and held out, or held out twice.
    """
    folds = read_json(run.folds_file, tuple[Fold, ...])
    held_out = [name for fold in folds for name in fold.held_out]
    leaks = {name for fold in folds for name in set(fold.training) & set(fold.held_out)}
    if leaks or len(set(held_out)) != len(held_out):
        wrong = min(leaks or {n for n in held_out if held_out.count(n) > 1})
        raise RunError(f"{run.folds_file}: case {wrong} must be held out once, and not be trained on in that fold")
    return folds


def shown_labels(fingerprint: Fingerprint) -> dict[str, frozenset[str]]:
    """What each case shows of that which the network has to learn: labels without the background, or regions."""
    labels = fingerprint.labels
    heads = [(head, covered) for head, covered in zip(labels.heads, labels.members(), strict=True) if head in labels.foreground]
    parts = {head: [name for name, inside in zip(labels.names, covered, strict=True) if inside] for head, covered in heads}
    return {
        case.name: frozenset(head for head, names in parts.items() if any(case.voxels.get(name) for name in names))
        for case in fingerprint.cases
    }


def _asked_before(run: RunFolder) -> Division:
    try:
        record = read_record(run)
        former = {"split": (record.get("plan") or {}).get("split", "auto")}  # where earlier versions kept it
        return Division.model_validate(record.get("folds") or former)
    except ValidationError:
        return Division()


def _absolute(group_by: str | None) -> str | None:
    """A table by its full path, so that it is found again from another working folder; else as it is."""
    return str(Path(group_by).resolve()) if group_by and Path(group_by).suffix.lower() in TABLES else group_by


def _known_dataset(run: RunFolder) -> Dataset | None:
    """The dataset that the run was made from; None if it was planned from a fingerprint alone."""
    return read_json(run.dataset_file, Dataset) if run.dataset_file.exists() else None


def _groups(group_by: str | None, dataset: Dataset | None) -> dict[str, str]:
    if dataset is None:
        return {}
    if group_by is not None:
        return read_groups(group_by, dataset)
    subjects = find_subjects(dataset)
    if subjects:
        log.info('cases of one subject stay together, as BIDS names tell (--group-by "(.+)" to take each case for itself)')
    return subjects


def _folds_on_file(run: RunFolder, fingerprint: Fingerprint, *, changed: bool) -> tuple[Fold, ...] | None:
    """Those on file, if they divide the usable cases and nothing else was asked for since."""
    if not run.folds_file.exists():
        return None
    if changed:
        log.warning("another division of the cases is asked for than before: dividing them into folds anew")
        return None
    folds = read_folds(run)
    if {n for f in folds for n in (*f.training, *f.held_out)} != {case.name for case in fingerprint.cases}:
        log.warning("the cases have changed: dividing them into folds anew")
        return None
    return folds


def _refuse_divided(file: Path, folds: tuple[Fold, ...], groups: Mapping[str, str]) -> None:
    """Nothing if no fold trains on a group that it holds out; an edit, or another table of groups, may have brought that about."""
    for number, fold in enumerate(folds):
        trained = {groups[name]: name for name in fold.training if name in groups}
        for name in fold.held_out:
            if name in groups and groups[name] in trained:
                raise RunError(
                    f"{file}: fold {number} holds out case {name} and trains on case {trained[groups[name]]} of the same group "
                    f"({groups[name]}); move one of them, or delete the file to have it made anew"
                )


def _nothing_held_out(folds: tuple[Fold, ...], groups: Mapping[str, str]) -> tuple[Finding, ...]:
    """A warning if every case is trained on in every fold."""
    if any(fold.held_out for fold in folds):
        return ()
    names = folds[0].training
    one_group = " of one group" if groups and len(names) > 1 and len({groups.get(name) for name in names}) == 1 else ""
    message = f"one model is trained on all there is ({counted(len(names), 'case')}{one_group}) and nothing is held out"
    return (Finding(level="warning", message=f"{message}: nothing will tell how good it is; add cases to have it scored"),)


def _is_a_stack(fingerprint: Fingerprint) -> bool:
    """2D images whose names differ only by a running number are most likely neighbours in one volume."""
    names = [re.fullmatch(r"(.*?)(\d+)", case.name) for case in fingerprint.cases]
    stems = {m.group(1) for m in names if m}
    return len(names) > 1 and all(names) and len(stems) == 1 and all(case.shape[0] == 1 for case in fingerprint.cases)
