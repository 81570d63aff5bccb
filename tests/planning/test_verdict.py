"""The verdict on a model: what it says, and the command that it names."""

from report_examples import case, scores

from nnseg.core.options import parse_duration
from nnseg.core.schedule import Epoch
from nnseg.core.trust import Trust
from nnseg.planning.verdict import advised_time, give_verdict, warn_of_length


def epoch(losses: tuple[float, ...], seconds: float = 60.0) -> Epoch:
    return Epoch(
        number=1, step=len(losses), steps=len(losses), loss=sum(losses) / len(losses), learning_rate=0.1, dice={}, seconds=seconds,
        total_seconds=seconds, losses=losses,
    )  # fmt: skip


FALLING = tuple(2.0 - n / 400 for n in range(600))
FLAT = tuple(1.0 + 0.1 * (-1) ** n for n in range(600))
TEN = [case(f"c{n}", 0.9, 0.8) for n in range(10)]


def test_too_few_steps_for_a_useful_model_are_told_before_the_start_with_the_time_that_suffices() -> None:
    assert warn_of_length(5, 60.0, 1, timed=True) == (
        "only 5 steps fit into 60 s on this machine; a useful model needs about 250 steps, which take 1h: --budget 1h"
    )
    assert warn_of_length(25, 12.0, 5, timed=True) == (
        "only 25 steps of each of 5 trainings fit into 60 s on this machine; a useful model needs about 250 steps, which take 10m: "
        "--budget 10m, or for a single fold --folds 0 --budget 2m"
    )
    assert warn_of_length(20, None, 5, timed=False) == "20 steps of training are few; a useful model needs about 250: --steps 250"
    assert warn_of_length(250, 60.0, 1, timed=True) == ""


def test_an_advised_time_is_round_sufficient_and_understood_by_options() -> None:
    for seconds in (1, 59, 61, 500, 4000, 5300, 90_000, 400_000):
        text = advised_time(seconds)
        assert seconds <= parse_duration(text) <= max(60, 2 * seconds), text
    assert [advised_time(s) for s in (240, 5300, 7200)] == ["5m", "1h30m", "2h"]


def test_a_label_that_was_not_found_is_named_with_the_command_that_trains_longer() -> None:
    found = give_verdict(scores([case(f"c{n}", 0.9, 0.0) for n in range(10)]), {"3d fold 0": [epoch(FALLING)]}, folds=5)
    assert found
    assert found.level == "poor"
    assert found.headline == "Not useful yet: <script>alert(1)</script>\"'&amp; was not found (Dice 0)."
    assert found.reasons == ("The loss was still falling.",)
    assert found.command == "nnseg train RUN --more 1m --folds 0"
    assert found.named("heads.run").command == "nnseg train heads.run --more 1m --folds 0"


def test_a_model_that_does_not_become_better_by_training_asks_for_a_look_at_the_data() -> None:
    found = give_verdict(scores([case(f"c{n}", 0.4, 0.3) for n in range(10)]), {"3d fold 0": [epoch(FLAT)]})
    assert found
    assert (found.level, found.headline) == ("poor", "Not useful yet: mean Dice 0.35.")
    assert found.reasons == ("The loss no longer falls: longer training will help little.",)
    assert found.command == "nnseg check DATASET"


def test_a_good_model_is_ready_to_predict_and_few_cases_and_steps_are_told() -> None:
    good = give_verdict(scores(TEN), {"3d fold 0": [epoch(FLAT)]})
    assert good
    assert (good.level, good.reasons, good.command) == ("good", (), "nnseg predict SCANS OUT --model RUN")
    short = give_verdict(scores(TEN[:4]), {"3d fold 0": [epoch(FLAT[:30])], "3d fold 1": [epoch(FLAT[:20], 600.0)]})
    assert short
    assert short.reasons == (
        "20 to 30 steps of training are few; longer training should improve it.",
        "The scores are those of 4 cases, and uncertain.",
    )
    assert short.command == "nnseg train RUN --more 2h"  # 230 steps of 30 s


def test_an_unreliable_estimate_of_quality_is_told() -> None:
    trust = Trust(cases=10, error=0.2, threshold=None, temperature=1.0)
    found = give_verdict(scores(TEN), {"3d fold 0": [epoch(FLAT)]}, trust)
    assert found
    assert found.reasons == ("The expected Dice of a scan is off by 0.20 on average.",)


def test_without_held_out_cases_the_quality_is_unknown_and_without_training_there_is_no_verdict() -> None:
    found = give_verdict(None, {"3d fold 0": [epoch(FLAT)]})
    assert found
    assert (found.level, found.headline) == ("unknown", "Its quality is unknown: no held-out case was scored.")
    assert give_verdict(scores(TEN), {"3d fold 0": []}) is None


def test_a_loss_that_only_fluctuates_does_not_fall() -> None:
    noisy = tuple(1.0 + 0.5 * ((7 * n) % 11 - 5) / 5 - 0.00001 * n for n in range(600))
    found = give_verdict(scores([case(f"c{n}", 0.4, 0.3) for n in range(10)]), {"3d fold 0": [epoch(noisy)]})
    assert found
    assert "The loss was still falling." not in found.reasons


def test_a_label_without_a_score_is_not_said_to_be_found() -> None:
    found = give_verdict(scores([case(f"c{n}", 0.9, None) for n in range(10)]), {"3d fold 0": [epoch(FLAT)]})
    assert found
    assert found.headline == "All scored labels were found: mean Dice 0.90."
    assert found.reasons == ("There is no score of <script>alert(1)</script>\"'&amp;: no held-out case shows it.",)
