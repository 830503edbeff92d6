"""Every refusal of Lapse, typed, with the fields a caller can act on.

A refusal never carries personal data: ids, rule names, counts and times only. Adapters turn these
into exit codes (adapters/cli/errors.py) and later into problem types; nothing else does.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class LapseError(Exception):
    """Something Lapse refuses or cannot do. `str()` says what happened and what would help."""


# -- ids --------------------------------------------------------------------------------------

ID_LENGTH = 32
"""Characters of an id."""
WHOLE_ID = f"the whole id is needed, all {ID_LENGTH} characters"


def is_cut(given: str) -> bool:
    """Whether this may be the beginning of an id: tables show no more where space is short."""
    return len(given) < ID_LENGTH


# -- what a session does not allow ------------------------------------------------------------


@dataclass(eq=False)
class SessionNotFound(LapseError):
    """There is no session with this id."""

    session_id: str

    def __str__(self) -> str:
        if is_cut(self.session_id):
            return (
                f"no session {self.session_id}: {WHOLE_ID}; `lapse show` finds one that lives by "
                "the beginning of its id"
            )
        return f"no session {self.session_id}: check the id with `lapse sessions`"


@dataclass(eq=False)
class SessionExists(LapseError):
    """A session with this id was created before."""

    session_id: str

    def __str__(self) -> str:
        return f"session {self.session_id} exists already"


@dataclass(eq=False)
class SessionExpired(LapseError):
    """The session is over; until `recover_until` it can be recovered (None: it cannot)."""

    session_id: str
    expired_at: int
    rule: str
    recover_until: int | None = None

    def __str__(self) -> str:
        return f"session {self.session_id} has expired under rule {self.rule}"


@dataclass(eq=False)
class SessionErased(LapseError):
    """The session's data is gone for good; only its history remains."""

    session_id: str
    erased_at: int | None = None

    def __str__(self) -> str:
        return f"session {self.session_id} has been erased"


@dataclass(eq=False)
class NotAllowed(LapseError):
    """The session is in a state in which this command makes no sense."""

    session_id: str
    command: str
    why: str

    def __str__(self) -> str:
        return f"cannot {self.command} session {self.session_id}: {self.why}"


@dataclass(eq=False)
class OnHold(LapseError):
    """A hold stands, so nothing may be deleted; until `until` (None: until it is released)."""

    session_id: str
    until: int | None = None

    def __str__(self) -> str:
        return f"a hold stands on session {self.session_id}: release it before anything is deleted"


@dataclass(eq=False)
class InviteRefused(LapseError):
    """An invite leads nowhere. why: `used-up`, `expired` or `unknown`."""

    why: str

    def __str__(self) -> str:
        return {
            "used-up": "this invite was used as often as it may be: ask for a new one",
            "expired": "this invite has expired: ask for a new one",
        }.get(self.why, "this invite leads nowhere: ask for a new one")


@dataclass(eq=False)
class ParticipantUnknown(LapseError):
    """The session has no such participant."""

    session_id: str
    token: str

    def __str__(self) -> str:
        return f"session {self.session_id} has no participant {self.token}"


@dataclass(eq=False)
class ItemUnknown(LapseError):
    """The session stores no such item or upload."""

    session_id: str
    item_id: str

    def __str__(self) -> str:
        return f"session {self.session_id} stores nothing called {self.item_id}"


@dataclass(eq=False)
class ItemErased(LapseError):
    """The item's time is over, though its session goes on."""

    session_id: str
    item_id: str
    erased_at: int
    rule: str

    def __str__(self) -> str:
        return f"item {self.item_id} of session {self.session_id} was erased by rule {self.rule}"


@dataclass(eq=False)
class ContentRefused(LapseError):
    """What was sent is not what was announced. why: in words, without the content."""

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(eq=False)
class LimitReached(LapseError):
    """A policy's limit is used up. scope: `concurrent`, `owner`, `bytes` or `result`."""

    policy: str
    scope: str
    limit: int

    def __str__(self) -> str:
        return f"policy {self.policy}: limit {self.scope} = {self.limit} is reached"


# -- requests of people, and holds ------------------------------------------------------------


@dataclass(eq=False)
class RequestUnknown(LapseError):
    """There is no request with this id."""

    request_id: str

    def __str__(self) -> str:
        whole = f"{WHOLE_ID}; " if is_cut(self.request_id) else ""
        return f"no request {self.request_id}: {whole}`lapse request list` shows those there are"


@dataclass(eq=False)
class RequestNotOpen(LapseError):
    """A request is too far for this, or was refused."""

    request_id: str
    command: str
    status: str

    def __str__(self) -> str:
        return f"cannot {self.command} request {self.request_id}: it is {self.status}"


@dataclass(eq=False)
class RequestBegun(RequestNotOpen):
    """Part of what a request is about is deleted already, so it can only be carried out."""

    def __str__(self) -> str:
        return (
            f"cannot {self.command} request {self.request_id}: part of it was carried out; "
            "the rest goes as soon as nothing stands against it"
        )


@dataclass(eq=False)
class SubjectUnknown(LapseError):
    """Nothing is known of this person, so nothing of theirs can be held."""

    def __str__(self) -> str:
        return "nothing is known of this person: there is nothing to hold"


@dataclass(eq=False)
class HoldUnknown(LapseError):
    """No hold of this id stands."""

    hold: str

    def __str__(self) -> str:
        whole = f"{WHOLE_ID}; " if is_cut(self.hold) else ""
        return f"no hold {self.hold} stands: {whole}`lapse hold list` shows those that do"


@dataclass(eq=False)
class CopyUnknown(LapseError):
    """There is no request for a copy with this id."""

    request_id: str

    def __str__(self) -> str:
        return f"no request for a copy {self.request_id}"


@dataclass(eq=False)
class CopyNotReady(LapseError):
    """The copy is not made yet."""

    request_id: str

    def __str__(self) -> str:
        return f"the copy {self.request_id} is being made: ask again in a few seconds"


@dataclass(eq=False)
class CopyGone(LapseError):
    """The copy waits no more."""

    request_id: str

    def __str__(self) -> str:
        return (
            f"the copy {self.request_id} is gone: its time is over, or something in it was erased. "
            "Ask for another one"
        )


# -- what the log refuses ---------------------------------------------------------------------


@dataclass(eq=False)
class Conflict(LapseError):
    """Somebody else changed the session meanwhile: read it again and decide again."""

    session_id: str

    def __str__(self) -> str:
        return f"session {self.session_id} changed meanwhile; try again"


@dataclass(eq=False)
class CorruptEvent(LapseError):
    """A stored event cannot be read. It is never skipped: history must be whole."""

    partition: int
    position: int
    why: str

    def __str__(self) -> str:
        return (
            f"event {self.partition}/{self.position} cannot be read ({self.why}): "
            "restore the database from a backup; nothing was changed"
        )


@dataclass(eq=False)
class CorruptState(LapseError):
    """A session's folded state cannot be read; `lapse db rebuild` makes it anew from the log."""

    session_id: str
    why: str

    def __str__(self) -> str:
        return (
            f"folded state of session {self.session_id} cannot be read ({self.why}): "
            "run `lapse db rebuild`"
        )


# -- policies ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One error in a policy file. place: where it stands, such as `policy.room.rules[1].after`."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(eq=False)
class PolicyInvalid(LapseError):
    """A policy file is refused as a whole; every error is listed with its place."""

    problems: Sequence[Problem]

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


@dataclass(eq=False)
class PolicyUnknown(LapseError):
    """No policy of this name was ever applied."""

    name: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"no policy named {self.name!r}; known policies: {known}"


@dataclass(eq=False)
class EffectiveTooSoon(LapseError):
    """A new policy version must lie ahead, so that every instance knows it in time."""

    policy: str
    earliest: int

    def __str__(self) -> str:
        return f"policy {self.policy}: effective_from must be at least 5 s ahead"


# -- where things are kept --------------------------------------------------------------------


class StoreError(LapseError):
    """The database did not do what was asked; nothing was half-written."""


class StoreReadOnly(StoreError):
    """The database cannot be written."""


class StoreFull(StoreError):
    """There is no room left for the database to write."""


class StoreBusy(StoreError):
    """The database did not become free in time."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, or the connection broke."""


class LedgerUnavailable(StoreError):
    """The erasure ledger cannot be read or written; nothing was changed in the database."""


class LedgerDamaged(LedgerUnavailable):
    """The erasure ledger was changed, or parts of it are gone."""


class LedgerTooShort(StoreError):
    """Entries of the erasure ledger are missing that others know of."""


class RestorePending(StoreError):
    """The database does not contain yet what the erasure ledger says."""


class SettingsInvalid(LapseError):
    """A setting is missing or wrong; the text says which and what would be right."""


class SchemaTooNew(StoreError):
    """The database was written by a newer Lapse."""


class SchemaTooOld(StoreError):
    """The database needs `lapse db upgrade` first."""


class KeyUnavailable(LapseError):
    """The key store is missing, unreadable or not the one this database was sealed with."""


@dataclass(eq=False)
class EvidenceUnavailable(LapseError):
    """The evidence store does not take or give what it should. why: the class of the error."""

    why: str

    def __str__(self) -> str:
        return (
            f"the evidence store of LAPSE_EVIDENCE_URL cannot be used ({self.why}): check that it "
            "is there and may be written"
        )


@dataclass(eq=False)
class LogForked(LapseError):
    """The log is not the one that was signed before; nothing is signed over it. size: of the
    checkpoint that does not fit."""

    size: int

    def __str__(self) -> str:
        return (
            f"the log does not continue what was signed at size {self.size}: no checkpoint was "
            "made. `lapse audit verify` says what is wrong"
        )


class RotationHeld(LapseError):
    """Another process rotates the keys."""

    def __str__(self) -> str:
        return "another process is rotating the keys: `lapse key status` says how far they are"


class SealBroken(LapseError):
    """A sealed value does not open under its key: it was changed or moved."""


class ClockHeld(LapseError):
    """An import holds the clock: sweeps by other clocks wait until it is done."""


class SourceUnreadable(LapseError):
    """A file to be imported cannot be read."""
