"""Records of other systems' logs turned into sessions, on every kind of store."""

from collections.abc import Sequence
from typing import Any

import pytest

from domain.errors import ClockHeld
from domain.policy import DAY, HOUR, MINUTE, SECOND, parse
from domain.ports import SweepCount
from domain.records import Activity, Record
from domain.session import Expired
from domain.use_cases import policies as policies_in_use
from domain.use_cases.ingest import Ingest
from domain.use_cases.presence import see
from tests.use_cases.conftest import App

TEN = 10 * HOUR
HOLDER = "import"


def ingest(app: App, *, name: str = "import:1", policy: str = "room") -> Ingest:
    app.store.log.lease_clock(HOLDER, 1_000 * DAY)
    return Ingest(
        app.store.log,
        app.store.vault,
        app.sessions._keyring,
        app.policies.refresh,
        policy,
        name=name,
        holder=HOLDER,
        wall=1_000 * DAY - HOUR,
    )


def record(line: int, at: int, activity: Activity = Activity.SEEN, **more: Any) -> Record:
    fields = {"visitor": "ann", "room": None, "new_name": None} | more
    return Record(line, at, activity, **fields)


def feed(one: Ingest, records: Sequence[Record]) -> None:
    one.feed(records, records[-1].line)


def test_a_session_completes_whoever_says_so(app: App) -> None:
    """`completed` may name the one who did it."""
    one = ingest(app)
    feed(one, [record(1, TEN, room="r"), record(2, TEN + 1, Activity.COMPLETED, room="r")])
    assert one.tally.events == {"created": 1, "joined": 1, "completed": 1}


def test_a_heartbeat_beside_an_import_counts(app: App) -> None:
    """It was answered between the import's reading and its writing."""
    one = ingest(app)
    feed(one, [record(1, TEN)])
    [(session_id, token)] = app.store.vault.sessions_of(
        [app.sessions._keyring.lookup("subject", "ann")], "room"
    ).values()
    log = app.store.log
    real = log.append

    def beat_first(*args: Any, **kwargs: Any) -> Any:
        log.append = real  # type: ignore[method-assign]
        pair = {(session_id, token): TEN + MINUTE}
        assert see(log, app.store.vault, app.policies, pair, TEN + MINUTE, "producer")
        return real(*args, **kwargs)

    log.append = beat_first  # type: ignore[method-assign]
    feed(one, [record(2, TEN + 2 * HOUR)])
    [expired] = [event for event in app.events(session_id) if isinstance(event, Expired)]
    assert expired.effective_at == TEN + MINUTE + HOUR
    assert expired.last_seen == TEN + MINUTE


def test_an_import_that_lost_the_clock_writes_nothing_more(app: App) -> None:
    """Others sweep by their clocks meanwhile: it must begin again from what stands in the log."""
    one = ingest(app)
    feed(one, [record(1, TEN)])
    app.store.log.release_clock(HOLDER)
    before = app.store.log.head()
    with pytest.raises(ClockHeld, match="lost the clock"):
        feed(one, [record(2, TEN + MINUTE, visitor="bob")])
    assert app.store.log.head() == before


def test_a_policy_that_changes_during_an_import_is_known_to_its_next_batch(app: App) -> None:
    """Nobody's deadline is stored under a version that was replaced long ago."""
    one = ingest(app)
    feed(one, [record(1, TEN)])
    text = '[policy.room]\nrules = [{ since = "last_seen", after = "10m", do = "expire" }]'
    [policy] = parse(text).values()
    policies_in_use.apply(app.store.log, policy, TEN, "operator")
    feed(one, [record(2, TEN + MINUTE, visitor="bob")])
    dues = [found.due_at for found in app.store.log.due_of_policy("room", "", 10)]
    assert TEN + 11 * MINUTE in dues


def test_what_an_import_sweeps_is_reconciled(app: App) -> None:
    """due = done + held + rearmed + failed, in its report too."""
    one = ingest(app)
    feed(one, [record(n, TEN + n * SECOND, visitor=f"v{n}") for n in range(1, 4)])
    one.run_until(TEN + 2 * DAY)
    swept = SweepCount(**one.tally.swept)  # type: ignore[arg-type]
    assert swept.done == swept.due == 3
    assert swept.due == swept.done + swept.held + swept.rearmed + swept.failed
