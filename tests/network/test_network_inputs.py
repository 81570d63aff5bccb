"""What a network is shown: the image as it is, or with the previous answer one channel a label."""

import pytest
import torch

from nnseg.core.labels import Labels
from nnseg.core.plan import Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.network.inputs import network_input


def _plan(previous: str | None) -> Plan:
    return Plan(
        name="3d_cascade" if previous else "2d",
        previous=previous,
        dataset="phantom",
        recipe="test",
        channels=("T1",),
        patch=(4, 4),
        labels=Labels(names=("background", "front", "back"), values=(0, 40, 7)),
        preprocessing=Preprocessing(axes=(0, 1, 2), spacing=(1.0, 1.0), normalization=(Normalization(scheme="none"),)),
        network=Network(kind="plain", features=(4,), strides=((1, 1),), kernels=((3, 3),), blocks=(1,), decoder_blocks=()),
        training=Training(batch_size=2),
        inference=Inference(),
    )


def test_label_indices_become_a_channel_a_label():
    image = torch.tensor([[[[0.5, -1.0, 3.0]], [[0.0, 1.0, 2.0]]]])  # (1, 2, 1, 3): the scan, and what was said of it
    shown = network_input(image, _plan("3d_lowres"))
    assert shown.tolist() == [[[[0.5, -1.0, 3.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]]
    assert shown.dtype == image.dtype
    assert shown.shape[1] == _plan("3d_lowres").input_channels


@pytest.mark.parametrize("space", [(5,), (5, 6), (5, 6, 7)])
def test_any_number_of_axes_will_do(space):
    image = torch.zeros(2, 2, *space)
    image[1, 1] = 2
    shown = network_input(image, _plan("3d_lowres"))
    assert shown.shape == (2, 3, *space)
    assert shown.amax(tuple(range(2, shown.ndim))).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_without_a_previous_answer_nothing_changes():
    image = torch.rand(2, 1, 4, 4)
    assert network_input(image, _plan(None)) is image
