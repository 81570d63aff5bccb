"""Example content of a report: all parts, with a name that would be markup if it were not escaped."""

import math
import re
from html import unescape

import numpy as np
from markupsafe import escape

from nnseg.core.audit import Association, Audit, SameScan, Subgroup
from nnseg.core.dataset import Finding
from nnseg.core.decisions import Choice, Effect, EnsembleCandidate, Nested, Postprocessing, PostprocessingStep
from nnseg.core.detection import FALSE_POSITIVES, Detection, FrocPoint, OperatingPoint
from nnseg.core.explanation import Concentration, Explanation
from nnseg.core.fingerprint import CaseMeasure, Fingerprint, Intensity
from nnseg.core.geometry import Grid
from nnseg.core.labels import Labels
from nnseg.core.learning_curve import CurvePoint, ExpectedGain, LearningCurve
from nnseg.core.plan import Augmentation, Inference, Network, Normalization, Plan, Preprocessing, Training
from nnseg.core.robustness import ChangedScore, Robustness
from nnseg.core.scan_ranges import ScanFacts
from nnseg.core.schedule import Epoch
from nnseg.core.scores import CaseScore, Failure, LabelScore, Scores
from nnseg.core.trust import Trust
from nnseg.evaluation.averages import averages
from nnseg.evaluation.calibration import Bin, Calibrated, Calibration
from nnseg.evaluation.groups import grouped
from nnseg.reporting.case_images import CaseImages
from nnseg.reporting.content import ExpectedQuality, PicturedExplanation, PredictedCase, ReportContent, StageTiming
from nnseg.reporting.pictures import draw_case
from nnseg.reporting.report import render_report

HOSTILE = "<script>alert(1)</script>\"'&amp;"
LABELS = Labels(names=("background", "front", HOSTILE), values=(0, 1, 2))
DICES = {"case_2": (0.9, 0.7), "case_10": (0.8, 0.6), "case_1": (0.5, 0.1), HOSTILE: (0.3, 0.2), "case_3": (0.2, 0.9)}
METRICS = ("dice", "iou", "hd95", "nsd_1", "volume_error_ml")


def plan(**changes) -> Plan:
    settings = {
        "name": "2d",
        "dataset": "cells",
        "recipe": "auto",
        "channels": ("light",),
        "patch": (64, 32),
        "labels": LABELS,
        "why": {"patch": "all images are this large"},
        "preprocessing": Preprocessing(axes=(0, 1, 2), spacing=(1.0, 0.5), normalization=(Normalization(scheme="zscore"),)),
        "network": Network(
            kind="plain", features=(8, 16), strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2, blocks=(2, 2), decoder_blocks=(2,)
        ),
        "training": Training(
            batch_size=4, augmentation=Augmentation(mirror_axes=(0, 1), why={"mirror_axes": f"no side differs {HOSTILE}"})
        ),
        "inference": Inference(mirror_axes=(0, 1)),
    }
    return Plan(**{**settings, **changes})


def mask(dice: float | None) -> LabelScore:
    """Of 10 voxels (0.1 ml) in the reference and in the prediction, or of none."""
    if dice is None:
        return LabelScore(tp=0, fp=0, fn=0, tn=70, dice=None, iou=None, nsd={"1": None}, volume_ml=0.0, reference_ml=0.0)
    tp = round(10 * dice)
    error = dice - 0.5
    return LabelScore(
        tp=tp, fp=10 - tp, fn=10 - tp, tn=50, dice=dice, iou=tp / (20 - tp), hd95=10 * (1 - dice), nsd={"1": dice},
        volume_ml=1.0 + dice + error, reference_ml=1.0 + dice, volume_error_ml=error,
    )  # fmt: skip


def case(name: str, *dices: float | None) -> CaseScore:
    labels = {label: mask(dice) for label, dice in zip(LABELS.foreground, dices, strict=True)}
    known = [m for m in labels.values() if m.dice is not None]
    means = [math.fsum(getattr(m, n) for m in known) / len(known) if known else None for n in ("dice", "iou")]
    return CaseScore(name=name, labels=labels, mean_dice=means[0], mean_iou=means[1])


def scores(cases: list[CaseScore], failed: tuple[Failure, ...] = ()) -> Scores:
    ordered = tuple(sorted(cases, key=lambda c: c.name))
    return Scores(
        labels=LABELS.foreground,
        metrics=METRICS,
        cases=ordered,
        failed=failed,
        averages=averages(ordered, LABELS.foreground, METRICS),
    )


def fingerprint() -> Fingerprint:
    measures = tuple(
        CaseMeasure(
            name=name,
            key=name,
            shape=(10 + number, 20, 30),
            spacing=(2.0, 1.0, 1.0),
            cropped_shape=(5, 20, 30),
            voxels={"background": 5000, "front": 10 ** (1 + number), HOSTILE: 0},
        )
        for number, name in enumerate(DICES)
    )
    light = Intensity(mean=5.0, median=4.0, std=2.0, min=0.0, max=12345.0, percentile_00_5=1.0, percentile_99_5=9.0)
    return Fingerprint(dataset="cells", layout="folders", channels=("light",), labels=LABELS, cases=measures, intensities=(light,))


def epochs(*, energy: bool = False) -> list[Epoch]:
    return [
        Epoch(
            number=n,
            step=n,
            steps=3,
            loss=1 / n,
            learning_rate=0.1,
            dice={"front": n / 4, "x": None},
            seconds=1,
            total_seconds=n,
            cpu_seconds=2.0 * n,
            joules=1200.0 * n if energy else None,
        )
        for n in (1, 2, 3)
    ]


def choice() -> Choice:
    single = EnsembleCandidate(plans={"2d": 1.0}, dice=0.8, interval=(0.7, 0.9), seconds=2.0)
    both = EnsembleCandidate(plans={"2d": 1.0, "3d": 1.0}, dice=0.82, gain=0.02, gain_interval=(0.01, 0.03), p=0.01, seconds=5.0)
    return Choice(
        plans=both.plans,
        reason=f"it is better {HOSTILE}",
        cases=6,
        best_single="2d",
        nested=Nested(gain=0.0123, interval=(0.005, 0.02)),
        p=0.004,
        candidates=(both, single),
    )


def postprocessing() -> Postprocessing:
    return Postprocessing(
        steps=(PostprocessingStep(action="largest", labels=(1,)), PostprocessingStep(action="smaller", labels=(2,), mm3=12.0)),
        cases=6,
        reason=f"Dice rises {HOSTILE}",
        effects={HOSTILE: Effect(cases=5, dice_before=0.5, dice_after=0.625, p=0.01, gain=0.0987)},
    )


def detection(objects: int = 4) -> Detection:
    """Of two thresholds; nothing is known of sensitivity where there are no objects."""
    shares = {"precision": 0.5, "f1": 0.6, "specificity": 0.875, "ap_50": 0.125}
    points = [
        OperatingPoint(threshold=of, sensitivity=found if objects else None, false_positives=wrong, ap_10=0.25, **shares)
        for of, found, wrong in ((None, 0.5, 0.25), (0.3, 0.75, 2.0))
    ]
    froc = [FrocPoint(false_positives=most, sensitivity=0.5 if most < 2 else 0.75, interval=(0.4, 0.9)) for most in FALSE_POSITIVES]
    mean = 0.6 if objects else None
    return Detection(
        scans=5, scans_without=1, objects=objects, mean_sensitivity=mean, froc=froc if objects else (), points=tuple(points)
    )


def calibrated(temperature: float, ece: float) -> Calibrated:
    curve = tuple(Bin(confidence=c, accuracy=c - ece, share=0.25) for c in (0.3, 0.5, 0.7, 0.9))
    return Calibrated(
        temperature=temperature, ece=ece, brier=0.04, ece_interval=(ece / 2, 2 * ece), brier_interval=(0.03, 0.05), curve=curve
    )


def learning_curve() -> LearningCurve:
    points = tuple(CurvePoint(cases=n, dice=d, interval=(d - 0.02, d + 0.02)) for n, d in ((5, 0.6), (10, 0.7), (20, 0.75)))
    gain = ExpectedGain(cases=50, dice=0.0412, interval=(0.012, 0.071))
    return LearningCurve(plan="2d", fold=0, held_out=5, steps=1200, points=points, gains=(gain,))


def audit() -> Audit:
    strong = {"n": 5, "explained": 0.61, "p": 0.001, "p_adjusted": 0.004}
    return Audit(
        cases=5,
        scored=4,
        associations=(
            Association(predictor=f"site {HOSTILE}", outcome="Dice", **strong),
            Association(predictor="mark in a corner", outcome=f"volume of {HOSTILE}", **strong | {"p_adjusted": 0.3}),
        ),
        subgroups=(
            Subgroup(predictor=f"site {HOSTILE}", value=f"a {HOSTILE}", n=2, dice=0.5),
            Subgroup(predictor=f"site {HOSTILE}", value="", n=3, dice=0.75, interval=(0.6, 0.9)),
        ),
        same_scans=(SameScan(cases=("case_1", HOSTILE), how="mirrored along x", correlation=0.97, divided=True),),
        groups={"case_1": "g", HOSTILE: "g"},
        findings=(Finding.of("NS-A002", f"the Dice depends on the site {HOSTILE}"),),
    )


def robustness() -> Robustness:
    """One change with scores, and one without."""
    noise = ChangedScore(
        change="noise", strength=0.25, n=5, unchanged=0.85, changed=0.8, difference=-0.05, interval=(-0.08, -0.02), p=0.01,
        p_adjusted=0.02, labels={"front": -0.1, HOSTILE: 0.0},
    )  # fmt: skip
    nothing = {"change": "slice_thickness", "strength": 4.0, "n": 4, "changed": None, "difference": None, "interval": None}
    undefined = noise.model_copy(update={**nothing, "p_adjusted": 1.0, "labels": dict.fromkeys(noise.labels)})
    return Robustness(cases={f"case_{number}": "key" for number in range(5)}, changes=(noise, undefined))


def without_channels() -> Robustness:
    """Of a channel with a name that would be markup."""
    found = robustness()
    return found.model_copy(update={"changes": (found.changes[0].model_copy(update={"change": HOSTILE, "strength": None}),)})


def explanations() -> list[PicturedExplanation]:
    """One map that passed its checks, and one that was withheld."""
    inside, near = Concentration(attribution=0.3, uniform=0.1), Concentration(attribution=0.5, uniform=0.2)
    given = {"case": "case_2", "method": "smoothgrad", "voxels": 10, "other_correlation": 0.25, "inside": inside, "near": near}
    written = Explanation(**given, label="front", other=HOSTILE, random={"half": 0.2, "all": 0.1}, repeated=0.8, file="map.nii.gz")
    withheld = Explanation(
        **(given | {"case": "case_10"}), label=HOSTILE, other="front", random={"all": 0.6}, withheld=f"too like {HOSTILE}"
    )
    return [
        PicturedExplanation(explanation=written, picture="data:image/png;base64,iVBO"),
        PicturedExplanation(explanation=withheld),
    ]


def report_content() -> ReportContent:
    """With everything in it but the viewer, whose page is large."""
    known = scores(
        [*(case(n, *d) for n, d in DICES.items()), case("blank", None, None)], (Failure(name=HOSTILE, reason=f"broken {HOSTILE}"),)
    )
    known = known.model_copy(update={"detection": {"front": detection(), HOSTILE: detection(0)}})
    shown = np.zeros((1, 8, 8), np.uint8)
    shown[0, 2:5, 2:5], shown[0, 5:7, 2:5] = 1, 2
    example = CaseImages(
        name=HOSTILE, caption=f"best {HOSTILE}", image=np.arange(64.0).reshape(1, 1, 8, 8), grid=Grid(shape=(1, 8, 8)),
        reference=shown, prediction=shown, labels=LABELS,
    )  # fmt: skip
    facts = ScanFacts(spacing=(1, 1, 1), size_mm=(9, 9, 9), intensities=((-2.0, -1.0, 0.0, 1.0, 2.0),))
    predicted = [PredictedCase(name=n, seconds={"read": 0.5, "network": 1.5}, peak_gb=0.75, facts=facts) for n in DICES]
    return ReportContent(
        title=f"Cells {HOSTILE}",
        dataset="plain folders, 5 cases",
        fingerprint=fingerprint(),
        findings=(Finding(level="note", message=f"odd {HOSTILE}", case=HOSTILE), Finding(level="error", message="worse")),
        plans=(plan(),),
        histories={f"2d fold 0 {HOSTILE}": epochs()},
        scores=known,
        examples=(draw_case(example),),
        groups=grouped(known, {f"site {HOSTILE}": dict(zip(DICES, "aabbb", strict=True))}),
        choice=choice(),
        postprocessing=postprocessing(),
        trust=Trust(cases=5, temperature=1.5, error=0.07, threshold=0.4),
        expected_quality=[
            ExpectedQuality(name=n, expected=0.3 + 0.1 * i, dice=(a + b) / 2, unlike=(f"spacing {HOSTILE}",) if i == 0 else ())
            for i, (n, (a, b)) in enumerate(DICES.items())
        ],
        audit=audit(),
        learning_curve=learning_curve(),
        robustness=robustness(),
        channel_scores=without_channels(),
        calibration=Calibration(n=5, before=calibrated(1.0, 0.08), after=calibrated(1.5, 0.02)),
        explanations=explanations(),
        stages={"train": StageTiming(seconds=75.0, peak_gb=1.5), "predict": StageTiming(seconds=3.21)},
        predicted=predicted,
        provenance={"This run": {"command": f"nnseg run {HOSTILE}"}},
        missing=(f"old.json {HOSTILE}",),
    )


def page_text(content: ReportContent) -> str:
    """The text of the rendered page."""
    return _text(render_report(content))


def table_rows(content: ReportContent, name: str) -> dict[str, list[str]]:
    """The text of the cells of each row of a table of the rendered page, by its first cell; ``name`` is that of the table."""
    page = render_report(content)
    table = page.split(f'aria-label="{escape(name)}">', 1)[1].split("</table>", 1)[0].split("<tbody>", 1)[1]
    rows = [[_text(cell) for cell in re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.DOTALL)] for row in table.split("</tr>")]
    return {row[0]: row[1:] for row in rows if row}


def _text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<(style|script|svg)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)).split())
