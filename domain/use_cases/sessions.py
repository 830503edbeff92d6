"""What applications do with a session: create it, come and go, finish it, look at it.

Every command reads the folded state, first carries out what `timeline` says is due by now (so a
session that nobody swept is expired all the same), decides, and appends. If somebody else was
faster it reads and decides again.
"""

from collections.abc import Callable
from dataclasses import dataclass

from domain.errors import (
    Conflict,
    LapseError,
    LimitReached,
    ParticipantUnknown,
    SessionErased,
    SessionExists,
    SessionNotFound,
)
from domain.policy import OnExceed, RetentionPolicy, in_force
from domain.ports import (
    NO_CHANGES,
    Admission,
    Append,
    Changes,
    Found,
    Keyring,
    Limit,
    Log,
    Member,
    SubjectKey,
    Vault,
    owner_scope,
    policy_scope,
)
from domain.session import (
    SCHEDULER,
    By,
    Erased,
    Event,
    Failure,
    Ground,
    Scope,
    Session,
    create,
    evolve,
)
from domain.timeline import Forecast, Outcome, advance, forecast
from domain.use_cases.erase import deletes
from domain.use_cases.policies import PolicyBook
from domain.use_cases.sweep import sweep_once

ATTEMPTS = 20
"""How often a command decides again before it gives up with Conflict."""


@dataclass(frozen=True)
class View:
    """A session as it is at an instant, with what awaits it."""

    session: Session
    last_seen: int
    forecast: Forecast


class Sessions:
    """The commands. `actor` is who asks: a token or the name of a part of Lapse."""

    def __init__(self, log: Log, vault: Vault, keyring: Keyring, policies: PolicyBook) -> None:
        self._log = log
        self._vault = vault
        self._keyring = keyring
        self._policies = policies

    def create(
        self, policy: str, now: int, actor: str, *, owner: str | None = None, key: str | None = None
    ) -> Session:
        """A session begins. owner: whose it is; only a token of it enters the log.

        key: makes the command happen once: the same actor and key give the same session. Raises
        PolicyUnknown, LimitReached, SessionExists.
        """
        version = in_force(self._policies.versions(policy), now)
        session_id = (
            self._keyring.token()
            if key is None
            else self._keyring.lookup("session", f"{actor}\0{key}")[:16].hex()
        )
        for _ in range(ATTEMPTS):
            if key is not None and (known := self._created_before(session_id, policy)):
                return known
            append = self._creation(session_id, version.policy, version.number, now, actor, owner)
            try:
                return self._write_creation(append, version.policy, now, actor)
            except LimitReached:
                # Whoever is due already does not count: sweep some, then ask again.
                if not sweep_once(self._log, self._policies.known, now, actor).done:
                    raise
            except (Conflict, SessionExists):
                continue
        raise Conflict(session_id)

    def _created_before(self, session_id: str, policy: str) -> Session | None:
        found = self._log.find([session_id]).get(session_id)
        if found is not None:
            create(found.session, session_id, policy, 0, 0, "")
            return found.session
        if self._log.history(session_id):
            raise SessionErased(session_id)
        return None

    def _creation(
        self,
        session_id: str,
        policy: RetentionPolicy,
        number: int,
        now: int,
        actor: str,
        owner: str | None,
    ) -> Append:
        admitted: tuple[Admission, ...] = ()
        subject = token = None
        if owner is not None:
            subject, token = self._subject(owner), self._keyring.token()
            admitted = (self._admission(subject, session_id, token, owner, "owner", None),)
        events = create(None, session_id, policy.name, number, now, actor, token)
        session = evolve(None, events[0])
        return Append(
            before=None,
            after=session,
            events=events,
            due_at=advance(session, self._policies.versions(policy.name), now, now).next_at,
            changes=Changes(admitted=admitted) if admitted else NO_CHANGES,
            limits=_limits(policy, subject.subject if subject else None),
            owner=subject.subject if subject else None,
        )

    def _write_creation(
        self, append: Append, policy: RetentionPolicy, now: int, actor: str
    ) -> Session:
        makes_room = policy.limits.on_exceed is OnExceed.EXPIRE_OLDEST and append.owner is not None
        if makes_room and policy.limits.per_owner is not None:
            owned = self._log.owned(policy.name, str(append.owner))
            surplus = owned[: max(0, len(owned) + 1 - policy.limits.per_owner)]
            evicted = [self._eviction(found, now, actor) for found in surplus]
            self._log.append([*evicted, append], now, together=True)
        else:
            self._log.submit(append, now)
        return append.after

    def _eviction(self, found: Found, now: int, actor: str) -> Append:
        outcome = self._due(found, now)
        session, events = outcome.session, outcome.events
        if session.live:
            number = in_force(self._policies.versions(session.policy), now).number
            events += session.expire(By.LIMIT, number, now, actor)
            session = evolve(session, events[-1])
        return self._append(found, session, events, now)

    def join(self, session_id: str, who: str, now: int, actor: str) -> str:
        """`who` takes part from now on, under the token this answers with. Again: the same token.

        Raises SessionNotFound, SessionExpired, SessionErased.
        """
        lookup = self._keyring.lookup("subject", who)
        token = self._keyring.token()

        def decide(session: Session) -> tuple[tuple[Event, ...], Changes]:
            nonlocal token
            member = self._vault.tokens([session_id], [lookup]).get((session_id, lookup))
            if member is not None:
                token = member.token
                present = member.left_at is None
                changes = Changes(seen={token: now}, back={} if present else {token: now})
                return session.join(token, now, actor, present=present), changes
            events = session.join(token, now, actor, present=False)
            subject = self._subject(who, lookup)
            admission = self._admission(subject, session_id, token, who, "participant", now)
            return events, Changes(admitted=(admission,))

        self._command(session_id, now, decide)
        return token

    def leave(self, session_id: str, token: str, now: int, actor: str) -> Session:
        """The participant goes. Raises as `join`, and ParticipantUnknown."""

        def decide(session: Session) -> tuple[tuple[Event, ...], Changes]:
            member = self._member(session_id, token)
            present = member.left_at is None
            changes = Changes(left={token: now}) if present else NO_CHANGES
            return session.leave(token, now, actor, present=present), changes

        return self._command(session_id, now, decide)

    def store(self, session_id: str, items: int, size: int, now: int, actor: str) -> Session:
        """Items came into the vault. size: bytes."""
        return self._decide(session_id, now, lambda s: s.store(items, size, now, actor))

    def complete(self, session_id: str, now: int, actor: str) -> Session:
        """The application is done with the session."""
        return self._decide(session_id, now, lambda s: s.complete(now, actor))

    def fail(self, session_id: str, reason: Failure, now: int, actor: str) -> Session:
        """The application gave up on the session."""
        return self._decide(session_id, now, lambda s: s.fail(reason, now, actor))

    def extend(self, session_id: str, until: int, now: int, actor: str) -> Session:
        """The session shall not expire before `until`."""
        return self._decide(session_id, now, lambda s: s.extend(until, now, actor))

    def recover(self, session_id: str, now: int, actor: str) -> Session:
        """An expired session lives again, if its policy still allows it; limits are rechecked."""

        def decide(session: Session) -> tuple[tuple[Event, ...], Changes]:
            policy = in_force(self._policies.versions(session.policy), now).policy
            return session.recover(policy.recover, now, actor), NO_CHANGES

        return self._command(session_id, now, decide)

    def hold(
        self, session_id: str, hold: str, ground: Ground, until: int | None, now: int, actor: str
    ) -> Session:
        """Nothing of the session may be deleted while the hold stands."""
        return self._decide(session_id, now, lambda s: s.hold(hold, ground, until, now, actor))

    def release(self, session_id: str, hold: str, now: int, actor: str) -> Session:
        """The hold stands no more; what it suspended is due."""
        return self._decide(session_id, now, lambda s: s.release(hold, now, actor))

    def view(self, session_id: str, now: int) -> View:
        """The session as it is at `now`, swept or not. Raises SessionNotFound, SessionErased."""
        found = self._find(session_id)
        outcome = self._due(found, now)
        if outcome.session.erased_at is not None:
            raise SessionErased(session_id, outcome.session.erased_at)
        versions = self._policies.versions(found.session.policy)
        ahead = forecast(outcome.session, versions, found.last_seen, now)
        return View(outcome.session, found.last_seen, ahead)

    # -- the way of every command ---------------------------------------------------------------

    def _decide(
        self, session_id: str, now: int, decide: Callable[[Session], tuple[Event, ...]]
    ) -> Session:
        return self._command(session_id, now, lambda session: (decide(session), NO_CHANGES))

    def _command(
        self,
        session_id: str,
        now: int,
        decide: Callable[[Session], tuple[tuple[Event, ...], Changes]],
    ) -> Session:
        for _ in range(ATTEMPTS):
            found = self._find(session_id)
            due = self._due(found, now)
            session, events, changes = due.session, due.events, NO_CHANGES
            refusal: LapseError | None = None
            try:
                wanted, changes = decide(session)
                for event in wanted:
                    session = evolve(session, event)
                events += wanted
            except LapseError as error:
                refusal = error  # what is due is recorded all the same
            append = self._append(found, session, events, now, changes)
            try:
                if append.events or changes is not NO_CHANGES:
                    self._log.submit(append, now)
            except Conflict:
                continue
            if refusal is not None:
                raise refusal
            return append.after
        raise Conflict(session_id)

    def _append(
        self,
        found: Found,
        session: Session,
        events: tuple[Event, ...],
        now: int,
        changes: Changes = NO_CHANGES,
    ) -> Append:
        """What a command wants written, with all that is due at once because of it."""
        versions = self._policies.versions(session.policy)
        outcome = advance(session, versions, found.last_seen, now)
        events += outcome.events
        rules_spoke = any(event.actor == SCHEDULER for event in events)
        due_at = outcome.next_at
        if due_at is not None and found.due_at is not None and now < found.due_at < due_at:
            due_at = found.due_at  # early is right enough: presence moves no due row
        return Append(
            before=found.session,
            after=outcome.session,
            events=events,
            due_at=due_at,
            changes=changes,
            limits=self._rechecked(found, outcome.session, now),
            owner=found.owner,
            deletes=deletes(found.session, events),
            decided_on=found.last_seen if rules_spoke else None,
        )

    def _rechecked(self, found: Found, after: Session, now: int) -> tuple[Limit, ...]:
        """A recovered session takes a slot again."""
        if found.session.live or not after.live:
            return ()
        policy = in_force(self._policies.versions(after.policy), now).policy
        return _limits(policy, found.owner)

    def _find(self, session_id: str) -> Found:
        found = self._log.find([session_id]).get(session_id)
        if found is not None:
            return found
        history = self._log.history(session_id)
        if not history:
            raise SessionNotFound(session_id)
        erased = [
            recorded.event.effective_at
            for recorded in history
            if isinstance(recorded.event, Erased) and recorded.event.scope is Scope.EVERYTHING
        ]
        raise SessionErased(session_id, erased[-1] if erased else None)

    def _due(self, found: Found, now: int) -> Outcome:
        versions = self._policies.versions(found.session.policy)
        return advance(found.session, versions, found.last_seen, now)

    def _member(self, session_id: str, token: str) -> Member:
        for member in self._vault.members(session_id):
            if member.token == token:
                return member
        raise ParticipantUnknown(session_id, token)

    def _subject(self, who: str, lookup: bytes | None = None) -> SubjectKey:
        lookup = lookup or self._keyring.lookup("subject", who)
        return self._vault.subjects([lookup]).get(lookup) or self._keyring.new_subject(lookup)

    def _admission(
        self,
        subject: SubjectKey,
        session_id: str,
        token: str,
        who: str,
        role: str,
        joined_at: int | None,
    ) -> Admission:
        sealed, wrapped = self._keyring.seal_identity(subject, session_id, token, who)
        return Admission(token, role, subject, sealed, wrapped, joined_at)


def _limits(policy: RetentionPolicy, owner: str | None) -> tuple[Limit, ...]:
    """What a session that begins to live counts against. owner: the owner's subject."""
    limits = []
    if policy.limits.concurrent is not None:
        limits.append(Limit(policy_scope(policy.name), policy.limits.concurrent, "concurrent"))
    if policy.limits.per_owner is not None and owner is not None:
        limits.append(Limit(owner_scope(policy.name, owner), policy.limits.per_owner, "owner"))
    return tuple(limits)
