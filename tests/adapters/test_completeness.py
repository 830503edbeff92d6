"""Whether everything that was due was done, as auditors ask it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.log.completeness import completeness
from domain.policy import DAY
from domain.session import Ground
from domain.use_cases.sweep import sweep
from tests.adapters.installations import Opened, opened


@pytest.fixture
def here(database_url: str, key_url: str, tmp_path: Path) -> Iterator[Opened]:
    with opened(database_url, key_url, tmp_path) as lapse:
        yield lapse


def test_what_a_hold_of_a_person_suspends_is_not_overdue(here: Opened) -> None:
    """Nor before a sweep has looked at it; without the hold it is."""
    lapse = here.lapse
    session = lapse.sessions.create("reading-room", here.now, "operator").id
    lapse.sessions.join(session, "ann", here.now, "operator")
    here.wait(DAY)
    sweep(lapse.log, lapse.policies.refresh(), here.now, "sweeper")
    hold = lapse.holds.of_subject("ann", Ground.LEGAL_CLAIM, None, here.now, "officer").hold
    here.wait(90 * DAY)
    assert overdue(here) == []
    lapse.holds.release(hold, here.now, "officer")
    assert overdue(here) == [session]


def overdue(here: Opened) -> list[str]:
    lapse, now = here.lapse, here.now
    lapse.projector.catch_up()
    found = completeness(lapse.engines, lapse.policies.refresh(), now - DAY, now, now)
    return [one.session.id for one in found.overdue.sessions]
