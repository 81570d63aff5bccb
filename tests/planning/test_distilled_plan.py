import pytest
from plan_examples import small_plan

from nnseg.core.errors import RunError
from nnseg.core.labels import Labels
from nnseg.planning.distillation import distilled_plan, small_network

LABELS = Labels(names=("background", "a"), values=(0, 1))


def test_a_distilled_plan_is_the_runs_with_another_loss():
    plan = small_plan(LABELS)
    found = distilled_plan(plan)
    assert found.training.distillation == 0.5
    assert "distillation" in found.training.why
    back = found.model_copy(update={"training": found.training.model_copy(update={"distillation": 0.0})})
    assert back.key() == plan.key()


def test_a_small_network_is_trained_four_times_as_long():
    plan = small_plan(LABELS)
    timed = plan.model_copy(update={"training": plan.training.model_copy(update={"steps": 30, "seconds": 60.0})})
    assert distilled_plan(timed).training.steps == 30
    small = distilled_plan(timed, small=True).training
    assert (small.steps, small.seconds) == (120, 240.0)
    assert "steps" in small.why


@pytest.mark.parametrize(
    ("features", "small"),
    [
        ((32, 64, 128, 256, 320), (8, 16, 32, 64, 80)),
        ((16, 32, 64), (8, 8, 16)),
        ((4, 8), (4, 8)),
        ((30, 60), (8, 16)),
    ],
)
def test_a_small_network_has_a_quarter_of_the_channels_in_multiples_of_8(features, small):
    stages = len(features)
    ones, twos, threes = (1, 1, 1), (2, 2, 2), (3, 3, 3)
    network = small_plan(LABELS).network.model_copy(
        update={
            "features": features,
            "strides": (ones, *(twos,) * (stages - 1)),
            "kernels": (threes,) * stages,
            "blocks": (2,) * stages,
            "decoder_blocks": (2,) * (stages - 1),
        }
    )
    assert small_network(network).features == small


def test_a_cascade_is_refused():
    cascade = small_plan(LABELS).model_copy(update={"name": "3d_cascade", "previous": "3d_lowres"})
    with pytest.raises(RunError, match=r"3d_cascade takes the predictions of 3d_lowres as input.*choose another plan with --plan"):
        distilled_plan(cascade)
