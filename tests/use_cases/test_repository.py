"""The library's repository rebuilds sessions from the log, without the folded state."""

import pytest
from eventsourcing.application import AggregateNotFoundError

from adapters.log.repository import repository_of
from domain.policy import HOUR
from domain.session import Ground, Session, project
from tests.use_cases.conftest import App

TEN = 10 * HOUR


def test_any_session_can_be_rebuilt_from_the_log_alone(app: App) -> None:
    """What replay gives is what commands decide on, now and at any earlier version."""
    session = app.sessions.create("room", TEN, "producer", owner="host")
    app.sessions.join(session.id, "guest", TEN, "producer")
    app.sessions.hold(session.id, "h1", Ground.LEGAL_CLAIM, TEN + 9 * HOUR, TEN, "officer")
    app.sweep(TEN + 2 * HOUR)
    repository = repository_of(app.store.log)
    rebuilt: Session = repository.get(session.id, projector_func=project)
    assert rebuilt == app.store.log.find([session.id])[session.id].session
    earlier: Session = repository.get(session.id, version=2, projector_func=project)
    assert (earlier.version, earlier.joined, earlier.holds) == (2, 1, ())


def test_a_session_that_never_was_is_not_found(app: App) -> None:
    """In the library's own words."""
    with pytest.raises(AggregateNotFoundError):
        repository_of(app.store.log).get("f" * 32, projector_func=project)
