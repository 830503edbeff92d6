"""The auditor's path: the library's own `Repository` rebuilds any session from Lapse's log.

Commands decide on the folded state; this does not look at it. Whoever distrusts the fold compares:

    repository_of(log).get(session_id, projector_func=project)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsourcing.application import Repository
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import (
    AggregateRecorder,
    EventStore,
    JSONTranscoder,
    Mapper,
    NotSupportedError,
    StoredEvent,
)

from adapters.log.transcoder import decode_event, encode_event
from domain.ports import Log, Logged


@dataclass(frozen=True)
class DatedEvent(StoredEvent):
    """A stored event with the time that our log keeps in a column of its own."""

    effective_at: int


class LogRecorder(AggregateRecorder):
    """Reads one session's events through the library's interface. Writing is the log's own."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Raises NotSupportedError: events and the rows that change with them go together."""
        raise NotSupportedError("append through the log, not through this recorder")

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Events of a session by version, as the library asks for them."""
        chosen = [
            _stored(one.event)
            for one in self._log.history(str(originator_id))
            if (gt is None or one.event.originator_version > gt)
            and (lte is None or one.event.originator_version <= lte)
        ]
        if desc:
            chosen.reverse()
        return chosen[:limit]


class LogMapper(Mapper[str]):
    """Turns rows of our log into events with our transcoder."""

    def __init__(self) -> None:
        super().__init__(JSONTranscoder())

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        """Raises Unreadable."""
        effective_at = stored_event.effective_at if isinstance(stored_event, DatedEvent) else 0
        event: Any = decode_event(
            str(stored_event.originator_id),
            stored_event.originator_version,
            stored_event.topic,
            effective_at,
            stored_event.state,
        )
        return event  # type: ignore[no-any-return]


def repository_of(log: Log) -> Repository[str]:
    """The library's repository over this log."""
    return Repository(EventStore(LogMapper(), LogRecorder(log)))


def _stored(event: Logged) -> DatedEvent:
    return DatedEvent(
        event.originator_id,
        event.originator_version,
        event.TOPIC,
        encode_event(event),
        event.effective_at,
    )
