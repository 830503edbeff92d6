"""What requests and answers hold. Unknown fields are refused; lengths are bounded.

Times are RFC 3339 with an offset; durations never appear. Personal data stands in `subject`, `name`
and `owner` only, in bodies, never in paths or queries.

Every parameter and every field of a request has an example: the document that is made of them can
be tried out as it is. Types are those of JSON: `"5"` is no number.
"""

import re
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import Header, Path, Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from adapters.vault.waiting import WaitingFor

MOST_HEARTBEATS = 10_000
"""In one batch."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{1,40}$")]
"""Of a policy or a rule."""
Token = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Person = Annotated[
    str, StringConstraints(min_length=1, max_length=320, pattern=r"^[^\x00-\x1f\x7f]+$")
]
"""Whatever an application knows a person by; sealed as it comes in."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _instant(text: object) -> datetime:
    """Pydantic's own reading takes numbers too, as seconds or, when they are large, milliseconds:
    a time that somebody mistyped would become one in 1970."""
    if isinstance(text, str) and _TIME.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper())
        except ValueError:
            pass
    raise PydanticCustomError("instant", "Input should be a time of RFC 3339, with an offset")


Instant = Annotated[AwareDatetime, BeforeValidator(_instant)]


def _whole(number: object) -> object:
    """JSON Schema takes 5.0 for an integer."""
    whole = isinstance(number, float) and number.is_integer()
    return int(number) if whole else number  # type: ignore[call-overload]


Whole = Annotated[int, BeforeValidator(_whole)]


def _storable(found: dict[str, Any]) -> dict[str, Any]:
    """Python's reader of JSON takes halves of surrogate pairs, and integers of any size."""
    try:
        orjson.dumps(found)
    except orjson.JSONEncodeError:
        raise PydanticCustomError("json", "Input should be JSON of UTF-8 and 64 bits") from None
    return found


AnyObject = Annotated[dict[str, Any], AfterValidator(_storable)]
_ID = "9f86d081884c7d659a2feaa0c55ad015"
_TOKEN = "b94d27b9934d3e08a52e52d7da7dabfa"  # noqa: S105 - the token of a participant, an example
LOCATION = {"Location": {"schema": {"type": "string"}, "required": True}}
"""The header of an answer that made something, described."""
_AT = "2026-01-31T12:00:00Z"
SessionId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", examples=[_ID])]
Since = Annotated[
    Instant | None, Query(alias="from", description="From this time on.", examples=[_AT])
]
Until = Annotated[
    Instant | None, Query(alias="to", description="Before this time.", examples=[_AT])
]
ByPolicy = Annotated[
    Name | None, Query(description="Of this policy only.", examples=["reading-room"])
]
AfterToken = Annotated[
    Token | None, Query(description="`next` of the page before.", examples=[_TOKEN])
]
Limit = Annotated[int, Query(ge=1, le=1_000, examples=[100])]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key again is the same command: it happens once, for a day.",
        examples=["order-4711-step-2"],
    ),
]
MEDIA_TYPE = r"^[a-z]+/[A-Za-z0-9][A-Za-z0-9.+-]{0,80}$"
MediaType = Annotated[str, StringConstraints(pattern=MEDIA_TYPE)]
"""A type of content without parameters (RFC 6838)."""
State = Annotated[str, Field(examples=["active"])]


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, strict=True, allow_inf_nan=False
    )


class Nothing(Body):
    """An empty object."""


class NewSession(Body):
    """A session to begin."""

    policy: Name = Field(examples=["reading-room"])
    owner: Person | None = Field(
        None, description="Whose it is; only a token of it is logged.", examples=["lead-4711"]
    )


class Search(Body):
    """Whose sessions to list. In a body, since a URL would be logged on its way."""

    owner: Person = Field(examples=["lead-4711"])
    policy: Name = Field(examples=["reading-room"])


class NewParticipant(Body):
    """Someone who joins. Without `subject`, somebody anonymous."""

    subject: Person | None = Field(None, examples=["user-4711"])
    name: Annotated[Person, StringConstraints(max_length=80)] | None = Field(
        None, description="How they want to be called; sealed.", examples=["Ann"]
    )


class NewInvite(Body):
    """An invite to make."""

    uses: Whole = Field(
        1, ge=1, le=10_000, description="How many people may come in by it.", examples=[1]
    )
    expires_at: Instant | None = Field(
        None,
        description="When it ends at the latest; by default in 7 days, or with its session.",
        examples=[_AT],
    )


class Redemption(Body):
    """Who comes in by an invite. `invite` may also be sent as the bearer token."""

    invite: Annotated[str, StringConstraints(max_length=4_096)] | None = Field(
        None, examples=["eyJhbGciOiJFZDI1NTE5In0.eyJqdGkiOiI0NzExIn0.c2lnbmF0dXJl"]
    )
    subject: Person | None = Field(None, examples=["user-4711"])
    name: Annotated[Person, StringConstraints(max_length=80)] | None = Field(None, examples=["Ann"])


class OneParticipant(Body):
    """A participant by token. A participant's own token needs no other."""

    participant: Token | None = Field(None, examples=[_TOKEN])


class Seen(OneParticipant):
    """One heartbeat."""

    at: Instant | None = Field(None, description="When; now, if it is left out.", examples=[_AT])


class Heartbeat(Body):
    """One of many heartbeats."""

    session: Token = Field(examples=[_ID])
    participant: Token = Field(examples=[_TOKEN])
    at: Instant | None = Field(None, examples=[_AT])


class HeartbeatBatch(Body):
    """Many heartbeats at once."""

    seen: list[Heartbeat] = Field(
        max_length=MOST_HEARTBEATS, examples=[[{"session": _ID, "participant": _TOKEN}]]
    )


class Failing(Body):
    """Why the application gave up."""

    reason: Annotated[str, StringConstraints(pattern="^(error|timeout|cancelled|invalid)$")] = (
        Field("error", examples=["timeout"])
    )


class Extension(Body):
    """Until when the session shall live at least."""

    until: Instant = Field(examples=["2026-01-31T18:00:00Z"])


Scalar = (
    Annotated[str, StringConstraints(max_length=200)]
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | float
    | bool
    | None
)


class Progress(Body):
    """How far some work is. Never personal data: whoever watches the session sees it."""

    type: Name = Field(examples=["frames_extracted"])
    data: dict[Name, Scalar] = Field(
        default_factory=dict, max_length=20, examples=[{"frames": 120}]
    )


_POLICY_EXAMPLE = {"rules": [{"since": "last_seen", "after": "1h", "do": "expire"}]}


class NewVersion(Body):
    """A new version of a policy."""

    policy: AnyObject = Field(
        description="As in a policy file, in JSON.", examples=[_POLICY_EXAMPLE]
    )
    effective_from: Instant | None = Field(
        None, description="By default, 5 s from now.", examples=[_AT]
    )


class Proposal(Body):
    """A policy whose impact is asked for."""

    policy: AnyObject = Field(
        description="As in a policy file, in JSON.", examples=[_POLICY_EXAMPLE]
    )


class NewAccessRequest(Body):
    """Who asks for a copy of what is held about them. In a body, since a URL would be logged."""

    subject: Person = Field(examples=["user-4711"])
    verified_by: Annotated[
        str, StringConstraints(pattern="^(controller|identity-provider|token-proof|court)$")
    ] = Field(
        description="Who made sure that it is they who ask, or how (GDPR Art. 12(6)).",
        examples=["controller"],
    )


class NewItem(Body):
    """Records to keep: landmark batches, metrics, a result."""

    kind: Name = Field(examples=["landmarks"])
    tier: Annotated[str, StringConstraints(pattern="^(full|summary)$")] = Field(
        "full",
        description="`summary`: a result, which stays when the full data goes.",
        examples=["full"],
    )
    participants: list[Token] = Field(
        default_factory=list,
        max_length=100,
        description="Tokens of those it is about; whom the records name is added. One alone seals "
        "it with a key of their own.",
        examples=[[_TOKEN]],
    )
    records: list[dict[str, Any]] = Field(
        min_length=1, max_length=10_000, examples=[[{"stillness": 0.82}]]
    )


class NewUpload(Body):
    """Bytes that come in chunks."""

    kind: Name = Field(examples=["video"])
    size: Whole = Field(ge=1, le=10**11, description="Bytes of all chunks.", examples=[5_510_872])
    media_type: MediaType | None = Field(None, examples=["video/mp4"])
    participants: list[Token] = Field(default_factory=list, max_length=100, examples=[[_TOKEN]])


# -- answers ----------------------------------------------------------------------------------


class Answer(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(extra="forbid")


class SessionView(Answer):
    """A session as it is now, swept or not, and what awaits it."""

    id: Token = Field(examples=["9f86d081884c7d659a2feaa0c55ad015"])
    policy: Name = Field(examples=["reading-room"])
    policy_version: int = Field(examples=[1])
    state: State
    tier: str = Field(examples=["full"])
    created_at: str | None = Field(examples=["2026-01-31T12:00:00.000Z"])
    last_seen_at: str | None = Field(examples=["2026-01-31T12:10:30.000Z"])
    participants: int = Field(examples=[3], description="Present now.")
    stored_bytes: int = Field(examples=[4_096], description="What it stores, sealed.")
    expires_at: str | None = Field(examples=["2026-01-31T13:10:30.000Z"])
    erases_at: str | None = Field(examples=["2026-02-01T13:10:30.000Z"])
    rule: str | None = Field(examples=["expire-last-seen"])
    held: bool = Field(examples=[False])
    version: int = Field(examples=[4], description="Events so far.")


class SessionPage(Answer):
    """Some sessions; `next` is the cursor of the page behind them."""

    sessions: list[SessionView]
    next: str | None


class ParticipantView(Answer):
    """Somebody in a session, known by a token."""

    token: Token
    name: str | None
    joined_at: str | None
    last_seen_at: str | None
    left_at: str | None
    is_active: bool


class ParticipantPage(Answer):
    """Some participants."""

    participants: list[ParticipantView]
    next: str | None


class Joined(Answer):
    """The token by which the log knows the participant, and one to act as them."""

    token: Token
    access_token: str = Field(description="A JSON Web Token for this session and participant.")


class InviteView(Answer):
    """An invite: a signed token to be put behind a link's `#`, where no server logs it."""

    invite: str
    uses: int
    expires_at: str | None


class Redeemed(Joined):
    """Where the invite led."""

    session: Token


class Counted(Answer):
    """How many heartbeats counted; the others came too late, or belong to nobody."""

    counted: int
    ignored: int


class Expiry(Answer):
    """Whether a session is over, and what can be done."""

    id: Token
    state: State
    expired: bool
    expires_at: str | None
    erases_at: str | None
    rule: str | None
    policy_version: int
    recover_until: str | None
    options: list[dict[str, Any]]


class Ending(Answer):
    """When something is hidden, when it is erased, and which rule decides."""

    expires_at: str | None = Field(examples=["2026-01-31T12:05:00.000Z"])
    erases_at: str | None = Field(examples=["2026-01-31T12:05:00.000Z"])
    rule: str | None = Field(examples=["summarize-created"])
    policy_version: int = Field(examples=[1])


class ItemView(Ending):
    """What is stored. count: records in it, null for bytes. size: bytes, as they are stored."""

    id: Token
    session: Token
    kind: Name
    tier: str
    participants: list[Token]
    media_type: str | None
    count: int | None
    size: int
    stored_at: str | None


class ItemPage(Answer):
    """Some items; `next` is the cursor of the page behind them."""

    items: list[ItemView]
    next: str | None


class UploadView(Ending):
    """How far an upload is. received: the chunks that are here."""

    id: Token
    session: Token
    kind: Name
    size: int
    media_type: str | None
    participants: list[Token]
    chunk_size: int = Field(description="Bytes of every chunk but the last.")
    chunks: int
    received: list[int]
    complete: bool
    created_at: str | None


class ChunkReceived(Answer):
    """One chunk is kept. received: how many are here by now."""

    index: int
    size: int
    received: int
    chunks: int
    complete: bool


class SummaryView(Ending):
    """The figures that the policy declares; null where no record had the field."""

    session: Token
    tier: str
    figures: dict[str, Any] = Field(examples=[{"avg_stillness": 0.82, "total_frames": 1200}])
    contributors: int


class AccessRequestView(Answer):
    """A request for a copy: `requested`, `ready`, `erased`. size: bytes of the zip."""

    request_id: Token
    status: str = Field(examples=["ready"])
    verified_by: str = Field(examples=["controller"])
    requested_at: str | None
    ready_at: str | None
    erases_at: str | None = Field(description="When the copy goes at the latest.")
    sessions: int
    items: int
    size: int
    reason: str | None = Field(
        description="Why the copy is gone: `term`, or `outdated` if something in it was erased.",
        examples=["term"],
    )


class EventView(Answer):
    """An event of the log."""

    partition: int
    position: int
    event: str
    topic: str
    session: str | None
    version: int
    effective_at: str | None
    recorded_at: str | None
    data: dict[str, Any]


class EventPage(Answer):
    """Events in the order of the log; ask again with `next` to follow it."""

    events: list[EventView]
    next: str


class ProofView(Answer):
    """That the leaf with this hash is number `index` of `size` under the checkpoint. proof: the
    same as one text (C2SP tlog-proof)."""

    position: int
    index: int
    size: int
    leaf: str
    hashes: list[str]
    checkpoint: str
    proof: str


class PolicyView(Answer):
    """A policy with all its versions, the newest last."""

    name: Name
    versions: list[dict[str, Any]]


class PolicyList(Answer):
    """All policies."""

    policies: list[PolicyView]


class AppliedView(Answer):
    """The version that was recorded; null if the newest is the same."""

    name: Name
    version: int | None
    effective_from: str | None


class ImpactView(Answer):
    """What a version would change for sessions that are alive."""

    sessions: int
    sooner: int
    later: int
    at_once: int


class PolicyStatistics(Answer):
    """Sessions of one policy."""

    total: int
    active: int
    inactive: int
    participants: int
    participants_per_session: float
    last_activity: str | None
    stored_bytes: int


class StatisticsView(Answer):
    """All sessions, and by policy."""

    now: str | None
    total: PolicyStatistics
    policies: dict[str, PolicyStatistics]


class UsageHour(Answer):
    """How often an event took effect within an hour, and the bytes it freed."""

    hour: str | None = Field(description="When it starts.", examples=["2026-11-10T09:00:00.000Z"])
    policy: Name
    event: str = Field(examples=["session.created"])
    count: int
    bytes_freed: int


class UsagePage(Answer):
    """Hours in order; those without events are left out."""

    hours: list[UsageHour]
    next: str | None


class Live(Answer):
    """The process answers."""

    status: str = Field(examples=["live"])


class Ready(Answer):
    """Whether requests can be served, and what is wrong if not."""

    status: str = Field(examples=["ready"])
    checks: dict[str, str] = Field(examples=[{"database": "ok", "keys": "ok"}])


class RequestEntry(Answer):
    """One request that was answered: who, what, how; never with which data."""

    at: str | None
    actor: str | None
    role: str | None
    method: str
    path: str
    status: int
    duration_ms: float
    session: str | None
    read: str | None = Field(description="Which personal data the answer held.")
    operation: str | None = Field(description="Its id in this document.")


class RequestPage(Answer):
    """Requests, the newest first."""

    requests: list[RequestEntry]
    next: str | None


class AuditEntry(Answer):
    """What happened to a session, when, and under which rule."""

    position: int
    session_id: str = Field(description="A session's id, or `policy:NAME`.")
    event: str
    effective_at: str | None
    recorded_at: str | None
    policy: str
    policy_version: int | None
    rule: str | None
    actor: str
    token: str | None
    detail: dict[str, Any]


class AuditPage(Answer):
    """The life of a session."""

    session: str
    entries: list[AuditEntry]


class AuditSearch(Answer):
    """What happened to any session."""

    entries: list[AuditEntry]
    next: str | None


RequestId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", examples=[_ID])]
HoldId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", examples=[_ID])]


class NewErasure(Body):
    """What shall be erased: a session, or everything of a person."""

    session: Token | None = Field(
        None,
        description="A session; for a participant: their part of it.",
        examples=["00000000000000000000000000000000"],
    )
    subject: Person | None = Field(
        None, description="A person, wherever they take part.", examples=["user-4711"]
    )
    participant_token: Annotated[str, StringConstraints(max_length=4_096)] | None = Field(
        None,
        description="The `access_token` of a participant, also one that has expired, as the proof "
        "of an anonymous person: their part of its session.",
        examples=["eyJhbGciOiJFZDI1NTE5In0.eyJqdGkiOiI0NzExIn0.c2lnbmF0dXJl"],
    )
    verified_by: (
        Annotated[str, StringConstraints(pattern="^(controller|identity-provider|court)$")] | None
    ) = Field(
        None,
        description="Who made sure that it comes from whom it concerns; `controller` by default.",
        examples=["controller"],
    )


class ErasureView(Answer):
    """A request for erasure. It names nobody."""

    request_id: Token
    about: str = Field(examples=["subject"])
    status: str = Field(examples=["executed"])
    requested_at: str | None
    deadline_at: str | None
    executed_at: str | None
    verified_at: str | None
    final_at: str | None
    refused_at: str | None
    verified_by: str
    stores: dict[str, str]
    reason: str | None = Field(description="Why it does not go on, or was refused.")
    waiting_for: WaitingFor | None = Field(
        description="What must happen before it goes on by itself.", examples=["cleanup"]
    )
    sessions: int
    parts: int
    items: int
    subjects: int


class ErasurePage(Answer):
    """Some requests; `next` is the cursor of the page behind them."""

    requests: list[ErasureView]
    next: str | None


class RefusalGround(Body):
    """On which ground a request is refused."""

    ground: Annotated[
        str,
        StringConstraints(
            pattern="^(freedom-of-expression|legal-obligation|public-health|archiving|legal-claim"
            "|manifestly-unfounded|hold|not-identified)$"
        ),
    ] = Field(examples=["legal-claim"])


class NewHold(Body):
    """A hold to place on a session, or on a person."""

    session: Token | None = Field(None, examples=["00000000000000000000000000000000"])
    subject: Person | None = Field(None, examples=["user-4711"])
    ground: Annotated[
        str,
        StringConstraints(pattern="^(legal-obligation|legal-claim|public-interest|restriction)$"),
    ] = Field(examples=["legal-claim"])
    until: Instant | None = Field(
        None, description="When it ends by itself.", examples=["2099-01-31T12:00:00Z"]
    )


class HoldView(Answer):
    """A hold that stands. session: null for one on a person, whom nothing here names."""

    hold: Token
    on: str = Field(examples=["session"])
    session: Token | None
    ground: str
    since: str | None
    until: str | None


class HoldPage(Answer):
    """Some holds; `next` is the cursor of the page behind them."""

    holds: list[HoldView]
    next: str | None


class ProblemView(BaseModel):
    """A refusal (RFC 9457). More members belong to some types."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:lapse:problem:session-expired"])
    title: str
    status: int
    detail: str
