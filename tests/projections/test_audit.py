"""The audit trail, in the words of those who read it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

from domain.policy import DAY, Applied, stream_of
from domain.session import (
    IMPORTER,
    SCHEDULER,
    Compressed,
    Created,
    Erased,
    Event,
    Expired,
    Expiring,
    Extended,
    Failed,
    Failure,
    Ground,
    Held,
    Joined,
    Left,
    Recovered,
    Released,
    Scope,
    Seen,
    Stored,
    Summarized,
)
from projections import audit
from projections.audit import AUDIT
from tests.projections.histories import Lapse, clock, lapse_on, recorded, statements_counted

ROOM = "reading-room"


def rows(*events: Event | Applied, generation: int = 1) -> list[dict[str, Any]]:
    found = AUDIT.rows(generation, recorded(*events))
    return [dict(zip(AUDIT.columns, row, strict=True)) for row in found]


def created(session_id: str, at: str, policy: str = ROOM) -> Created:
    return Created(session_id, 1, clock(at), policy, "app", 3, "owner-token")


def expired(session_id: str, at: str, policy: str = ROOM, version: int = 2) -> Expired:
    return Expired(session_id, version, clock(at), policy, SCHEDULER, "idle", 3, clock("10:00"))


# -- given events, then rows ------------------------------------------------------------------


def test_an_expiry_tells_when_why_and_on_what_it_was_decided() -> None:
    """The row of an expiry names rule, policy version, actor and the presence it relied on."""
    assert rows(expired("s1", "11:00"), generation=7) == [
        {
            "generation": 7,
            "position": 1,
            "session_id": "s1",
            "event": "session.expired",
            "effective_at": clock("11:00"),
            "recorded_at": clock("00:00"),
            "policy": ROOM,
            "policy_version": 3,
            "rule": "idle",
            "actor": SCHEDULER,
            "token": None,
            "detail": f'{{"last_seen":{clock("10:00")}}}',
        }
    ]


def test_a_row_names_people_by_token_only() -> None:
    """Owner and participants appear as the tokens that stand in the log."""
    found = rows(
        created("s1", "10:00"), Joined("s1", 2, clock("10:01"), ROOM, IMPORTER, "ada-token")
    )
    assert [row["token"] for row in found] == ["owner-token", "ada-token"]
    assert [row["detail"] for row in found] == [None, None]


HEAD = ("s1", 2, clock("10:00"), ROOM, "app")


@pytest.mark.parametrize(
    ("fact", "detail"),
    [
        (Seen(*HEAD), None),
        (Left(*HEAD, "token"), None),
        (Stored(*HEAD, 3, 500), '{"items":3,"size":500}'),
        (Failed(*HEAD, Failure.TIMEOUT), '{"reason":"timeout"}'),
        (Summarized(*HEAD, "five", 1, 4096), '{"bytes_freed":4096}'),
        (Compressed(*HEAD, "week", 1, 7), '{"bytes_freed":7}'),
        (Expiring(*HEAD, "soon", 1, 99), '{"deadline":99}'),
        (Extended(*HEAD, 12), '{"until":12}'),
        (Recovered(*HEAD), None),
        (Held(*HEAD, "h1", Ground.LEGAL_CLAIM), '{"ground":"legal-claim","hold":"h1"}'),
        (
            Held(*HEAD, "h1", Ground.RESTRICTION, 9),
            '{"ground":"restriction","hold":"h1","until":9}',
        ),
        (Released(*HEAD, "h1"), '{"hold":"h1"}'),
        (Erased(*HEAD, Scope.CHUNKS, "done", 1, 10), '{"bytes_freed":10,"scope":"chunks"}'),
        (
            Erased(*HEAD, Scope.FILES, "done", 1, 10, 5),
            '{"bytes_freed":10,"oldest_left":5,"scope":"files"}',
        ),
    ],
)
def test_the_detail_of_each_event_is_canonical(fact: Event, detail: str | None) -> None:
    """Facts without a column of their own are JSON with sorted keys; what is not known lacks."""
    assert rows(fact)[0]["detail"] == detail


def test_a_new_policy_version_is_audited_without_its_document() -> None:
    """Who applied which version of a policy, and from when it holds."""
    applied = Applied(stream_of(ROOM), 4, clock("12:00"), ROOM, "operator", {"rules": []})
    found = rows(applied)[0]
    assert found["event"] == "policy.applied"
    assert (found["session_id"], found["policy"], found["policy_version"]) == (
        "policy:reading-room",
        ROOM,
        4,
    )
    assert (found["actor"], found["detail"]) == ("operator", None)


# -- queries ----------------------------------------------------------------------------------


@pytest.fixture
def lapse(database_url: str) -> Iterator[Lapse]:
    with lapse_on(database_url) as lapse:
        yield lapse


def test_the_life_of_a_session_is_read_in_order_page_by_page(lapse: Lapse) -> None:
    """The auditor sees every event of one session, nothing of others, and can go on."""
    lapse.record(
        created("s1", "10:00"),
        created("s2", "10:00"),
        Joined("s1", 2, clock("10:01"), ROOM, "app", "ada"),
        expired("s1", "11:01", version=3),
    )
    lapse.projector.catch_up()
    with lapse.reading() as connection:
        first = audit.of_session(connection, "s1", limit=2)
        rest = audit.of_session(connection, "s1", after=first[-1].position, limit=2)
    assert [entry.event for entry in first] == ["session.created", "session.joined"]
    assert [(entry.event, entry.rule, entry.detail) for entry in rest] == [
        ("session.expired", "idle", {"last_seen": clock("10:00")})
    ]
    assert [entry.position for entry in (*first, *rest)] == [1, 3, 4]


def test_what_happened_is_found_by_policy_event_and_time(lapse: Lapse) -> None:
    """Any combination of the three, from the start of the window to before its end."""
    lapse.record(
        created("s1", "10:00"),
        created("s2", "10:30", policy="web-visit"),
        expired("s1", "11:00"),
        expired("s2", "11:00", policy="web-visit"),
        created("s3", "12:00"),
    )
    lapse.projector.catch_up()

    def found(**filters: Any) -> list[int]:
        with lapse.reading() as connection:
            return [entry.position for entry in audit.search(connection, **filters).entries]

    assert found() == [1, 2, 3, 4, 5]
    assert found(shown=["web-visit"]) == [2, 4]
    assert found(event="session.expired") == [3, 4]
    assert found(shown=[ROOM], event="session.expired") == [3]
    assert found(since=clock("10:30"), until=clock("11:00")) == [2]
    assert found(shown=[ROOM], since=clock("11:00")) == [3, 5]
    assert found(shown=["web-visit", ROOM], event="session.expired") == [3, 4]
    assert found(shown=["unheard-of", ROOM]) == [1, 3, 5]
    assert found(shown=["unheard-of"]) == found(shown=[]) == []


@pytest.mark.parametrize("filters", [{}, {"shown": [ROOM]}, {"event": "session.created"}])
def test_pages_follow_each_other_without_loss_or_repetition(
    lapse: Lapse, filters: dict[str, Any]
) -> None:
    """Pages go by the time of effect, and by position where many things happened at once."""
    lapse.record(*(created(f"s{number:02}", "10:00") for number in range(7)))
    lapse.record(*(created(f"s{number:02}", "09:00") for number in range(7, 10)))
    lapse.projector.catch_up()
    positions: list[int] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        with lapse.reading() as connection:
            page = audit.search(connection, after=after, limit=3, **filters)
        positions += [entry.position for entry in page.entries]
        after, pages = page.next, pages + 1
    assert positions == [8, 9, 10, 1, 2, 3, 4, 5, 6, 7]
    assert pages == 4


def test_a_page_never_exceeds_its_bound(lapse: Lapse) -> None:
    """Whoever asks for everything at once gets a page."""
    lapse.append([(f"s{number}", (created(f"s{number}", "10:00"),)) for number in range(1_100)])
    lapse.projector.catch_up()
    with lapse.reading() as connection:
        page = audit.search(connection, limit=10**9)
        assert len(page.entries) == audit.MOST
        assert page.next is not None


@pytest.mark.parametrize(
    ("filters", "lookup"),
    [
        ({}, "audit_by_time (partition=? AND generation=?"),
        (
            {"since": 1, "until": 2},
            "audit_by_time (partition=? AND generation=? AND effective_at>?",
        ),
        (
            {"shown": [ROOM]},
            "audit_by_policy (partition=? AND generation=? AND policy=? AND event=?",
        ),
        (
            {"shown": [ROOM], "event": "session.erased", "since": 5},
            "audit_by_policy (partition=? AND generation=? AND policy=? AND event=? "
            "AND effective_at>?",
        ),
        (
            {"event": "session.erased", "after": "1-1"},
            "audit_by_event (partition=? AND generation=? AND event=? AND effective_at>?",
        ),
    ],
)
def test_every_search_runs_along_an_index(
    tmp_path: Path, filters: dict[str, Any], lookup: str
) -> None:
    """No search reads rows that it does not show, however large the trail is.

    On SQLite, whose plan does not hang on statistics that an empty table does not have.
    """
    plan = plan_of(tmp_path, lambda connection: audit.search(connection, **filters))
    used = [line for line in plan if " audit" in line]
    assert used
    assert all(f"SEARCH audit USING INDEX {lookup}" in line for line in used), plan
    if "event" in filters or "shown" not in filters:
        assert not any("TEMP B-TREE" in line for line in plan), plan


def test_the_life_of_a_session_is_read_along_the_primary_key(tmp_path: Path) -> None:
    """However many other sessions there are."""
    plan = plan_of(tmp_path, lambda connection: audit.of_session(connection, "s1", after=5))
    assert any(
        "(partition=? AND generation=? AND session_id=? AND position>?)" in line for line in plan
    ), plan


def plan_of(folder: Path, ask: Callable[[Connection], object]) -> list[str]:
    """How SQLite answers the one query of `ask`."""
    asked: list[tuple[str, Any]] = []

    def note(_one: object, _two: object, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement != "BEGIN":
            asked.append((statement, parameters))

    with lapse_on(f"sqlite:///{folder / 'lapse.db'}") as lapse, lapse.reading() as connection:
        event.listen(Engine, "before_cursor_execute", note)
        try:
            ask(connection)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        ((statement, parameters),) = asked
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return [row[3] for row in plan]


def test_a_search_is_one_statement(lapse: Lapse) -> None:
    """Which generation is served is a part of the query: a switch cannot come in between."""
    with lapse.reading() as connection, statements_counted() as statements:
        audit.search(connection, shown=[ROOM], since=clock("10:00"), until=clock("10:00") + DAY)
    assert len(statements) == 1


def test_a_page_mark_from_nowhere_is_refused(lapse: Lapse) -> None:
    """Only what a page gave is accepted."""
    connection: Connection
    with lapse.reading() as connection, pytest.raises(ValueError, match="page"):
        audit.search(connection, after="nowhere")
