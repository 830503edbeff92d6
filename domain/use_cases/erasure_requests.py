"""Requests for erasure: by session, by person across all their sessions, by a participant's token.

A session in which nobody else ever took part is erased whole; of one that others share only the
person's part goes (`domain/use_cases/redact.py`). Every step is one transaction, with the request
as it stands after it; so whoever is killed in between, or comes a second time, goes on where the
last one ended.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from domain.erasure import ErasureRequest, Reach, Status, project, receive
from domain.errors import (
    Conflict,
    KeyUnavailable,
    OnHold,
    RequestBegun,
    RequestUnknown,
    SealBroken,
    SessionErased,
    SessionNotFound,
)
from domain.facts import About, Fact, Refusal, Verification, Waiting
from domain.ledger import Deed, deed_of_open, deed_of_refusal
from domain.policy import HOUR, MINUTE, SECOND
from domain.ports import (
    Append,
    Belongings,
    DataKey,
    Found,
    Keyring,
    Log,
    Part,
    Pending,
    RequestRow,
    RequestStore,
    Summaries,
    Vault,
    Verifier,
    Whom,
)
from domain.session import SCHEDULER, Scope
from domain.use_cases.erase import must_not_be_held, part
from domain.use_cases.policies import PolicyBook
from domain.use_cases.redact import Ahead, Redaction
from domain.use_cases.sessions import ATTEMPTS, Sessions

BATCH = 100
"""Sessions of one person that one transaction takes."""
IDENTIFIERS = "identifiers"
"""The field under whose name a request seals whom it is about."""
LOOK_AGAIN = 10 * MINUTE
"""How often one that waits for keys to be destroyed is looked at."""
VERIFY_AGAIN = 30 * SECOND
"""How often one that waits for a clean-up is."""
FIRST_RETRY, LAST_RETRY = 2 * SECOND, HOUR


@dataclass(frozen=True)
class _Identifiers:
    """Whom a request is about, and what its steps took so far. session, token: of a participant.
    name: of a subject; subject: their random id, where nobody knows the name any more. items: how
    many went or were redacted."""

    name: str = ""
    subject: str = ""
    session: str = ""
    token: str = ""
    reach: Reach = field(default_factory=Reach)
    items: int = 0


@dataclass(frozen=True)
class _Step:
    """What one transaction takes. held: that something else was left, since a hold stands."""

    wholes: tuple[Append, ...] = ()
    parts: tuple[Part, ...] = ()
    held: bool = False

    @property
    def reach(self) -> Reach:
        return Reach(
            tuple(append.session_id for append in self.wholes),
            tuple((one.session_id, token) for one in self.parts for token in one.found.tokens),
        )

    @property
    def items(self) -> int:
        return sum(len(one.items) + len(one.uploads) + len(one.rewritten) for one in self.parts)


class ErasureRequests:
    """The commands, and what moves requests on.

    keks: ids of all key-encryption keys there are now. verifier: has the stores read back (None:
    there is none, so nothing is ever called verified). order: random, so that the order of
    erasures says nothing.
    """

    def __init__(
        self,
        requests: RequestStore,
        sessions: Sessions,
        log: Log,
        vault: Vault,
        keyring: Keyring,
        policies: PolicyBook,
        summaries: Summaries,
        keks: Callable[[], Sequence[str]],
        verifier: Verifier | None = None,
        order: random.Random | None = None,
    ) -> None:
        self._requests = requests
        self._sessions = sessions
        self._log = log
        self._vault = vault
        self._keyring = keyring
        self._policies = policies
        self._redaction = Redaction(vault, keyring, summaries)
        self._keks = keks
        self._verifier = verifier
        self._order = order or random.SystemRandom()

    # -- asking -------------------------------------------------------------------------------

    def of_session(
        self,
        session_id: str,
        verified_by: Verification,
        now: int,
        actor: str,
        *,
        key: str | None = None,
    ) -> RequestRow:
        """Everything of one session shall go. The same key, or another request that is open, is the
        same request. Raises SessionNotFound, SessionErased."""
        known = self._by_key(key, actor, About.SESSION, session_id)
        if known is not None:
            return known
        self._sessions.find(session_id)
        return self._submit(About.SESSION, session_id, verified_by, now, actor, key, _Identifiers())

    def of_subject(
        self, name: str, verified_by: Verification, now: int, actor: str, *, key: str | None = None
    ) -> RequestRow:
        """Everything of one person shall go, wherever they take part or are the owner."""
        identifiers = _Identifiers(name=name)
        return self._submit(About.SUBJECT, name, verified_by, now, actor, key, identifiers)

    def of_participant(
        self,
        session_id: str,
        token: str,
        verified_by: Verification,
        now: int,
        actor: str,
        *,
        key: str | None = None,
    ) -> RequestRow:
        """Everything of one participant of one session shall go, whoever they are.

        Raises SessionNotFound, SessionErased.
        """
        target = f"{session_id}\0{token}"
        known = self._by_key(key, actor, About.PARTICIPANT, target)
        if known is not None:
            return known
        self._sessions.find(session_id)
        identifiers = _Identifiers(session=session_id, token=token)
        return self._submit(About.PARTICIPANT, target, verified_by, now, actor, key, identifiers)

    def erase_at_once(
        self, session_id: str, now: int, actor: str, *, key: str | None = None
    ) -> RequestRow:
        """As `of_session`, carried out before this returns, or refused for good.

        Raises OnHold, SessionNotFound, SessionErased.
        """
        row = self.of_session(session_id, Verification.CONTROLLER, now, actor, key=key)
        if row.request.status is not Status.REQUESTED:
            return row
        try:
            return self._execute_session(row, now, actor)
        except OnHold:
            if row.request.requested_at == now:
                self.refuse(row.request.id, Refusal.HOLD, now, actor)
            raise

    def refuse(self, request_id: str, ground: Refusal, now: int, actor: str) -> RequestRow:
        """It is not carried out, and nothing of it was.

        Raises RequestUnknown, RequestNotOpen, RequestBegun; Conflict if it is begun at this moment.
        """
        row = self.find(request_id)
        facts = row.request.refuse(ground, now, actor)
        if not facts:
            return row
        taken = self.reach(row)
        if taken.sessions or taken.parts:
            raise RequestBegun(request_id, "refuse", row.request.status)
        deeds = [deed_of_refusal(request_id, ground, now)]  # a backup may still have it open
        return self._save(row, facts, now, None, forget=True, deeds=deeds)

    def find(self, request_id: str) -> RequestRow:
        """Raises RequestUnknown."""
        row = self._requests.find(request_id)
        if row is None:
            raise RequestUnknown(request_id)
        return row

    def verified_about(self, session_id: str) -> ErasureRequest | None:
        """A request about this session whose execution was verified; None if there is none."""
        found = (row.request for row in self._requests.about_session(session_id))
        return next((one for one in found if one.verified_at is not None), None)

    def page(
        self, *, after: str = "", limit: int = 100, status: Status | None = None
    ) -> Sequence[RequestRow]:
        """Requests in order of id, at most `limit` behind id `after`."""
        return self._requests.page(after, limit, status)

    def reach(self, row: RequestRow) -> Reach:
        """What its execution took so far; of people it is known until it is verified."""
        if row.session_id is not None:
            executed = row.request.executed_at is not None
            return Reach(sessions=(row.session_id,) if executed else (), keks=row.keks)
        own = self._requests.key_of(row.request.id)
        return replace(self._identifiers(row, own).reach, keks=row.keks)

    def _submit(
        self,
        about: About,
        target: str,
        verified_by: Verification,
        now: int,
        actor: str,
        key: str | None,
        identifiers: _Identifiers,
    ) -> RequestRow:
        request_id = self._keyring.token()
        facts = receive(request_id, about, verified_by, now, actor)
        row = RequestRow(
            project(None, facts),
            due_at=now,
            key=self._key(key, actor, about, target),
            target=self._keyring.lookup("erasure", f"{about}\0{target}"),
            session_id=target if about is About.SESSION else None,
        )
        if about is About.SESSION:
            return self._requests.add(row, None, None, facts)
        joint = self._keyring.joint_subject(request_id)
        own = self._keyring.new_data_key(joint, request_id, Scope.EVERYTHING, "")
        row = replace(row, sealed=self._sealed(row, own, identifiers))
        return self._requests.add(row, joint, own, facts)

    def _key(self, key: str | None, actor: str, about: About, target: str) -> bytes | None:
        if key is None:
            return None
        return self._keyring.lookup("request", f"{actor}\0{about}\0{target}\0{key}")

    def _by_key(self, key: str | None, actor: str, about: About, target: str) -> RequestRow | None:
        name = self._key(key, actor, about, target)
        return self._requests.by_key(name) if name is not None else None

    # -- moving on ----------------------------------------------------------------------------

    def due(self, now: int, limit: int = BATCH) -> Sequence[str]:
        """Requests to be looked at by now."""
        return self._requests.due(now, limit)

    def overdue(self, now: int) -> int:
        """How many should have been answered by now."""
        return self._requests.overdue(now)

    def advance(
        self,
        request_id: str,
        now: int,
        actor: str = SCHEDULER,
        *,
        most: int | None = None,
        verify: bool = True,
    ) -> RequestRow:
        """Move a request as far as it goes now; why it stops stands in it.

        most: transactions that delete, at most. verify: whether the stores are read back at once,
        or later by whoever looks next.

        Raises RequestUnknown, Conflict; StoreError: then `failed` may note it.
        """
        row = self.find(request_id)
        if row.request.status is Status.REQUESTED:
            row = self._carried_out(row, now, actor, most)
        if row.request.status is Status.EXECUTED and verify:
            row = self._verified(row, now)
        if row.request.status is Status.VERIFIED:
            row = self._finished(row, now)
        return row

    def failed(self, request_id: str, now: int) -> RequestRow:
        """A store did not do its part: try again later. Raises StoreError."""
        return self._wait(self.find(request_id), Waiting.STORE, now)

    def _carried_out(self, row: RequestRow, now: int, actor: str, most: int | None) -> RequestRow:
        try:
            if row.session_id is not None:
                return self._execute_session(row, now, actor)
            return self._execute_people(row, now, actor, most)
        except OnHold as held:
            return self._wait(row, Waiting.HELD, now, until=held.until)
        except (KeyUnavailable, SealBroken):
            return self._wait(row, Waiting.KEYS, now)

    def _wait(
        self, row: RequestRow, reason: Waiting, now: int, until: int | None = None
    ) -> RequestRow:
        """It stays as it is, with a reason, and is tried again: later each time, and when the hold
        ends at the latest."""
        row = self.find(row.request.id)  # its steps may have gone on since
        if row.request.is_done:
            return row
        facts = row.request.suspend(reason, now, SCHEDULER)
        due_at = now + min(FIRST_RETRY * 2 ** min(row.failures, 30), LAST_RETRY)
        if until is not None:
            due_at = min(due_at, until)
        row = replace(row, failures=row.failures + 1)
        if reason is not Waiting.HELD:
            return self._save(row, facts, now, due_at)
        return self._save_told(row, facts, now, due_at)

    def _save_told(
        self, row: RequestRow, facts: tuple[Fact, ...], now: int, due_at: int | None
    ) -> RequestRow:
        """It waits for longer than seconds, so a database that is restored meanwhile must not
        forget it. Raises LedgerUnavailable; then nothing was saved."""
        if row.told:
            return self._save(row, facts, now, due_at)
        of = self._identifiers(row, self._requests.key_of(row.request.id))
        subject: str | None = of.subject or None
        if of.name:
            lookup = self._lookup(of.name)
            known = self._vault.subjects([lookup]).get(lookup)
            subject = known.subject if known is not None else None
        session_id = row.session_id or of.session or None
        deeds = [deed_of_open(row.request, session_id, of.token or None, subject)]
        return self._save(replace(row, told=True), facts, now, due_at, deeds=deeds)

    def _execute_session(self, row: RequestRow, now: int, actor: str) -> RequestRow:
        session_id = str(row.session_id)
        for _ in range(ATTEMPTS):
            wholes: tuple[Append, ...] = ()
            with suppress(SessionErased, SessionNotFound):  # by a rule meanwhile: it is done
                found = self._sessions.find(session_id)
                wholes = (self._sessions.erasure(found, now, actor),)
            own = self._requests.key_of(row.request.id)
            settle = self._settlement(row, own, _Step(wholes), now, actor, last=True)
            with suppress(Conflict):
                return self._requests.erase(wholes, (), now, settle)
            row = self.find(row.request.id)
            if row.request.status is not Status.REQUESTED:
                return row
        raise Conflict(session_id)

    def _execute_people(
        self, row: RequestRow, now: int, actor: str, most: int | None
    ) -> RequestRow:
        conflicts = steps = 0
        while row.request.status is Status.REQUESTED and steps != most:
            steps += 1
            own = self._requests.key_of(row.request.id)
            identifiers = self._identifiers(row, own)
            places = self._places(identifiers)
            self._order.shuffle(places)
            step = self._step(places, identifiers, now, actor)
            last = not step.held and len(step.wholes) + len(step.parts) == len(places)
            if not last and not step.wholes and not step.parts:
                if step.held:
                    raise OnHold("")
                conflicts += 1  # what is in the index is in no session: gone, or corrupt
                if conflicts == ATTEMPTS:
                    raise Conflict(row.request.id)
                continue
            settle = self._settlement(row, own, step, now, actor, last=last)
            gone = self._whom(identifiers) if last else None
            try:
                row = self._requests.erase(step.wholes, step.parts, now, settle, gone=gone)
            except Conflict:
                conflicts += 1
                if conflicts == ATTEMPTS:
                    raise
                row = self.find(row.request.id)
        if row.request.status is Status.REQUESTED:
            return self._save_told(row, (), now, row.due_at)
        return row

    def _lookup(self, name: str) -> bytes:
        return self._keyring.lookup("subject", name)

    def _whom(self, identifiers: _Identifiers) -> Whom | None:
        """The person, None of a participant of one session."""
        if identifiers.name:
            return self._lookup(identifiers.name)
        return identifiers.subject or None

    def _places(self, identifiers: _Identifiers) -> list[tuple[str, tuple[str, ...]]]:
        """Where there is something of theirs still."""
        whom = self._whom(identifiers)
        if whom is not None:
            return list(self._requests.of_subject(whom))
        if not identifiers.session:
            return []  # of somebody whom the vault did not know when the ledger was told
        place = (identifiers.session, (identifiers.token,))
        found = self._requests.belongings([place])
        return [place] if found[identifiers.session].names else []

    def _step(
        self,
        places: Sequence[tuple[str, tuple[str, ...]]],
        identifiers: _Identifiers,
        now: int,
        actor: str,
    ) -> _Step:
        wholes: list[Append] = []
        erased: list[Part] = []
        held = False
        for start in range(0, len(places), BATCH):
            page = places[start : start + BATCH]
            found = self._log.find([session_id for session_id, _ in page])
            theirs = self._requests.belongings(page)
            ahead = self._redaction.read_ahead(
                one for one in theirs.values() if not _is_theirs_alone(one, identifiers)
            )
            for session_id, _ in page:
                if session_id not in found:
                    continue  # erased by somebody else, between two looks
                try:
                    if _is_theirs_alone(theirs[session_id], identifiers):
                        wholes.append(self._sessions.erasure(found[session_id], now, actor))
                    else:
                        one = theirs[session_id]
                        erased.append(self._part(found[session_id], one, ahead, now))
                except OnHold:
                    held = True
            if wholes or erased:
                break
        return _Step(tuple(wholes), tuple(erased), held)

    def _part(self, found: Found, theirs: Belongings, ahead: Ahead, now: int) -> Part:
        versions = self._policies.versions(found.session.policy)
        must_not_be_held(found.session, now)  # before anything is opened
        session = self._sessions.seen_as(found, now).session
        rewrite = self._redaction.rewrite(session, versions, theirs, ahead, now)
        return part(found.session, theirs, rewrite, now)

    def _settlement(
        self,
        row: RequestRow,
        own: DataKey | None,
        step: _Step,
        now: int,
        actor: str,
        *,
        last: bool,
    ) -> Callable[[Sequence[str]], tuple[RequestRow, Sequence[Fact]]]:
        """What the request is once a step is written; asked inside its transaction, when nobody
        can move the rows that went to another key-encryption key any more."""

        before = self._identifiers(row, own)

        def settle(subjects: Sequence[str]) -> tuple[RequestRow, Sequence[Fact]]:
            keks = tuple(dict.fromkeys((*row.keks, *self._keks())))
            taken = Reach(subjects=tuple(subjects)).and_also(step.reach)
            total, items = before.reach.and_also(taken), before.items + step.items
            after = replace(before, reach=total, items=items)
            if last:
                after = replace(after, name="", subject="")
            sealed = None if own is None else self._sealed(row, own, after)
            facts: tuple[Fact, ...] = ()
            if last:
                people = len(set(total.subjects) - set(total.sessions))
                counts = (len(total.sessions), len(total.parts), items, people)
                facts = row.request.execute(*counts, now, actor)
            return (
                replace(
                    row,
                    request=project(row.request, facts),
                    due_at=now if self._verifier is not None or not last else now + LOOK_AGAIN,
                    failures=0,
                    target=None if last else row.target,
                    sealed=sealed,
                    keks=keks,
                ),
                facts,
            )

        return settle

    def _verified(self, row: RequestRow, now: int) -> RequestRow:
        executed_at = row.request.executed_at
        if self._verifier is None or executed_at is None:
            return row if self._waits(row, now) else self._save(row, (), now, now + LOOK_AGAIN)
        result = self._verifier.verify(self.reach(row), executed_at, now)
        if isinstance(result, Pending):
            return row if self._waits(row, now) else self._save(row, (), now, now + VERIFY_AGAIN)
        if not result.ok:
            return self._wait(row, Waiting.RESIDUE, now)
        facts = row.request.verify(result.stores, now, SCHEDULER)
        due_at = now + LOOK_AGAIN
        return self._save(replace(row, failures=0), facts, now, due_at, forget=True)

    def _waits(self, row: RequestRow, now: int) -> bool:
        return row.due_at is not None and row.due_at > now

    def _finished(self, row: RequestRow, now: int) -> RequestRow:
        if set(row.keks) & set(self._keks()):
            return row if self._waits(row, now) else self._save(row, (), now, now + LOOK_AGAIN)
        facts = row.request.finish(len(row.keks), now, SCHEDULER)
        return self._save(row, facts, now, None)

    def _save(
        self,
        row: RequestRow,
        facts: tuple[Fact, ...],
        now: int,
        due_at: int | None,
        *,
        forget: bool = False,
        deeds: Sequence[Deed] = (),
    ) -> RequestRow:
        request = project(row.request, facts)
        row = replace(row, request=request, due_at=due_at)
        was = row.sealed
        if forget:
            row = replace(row, sealed=None, target=None)
        self._requests.save(row, facts, now, forget=forget, was=was, deeds=deeds)
        return row

    # -- doing again, on a restored database ----------------------------------------------------

    def erase_part_again(self, session_id: str, tokens: tuple[str, ...], at: int) -> bool:
        """A person's part of a session goes again; False if nothing of it is there.

        Raises OnHold, StoreError.
        """
        for _ in range(ATTEMPTS):
            found = self._log.find([session_id]).get(session_id)
            theirs = self._requests.belongings([(session_id, tokens)])[session_id]
            if found is None or not theirs.names:
                return False
            ahead = self._redaction.read_ahead([theirs])
            with suppress(Conflict):
                self._requests.erase_again(self._part(found, theirs, ahead, at), at)
                return True
        raise Conflict(session_id)

    def receive_again(
        self,
        request_id: str,
        about: About,
        verified_by: Verification,
        requested_at: int,
        actor: str,
        *,
        session_id: str | None,
        token: str | None,
        subject: str | None,
    ) -> bool:
        """A request that had to wait stands again, and is carried out as if it had come just now:
        by the random id of a person, since nobody knows the name any more. Its term is what it
        was. False if it is known."""
        if self._requests.find(request_id) is not None:
            return False
        facts = receive(request_id, about, verified_by, requested_at, actor)
        row = RequestRow(project(None, facts), due_at=requested_at, told=True)
        if about is About.SESSION:
            row = replace(row, session_id=session_id)
            return self._requests.restore(row, facts, requested_at)
        of = _Identifiers(subject=subject or "", session=session_id or "", token=token or "")
        joint = self._keyring.joint_subject(request_id)
        own = self._keyring.new_data_key(joint, request_id, Scope.EVERYTHING, "")
        row = replace(row, sealed=self._sealed(row, own, of))
        return self._requests.restore(row, facts, requested_at, joint, own)

    def refuse_again(self, request_id: str, ground: Refusal, at: int, actor: str) -> bool:
        """A request that had to wait was refused; False if it is not open."""
        row = self._requests.find(request_id)
        if row is None or row.request.status is not Status.REQUESTED:
            return False
        facts = row.request.refuse(ground, at, actor)
        self._save(row, facts, at, None, forget=True)
        return bool(facts)

    def restore(
        self,
        request_id: str,
        about: About,
        verified_by: Verification,
        requested_at: int,
        counts: Sequence[int],
        executed_at: int,
        actor: str,
        *,
        target: str | None,
        keks: Sequence[str],
    ) -> bool:
        """A request that was carried out stands again; it is verified anew, and final when the keys
        that there are now are gone too. counts: as of `ErasureRequest.execute`. False if it is
        known and was carried out; one that is open still was so by now."""
        known = self._requests.find(request_id)
        if known is not None and known.request.status is not Status.REQUESTED:
            return False
        received = receive(request_id, about, verified_by, requested_at, actor)
        request = known.request if known is not None else project(None, received)
        sessions, parts, items, subjects = counts
        facts = request.execute(sessions, parts, items, subjects, executed_at, actor)
        row = replace(
            known or RequestRow(request, due_at=None, session_id=target),
            request=project(request, facts),
            due_at=executed_at,
            failures=0,
            keks=tuple(dict.fromkeys((*keks, *self._keks()))),
        )
        if known is None:
            return self._requests.restore(row, (*received, *facts), executed_at)
        # Whom it is about is not needed any more: what it took is gone, by entries before this one.
        after = replace(row, sealed=None, target=None)
        self._requests.save(after, facts, executed_at, forget=True, was=row.sealed)
        return True

    # -- whom it is about ---------------------------------------------------------------------

    def _identifiers(self, row: RequestRow, own: DataKey | None) -> _Identifiers:
        if own is None or row.sealed is None:
            return _Identifiers()
        opened = self._keyring.open(own, row.request.id, IDENTIFIERS, row.sealed)
        try:
            return _read(json.loads(opened))
        finally:
            opened[:] = bytes(len(opened))

    def _sealed(self, row: RequestRow, own: DataKey, identifiers: _Identifiers) -> bytes:
        content = _written(identifiers)
        sealed = self._keyring.seal(own, row.request.id, IDENTIFIERS, content)
        content[:] = bytes(len(content))
        return sealed


def _is_theirs_alone(found: Belongings, identifiers: _Identifiers) -> bool:
    """Whether the session goes whole: nobody else ever took part. One that belongs to somebody else
    is not for a participant to take away, who proves a token and nothing more."""
    if found.others:
        return False
    return bool(identifiers.name or identifiers.subject) or found.owner in (None, *found.subjects)


def _written(identifiers: _Identifiers) -> bytearray:
    reach = identifiers.reach
    document = {
        "name": identifiers.name,
        "subject": identifiers.subject,
        "session": identifiers.session,
        "token": identifiers.token,
        "items": identifiers.items,
        "reach": {"sessions": reach.sessions, "parts": reach.parts, "subjects": reach.subjects},
    }
    return bytearray(json.dumps(document).encode())


def _read(document: Mapping[str, Any]) -> _Identifiers:
    reach = document["reach"]
    return _Identifiers(
        document["name"],
        document.get("subject", ""),
        document["session"],
        document["token"],
        Reach(
            tuple(reach["sessions"]),
            tuple((session_id, token) for session_id, token in reach["parts"]),
            tuple(reach["subjects"]),
        ),
        document["items"],
    )
