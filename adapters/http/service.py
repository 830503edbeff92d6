"""What the routes work with: Lapse, who may, what was asked."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.requests import HTTPConnection, Request

from adapters.documents import session_document
from adapters.http.access import may_touch
from adapters.http.cursors import epoch_of
from adapters.http.heartbeats import Heartbeats
from adapters.http.problems import Refused
from adapters.http.requests import RequestLog
from adapters.http.tokens import Principal, Tokens
from adapters.log.committer import Pending
from adapters.log.event_log import SqlLog
from adapters.wiring import Lapse
from domain.policy import Versions
from domain.ports import Append, Appended
from domain.use_cases.presence import see
from domain.use_cases.sessions import View


@dataclass(frozen=True)
class Service:
    """Everything one HTTP process works with.

    requests: the log of requests. heartbeats: takes those that come one by one. store: the random
    id of the database.
    """

    lapse: Lapse
    tokens: Tokens
    requests: RequestLog
    heartbeats: Heartbeats
    store: str

    @property
    def epoch(self) -> str:
        """Of the log, for cursors."""
        return epoch_of(self.store, self.lapse.restoring.epoch)

    def now(self) -> int:
        return self.lapse.clock()

    def policies_for(self, principal: Principal, policy: str | None) -> Sequence[str] | None:
        """The policies a list may show (None: all). Raises Refused, PolicyUnknown."""
        if policy is not None:
            may_touch(principal, policy)
            self.lapse.policies.versions(policy)
            return [policy]
        return None if principal.policies is None else sorted(principal.policies)

    def guard(self, principal: Principal, session_id: str) -> None:
        """Raises Refused unless the token is for this session's policy. Unknown sessions pass: the
        use case says what became of them."""
        if principal.policies is None or principal.session is not None:
            return
        found = self.lapse.log.find([session_id]).get(session_id)
        if found is not None:
            may_touch(principal, found.session.policy)
            return
        for recorded in self.lapse.log.history(session_id)[:1]:
            may_touch(principal, recorded.event.policy)

    def versions(self, policy: str) -> Versions:
        return self.lapse.policies.versions(policy)


def opened_heartbeats(lapse: Lapse) -> Heartbeats:
    """The actor of a sample is the service: it stands for many heartbeats."""

    def write(seen: Mapping[tuple[str, str], int]) -> set[tuple[str, str]]:
        return see(lapse.log, lapse.vault, lapse.policies, seen, lapse.clock(), SERVICE)

    return Heartbeats(write, lapse.clock)


async def committed(log: SqlLog, append: Append, now: int) -> Appended:
    """Write an append together with whatever else waits; no thread waits for it. Raises as
    `Log.submit`."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Appended] = loop.create_future()

    def done(pending: Pending[Appended]) -> None:
        loop.call_soon_threadsafe(_answer, answer, pending)

    log.enqueue(append, now, done)
    return await answer


def _answer(answer: "asyncio.Future[Appended]", pending: Pending[Appended]) -> None:
    if answer.done():
        return  # the client has gone
    error = pending.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(pending.result())


SERVICE = "service"
"""The actor of what the HTTP service does for many at once."""


async def the_service(connection: HTTPConnection) -> Service:
    """The same, as a dependency: one that is not async would cost a thread each time."""
    return service_of(connection)


def service_of(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


def view_document(view: View) -> dict[str, object]:
    return session_document(view.session, view.last_seen, view.forecast)


def micros(at: datetime) -> int:
    """Raises Refused for a time outside 1970 to 9999."""
    value = round(at.timestamp() * 1_000_000)
    if not 0 <= value < _YEAR_10000:
        detail = "a time before 1970 or after 9999"
        raise Refused(422, "invalid", "The request is not as described", detail)
    return value


def period(since: datetime | None, until: datetime | None) -> dict[str, int | None]:
    """`since` and `until` as queries take them, in microseconds. Raises Refused as `micros`."""
    return {
        "since": micros(since) if since is not None else None,
        "until": micros(until) if until is not None else None,
    }


_YEAR_10000 = 253_402_300_800_000_000


def names_what_was_read(request: Request, what: str) -> None:
    """For the log of requests: which personal data the answer holds, by its closed name."""
    request.state.read = what
