from xml.etree import ElementTree

import pytest
from report_examples import plan

from nnseg.core.plan import Network
from nnseg.reporting.charts.drawing import WIDTH
from nnseg.reporting.charts.network import network_stages, network_svg
from nnseg.reporting.formatting import by


def network(stages: int, **changes) -> Network:
    settings = {
        "kind": "plain",
        "features": tuple(8 * 2**i for i in range(stages)),
        "strides": ((1, 1), *[(2, 2)] * (stages - 1)),
        "kernels": ((3, 3),) * stages,
        "blocks": (2,) * stages,
        "decoder_blocks": (2,) * (stages - 1),
    }
    return Network(**{**settings, **changes})


def test_stages_shrink_by_their_strides():
    stages = network_stages(plan(network=network(3, strides=((1, 1), (2, 1), (2, 2)))))
    assert [s.shape for s in stages] == [by((64, 32)), by((32, 32)), by((16, 16))]
    assert [s.stride for s in stages] == ["", by((2, 1)), by((2, 2))]
    assert [s.encoder for s in stages] == ["2 convolutions"] * 3
    assert [s.decoder for s in stages] == ["2 convolutions", "2 convolutions", ""]


def test_residual_blocks_are_called_so():
    stages = network_stages(plan(network=network(2, kind="residual", blocks=(1, 3))))
    assert [s.encoder for s in stages] == ["1 residual block", "3 residual blocks"]


@pytest.mark.parametrize("stages", [1, 2, 4, 6, 7])
def test_a_network_is_drawn_with_all_its_stages_twice_but_the_last(stages):
    svg = ElementTree.fromstring(network_svg(plan(patch=(128, 64), network=network(stages))))
    boxes = [g.find("rect") for g in svg.iter("g") if (g.get("class") or "").startswith("stage")]
    assert len(boxes) == 2 * stages - 1
    assert len([line for line in svg.iter("line") if line.get("class") == "skip"]) == stages - 1
    assert f"{stages} stages: 8 features at {by((128, 64))}" in svg.get("aria-label")


@pytest.mark.parametrize("stages", [2, 3, 5, 7, 8])
def test_boxes_lie_in_the_drawing_and_do_not_touch(stages):
    svg = ElementTree.fromstring(network_svg(plan(patch=(256, 256), network=network(stages))))
    height = float(svg.get("viewBox").split()[3])
    boxes = [[float(r.get(k)) for k in ("x", "y", "width", "height")] for r in svg.iter("rect")]
    for x, y, w, h in boxes:
        assert x >= 0
        assert x + w <= WIDTH
        assert y + h <= height
    for i, (x, y, w, h) in enumerate(boxes):
        for a, b, c, d in boxes[i + 1 :]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y


@pytest.mark.parametrize("stages", [1, 3])
def test_arrows_of_input_and_output_end_between_their_texts_and_the_first_stage(stages):
    svg = ElementTree.fromstring(network_svg(plan(patch=(128, 64), network=network(stages))))
    into, out = [line for line in svg.iter("line") if line.get("class") == "flow"][-2:]
    heads = [head.get("points").split()[0].split(",")[1] for head in svg.iter("polygon")][-2:]
    assert (into.get("y1"), into.get("y2"), heads[0]) == ("18.0", "35.0", "39.0")
    assert (out.get("y1"), heads[1]) == ("40.0", "18.0")
