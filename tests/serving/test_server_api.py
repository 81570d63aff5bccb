"""The description of the server's API follows OpenAPI's rules, and its answers follow the description."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from serving_api import served
from standin import write_scan

httpx = pytest.importorskip("httpx", reason="the tests' client is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

METHODS = {"get", "post", "delete"}


def operations(api: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method.upper(), path): item[method] for path, item in api["paths"].items() for method in item.keys() & METHODS}


def resolved(api: dict[str, Any], node: Any) -> Any:
    """A part of the description, with what its references stand for."""
    if isinstance(node, list):
        return [resolved(api, one) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = api
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        return resolved(api, target)
    return {key: resolved(api, value) for key, value in node.items()}


def test_the_description_names_every_operation_and_follows_the_rules_of_openapi() -> None:
    from nnseg.serving.server import Access, api_description, make_app

    api = api_description()
    assert api["openapi"] == "3.1.0"
    assert {"title", "version"} <= api["info"].keys()
    assert api["info"]["version"]
    app = make_app(None, Access())  # type: ignore[arg-type]
    routes = {(method, route.path) for route in app.routes for method in route.methods - {"HEAD"}}
    assert routes == operations(api).keys()
    names = [operation["operationId"] for operation in operations(api).values()]
    assert len(set(names)) == len(names)
    for (_, path), operation in operations(api).items():
        parameters = resolved(api, [*operation.get("parameters", []), *api["paths"][path].get("parameters", [])])
        assert {one["name"] for one in parameters if one["in"] == "path"} == set(re.findall(r"{(\w+)}", path))
        assert all(one["required"] for one in parameters if one["in"] == "path")
        assert all("description" in answer for answer in resolved(api, operation)["responses"].values())
    for schema in resolved(api, api)["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_answers_are_as_described(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "data" / "a.nii.gz")
    with served(tmp_path, folders=(scan.parent,)) as (url, _), httpx.Client(base_url=url, timeout=120) as client:
        api = client.get("/openapi.json").json()
        job = client.post("/predict", params={"wait": "no"}, content=scan.read_bytes())
        place = job.headers["location"]
        client.get(place, params={"seconds": 30})
        answers = {
            ("POST", "/predict"): [
                job,
                client.post("/predict", content=scan.read_bytes()),
                client.post("/predict", params={"answer": "json"}, json={"scan": str(scan)}),
                client.post("/predict", params={"answer": "json"}, content=b"broken"),
                client.post("/predict", json={"scan": "/"}),
                client.post("/predict", params={"model": "none"}),
            ],
            ("GET", "/jobs/{id}/label-map"): [client.get(f"{place}/label-map"), client.get("/jobs/x/label-map")],
            ("GET", "/jobs/{id}"): [client.get(place), client.get("/jobs/x")],
            ("DELETE", "/jobs/{id}"): [client.delete(place), client.delete(place)],
            ("GET", "/models"): [client.get("/models")],
            ("GET", "/health"): [client.get("/health")],
            ("GET", "/metrics"): [client.get("/metrics")],
            ("POST", "/invoke"): [client.post("/invoke")],
        }
        for operation, given in answers.items():
            for answer in given:
                described = resolved(api, operations(api)[operation])["responses"][str(answer.status_code)]
                kind = answer.headers.get("content-type", "").partition(";")[0]
                assert kind in described.get("content", {"": None})
                if kind == "application/json":
                    jsonschema.validate(answer.json(), described["content"][kind]["schema"])
        assert [answer.status_code for answer in answers["POST", "/predict"]] == [202, 200, 200, 422, 403, 404]


def test_metrics_are_lines_of_prometheus(tmp_path: Path) -> None:
    with served(tmp_path, 'a"b\\c') as (url, _):
        lines = httpx.get(f"{url}/metrics").text.splitlines()
    sample = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? -?[0-9.e+]+')
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line) for line in lines)
    assert 'nnseg_scans{model="a\\"b\\\\c",state="waiting"} 0' in lines
