"""What a privacy officer does, decided: given what happened, when somebody acts, then that."""

from datetime import UTC, datetime

import pytest

from domain.erasure import ErasureRequest, Status, months_later, project, receive
from domain.errors import RequestNotOpen
from domain.facts import (
    About,
    Fact,
    Refusal,
    RequestExecuted,
    RequestFinal,
    RequestReceived,
    RequestRefused,
    RequestSuspended,
    RequestVerified,
    Verification,
    Waiting,
)

NOW = 1_793_527_200_000_000
REQUEST, ACTOR = "r" * 32, "officer"


def received(at: int = NOW) -> tuple[Fact, ...]:
    return receive(REQUEST, About.SUBJECT, Verification.COURT, at, ACTOR)


def given(*steps: str) -> ErasureRequest:
    """A request to which these things happened, one after the other."""
    request = project(None, received())
    for step in steps:
        request = project(request, when(request, step))
    return request


def when(request: ErasureRequest, step: str) -> tuple[Fact, ...]:
    at = NOW + request.version
    match step:
        case "execute":
            return request.execute(1, 2, 3, 4, at, ACTOR)
        case "verify":
            return request.verify({"vault": "clean"}, at, ACTOR)
        case "finish":
            return request.finish(2, at, ACTOR)
        case "hold":
            return request.suspend(Waiting.HELD, at, ACTOR)
        case "fail":
            return request.suspend(Waiting.STORE, at, ACTOR)
        case _:
            return request.refuse(Refusal.LEGAL_CLAIM, at, ACTOR)


def test_a_request_goes_its_way_step_by_step() -> None:
    """Requested, executed, verified, final: each with its time."""
    request = given("execute", "verify", "finish")
    assert (request.status, request.version, request.is_done) == (Status.FINAL, 4, True)
    times = (request.requested_at, request.executed_at, request.verified_at, request.final_at)
    assert times == (NOW, NOW + 1, NOW + 2, NOW + 3)
    assert (request.sessions, request.parts, request.items, request.subjects) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("before", "step", "fact"),
    [
        ((), "execute", RequestExecuted),
        ((), "refuse", RequestRefused),
        ((), "hold", RequestSuspended),
        (("hold",), "execute", RequestExecuted),
        (("hold",), "fail", RequestSuspended),
        (("execute",), "verify", RequestVerified),
        (("execute", "verify"), "finish", RequestFinal),
    ],
)
def test_what_may_follow_what(before: tuple[str, ...], step: str, fact: type[Fact]) -> None:
    """One fact for one step, the next of the request."""
    request = given(*before)
    (found,) = when(request, step)
    assert type(found) is fact
    assert (found.originator_id, found.originator_version) == (REQUEST, request.version + 1)


@pytest.mark.parametrize(
    ("before", "step"),
    [
        (("execute",), "execute"),
        (("execute", "verify"), "verify"),
        (("execute", "verify", "finish"), "finish"),
        (("hold",), "hold"),
        (("refuse",), "refuse"),
    ],
)
def test_the_same_again_says_nothing_new(before: tuple[str, ...], step: str) -> None:
    """However often it is tried."""
    assert when(given(*before), step) == ()


@pytest.mark.parametrize(
    ("before", "step"),
    [
        ((), "verify"),
        ((), "finish"),
        (("execute",), "finish"),
        (("execute",), "refuse"),
        (("refuse",), "execute"),
        (("refuse",), "hold"),
        (("execute", "verify", "finish"), "hold"),
        (("execute", "verify", "finish"), "refuse"),
    ],
)
def test_nothing_is_said_to_be_done_that_is_not(before: tuple[str, ...], step: str) -> None:
    """Neither out of order, nor after an end."""
    with pytest.raises(RequestNotOpen):
        when(given(*before), step)


def test_a_reason_goes_with_what_it_was_the_reason_for() -> None:
    """What was held is not held any more once it is executed."""
    assert given("hold").reason is Waiting.HELD
    assert given("hold", "execute").reason is None


def test_stores_are_pending_until_they_are_erased() -> None:
    """And say what the scan says, then."""
    assert set(given("hold").stores.values()) == {"pending"}
    assert set(given("execute").stores.values()) == {"erased"}
    assert given("execute", "verify").stores == {"vault": "clean"}


@pytest.mark.parametrize(
    ("asked", "by"),
    [
        ("2026-11-22T10:00:00", "2026-12-22T10:00:00"),
        ("2026-12-31T23:59:59", "2027-01-31T23:59:59"),
        ("2027-01-31T00:00:00", "2027-02-28T00:00:00"),
        ("2028-01-30T00:00:00", "2028-02-29T00:00:00"),
    ],
)
def test_whoever_asks_is_answered_within_a_month(asked: str, by: str) -> None:
    """A calendar month (GDPR Art. 12(3), Regulation 1182/71); the last day where it is shorter."""
    at, end = (_micros(text) for text in (asked, by))
    (fact,) = received(at)
    assert isinstance(fact, RequestReceived)
    assert fact.deadline_at == months_later(at, 1) == end


def _micros(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def test_a_history_that_does_not_fit_is_refused() -> None:
    """Neither one without its beginning, nor one with a gap."""
    request = given("execute")
    (verified,) = when(request, "verify")
    with pytest.raises(ValueError, match="does not start"):
        project(None, (verified,))
    with pytest.raises(ValueError, match="jumps"):
        project(given(), (verified,))
    with pytest.raises(ValueError, match="nothing happened"):
        project(None, ())
