"""nnU-Net's plans.json and dataset.json become our plans, or are refused with the name of what does not fit."""

import copy

import pytest
from trained import DATASET, FULL, PLANS, plans_of

from nnseg.core.errors import ModelError
from nnseg.core.labels import Region
from nnseg.core.plan import Network, Normalization
from nnseg.interop.nnunet.json import read_object
from nnseg.interop.nnunet.plans import labels

OLD = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 2,
    "unet_max_num_features": 6,
    "n_conv_per_stage_encoder": [2, 1, 2],
    "n_conv_per_stage_decoder": [2, 1],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": FULL["architecture"]["arch_kwargs"]["strides"],
    "conv_kernel_sizes": FULL["architecture"]["arch_kwargs"]["kernel_sizes"],
}


def test_a_plan_by_hand():
    plan = plans_of().plan("3d_fullres", (0, 2))
    assert (plan.name, plan.dataset, plan.recipe, plan.previous) == ("3d", "Dataset007_Pancreas", "nnUNetPlans", None)
    assert plan.channels == ("MRI", "CT")
    assert plan.patch == (8, 16, 12)
    assert plan.labels.names == ("background", "organ", "tumour")
    assert plan.preprocessing.axes == (2, 0, 1)
    assert plan.preprocessing.spacing == (3.0, 0.5, 0.75)
    assert plan.preprocessing.image_order == 3
    assert plan.preprocessing.separate_axis_ratio == 3.0
    assert plan.preprocessing.orientation == "stored"
    assert plan.preprocessing.normalization == (
        Normalization(scheme="zscore", masked=True),
        Normalization(scheme="ct", mean=80.5, std=67.25, low=-96.0, high=215.0),
    )
    assert plan.network == Network(
        kind="plain",
        features=(2, 4, 6),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        blocks=(2, 1, 2),
        decoder_blocks=(2, 1),
    )
    assert plan.training.batch_size == 2
    assert plan.training.batch_dice
    assert plan.inference.step == 0.5
    assert plan.inference.mirror_axes == plan.training.augmentation.mirror_axes == (0, 2)


def test_plans_of_before_version_2_3_mean_the_same():
    configuration = {k: v for k, v in FULL.items() if k != "architecture"} | OLD
    old = plans_of(plans={"configurations": {"3d_fullres": configuration}})
    assert old.plan("3d_fullres", ()) == plans_of().plan("3d_fullres", ())


def test_old_plans_may_have_a_residual_network_and_intensities_by_modality():
    configuration = {k: v for k, v in FULL.items() if k != "architecture"} | OLD | {"UNet_class_name": "ResidualEncoderUNet"}
    content = {k: v for k, v in PLANS.items() if k != "foreground_intensity_properties_per_channel"}
    content["foreground_intensity_properties_by_modality"] = PLANS["foreground_intensity_properties_per_channel"]
    plans = plans_of(plans={"configurations": {"3d_fullres": configuration}})
    old = type(plans)(folder=plans.folder, plans=content | {"configurations": {"3d_fullres": configuration}}, dataset=DATASET)
    plan = old.plan("3d_fullres", ())
    assert plan.network.kind == "residual"
    assert plan.preprocessing.normalization[1].mean == 80.5


def test_a_cascade_inherits_and_follows_the_lower_resolution():
    plans = plans_of()
    assert plans.previous("3d_cascade_fullres") == "3d_lowres"
    assert plans.previous("3d_fullres") is None
    cascade, low = plans.plan("3d_cascade_fullres", ()), plans.plan("3d_lowres", ())
    assert (cascade.name, cascade.previous, low.name) == ("3d_cascade", "3d_lowres", "3d_lowres")
    assert cascade.preprocessing.spacing == (3.0, 0.5, 0.75)
    assert low.preprocessing.spacing == (3.0, 1.0, 1.5)
    assert cascade.input_channels == 4


def test_a_residual_network_with_single_numbers_for_all_stages():
    kwargs = copy.deepcopy(FULL["architecture"]["arch_kwargs"])
    kwargs |= {"n_blocks_per_stage": 2, "n_conv_per_stage_decoder": 1, "features_per_stage": 4, "kernel_sizes": 3}
    del kwargs["n_conv_per_stage"]
    name = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    network = plans_of(architecture={"network_class_name": name, "arch_kwargs": kwargs}).plan("3d_fullres", ()).network
    assert (network.kind, network.blocks, network.decoder_blocks, network.features) == ("residual", (2, 2, 2), (1, 1), (4, 4, 4))
    assert network.kernels == ((3, 3, 3),) * 3


def test_a_plan_of_slices_is_called_2d_whatever_its_name():
    kwargs = {**FULL["architecture"]["arch_kwargs"], "conv_op": "torch.nn.Conv2d", "norm_op": "torch.nn.InstanceNorm2d"}
    kwargs |= {"strides": [[1, 1], [2, 2], [2, 2]], "kernel_sizes": [[3, 3]] * 3}
    architecture = {**FULL["architecture"], "arch_kwargs": kwargs}
    plan = plans_of(architecture=architecture, patch_size=[16, 12], spacing=[0.5, 0.75]).plan("3d_fullres", ())
    assert (plan.name, plan.dimensions) == ("2d", 2)


@pytest.mark.parametrize(
    ("reader", "orientation"),
    [
        *((name, "stored") for name in ("SimpleITKIO", "NibabelIO", "Tiff3DIO", "NaturalImage2DIO")),
        *((name, "ras") for name in ("SimpleITKIOWithReorient", "NibabelIOWithReorient")),
    ],
)
def test_readers_say_how_scans_are_turned(reader, orientation):
    assert plans_of(plans={"image_reader_writer": reader}).plan("3d_fullres", ()).preprocessing.orientation == orientation


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("RescaleTo01Normalization", "rescale_to_0_1"), ("RGBTo01Normalization", "rgb_to_0_1"), ("NoNormalization", "none")],
)
def test_normalizations_that_know_no_mask_get_none(name, scheme):
    plan = plans_of(normalization_schemes=[name, "CTNormalization"]).plan("3d_fullres", ())
    assert plan.preprocessing.normalization[0] == Normalization(scheme=scheme)


REFUSED = {
    "a custom network": ({"architecture__network_class_name": "my.package.Net"}, "network_class_name"),
    "a name to import": ({"architecture__network_class_name": "os.system"}, "os.system"),
    "a part of its own": ({"architecture__arch_kwargs__squeeze_excitation": True}, "squeeze_excitation"),
    "batch norm": ({"architecture__arch_kwargs__norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}, "BatchNorm3d"),
    "another norm": ({"architecture__arch_kwargs__norm_op_kwargs": {"eps": 0.1, "affine": True}}, "norm_op_kwargs.eps"),
    "ReLU": ({"architecture__arch_kwargs__nonlin": "torch.nn.ReLU"}, "torch.nn.ReLU"),
    "another slope": ({"architecture__arch_kwargs__nonlin_kwargs": {"negative_slope": 0.2}}, "negative_slope"),
    "no biases": ({"architecture__arch_kwargs__conv_bias": False}, "conv_bias"),
    "order of activation": ({"architecture__arch_kwargs__nonlin_first": True}, "nonlin_first"),
    "another convolution": ({"architecture__arch_kwargs__conv_op": "torch.nn.modules.conv.Conv2d"}, "conv_op"),
    "no strides": ({"architecture__arch_kwargs__strides": None}, "network.strides"),
    "no stages": ({"architecture__arch_kwargs__n_stages": None}, "n_stages"),
    "too few features": ({"architecture__arch_kwargs__features_per_stage": [2, 4]}, "features"),
    "a giant": ({"architecture__arch_kwargs__features_per_stage": [60000] * 3}, "weights"),
    "a giant patch": ({"patch_size": [65536, 65536, 65536]}, "patch"),
    "another preprocessor": ({"preprocessor_name": "MyPreprocessor"}, "MyPreprocessor"),
    "torch's resampling": ({"resampling_fn_data": "resample_torch_fornnunet"}, "resample_torch_fornnunet"),
    "resampling of probabilities": ({"resampling_fn_probabilities_kwargs": {**FULL["resampling_fn_data_kwargs"]}}, "probabilities"),
    "never separate": ({"resampling_fn_data_kwargs__force_separate_z": False}, "force_separate_z"),
    "order between slices": ({"resampling_fn_data_kwargs__order_z": 1}, "order_z"),
    "another rule": ({"resampling_fn_data_kwargs__mode": "x"}, "mode"),
    "another normalization": ({"normalization_schemes": ["Mine", "CTNormalization"]}, "Mine"),
    "too few normalizations": ({"normalization_schemes": ["CTNormalization"]}, "normalization_schemes"),
    "spacing of text": ({"spacing": ["1", "1", "1"]}, "spacing"),
    "spacing of zero": ({"spacing": [0, 1, 1]}, "spacing"),
    "another reader": ({"plans": {"image_reader_writer": "MyIO"}}, "MyIO"),
    "another label manager": ({"plans": {"label_manager": "Mine"}}, "Mine"),
    "axes twice": ({"plans": {"transpose_forward": [0, 0, 1]}}, "axes"),
    "no intensities": ({"plans": {"foreground_intensity_properties_per_channel": {}}}, "foreground intensities of channel 1"),
    "no channels": ({"dataset": {"labels": DATASET["labels"]}}, "channel_names"),
    "itself as ancestor": ({"inherits_from": "3d_fullres"}, "inherits from itself"),
    "no such ancestor": ({"inherits_from": "3d"}, 'no configuration "3d"'),
    "a list for an ancestor": ({"inherits_from": ["3d"]}, "no configuration"),
    "a list for intensities": (
        {"plans": {"foreground_intensity_properties_per_channel": [1]}},
        "intensity_properties.* must be an obj",
    ),
    "a list for a channel": ({"plans": {"foreground_intensity_properties_per_channel": {"1": [1]}}}, "1 is .* must be an object"),
    "a list for the network": ({"architecture": [1]}, "architecture is .* must be an object"),
    "a list for its settings": ({"architecture__arch_kwargs": [1]}, "arch_kwargs is .* must be an object"),
    "a list for those of norms": ({"architecture__arch_kwargs__norm_op_kwargs": [1]}, "norm_op_kwargs is .* must be an object"),
    "text for those of activations": ({"architecture__arch_kwargs__nonlin_kwargs": "a"}, "nonlin_kwargs is .* must be an object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_its_name(name):
    changes, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        plans_of(**changes).plan("3d_fullres", ())


def test_a_stage_that_makes_no_sense_is_refused():
    for stage in ({"previous_stage": ["3d_lowres"]}, {"previous_stage": "../elsewhere"}):
        with pytest.raises(ModelError, match="no configuration"):
            plans_of(**stage).previous("3d_fullres")
    lower = {"configurations": {"3d_fullres": {**FULL, "previous_stage": "low"}, "low": {"patch_size": 5}}}
    assert plans_of(plans=lower).previous("3d_fullres") == "low"
    assert plans_of(plans=lower).plan("3d_fullres", ()).previous == "3d"


def test_dropout_is_no_obstacle_since_prediction_has_none():
    changes = {
        "architecture__arch_kwargs__dropout_op": "torch.nn.Dropout3d",
        "architecture__arch_kwargs__dropout_op_kwargs": {"p": 0.1},
    }
    assert plans_of(**changes).plan("3d_fullres", ()) == plans_of().plan("3d_fullres", ())


def test_regions_keep_nnunets_order_which_is_that_of_heads_and_of_painting():
    dataset = {
        "labels": {"background": 0, "core": [2, 3], "whole": [1, 2, 3], "enhancing": 3, "ignore": 4},
        "regions_class_order": [2, 1, 3],
    }
    found = labels(dataset, "")
    assert found.regions == (
        Region(name="core", values=(2, 3), paint=2),
        Region(name="whole", values=(1, 2, 3), paint=1),
        Region(name="enhancing", values=(3,), paint=3),
    )
    assert (found.names, found.values, found.ignore) == (("background", "label 1", "label 2", "enhancing"), (0, 1, 2, 3), 4)


def test_lists_of_one_value_are_labels_and_heads_follow_the_values():
    found = labels({"labels": {"background": 0, "b": [2], "a": 1}}, "")
    assert (found.heads, found.regions) == (("background", "a", "b"), ())


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"background": 0, "a": 2},
        {"background": 0, "a": "1"},
        {"background": 1, "a": 2},
        {"background": 0, "a": 1, "ignore": 1},
        {"background": 0},
        {"background": 0, "a": [1, 2]},
        {"background": 0, "a": True},
    ],
)
def test_labels_that_nnunet_could_not_train_with_are_refused(given):
    with pytest.raises(ModelError, match=r"dataset\.json"):
        labels({"labels": given}, "dataset.json")


def test_files_that_hold_no_object_are_refused(tmp_path):
    for content, reason in (("[]", "list"), ("{", "valid JSON"), ("[" * 100_000, "valid JSON")):
        (tmp_path / "plans.json").write_text(content)
        with pytest.raises(ModelError, match=reason):
            read_object(tmp_path / "plans.json")
    with pytest.raises(ModelError, match="cannot read"):
        read_object(tmp_path / "missing.json")
