from xml.etree import ElementTree

import pytest

from nnseg.core.population import Person, make_population
from nnseg.volumetry.charts import LEFT, RIGHT, WIDTH, format_ml, format_percentile, percentile_svg, volumes_svg

OTHERS = make_population([Person(volumes={"liver": float(v)}) for v in range(1001, 1100)], "others")


def drawn(ml: float) -> ElementTree.Element:
    return ElementTree.fromstring(percentile_svg("liver", ml, OTHERS.percentile("liver", ml)))


def corners(svg: ElementTree.Element) -> list[tuple[float, float]]:
    polygon = svg.find("polygon")
    return [tuple(map(float, pair.split(","))) for pair in polygon.get("points").split()]


def test_the_middle_90_percent_have_the_same_place_in_every_drawing():
    most = drawn(1050.0).find("rect[@class='most']")
    assert float(most.get("x")) == LEFT
    assert float(most.get("width")) == RIGHT - LEFT


@pytest.mark.parametrize(("ml", "x"), [(1005.0, LEFT), (1095.0, RIGHT), (1050.0, (LEFT + RIGHT) / 2)])
def test_the_mark_stands_where_the_volume_is(ml, x):
    places = [place for place, _ in corners(drawn(ml))]
    assert (min(places) + max(places)) / 2 == pytest.approx(x)


def test_beyond_the_ends_an_arrow_stays_on_the_drawing():
    for ml in (0.0, 99999.0):
        places = corners(drawn(ml))
        assert len(places) == 3
        assert all(0 <= x <= WIDTH for x, _ in places)
        assert drawn(ml).find("polygon").get("class") == "mark unusual"


def test_the_drawing_has_a_description():
    assert drawn(1050.0).get("aria-label") == "liver: 1,050 ml, percentile 50; 5 to 95 % of others have 1,005 to 1,095 ml"


def test_equal_volumes_of_a_population_are_drawn_in_the_middle():
    same = make_population([Person(volumes={"liver": 5.0})] * 30, "others")
    for ml, count in ((5.0, 4), (4.0, 3), (6.0, 3)):
        assert len(corners(ElementTree.fromstring(percentile_svg("liver", ml, same.percentile("liver", ml))))) == count


def test_percentiles_and_volumes_have_three_digits_at_most():
    assert [format_percentile(OTHERS.percentile("liver", ml)) for ml in (0.0, 1037.0, 9999.0)] == ["< 1", "37", "> 99"]
    assert [format_ml(v) for v in (0.0, 0.01234, 1.8, 12.34, 99.96, 1234.6)] == ["0", "0.0123", "1.80", "12.3", "100", "1,235"]


def test_names_of_cases_cannot_break_out_of_a_drawing():
    svg = volumes_svg("<b>", {"</title><script>": 1.0, "b": 2.0}, (0.5, 1.0, 1.5, 2.0, 2.5))
    root = ElementTree.fromstring(svg)
    assert [e.text for e in root.iter("title")] == ["</title><script>: 1.00 ml", "b: 2.00 ml"]
    assert not list(root.iter("script"))
