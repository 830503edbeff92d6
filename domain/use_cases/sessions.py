"""What applications do with a session: create it, come and go, finish it, look at it.

Every command reads the folded state, first carries out what `timeline` says is due by now (so a
session that nobody swept is expired all the same), decides, and appends. If somebody else was
faster it reads and decides again.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from domain.errors import (
    ClockHeld,
    Conflict,
    InviteRefused,
    LapseError,
    LimitReached,
    NotAllowed,
    OnHold,
    ParticipantUnknown,
    SessionErased,
    SessionExists,
    SessionExpired,
    SessionNotFound,
)
from domain.policy import HOUR, SECOND, OnExceed, RetentionPolicy, in_force
from domain.ports import (
    NO_CHANGES,
    Admission,
    Append,
    Appended,
    Changes,
    Found,
    Invite,
    Keyring,
    Limit,
    Log,
    Member,
    SealedIdentity,
    SubjectKey,
    SweepCount,
    Vault,
    bytes_scope,
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
from domain.use_cases.erase import deletes, due_by
from domain.use_cases.policies import PolicyBook
from domain.use_cases.sweep import sweep_once

ACTIVE_BEATS = 3
"""Somebody not seen for this many presence intervals is not active any more."""
DEFAULT_PRESENCE = 30 * SECOND
"""The presence interval of a policy that names none."""
GUEST_EXTENSION = HOUR
"""How far beyond its rules those who take part may extend a session."""
ATTEMPTS = 20
"""How often a command decides again before it gives up with Conflict."""
LOOKED_AT = 500
"""Sessions of one person that are read at once."""


@dataclass(frozen=True)
class View:
    """A session as it is at an instant, with what awaits it."""

    session: Session
    last_seen: int
    forecast: Forecast


_AND_NAME = "\0"
"""Between who it is and how they want to be called, in what is sealed."""


@dataclass(frozen=True)
class Participant:
    """Someone in a session. name: how they want to be called, opened for this answer."""

    member: Member
    name: str | None
    is_active: bool


def named(operation: str, key: str | None, *arguments: object) -> str | None:
    """The name under which a command happens once: the caller's key is for this operation with
    these arguments, so that the same key on something else is another command. None without key."""
    if key is None:
        return None
    return "\0".join((operation, *map(str, arguments), key))


Decision = tuple[tuple[Event, ...], Changes]
"""What a command wants: events, and rows that change with them."""


class Sessions:
    """The commands. `actor` is who asks: a token or the name of a part of Lapse.

    on_sweep: told what a command swept to make room below a limit.
    """

    def __init__(
        self,
        log: Log,
        vault: Vault,
        keyring: Keyring,
        policies: PolicyBook,
        on_sweep: Callable[[SweepCount], None] = lambda count: None,
    ) -> None:
        self._on_sweep = on_sweep
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
                try:
                    return self._write_creation(append, version.policy, now, actor)
                except LimitReached as error:
                    # Whoever is due already does not count: sweep some, then ask again.
                    if not self._made_room(now):
                        return self._in_place_of_the_oldest(append, version.policy, error, now)
            except (Conflict, SessionExists):
                continue
        raise Conflict(session_id)

    def _in_place_of_the_oldest(
        self, append: Append, policy: RetentionPolicy, refusal: LimitReached, now: int
    ) -> Session:
        """Beyond `concurrent`, if the policy says so. That of one owner is the narrower scope, and
        was looked at first. Raises `refusal` if the policy does not."""
        limits = policy.limits
        if limits.on_exceed is not OnExceed.EXPIRE_OLDEST or refusal.scope != "concurrent":
            raise refusal
        actor = append.events[0].actor
        evicted = [self._eviction(one, now, actor) for one in self._log.oldest(policy.name, 1)]
        self._log.append([*evicted, append], now, together=True)
        return append.after

    def plain_creation(self, policy: str, now: int, actor: str) -> Append | None:
        """What `create` would write for a session of nobody in particular, made without a look at
        the database; None if that takes one. Whoever writes it falls back on `create` when it is
        refused."""
        versions = self._policies.known.get(policy)
        if versions is None:
            return None
        version = in_force(versions, now)
        return self._creation(
            self._keyring.token(), version.policy, version.number, now, actor, None
        )

    def _made_room(self, now: int) -> bool:
        try:
            count = sweep_once(self._log, self._policies.known, now, SCHEDULER)
        except ClockHeld:
            return False  # an import sweeps by the clock of its log
        self._on_sweep(count)
        return count.done > 0

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

    def join(
        self,
        session_id: str,
        who: str,
        now: int,
        actor: str,
        *,
        name: str | None = None,
        key: str | None = None,
        invite: bytes | None = None,
    ) -> str:
        """`who` takes part from now on, under the token this answers with. Again: the same token.

        name: how they want to be called; sealed, like `who`. invite: the one that somebody new uses
        up once. Raises SessionNotFound, SessionExpired, SessionErased, InviteRefused.
        """
        pair = (session_id, self._keyring.lookup("subject", who))
        token: str | None = None

        def decide(session: Session) -> Decision:
            nonlocal token
            member = self._vault.tokens([pair]).get(pair)
            if member is not None:
                token = member.token
                present = member.left_at is None
                changes = Changes(seen={token: now}, back={} if present else {token: now})
                return session.join(token, now, actor, present=present), changes
            token = self._keyring.token()
            events = session.join(token, now, actor, present=False)
            subject = self._subject(who, pair[1])
            admission = self._admission(subject, session_id, token, who, "participant", now, name)
            return events, Changes(admitted=(admission,), invite=invite)

        self.command(session_id, now, actor, named("join", key, pair[1].hex()), decide)
        if token is None:  # this very command came before
            member = self._vault.tokens([pair]).get(pair)
            if member is None:
                raise NotAllowed(session_id, "join", "who joined by this key was erased since")
            token = member.token
        return token

    def invite(self, session_id: str, uses: int, expires_at: int, now: int, actor: str) -> str:
        """The secret of a new invite: `uses` people may come in by it until `expires_at`.

        Only a keyed hash of it is kept. Raises as `join`.
        """
        secret = self._keyring.token()
        invite = Invite(self._keyring.lookup("invite", secret), session_id, uses, expires_at)

        def decide(session: Session) -> Decision:
            session.must_live("invite to")
            return (), Changes(invited=invite)

        self.command(session_id, now, actor, None, decide)
        return secret

    def redeem(
        self,
        session_id: str,
        secret: str,
        who: str,
        now: int,
        actor: str,
        *,
        name: str | None = None,
    ) -> str:
        """The token under which `who` takes part by an invite. Who is in already uses none up.

        Raises InviteRefused, and as `join`: an invite never outlives its session.
        """
        invite = self._vault.invite(self._keyring.lookup("invite", secret))
        if invite is None or invite.session_id != session_id or now >= invite.expires_at:
            self.view(session_id, now)  # that the session is gone is the better answer
            raise InviteRefused("unknown" if invite is None else "expired")
        return self.join(session_id, who, now, actor, name=name, invite=invite.name)

    def leave(
        self, session_id: str, token: str, now: int, actor: str, *, key: str | None = None
    ) -> View:
        """The participant goes. Raises as `join`, and ParticipantUnknown."""

        def decide(session: Session) -> Decision:
            member = self._member(session_id, token)
            present = member.left_at is None
            changes = Changes(left={token: now}) if present else NO_CHANGES
            return session.leave(token, now, actor, present=present), changes

        return self.command(session_id, now, actor, named("leave", key, token), decide)

    def store(
        self,
        session_id: str,
        items: int,
        size: int,
        now: int,
        actor: str,
        *,
        key: str | None = None,
    ) -> View:
        """Items are kept by the application itself, see `Items` for those Lapse keeps. size:
        bytes."""
        name = named("store", key, items, size)
        return self._decide(
            session_id, now, actor, name, lambda s: s.store(items, size, now, actor)
        )

    def complete(self, session_id: str, now: int, actor: str, *, key: str | None = None) -> View:
        """The application is done with the session."""
        name = named("complete", key)
        return self._decide(session_id, now, actor, name, lambda s: s.complete(now, actor))

    def fail(
        self, session_id: str, reason: Failure, now: int, actor: str, *, key: str | None = None
    ) -> View:
        """The application gave up on the session."""
        name = named("fail", key, reason)
        return self._decide(session_id, now, actor, name, lambda s: s.fail(reason, now, actor))

    def extend(
        self,
        session_id: str,
        until: int,
        now: int,
        actor: str,
        *,
        key: str | None = None,
        guest: bool = False,
    ) -> View:
        """The session shall not expire before `until`.

        guest: asked by somebody who takes part. They may go `GUEST_EXTENSION` beyond what the rules
        would allow if somebody were seen now, however often they ask. Raises NotAllowed.
        """

        def decide(session: Session) -> tuple[Event, ...]:
            session.must_live("extend")  # that it is over is the better answer
            if guest and until > self._latest_by_rules(session, now) + GUEST_EXTENSION:
                raise NotAllowed(
                    session_id, "extend", "its participants may go an hour beyond its rules"
                )
            return session.extend(until, now, actor)

        return self._decide(session_id, now, actor, named("extend", key, until), decide)

    def _latest_by_rules(self, session: Session, now: int) -> int:
        versions = self._policies.versions(session.policy)
        alone = session.changed(extended_until=None)
        return forecast(alone, versions, now, now).expires_at or now

    def recover(self, session_id: str, now: int, actor: str, *, key: str | None = None) -> View:
        """An expired session lives again, if its policy still allows it; limits are rechecked."""

        def decide(session: Session) -> tuple[Event, ...]:
            policy = in_force(self._policies.versions(session.policy), now).policy
            return session.recover(policy.recover, now, actor)

        return self._decide(session_id, now, actor, named("recover", key), decide)

    def summarize(self, session_id: str, now: int, actor: str, *, key: str | None = None) -> View:
        """The full data is reduced to its summary at once, and deleted. Raises OnHold."""

        def decide(session: Session) -> tuple[Event, ...]:
            number = in_force(self._policies.versions(session.policy), now).number
            return session.summarize(number, now, actor)

        return self._decide(session_id, now, actor, named("summarize", key), decide)

    def erase(
        self,
        session_id: str,
        now: int,
        actor: str,
        *,
        key: str | None = None,
        by: By = By.REQUEST,
    ) -> None:
        """All data of the session goes at once. Raises OnHold, SessionNotFound, SessionErased.

        key: asked again by the same key, nothing is left to be done and nothing is raised.
        """

        def decide(session: Session) -> tuple[Event, ...]:
            number = in_force(self._policies.versions(session.policy), now).number
            return session.erase(number, now, actor, by=by)

        name = named("erase", key)
        try:
            self._decide(session_id, now, actor, name, decide)
        except SessionErased:
            if name is None or not self._log.is_known(self._command_id(actor, session_id, name)):
                raise

    def erase_all(self, found: Sequence[Found], now: int, actor: str, *, by: By) -> frozenset[str]:
        """Erase these sessions in one transaction; the ids of those that went. The others are held,
        or changed since they were looked at."""
        appends = []
        for one in found:
            with suppress(OnHold):
                appends.append(self.erasure(one, now, actor, by=by))
        answers = self._log.append(appends, now) if appends else ()
        return frozenset(one.session_id for one in answers if isinstance(one, Appended))

    def erasure(self, found: Found, now: int, actor: str, *, by: By = By.REQUEST) -> Append:
        """What erases a session whole, after all that is due anyway. Raises OnHold."""
        due = self._due(found, now)
        session, events = due.session, due.events
        number = in_force(self._policies.versions(session.policy), now).number
        erasure = session.erase(number, now, actor, by=by)
        for event in erasure:
            session = evolve(session, event)
        return self._append(found, session, events + erasure, now)

    def hold(
        self, session_id: str, hold: str, ground: Ground, until: int | None, now: int, actor: str
    ) -> View:
        """Nothing of the session may be deleted while the hold stands."""
        return self._decide(
            session_id, now, actor, None, lambda s: s.hold(hold, ground, until, now, actor)
        )

    def release(self, session_id: str, hold: str, now: int, actor: str) -> View:
        """The hold stands no more; what it suspended is due."""
        return self._decide(session_id, now, actor, None, lambda s: s.release(hold, now, actor))

    def settle(self, session_ids: Sequence[str], now: int) -> None:
        """All that is due by now in these sessions is written."""
        for start in range(0, len(session_ids), LOOKED_AT):
            found = self._log.find(session_ids[start : start + LOOKED_AT])
            for session_id, one in found.items():
                if self._due(one, now).events:
                    with suppress(SessionErased, SessionNotFound):
                        self._decide(session_id, now, SCHEDULER, None, lambda session: ())

    def view(self, session_id: str, now: int) -> View:
        """The session as it is at `now`, swept or not. Raises SessionNotFound, SessionErased."""
        view = self.seen_as(self.find(session_id), now)
        if view.session.erased_at is not None:
            raise SessionErased(session_id, view.session.erased_at)
        return view

    def participants(
        self, session_id: str, now: int, *, after: str = "", limit: int = 100
    ) -> Sequence[Participant]:
        """Who takes part, in order of token: at most `limit` behind token `after`.

        Raises SessionNotFound, SessionErased, and SessionExpired: from then on they are hidden.
        """
        session = self.view(session_id, now).session
        if session.expired_at is not None:
            raise self.over(session, session.expired_at, now)
        policy = in_force(self._policies.versions(session.policy), now).policy
        idle = ACTIVE_BEATS * (policy.presence or DEFAULT_PRESENCE)
        return [
            Participant(
                one.member,
                self._name(one),
                one.member.left_at is None and now - one.member.last_seen_at < idle,
            )
            for one in self._vault.identities(session_id, after, limit)
        ]

    def owned(self, policy: str, owner: str, now: int) -> Sequence[View]:
        """The sessions of one owner that are alive at `now`, the oldest first."""
        lookup = self._keyring.lookup("subject", owner)
        subject = self._vault.subjects([lookup]).get(lookup)
        if subject is None:
            return []
        views = [self.seen_as(found, now) for found in self._log.owned(policy, subject.subject)]
        return [view for view in views if view.session.live]

    def recover_until(self, session: Session, now: int) -> int | None:
        """Until when an expired session can be recovered; None if it cannot, or need not be."""
        if session.expired_at is None:
            return None
        return self.over(session, session.expired_at, now).recover_until

    def _name(self, one: SealedIdentity) -> str | None:
        identity = self._keyring.open_identity(
            one.subject, one.member.session_id, one.member.token, one.wrapped, one.sealed
        )
        return identity.partition(_AND_NAME)[2] or None

    def over(self, session: Session, expired_at: int, now: int) -> SessionExpired:
        """The refusal of what asks for an expired session, with what can still be done."""
        policy = in_force(self._policies.versions(session.policy), now).policy
        until = expired_at + policy.recover
        return SessionExpired(
            session.id,
            expired_at,
            str(session.expired_by),
            until if policy.recover and now < until else None,
        )

    # -- the way of every command ---------------------------------------------------------------

    def _decide(
        self,
        session_id: str,
        now: int,
        actor: str,
        name: str | None,
        decide: Callable[[Session], tuple[Event, ...]],
    ) -> View:
        return self.command(
            session_id, now, actor, name, lambda session: (decide(session), NO_CHANGES)
        )

    def _command_id(self, actor: str, session_id: str, name: str) -> bytes:
        return self._keyring.lookup("command", f"{actor}\0{session_id}\0{name}")

    def command(
        self,
        session_id: str,
        now: int,
        actor: str,
        name: str | None,
        decide: Callable[[Session], "Decision"],
    ) -> View:
        """What is due happens, then what `decide` wants of the session as it is then.

        decide: asked again when somebody else was faster. name: see `named`; a command that comes
        again changes nothing, whatever happened to the session since.
        """
        command = None if name is None else self._command_id(actor, session_id, name)
        for _ in range(ATTEMPTS):
            if command is not None and self._log.is_known(command):
                return self.seen_as(self.find(session_id), now)
            found = self.find(session_id)
            due = self._due(found, now)
            if due.session.erased_at is None and deletes(found.session, due.events):
                # Alone and first, so that what is decided on is what the vault then holds.
                with suppress(Conflict):
                    self._log.submit(self._append(found, due.session, due.events, now), now)
                continue
            session, events, changes = due.session, due.events, NO_CHANGES
            refusal: LapseError | None = None
            try:
                wanted, changes = decide(session)
                for event in wanted:
                    session = evolve(session, event)
                events += wanted
            except SessionExpired as error:
                refusal = self.over(session, error.expired_at, now)
            except LapseError as error:
                refusal = error  # what is due is recorded all the same
            append = self._append(found, session, events, now, changes)
            if refusal is None:
                append = append._replace(command=command)
            try:
                if append.events or changes is not NO_CHANGES:
                    answer = self._log.submit(append, now)
                    if answer.repeated:
                        return self.seen_as(self.find(session_id), now)
            except Conflict:
                continue
            except LimitReached as error:
                # What is over already, and not swept yet, takes no room.
                if error.scope == "bytes" and self._made_room(now):
                    continue
                raise
            if refusal is not None:
                raise refusal
            last_seen = max(found.last_seen, *(changes.seen or {"": 0}).values())
            return self.seen_as(Found(append.after, last_seen, append.due_at, found.owner), now)
        raise Conflict(session_id)

    def seen_as(self, found: Found, now: int) -> View:
        """The session at `now`, swept or not."""
        versions = self._policies.versions(found.session.policy)
        session = advance(found.session, versions, found.last_seen, now).session
        return View(session, found.last_seen, forecast(session, versions, found.last_seen, now))

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
        outcome = due_by(self._log, session, versions, found.last_seen, now, events)
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
            limits=self._limits_of(found, outcome.session, now),
            owner=found.owner,
            deletes=deletes(found.session, events),
            decided_on=found.last_seen if rules_spoke else None,
        )

    def _limits_of(self, found: Found, after: Session, now: int) -> tuple[Limit, ...]:
        """A recovered session takes a slot again, and what is stored takes room."""
        policy = in_force(self._policies.versions(after.policy), now).policy
        limits: tuple[Limit, ...] = ()
        if not found.session.live and after.live:
            limits = _limits(policy, found.owner)
        if after.stored_bytes > found.session.stored_bytes and policy.limits.total_bytes:
            limits += (Limit(bytes_scope(policy.name), policy.limits.total_bytes, "bytes"),)
        return limits

    def find(self, session_id: str) -> Found:
        """The session as commands decide on it. Raises SessionNotFound, SessionErased."""
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
        return due_by(self._log, found.session, versions, found.last_seen, now)

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
        name: str | None = None,
    ) -> Admission:
        identity = who if name is None else f"{who}{_AND_NAME}{name}"
        sealed, wrapped = self._keyring.seal_identity(subject, session_id, token, identity)
        return Admission(token, role, subject, sealed, wrapped, joined_at)


def _limits(policy: RetentionPolicy, owner: str | None) -> tuple[Limit, ...]:
    """What a session that begins to live counts against. owner: the owner's subject."""
    limits = []
    if policy.limits.concurrent is not None:
        limits.append(Limit(policy_scope(policy.name), policy.limits.concurrent, "concurrent"))
    if policy.limits.per_owner is not None and owner is not None:
        limits.append(Limit(owner_scope(policy.name, owner), policy.limits.per_owner, "owner"))
    return tuple(limits)
