"""Folders of trained nnU-Net models become models that predict as nnU-Net does."""

import json
import logging
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from trained import plans_of, state_of, write_trained

from nnseg.core.decisions import PostprocessingStep
from nnseg.core.errors import ModelError
from nnseg.inference.predict import Predictor
from nnseg.interop.nnunet.checkpoint import Checkpoint
from nnseg.interop.nnunet.model import ALL_CASES, read_nnunet_model
from nnseg.network.bundle import load_model_file, save_model
from nnseg.network.nnunet_names import nnunet_name
from nnseg.storage.images.read import read_label_map, read_scan

DATA = Path(__file__).parent / "data"
CONV = "encoder.stages.0.0.convs.0.conv.weight"


@pytest.mark.parametrize("name", ["regions_2d", "folds_3d", "cascade"])
def test_an_imported_model_predicts_as_nnunet_did(name, tmp_path):
    """Real trainings and predictions of nnU-Net 2.8.1; see data/README.md."""
    folder = DATA / name
    [model_folder] = [p for p in (folder / "model").iterdir() if not p.name.endswith("3d_lowres")]
    save_model(read_nnunet_model(model_folder), tmp_path / "model.nnseg")
    scan = read_scan(sorted((folder / "scan").glob("*.nii.gz")))
    predicted = Predictor(load_model_file(tmp_path / "model.nnseg"), device="cpu", classic=True)(scan).label_map.labels
    theirs = read_label_map(folder / "nnunet.nii.gz", like=scan.source).labels
    assert set(np.unique(theirs)) == {0, 1, 2}
    assert (predicted == theirs).mean() >= 0.9999


def test_members_have_the_weights_of_their_folds(tmp_path):
    plans = plans_of()
    model = read_nnunet_model(write_trained(tmp_path, plans, folds=(0, 3), axes=(0, 1)))
    assert [m.fold for m in model.members] == [0, 3]
    assert all(m.plan == plans.plan("3d_fullres", (0, 1)) for m in model.members)
    for member in model.members:
        state = state_of(plans, "3d_fullres", member.fold)
        assert all(torch.equal(tensor, state[nnunet_name(name)]) for name, tensor in member.weights.items())
    assert model.about["dataset"] == "Dataset007_Pancreas"
    assert not model.previous
    assert not model.postprocessing


def test_chosen_folds_are_taken_and_missing_ones_are_an_error(tmp_path):
    folder = write_trained(tmp_path, plans_of(), folds=(0, 1, 2))
    assert [m.fold for m in read_nnunet_model(folder, folds=(0, 2)).members] == [0, 2]
    with pytest.raises(ModelError, match="fold 4 was requested"):
        read_nnunet_model(folder, folds=(1, 4))


def test_a_network_of_all_cases_is_taken_where_there_is_no_other(tmp_path):
    assert [m.fold for m in read_nnunet_model(write_trained(tmp_path / "a", plans_of(), folds=("all",))).members] == [ALL_CASES]
    assert [m.fold for m in read_nnunet_model(write_trained(tmp_path / "b", plans_of(), folds=("all", 1))).members] == [1]


def test_networks_that_may_not_be_mirrored_are_not(tmp_path):
    [member] = read_nnunet_model(write_trained(tmp_path, plans_of(), axes=None)).members
    assert member.plan.inference.mirror_axes == ()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_networks_are_looked_through(tmp_path, prefix):
    state = {prefix + name: tensor for name, tensor in state_of(plans_of(), "3d_fullres", 0).items()}
    [member] = read_nnunet_model(write_trained(tmp_path, plans_of(), network_weights=OrderedDict(state))).members
    assert torch.equal(member.weights["encoder.stages.0.0.conv.weight"], state[prefix + CONV])


def test_a_dataset_folder_is_an_ensemble_of_all_in_it(tmp_path):
    plans = plans_of()
    write_trained(tmp_path, plans, folds=(0, 1))
    write_trained(tmp_path, plans, configuration="3d_lowres")
    assert [m.plan.name for m in read_nnunet_model(tmp_path).members] == ["3d", "3d", "3d_lowres"]
    assert [m.plan.name for m in read_nnunet_model(tmp_path, configurations=["3d_lowres"]).members] == ["3d_lowres"]
    with pytest.raises(ModelError, match="has no 2d, but 3d_fullres, 3d_lowres"):
        read_nnunet_model(tmp_path, configurations=["2d"])


def test_the_first_stage_of_a_cascade_is_found_and_is_no_member(tmp_path):
    write_trained(tmp_path, plans_of(), configuration="3d_lowres", folds=(0, 1))
    folder = write_trained(tmp_path, plans_of(), configuration="3d_cascade_fullres")
    for place in (folder, tmp_path):
        model = read_nnunet_model(place)
        assert [m.plan.name for m in model.members] == ["3d_cascade"]
        assert [(m.plan.name, m.fold) for m in model.previous] == [("3d_lowres", 0), ("3d_lowres", 1)]
    assert [m.fold for m in read_nnunet_model(folder, folds=(0,)).previous] == [0]


def test_a_cascade_without_its_first_stage_is_refused(tmp_path):
    folder = write_trained(tmp_path, plans_of(), configuration="3d_cascade_fullres")
    with pytest.raises(ModelError, match=r"needs the label maps of 3d_lowres; its folder .* is missing"):
        read_nnunet_model(folder)


def test_a_folder_of_another_name_is_known_by_its_checkpoint(tmp_path):
    folder = write_trained(tmp_path, plans_of()).rename(tmp_path / "renamed")
    assert read_nnunet_model(folder).members[0].plan.name == "3d"


def test_an_unfinished_training_is_taken_with_a_warning(tmp_path, caplog):
    fold = write_trained(tmp_path, plans_of()) / "fold_0"
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_best.pth")
    with caplog.at_level(logging.WARNING, "nnseg"):
        read_nnunet_model(tmp_path)
    assert "checkpoint_best.pth is read" in caplog.text
    (fold / "checkpoint_best.pth").unlink()
    with pytest.raises(ModelError, match="fold_0 has none of"):
        read_nnunet_model(tmp_path)


class _Custom(torch.nn.Module):
    pass


def _shared() -> tuple:
    value: tuple = (1,)
    for _ in range(60):
        value = (value, value)
    return value


SHARED = _shared()
"""Its text would have 2 ** 60 numbers."""

REFUSED = {
    "code in it": ({"logging": _Custom()}, "test_nnunet_model._Custom"),
    "no weights": ({"network_weights": None}, "network_weights is missing"),
    "no arguments": ({"init_args": None}, "init_args is missing"),
    "another configuration": ({"init_args": {"configuration": "2d"}}, 'of configuration "2d", in a folder of 3d_fullres'),
    "a configuration shared over and over": ({"init_args": {"configuration": SHARED}}, "in its init_args is a tuple"),
    "axes shared over and over": ({"axes": SHARED}, "whole numbers"),
    "many axes": ({"axes": (0,) * 9}, "whole numbers"),
    "axes of text": ({"axes": ("x",)}, "whole numbers"),
    "axes of a fourth dimension": ({"axes": (3,)}, "mirror_axes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_checkpoints_of_other_kinds_are_refused(tmp_path, name):
    entries, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        read_nnunet_model(write_trained(tmp_path, plans_of(), **entries))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s | {"attention.weight": torch.zeros(1)}, "has attention.weight"),
        (lambda s: s | {CONV.replace("conv.weight", "norm.running_mean"): torch.zeros(2)}, "running_mean"),
        (lambda s: {k: v for k, v in s.items() if k != CONV}, f"lacks {CONV}"),
        (lambda s: s | {CONV: "text"}, f"lacks {CONV}"),
        (lambda s: s | {CONV: torch.zeros(2, 2, 3, 3, 3)}, "shape"),
        (lambda s: s | {CONV: torch.full_like(s[CONV], torch.nan)}, f"{CONV} has values that are not numbers"),
    ],
)
def test_weights_of_another_network_are_refused_by_their_names(tmp_path, change, reason):
    state = change(state_of(plans_of(), "3d_fullres", 0))
    with pytest.raises(ModelError, match=re.escape(reason)):
        read_nnunet_model(write_trained(tmp_path, plans_of(), network_weights=state))


def test_weights_of_other_shapes_are_refused_before_any_is_read(tmp_path, monkeypatch):
    """Many names of one repeated number would ask for more memory than the file has."""
    state = state_of(plans_of(), "3d_fullres", 0) | {CONV: torch.zeros(1).expand(2**12, 2**12)}
    folder = write_trained(tmp_path, plans_of(), network_weights=state)
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(ModelError, match=re.escape(f"has {CONV} of shape (4096, 4096), where that has (2, 2, 1, 3, 3)")):
        read_nnunet_model(folder)


def test_entries_that_are_not_needed_do_not_stop_an_import(tmp_path):
    noted = {"amp": torch.float16, "path": Path("a"), "seen": {1, 2}, "by": {(1, 2): 0.5}, "empty": torch.zeros(0)}
    assert len(read_nnunet_model(write_trained(tmp_path, plans_of(), my_own=noted)).members) == 1


def test_folders_without_models_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no trained model"):
        read_nnunet_model(tmp_path)
    write_trained(tmp_path, plans_of(), folds=())
    with pytest.raises(ModelError, match="no trained model"):
        read_nnunet_model(tmp_path)


def _found(folder: Path, name: str, *settings) -> None:
    """Note what cross-validation found, as nnU-Net does."""
    rule = "remove_all_but_largest_component_from_segmentation"
    content = {"postprocessing_fns": [rule] * len(settings), "postprocessing_kwargs": [{"labels_or_regions": s} for s in settings]}
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def test_postprocessing_is_read_from_its_json(tmp_path):
    folder = write_trained(tmp_path, plans_of(), folds=(0, 1))
    _found(folder, "crossval_results_folds_0/postprocessing.json", 1)
    _found(folder, "crossval_results_folds_0_1/postprocessing.json", [1, 2], 2, [[1, 2], 2])
    wanted = [(1, 2), (2,), (1, 2)]
    assert read_nnunet_model(folder).postprocessing == tuple(
        PostprocessingStep(action="largest", labels=labels) for labels in wanted
    )


def test_postprocessing_found_with_other_folds_is_left_out_and_said_so(tmp_path, caplog):
    folder = write_trained(tmp_path, plans_of(), folds=(0, 1))
    _found(folder, "crossval_results_folds_0_1/postprocessing.json", 1)
    assert len(read_nnunet_model(folder).postprocessing) == 1
    assert not caplog.records
    assert read_nnunet_model(folder, folds=(1,)).postprocessing == ()
    assert "crossval_results_folds_0_1/postprocessing.json is not imported" in caplog.text


def test_postprocessing_of_one_configuration_is_not_that_of_an_ensemble(tmp_path):
    _found(write_trained(tmp_path, plans_of()), "crossval_results_folds_0/postprocessing.json", 1)
    write_trained(tmp_path, plans_of(), configuration="3d_lowres")
    assert read_nnunet_model(tmp_path).postprocessing == ()
    assert len(read_nnunet_model(tmp_path, configurations=["3d_fullres"]).postprocessing) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"postprocessing_fns": ["my_rule"], "postprocessing_kwargs": [{}]},
        {"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"], "postprocessing_kwargs": []},
        {"postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"], "postprocessing_kwargs": [{}]},
        {"postprocessing_fns": "my_rule", "postprocessing_kwargs": []},
        {
            "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
            "postprocessing_kwargs": [{"labels_or_regions": json.loads("[" * 400 + "1" + "]" * 400)}],
        },
    ],
)
def test_postprocessing_of_other_kinds_is_refused(tmp_path, content):
    folder = write_trained(tmp_path, plans_of())
    _found(folder, "crossval_results_folds_0/postprocessing.json")
    (folder / "crossval_results_folds_0/postprocessing.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"postprocessing\.json"):
        read_nnunet_model(folder)


def test_a_pickle_of_postprocessing_is_never_opened(tmp_path):
    folder = write_trained(tmp_path, plans_of())
    (folder / "postprocessing.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert read_nnunet_model(folder).postprocessing == ()


def test_the_command_writes_a_model_that_predict_reads(tmp_path, capsys):
    from nnseg.cli import app

    write_trained(tmp_path, plans_of(), folds=(0, 1))
    app(["import", str(tmp_path), str(tmp_path / "m.nnseg"), "--folds", "1", "--plans", "3d_fullres"], standalone_mode=False)
    assert "1 network, " in capsys.readouterr().out
    assert load_model_file(tmp_path / "m.nnseg").members[0].fold == 1
