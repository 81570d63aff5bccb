"""The model card as JSON of RSNA's ATLAS."""

import json

import jsonschema
import pytest
from report_examples import HOSTILE

from nnseg.core.card import MetricSummary, ModelCard, Networks, SelfAssessment, TrainingData
from nnseg.core.verdict import Verdict
from nnseg.reporting.atlas_card import SCHEMA, atlas_card_json
from nnseg.storage.overwrite import is_made

DATE = {"type": "string", "format": "date"}
TEXT = {"type": "string", "minLength": 1}
WORDS = {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "minLength": 4, "maxLength": 64}}
ROADMAP = {
    *("95th percentile Hausdorff distance", "Dice similarity coefficient", "Hausdorff distance", "intersection over union"),
    *("average symmetric surface distance", "expected calibration error", "normalized surface distance", "panoptic quality"),
}
RADLEX = {
    *("Computed tomography (RID10321)", "Magnetic resonance imaging (RID10312)"),
    *("Positron emission tomography (RID10337)", "Ultrasound (RID10326)"),
}


def an_object(required=(), **properties) -> dict:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def of_texts(*names: str, **more) -> dict:
    return an_object(**dict.fromkeys(names, TEXT), **more)


def atlas_schema() -> dict:
    """What version 2025-11 allows, in our own words: the names of all fields, and the values of the lists that we fill."""
    use = an_object(**dict.fromkeys(("Intended", "Out-of-scope", "Excluded"), WORDS))
    reference = an_object(
        ("Title",),
        **dict.fromkeys(("Authors", "Title", "Source", "DOI", "URL", "PMCID", "Notes"), TEXT),
        PMID={"type": "integer"}, Date={},
    )  # fmt: skip
    model = an_object(
        ("Name", "Link"),
        Name={"type": "string", "minLength": 4, "maxLength": 256},
        Link={"type": "string", "minLength": 4, "maxLength": 256, "pattern": "^[a-z][a-z0-9+.-]*:"},
        Indexing={"type": "object"},
        Descriptors=of_texts(
            *("Comments", "Contact", "Ethical review", "Funding", "Version"),
            Authors={}, License={}, Organizations={}, References={"type": "array", "items": reference},
            Date=an_object(Created=DATE, Published=DATE, Updated=DATE),
        ),
        Imaging=of_texts(
            *("Resolution", "Comments"), Procedures={}, **{"File format": {}},
            Modalities={"type": "array", "minItems": 1, "items": {"enum": sorted(RADLEX)}},
        ),
        **{
            "Model properties": of_texts(
                *("Architecture", "Availability", "Clinical benefit", "Clinical workflow phase", "Decision threshold"),
                *("Degree of automation", "Indications for use", "Input", "Instructions", "Limitations", "Recommendation"),
                *("Reproducibility", "Sustainability"),
                Output={**of_texts("Description", CDEs={}), "minProperties": 1},
                Use=use, User=use, **{"Regulatory information": {}},
            ),
            "Model performance": of_texts(
                "Comments", Metrics={"type": "array", "uniqueItems": True, "items": {"enum": sorted(ROADMAP)}}
            ),
        },
    )  # fmt: skip
    return an_object(("$schema", "Model"), **{"$schema": {"const": SCHEMA}, "Model": model})


def validate(card: ModelCard) -> dict:
    found = json.loads(atlas_card_json(card))
    jsonschema.Draft202012Validator(atlas_schema(), format_checker=jsonschema.FormatChecker()).validate(found)
    return found["Model"]


def card(**changes) -> ModelCard:
    material = TrainingData(
        dataset="Bars", cases=12, channels=("T1", "T2"), labels=(("zeta", 12), ("alpha", 3)),
        spacing=((1.0, 0.5, 0.5), (3.0, 1.0, 1.0)), shape=((10, 20, 20), (10, 20, 20)), key="d00d",
        about={"licence": "CC-BY-SA 4.0", "reference": "Somewhere"},
    )  # fmt: skip
    given = {"name": "Bars", "made": "2026-01-02T10:00:00+00:00", "purpose": "To outline bars.", "material": material}
    given |= {"networks": (Networks(plan="3d", folds=(0, 1), words="A U-Net."),), "model": "c0ffee"}
    return ModelCard(**(given | changes))


def test_what_is_known_is_filled_in_and_the_rest_is_absent():
    found = validate(card(limits=("Only bars.", "Only here."), versions={"torch": "9"}))
    assert found["Name"] == "Bars: segmentation model"
    assert found["Link"] == "urn:nnseg:c0ffee"
    assert found["Descriptors"]["Date"] == {"Created": "2026-01-02"}
    assert found["Descriptors"]["References"] == [{"Title": "Somewhere"}]
    assert "CC-BY-SA 4.0" in found["Descriptors"]["Comments"]
    assert found["Imaging"]["Modalities"] == ["Magnetic resonance imaging (RID10312)"]
    assert found["Model properties"]["Limitations"] == "Only bars. Only here."
    assert found["Model properties"]["Architecture"] == "2 networks of the plan 3d. A U-Net."
    assert found["Model properties"]["Output"]["Description"].endswith("zeta, alpha")
    for absent in ("Authors", "License", "Funding"):
        assert absent not in found["Descriptors"]
    assert "Model performance" not in found  # nothing was held out


def test_scores_have_the_names_of_roadmap_and_their_values_in_words():
    labels = (("zeta", 0.95, None), ("alpha", 0.5, None))
    scores = [
        MetricSummary(title=title, unit=unit, average=average, mean=mean, interval=(0.8, 0.95), labels=labels)
        for title, unit, mean in (("Dice", "", 0.9), ("HD95", "mm", 3.2), ("NSD at 1 mm", "", 0.7), ("Volume error", "ml", -0.1))
        for average in ("per_mask", "per_image", "pooled")
    ]  # fmt: skip
    verdict = Verdict(level="good", headline="The model is good.", advice="Use it.")
    found = validate(
        card(scores=tuple(scores), held_out=12, reliance=SelfAssessment(temperature=1.2, calibration_error=0.01), verdict=verdict)
    )
    performance = found["Model performance"]
    assert performance["Metrics"] == [
        *("Dice similarity coefficient", "95th percentile Hausdorff distance"),
        *("normalized surface distance", "expected calibration error"),
    ]
    assert "12 held-out cases" in performance["Comments"]
    assert "Dice 0.900 (95 % interval 0.800 to 0.950); zeta 0.950, alpha 0.500." in performance["Comments"]
    assert "HD95 3.200 mm" in performance["Comments"]
    assert found["Model properties"]["Recommendation"] == "The model is good."


def test_names_of_any_kind_are_text():
    assert HOSTILE in validate(card(name=HOSTILE, purpose=HOSTILE))["Name"]


@pytest.mark.parametrize(
    ("channel", "modality"), [("CT", "Computed"), ("FLAIR", "Magnetic"), ("PET", "Positron"), ("US", "Ultrasound")]
)
def test_modalities_are_those_of_radlex(channel, modality):
    material = card().material.model_copy(update={"channels": (channel, "other")})
    assert [name.split()[0] for name in validate(card(material=material))["Imaging"]["Modalities"]] == [modality]


def test_a_card_of_nnseg_may_be_overwritten_and_other_json_not(tmp_path):
    file = tmp_path / "model.json"
    file.write_text(atlas_card_json(card()))
    assert is_made(file, "model card of ATLAS")
    file.write_text("{}")
    assert not is_made(file, "model card of ATLAS")
