"""The service does what its OpenAPI document says, whoever asks whatever."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.adapters.http.conftest import Site
from tests.torture._schemas import ALLOWED, EXCEPTED, PHASES, Plan, described, told

# Of the torture's phases, one that needs no luck on the one database and a few lucky requests on
# the other.
PLANS = {"sqlite": Plan(1, ("examples", "coverage")), "postgresql": Plan(3, ("stateful",))}


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(id, description) of each."""
    for methods in document["paths"].values():
        for operation in methods.values():
            yield operation["operationId"], operation


def resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def test_whatever_is_asked_the_answer_is_as_described(
    site: Site, request: pytest.FixtureRequest
) -> None:
    """Every operation, with good requests and bad ones: no server error, no undeclared status,
    type, header or body; what is forbidden is refused. The same requests in every run."""
    plan = next(plan for kind, plan in PLANS.items() if kind in request.node.name)
    found = described(site, plan)
    assert list(told(found)) == []
    if "coverage" in plan.phases:
        asked = {name for name, _ in operations(site.client.get("/openapi.json").json())}
        assert set(found.requests) == asked


def test_exceptions_name_what_there_is(site: Site) -> None:
    """None outlives its operation, and none is for an operation that needs none by its kind."""
    known = {name for name, _ in operations(site.client.get("/openapi.json").json())}
    assert set(ALLOWED) <= known
    assert {operation for operation, _ in EXCEPTED} <= known
    assert {status for statuses in ALLOWED.values() for status in statuses} <= {410, 412, 413, 422}
    assert PHASES == ("examples", "coverage", "fuzzing", "stateful")


def test_everything_that_is_sent_has_an_example(site: Site) -> None:
    """Each parameter, and each field of each body; so the document can be tried out as it is."""
    document = site.client.get("/openapi.json").json()
    missing = []
    for name, operation in operations(document):
        for parameter in operation.get("parameters", []):
            if not parameter["schema"].get("examples"):
                missing += [f"{name}: {parameter['name']}"]
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            if media_type != "application/json":
                continue
            fields = resolved(document, body["schema"])["properties"]
            missing += [f"{name}: {key}" for key, one in fields.items() if not one.get("examples")]
    assert missing == []


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/sessions", "GET, POST"),
        ("/v1/sessions/search", "POST"),
        (f"/v1/sessions/{'0' * 32}", "DELETE, GET"),
        ("/v1/policies/reading-room", "GET, PUT"),
        ("/health/live", "GET"),
    ],
)
def test_another_method_is_told_which_there_are(site: Site, path: str, methods: str) -> None:
    """405 with all methods of the path, whichever route of it came first."""
    others = {"DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"} - {*methods.split(", ")}
    for method in sorted(others):
        answer = site.client.request(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, methods), method


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 18446744073709551616}',
        b'{"a": %s}' % (b"9" * 5_000),
        rb'{"a": "\ud800"}',
        rb'{"\udfff": 1}',
        b'{"a": "\xff"}',
        b'{"a": %s1%s}' % (b"[" * 1_000, b"]" * 1_000),
    ],
)
def test_what_would_not_come_back_as_it_was_is_not_stored(site: Site, content: bytes) -> None:
    """Numbers that are none or too large, halves of characters, depths without end: 422."""
    session = site.session("biometric-coach")
    path = f"/v1/sessions/{session}/items"
    headers = {"Authorization": f"Bearer {site.token('admin')}", "Content-Type": "application/json"}
    body = b'{"kind": "landmarks", "records": [%s]}' % content
    assert site.client.post(path, content=body, headers=headers).status_code == 422
    assert site.ask("GET", path)["items"] == []
    policy = "/v1/policies/reading-room"
    body = b'{"policy": %s}' % content
    assert site.client.put(policy, content=body, headers=headers).status_code == 422
    body = b'{"policy": "reading-room", "owner": %s}' % content
    assert site.client.post("/v1/sessions", content=body, headers=headers).status_code == 422


def test_the_greatest_numbers_come_back(site: Site) -> None:
    """Up to 64 bits, and to the last digit of a double."""
    session = site.session("biometric-coach")
    path = f"/v1/sessions/{session}/items"
    records = [{"a": 2**64 - 1, "b": -(2**63), "c": 1.7976931348623157e308, "d": 5e-324}]
    stored = site.ask("POST", path, {"kind": "metrics", "records": records}, expect=201)
    assert site.ask("GET", f"{path}/{stored['id']}")["records"] == records


@pytest.mark.parametrize(
    "time",
    [
        *(0, 1.5, True, "0", "1767225600", "2026-01-01", "2026-01-01T00:00:00", "", "now"),
        *("2026-02-30T00:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-00:01"),
        *("2026-01-01T24:00:01Z", "2026-01-01T00:00Z", "\u0662026-01-01T00:00:00Z"),
    ],
)
def test_a_time_is_one_of_rfc_3339(site: Site, time: Any) -> None:
    """With an offset, from 1970 to 9999; numbers are none."""
    path = f"/v1/sessions/{site.session()}"
    site.ask("POST", f"{path}/extend", {"until": time}, expect=422)
    beat = {"participant": site.join(path.rpartition("/")[2])["token"], "at": time}
    site.ask("POST", f"{path}/seen", beat, expect=422)
    headers = {"Authorization": f"Bearer {site.token('auditor')}"}
    answer = site.client.get("/v1/audit", params={"from": str(time)}, headers=headers)
    assert answer.status_code == 422


def test_types_are_those_of_json(site: Site) -> None:
    """A number in quotes is text, a truth is no number, and 5.0 is whole."""
    path = f"/v1/sessions/{site.session()}/invites"
    for uses in ("5", True, 1.5, None, [1]):
        site.ask("POST", path, {"uses": uses}, expect=422)
    for uses in (5, 5.0):
        assert site.ask("POST", path, {"uses": uses}, expect=201)["uses"] == 5
