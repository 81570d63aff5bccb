import json

import pytest
from pydantic import ValidationError

from nnseg.core.decisions import Effect, Postprocessing, PostprocessingStep, Tried


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"action": "smaller", "labels": (1,)}, "needs mm3"),
        ({"action": "largest", "labels": (1,), "mm3": 5.0}, "no other action"),
        ({"action": "holes", "labels": (1,)}, "needs fill"),
        ({"action": "largest", "labels": (1,), "fill": 1}, "no other action"),
        ({"action": "holes", "labels": (1, 2), "fill": 3}, "cannot be filled with 3"),
        ({"action": "smaller", "labels": (1,), "mm3": 0.0}, "greater than 0"),
        ({"action": "largest", "labels": ()}, "at least 1 item"),
        ({"action": "erode", "labels": (1,)}, "'largest', 'smaller' or 'holes'"),
    ],
)
def test_a_step_that_says_too_little_or_too_much_is_refused(fields: dict, said: str):
    with pytest.raises(ValidationError, match=said):
        PostprocessingStep(**fields)


def test_postprocessing_survives_its_json():
    steps = (
        PostprocessingStep(action="largest", labels=(1, 2)),
        PostprocessingStep(action="smaller", labels=(2,), mm3=3.5),
        PostprocessingStep(action="holes", labels=(1, 2), fill=2),
    )
    tried = tuple(Tried(step=s, cases=7, gain=0.1, p=0.01, accepted=True, reason="why") for s in steps)
    effects = {"a": Effect(cases=9, dice_before=0.5, dice_after=None, p=0.01, gain=0.1)}
    content = Postprocessing(steps=steps, cases=10, reason="why", effects=effects, tried=tried, key="k")
    assert Postprocessing.model_validate_json(content.model_dump_json()) == content


def test_the_names_of_keys_in_files_of_earlier_versions_are_read():
    step = {"action": "largest", "labels": [1]}
    tried = {"mending": step, "cases": 7, "gain": 0.1, "p": 0.01, "accepted": True, "reason": "why"}
    read = Postprocessing.model_validate_json(json.dumps({"mendings": [step], "tried": [tried]}))
    assert read.steps == (read.tried[0].step,) == (PostprocessingStep(action="largest", labels=(1,)),)
