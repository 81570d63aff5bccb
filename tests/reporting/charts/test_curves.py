import re

from nnseg.core.schedule import Epoch
from nnseg.reporting.charts.curves import RECENT, draw_histories, training_statuses
from nnseg.reporting.formatting import energy


def history(*, epochs: int, seconds: float, steps: int = 1000, **changes: object) -> list[Epoch]:
    """Of ten steps each."""
    return [
        Epoch(
            number=n, step=10 * n, steps=steps, loss=1 / n, learning_rate=0.1, dice={"a": 0.5}, seconds=seconds,
            total_seconds=n * seconds, **changes,
        )
        for n in range(1, epochs + 1)
    ]  # fmt: skip


def test_time_left_is_estimated_from_the_last_epochs():
    slow, fast = history(epochs=10, seconds=50.0), history(epochs=10 + RECENT, seconds=5.0)[10:]
    (status,) = training_statuses({"3d fold 0": slow + fast})
    assert status.step_seconds == 0.5
    assert status.left == "6 min 40 s"  # 800 of 1000 steps
    (first,) = training_statuses({"3d fold 0": slow[:1]})
    assert first.step_seconds == 5.0


def test_a_training_without_steps_left_is_finished():
    (status,) = training_statuses({"3d fold 0": history(epochs=3, seconds=1.0, steps=30)})
    assert not status.runs
    assert status.left == "finished"


def test_a_training_keeps_its_style_when_others_before_it_have_not_begun():
    known = training_statuses({"3d fold 0": [], "3d fold 1": history(epochs=1, seconds=1.0, joules=7200.0)})
    assert [(s.name, s.style, energy(s.last.joules)) for s in known] == [("3d fold 1", "s1", "2 Wh")]


def test_the_loss_of_every_step_is_drawn_also_of_a_single_epoch():
    (epoch,) = history(epochs=1, seconds=10.0, steps=10, losses=tuple(2.0 - n / 10 for n in range(10)))
    drawn = dict(draw_histories({"3d fold 0": [epoch]}))
    assert list(drawn) == ["Training loss", "Dice on held-out patches (an estimate)"]  # one point shows no schedule
    points = re.search(r'points="([^"]+)"', drawn["Training loss"])
    assert points and len(points[1].split()) == 10
    assert "step 1 of 10: 2<" in drawn["Training loss"]
    assert "step 10 of 10, after 10.0 s: 1.1<" in drawn["Training loss"]


def test_a_long_loss_curve_is_of_means_over_steps():
    epochs = history(epochs=100, seconds=1.0, losses=tuple(float(n) for n in range(10)))
    points = re.search(r'points="([^"]+)"', dict(draw_histories({"3d fold 0": epochs}))["Training loss"])
    assert points and len(points[1].split()) == 200  # of 5 of 1000 steps each


def test_charts_are_of_loss_dice_and_rate_with_steps_and_time_in_tooltips():
    drawn = dict(draw_histories({"3d fold 0": history(epochs=7, seconds=60.0)}))
    assert list(drawn) == ["Training loss", "Dice on held-out patches (an estimate)", "Learning rate"]
    for svg, value in zip(drawn.values(), ("0.5", "0.5", "0.1"), strict=True):
        assert f"<title>3d fold 0, step 20 of 1,000, after 2 min 00 s: {value}</title>" in svg
        assert len(re.findall("<polyline", svg)) == 1
    assert draw_histories({"3d fold 0": []}) == []
