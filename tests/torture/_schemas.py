"""Made-up requests to every operation of the OpenAPI document, answers held against it.

All checks of Schemathesis are on: no server error; status, content type, headers and body as the
document says; what it forbids is refused, what it allows is accepted; methods it does not have are
405 with `Allow`; nothing answers without a token; what was erased is gone. Exceptions stand below,
each with its reason.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.adapters.http.conftest import Site

SEED = 4_711
PHASES = ("examples", "coverage", "fuzzing", "stateful")

_ERASED = "the run erases sessions, and goes on to ask for them"
_POLICY = "names of policies are made up, and only those in force are known"
_CURSOR = "a cursor is opaque: only one that was given out is taken"
_TIME = "RFC 3339 has times before 1970 and after 9999, Lapse has not; some must lie ahead"
_WHO = "whoever is no participant has to name one"
_RULES = "what makes rules a policy is more than JSON Schema can say"
_ONE = "it is about a session or about a person, and says which"
_DIGEST = "the checksum must be that of the bytes, and their number as announced"
_ALLOWED_OF_A_SESSION: Mapping[str, Mapping[int, str]] = {
    **{
        operation: {}
        for operation in (
            *("show", "erase", "expiry", "participants", "join", "complete", "fail", "recover"),
            *("summary", "summarize", "items", "item", "upload", "chunk", "upload-content"),
            *("watch", "history"),
        )
    },
    "seen": {422: f"{_WHO}; {_TIME}"},
    "leave": {422: _WHO},
    "extend": {422: _TIME},
    "invite": {422: _TIME},
    "progress": {422: "the policy declares which kinds there are; much data is refused"},
    "store": {
        413: "the policy bounds the bytes of a result",
        422: "bytes need `kind` in the query; numbers of more than 64 bits are refused",
    },
    "begin-upload": {413: "the policy bounds the bytes of a session"},
    "put-chunk": {422: _DIGEST},
}
ALLOWED: Mapping[str, Mapping[int, str]] = {
    **{name: {410: _ERASED, **more} for name, more in _ALLOWED_OF_A_SESSION.items()},
    "create": {410: "the same key again is the same session, which is erased", 422: _POLICY},
    "list": {422: f"{_POLICY}; `erased` is a state, but nothing of it is left to list"},
    "search": {422: _POLICY},
    "seen-many": {422: _TIME},
    "redeem": {410: "invites are made up"},
    "events": {422: _CURSOR},
    "stream": {422: _POLICY},
    "audit": {422: f"{_POLICY}; {_CURSOR}; {_TIME}"},
    "audit-completeness": {422: "a period ends behind its beginning"},
    "statistics-hourly": {422: f"{_POLICY}; {_CURSOR}; {_TIME}"},
    "request-erasure": {410: _ERASED, 422: f"{_ONE}; tokens are made up"},
    "hold": {410: _ERASED, 422: f"{_ONE}; {_TIME}"},
    "policy": {422: _POLICY},
    "apply-policy": {422: f"{_RULES}; {_TIME}"},
    "policy-impact": {422: _RULES},
}
"""Operation -> status -> why a request that the document allows may be refused with it. 401, 403,
404, 409 and 429 depend on who asks and on what there is, which no document can tell; Schemathesis
takes them for answers to a good request."""

EXCEPTED: Mapping[tuple[str, str], str] = {
    ("history", "use_after_free"): "what happened to a session stays readable once it is erased",
    ("summary", "ensure_resource_availability"): "a policy may declare no summary",
}
"""(operation, check) -> why its rule does not hold there."""


@dataclass(frozen=True)
class Plan:
    """How much. examples: made-up requests per operation. phases: of Schemathesis."""

    examples: int
    phases: tuple[str, ...] = PHASES


@dataclass
class Found:
    """What came of it. failures: (operation, check, what was wrong) -> a request that shows it.

    requests: by operation. refused: (operation, status) of requests that the document allows.
    """

    failures: dict[tuple[str, str, str], str] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, int]] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


def described(site: Site, plan: Plan) -> Found:
    """Ask the application whatever the plan makes up. The same requests in every run."""
    app: Any = site.client.app
    config = SchemathesisConfig.from_dict(_settings(site, plan))
    schema = schemathesis.openapi.from_asgi("/openapi.json", _as_if_far_away(app), config=config)
    found = Found()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished | events.FuzzScenarioFinished):
            _note(event.recorder, found)
        elif isinstance(event, events.NonFatalError):
            found.errors.append(f"{event.label}: {event.info.title}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return found


def _settings(site: Site, plan: Plan) -> dict[str, Any]:
    """As in a schemathesis.toml."""
    operations: list[dict[str, Any]] = []
    good = ["2xx", "3xx", "401", "403", "404", "409", "429", "5xx"]  # its own
    for operation, reasons in ALLOWED.items():
        statuses = [*good, *map(str, reasons)]
        accepted = {"positive_data_acceptance": {"expected-statuses": statuses}}
        operations.append({"include-operation-id": operation, "checks": accepted})
    for operation, check in EXCEPTED:
        off = {check: {"enabled": False}}
        operations.append({"include-operation-id": operation, "checks": off})
    return {
        "seed": SEED,
        "continue-on-failure": True,
        "headers": {"Authorization": f"Bearer {site.token('admin')}"},
        "generation": {
            "deterministic": True,
            "database": "none",
            "max-examples": plan.examples,
            "no-shrink": True,
        },
        "phases": {"enabled": False, **{phase: {"enabled": True} for phase in plan.phases}},
        "operations": operations,
    }


def _note(recorder: ScenarioRecorder, found: Found) -> None:
    for node in recorder.cases.values():
        found.requests[str(node.value.operation.definition.raw["operationId"])] += 1
    for checks in recorder.checks.values():
        for check in checks:
            if check.failure_info is not None:
                failure = check.failure_info.failure
                key = (str(failure.operation), check.name, f"{failure.title}: {failure.message}")
                found.failures.setdefault(key, check.failure_info.code_sample)
    for number, interaction in recorder.interactions.items():
        case, response = recorder.cases[number].value, interaction.response
        is_good = case.meta is not None and case.meta.generation.mode.is_positive
        if response is not None and is_good and response.status_code in (410, 412, 413, 422):
            operation = str(case.operation.definition.raw["operationId"])
            found.refused[operation, response.status_code] += 1


def _as_if_far_away(app: ASGIApp) -> ASGIApp:
    """Each request from an address of its own, since who guesses tokens is stopped; and a stream is
    left after its first bytes, since it would not end."""
    addresses = iter(range(2**24))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        number = next(addresses)
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        is_stream = has_left = False

        async def until_it_left(message: Message) -> None:
            nonlocal is_stream, has_left
            if has_left:
                return
            if message["type"] == "http.response.start":
                is_stream = (b"content-type", b"text/event-stream") in [
                    (name, value.partition(b";")[0]) for name, value in message["headers"]
                ]
            elif is_stream:
                has_left, message = True, {**message, "more_body": False}
            await send(message)

        await app({**scope, "client": (address, 1)}, receive, until_it_left)

    return answer


def told(found: Found) -> Iterator[str]:
    """Every failure in words, with the request that shows it."""
    for (operation, check, what), request in sorted(found.failures.items()):
        yield f"{operation} [{check}] {what}\n{request}"
    yield from found.errors
