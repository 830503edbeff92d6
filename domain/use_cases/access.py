"""People get a copy of all that is held about them (GDPR Art. 15 and 20).

A worker makes the copy and seals it part by part, in bounded memory; it waits for some days, or
until the first thing in it is due to be erased, and every time somebody gets it stands in the log.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from domain.access import AccessRequest, AccessStatus
from domain.errors import Conflict, CopyGone, CopyNotReady, CopyUnknown
from domain.facts import AccessReady, AccessReceived, AccessSent, CopyEnded, Verification
from domain.ports import CopyStore, Keyring, Vault
from domain.session import SCHEDULER, Scope
from domain.use_cases.erase import drop_copy

PART = 1_048_576
"""Bytes of a copy that are sealed together."""
ATTEMPTS = 20
BATCH = 10
"""Requests that are looked at in one go."""


@dataclass(frozen=True)
class Entry:
    """A file of the copy. chunks: its bytes, read once."""

    path: str
    chunks: Iterable[bytes]


@dataclass
class Tally:
    """What a copy holds, as it comes together. erases_at: when the first of it is due to go."""

    sessions: int = 0
    items: int = 0
    erases_at: int | None = None

    def until(self, erases_at: int | None) -> None:
        """Something in it goes then (None: never)."""
        if erases_at is not None:
            self.erases_at = min(erases_at, self.erases_at or erases_at)


@dataclass(frozen=True)
class Contents:
    """What a copy is made of. sessions: those of somebody. entries: its files, at an instant, of
    these sessions and no other that they came into since."""

    sessions: Callable[[str], list[str]]
    entries: Callable[[str, Collection[str], int, Tally], Iterator[Entry]]
    archive: Callable[[Iterable[Entry]], Iterator[bytes]] = field(repr=False)


class Access:
    """term: how long a copy waits at most, microseconds."""

    def __init__(
        self,
        store: CopyStore,
        vault: Vault,
        keyring: Keyring,
        contents: Contents,
        *,
        term: int,
    ) -> None:
        self._store = store
        self._vault = vault
        self._keyring = keyring
        self._contents = contents
        self._term = term

    def request(self, name: str, verified_by: Verification, now: int, actor: str) -> AccessRequest:
        """Somebody asks. name: as the application knows them; only a random id of it is kept. Of
        whom nothing is known gets a copy that says so."""
        request = AccessRequest(
            self._keyring.token(),
            1,
            self._subject(name),
            verified_by,
            AccessStatus.REQUESTED,
            now,
        )
        fact = AccessReceived(request.id, 1, now, "", actor, verified_by)
        self._store.add(request, fact, now)
        return request

    def find(self, request_id: str, now: int) -> AccessRequest:
        """A request as it is now. Raises CopyUnknown."""
        found = self._store.find(request_id)
        if found is None:
            raise CopyUnknown(request_id)
        if found.status is AccessStatus.READY and found.is_over(now):
            return replace(found, status=AccessStatus.ERASED, reason=_ended(found, self._term))
        if found.status is AccessStatus.OUTDATED:
            return replace(found, status=AccessStatus.ERASED, reason=CopyEnded.OUTDATED)
        return found

    def content(self, request_id: str, now: int, actor: str) -> Iterator[bytes]:
        """The zip, piece by piece; that the actor got it is in the log before the first.

        Raises CopyUnknown, CopyNotReady, CopyGone; the latter also while it is read.
        """
        for _ in range(ATTEMPTS):
            request = self.find(request_id, now)
            if request.status is AccessStatus.REQUESTED:
                raise CopyNotReady(request_id)
            if request.status is not AccessStatus.READY:
                raise CopyGone(request_id)
            fact = AccessSent(request_id, request.version + 1, now, "", actor)
            try:
                self._store.note(request, fact, now)
            except Conflict:
                continue  # somebody else gets it at the same moment
            return self._opened(request)
        raise Conflict(request_id)

    def _opened(self, request: AccessRequest) -> Iterator[bytes]:
        for part in range(-(-request.size // PART)):
            key = self._store.key_of(request.id)
            sealed = self._store.part(request.id, part)
            if key is None or sealed is None:
                raise CopyGone(request.id)
            opened = self._keyring.open(key, request.id, str(part), sealed)
            yield bytes(opened)
            opened[:] = bytes(len(opened))

    def export(self, name: str, verified_by: Verification, now: int, actor: str) -> Iterator[bytes]:
        """The copy at once, for whoever stands at the command line: nothing of it is kept."""
        request_id, head = self._keyring.token(), (now, "", actor)
        subject = self._subject(name)
        request = AccessRequest(
            request_id, 1, "", verified_by, AccessStatus.ERASED, now, reason=CopyEnded.TERM
        )
        self._store.add(request, AccessReceived(request_id, 1, *head, verified_by), now)
        self._store.note(request, AccessSent(request_id, 2, *head), now)
        sessions = self._contents.sessions(subject)
        return self._contents.archive(self._contents.entries(subject, sessions, now, Tally()))

    # -- the worker ---------------------------------------------------------------------------

    def is_waiting(self, now: int) -> bool:
        """Whether there is anything to do."""
        return bool(self._store.waiting(now, 1))

    def work(self, now: int) -> int:
        """Make the copies that are asked for, and let go of those that are over; how many."""
        found = self._store.waiting(now, BATCH)
        for request in found:
            if request.status is AccessStatus.REQUESTED:
                self._prepare(request, now)
            else:
                drop_copy(self._store, request, _ended(request, self._term), now)
        return len(found)

    def _prepare(self, request: AccessRequest, now: int) -> None:
        """If something of it is erased meanwhile, it is begun anew the next time."""
        joint = self._keyring.joint_subject(request.id)
        key = self._keyring.new_data_key(joint, request.id, Scope.FULL, "")
        sessions = self._contents.sessions(request.subject)
        self._store.begin(request, joint, key, sessions)
        tally, size = Tally(), 0
        entries = self._contents.entries(request.subject, sessions, now, tally)
        pieces = self._contents.archive(entries)
        for number, part in enumerate(_parts(pieces)):
            sealed = self._keyring.seal(key, request.id, str(number), part)
            size += len(part)
            part[:] = bytes(len(part))
            if not self._store.put(request.id, number, sealed):
                return
        tally.until(now + self._term)
        ready = replace(
            request,
            version=request.version + 1,
            subject="",
            status=AccessStatus.READY,
            ready_at=now,
            erases_at=tally.erases_at,
            sessions=tally.sessions,
            items=tally.items,
            size=size,
        )
        head = (request.id, ready.version, now, "", SCHEDULER)
        self._store.finish(ready, AccessReady(*head, tally.sessions, tally.items, size), now)

    def _subject(self, name: str) -> str:
        lookup = self._keyring.lookup("subject", name)
        known = self._vault.subjects([lookup]).get(lookup)
        return known.subject if known is not None else ""


def _ended(request: AccessRequest, term: int) -> CopyEnded:
    if request.status is AccessStatus.OUTDATED:
        return CopyEnded.OUTDATED
    whole = request.ready_at is not None and request.erases_at == request.ready_at + term
    return CopyEnded.TERM if whole else CopyEnded.OUTDATED


def _parts(pieces: Iterable[bytes]) -> Iterator[bytearray]:
    """The same bytes, `PART` at a time."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= PART:
            yield waiting[:PART]
            del waiting[:PART]
    if waiting:
        yield waiting
