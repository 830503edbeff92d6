"""Given, when, then: the life of one session, told in the words of the business.

    given(created, seen_at("10:00")).when(sweep("11:00")).then(expired(rule="expire-last_seen"))

Every step happens as in live use: first what is due by then is carried out, then the command is
decided. Times are clock times of one day, "09:00" or "09:00:30"; "+2d 09:00" is two days later.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from adapters.presets import preset_text
from domain.errors import LapseError
from domain.policy import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    RetentionPolicy,
    Version,
    Versions,
    parse,
)
from domain.session import (
    By,
    Completed,
    Compressed,
    Created,
    Erased,
    Event,
    Expired,
    Expiring,
    Extended,
    Failed,
    Failure,
    Ground,
    Held,
    Joined,
    Left,
    Recovered,
    Released,
    Scope,
    Seen,
    Session,
    Stored,
    Summarized,
    create,
    evolve,
)
from domain.timeline import Forecast, Outcome, advance, forecast

MIDNIGHT = 20_000 * DAY
"""The day on which everything happens begins here."""

APPLICATION = "application"
"""The actor of the commands."""


def instant(clock: str) -> int:
    """The microseconds of a clock time."""
    days, _, time = clock.rpartition("d ")
    parts = [int(part) for part in time.split(":")]
    seconds = parts[2] if len(parts) > 2 else 0
    return MIDNIGHT + int(days or 0) * DAY + parts[0] * HOUR + parts[1] * MINUTE + seconds * SECOND


def policy(rules: str, name: str = "p", **more: str) -> RetentionPolicy:
    """A policy with these rules, in TOML, and more keys, each in TOML."""
    keys = "".join(f"{key} = {value}\n" for key, value in more.items())
    return parse(f"[policy.{name}]\n{keys}rules = [{rules}]\n")[name]


def preset(name: str) -> RetentionPolicy:
    """A policy that comes with Lapse."""
    return parse(preset_text(name))[name]


READING_ROOM = preset("reading-room")


class Life:
    """One session under the versions of its policy, with the presence kept beside the log."""

    def __init__(self, versions: Versions) -> None:
        self.versions = list(versions)
        self.events: list[Event] = []
        self.state: Session | None = None
        self.last_seen = 0

    @property
    def session(self) -> Session:
        assert self.state is not None, "no session was created"
        return self.state

    def record(self, events: Sequence[Event]) -> None:
        for event in events:
            self.state = evolve(self.state, event)
            self.events.append(event)

    def look(self, now: int) -> Outcome:
        """What is due by `now`, written nowhere."""
        return advance(self.session, self.versions, self.last_seen, now)

    def forecast(self, now: int) -> Forecast:
        """What awaits the session if nobody is seen again."""
        return forecast(self.session, self.versions, self.last_seen, now)

    def sweep(self, now: int) -> None:
        """Carry out what is due."""
        if self.state is not None:
            outcome = self.look(now)
            self.record(outcome.events)
            assert self.state == outcome.session

    def command(self, now: int, decide: Callable[[Session], Sequence[Event]]) -> None:
        """What is due first, then the command; a refusal leaves what was due recorded."""
        self.sweep(now)
        self.record(decide(self.session))

    def create(self, now: int) -> None:
        versions = self.versions
        number = max(v.number for v in versions if v.effective_from <= now)
        name = versions[0].policy.name
        self.record(create(self.state, "s", name, number, now, APPLICATION))

    def heartbeat(self, now: int) -> bool:
        """Somebody is seen, which no event tells; False: too late."""
        self.sweep(now)
        if self.session.live:
            self.last_seen = max(self.last_seen, now)
        return self.session.live


@dataclass(frozen=True)
class Step:
    """Something that happens at an instant."""

    at: int
    act: Callable[[Life, int], object]


# -- what happens -----------------------------------------------------------------------------


def created_at(clock: str) -> Step:
    return Step(instant(clock), Life.create)


created = created_at("09:00")
"""The session begins at 09:00."""


def sweep(clock: str) -> Step:
    return Step(instant(clock), Life.sweep)


swept_at = sweep


def presence_at(clock: str) -> Step:
    """A heartbeat, of which the log keeps no sample."""
    return Step(instant(clock), Life.heartbeat)


def seen_at(clock: str, every: int = 0) -> Step:
    """Somebody is seen, and a sample of it is wanted; every: microseconds between samples."""
    return _command(clock, lambda s, now: s.see(now, APPLICATION, every=every))


def joined_at(clock: str, participant: str = "t1", *, present: bool = False) -> Step:
    return _command(clock, lambda s, now: s.join(participant, now, APPLICATION, present=present))


def left_at(clock: str, participant: str = "t1", *, present: bool = True) -> Step:
    return _command(clock, lambda s, now: s.leave(participant, now, APPLICATION, present=present))


def stored_at(clock: str, items: int = 1, size: int = 1_000) -> Step:
    return _command(clock, lambda s, now: s.store(items, size, now, APPLICATION))


def completed_at(clock: str) -> Step:
    return _command(clock, lambda s, now: s.complete(now, APPLICATION))


def failed_at(clock: str, reason: Failure = Failure.ERROR) -> Step:
    return _command(clock, lambda s, now: s.fail(reason, now, APPLICATION))


def extended_at(clock: str, until: str) -> Step:
    return _command(clock, lambda s, now: s.extend(instant(until), now, APPLICATION))


def evicted_at(clock: str) -> Step:
    """A limit ends it."""
    return _command(clock, lambda s, now: s.expire(By.LIMIT, 1, now, APPLICATION))


def recovered_at(clock: str) -> Step:
    def act(life: Life, now: int) -> None:
        within = max(v.policy.recover for v in life.versions if v.effective_from <= now)
        life.command(now, lambda s: s.recover(within, now, APPLICATION))

    return Step(instant(clock), act)


def held_at(clock: str, until: str | None = None, hold: str = "h1") -> Step:
    end = None if until is None else instant(until)
    return _command(clock, lambda s, now: s.hold(hold, Ground.LEGAL_CLAIM, end, now, APPLICATION))


def released_at(clock: str, hold: str = "h1") -> Step:
    return _command(clock, lambda s, now: s.release(hold, now, APPLICATION))


def _command(clock: str, decide: Callable[[Session, int], Sequence[Event]]) -> Step:
    return Step(
        instant(clock), lambda life, now: life.command(now, lambda session: decide(session, now))
    )


# -- what is expected -------------------------------------------------------------------------

_CLOCKS = {"effective_at", "deadline", "until", "last_seen", "oldest_left"}
"""Fields that hold instants, so that a clock time stands for one."""


@dataclass(frozen=True)
class Expected:
    """An event of this kind, with these values among its fields."""

    kind: type[Event]
    fields: dict[str, Any]

    def __call__(self, **fields: Any) -> Self:
        return type(self)(self.kind, self.fields | fields)

    def differs_from(self, event: Event | None) -> str | None:
        """What is different, None if nothing."""
        if type(event) is not self.kind:
            return f"expected {self.kind.__name__}, got {event}"
        for name, value in self.fields.items():
            field = "effective_at" if name == "at" else name
            wanted = instant(value) if isinstance(value, str) and field in _CLOCKS else value
            if getattr(event, field) != wanted:
                return f"{self.kind.__name__}.{field}: expected {wanted}, got {event}"
        return None


created_event = Expected(Created, {})
joined = Expected(Joined, {})
seen = Expected(Seen, {})
left = Expected(Left, {})
stored = Expected(Stored, {})
completed = Expected(Completed, {})
failed = Expected(Failed, {})
summarized = Expected(Summarized, {})
compressed = Expected(Compressed, {})
warned = Expected(Expiring, {})
extended = Expected(Extended, {})
expired = Expected(Expired, {})
recovered = Expected(Recovered, {})
held = Expected(Held, {})
released = Expected(Released, {})
erased = Expected(Erased, {"scope": Scope.EVERYTHING})


@dataclass
class Story:
    """A life as it was given, waiting for what happens next."""

    life: Life

    def when(self, *steps: Step) -> "Told":
        """These steps happen; a refusal is kept for `then_refused`."""
        known = len(self.life.events)
        refusal: LapseError | None = None
        try:
            for step in steps:
                step.act(self.life, step.at)
        except LapseError as error:
            refusal = error
        return Told(self.life, self.life.events[known:], refusal)


@dataclass
class Told:
    """What came of it."""

    life: Life
    events: list[Event]
    refusal: LapseError | None

    def then(self, *expected: Expected) -> Self:
        """Exactly these events, in this order, and no refusal."""
        assert self.refusal is None, repr(self.refusal)
        return self._recorded(*expected)

    def then_nothing(self) -> Self:
        """No event and no refusal."""
        return self.then()

    def then_refused(self, kind: type[LapseError], *expected: Expected, **fields: Any) -> Self:
        """A refusal of this kind with exactly these fields; `expected` was due and is recorded."""
        assert type(self.refusal) is kind, repr(self.refusal)
        wanted = {
            name: instant(value) if name.endswith(("_at", "_until")) and value else value
            for name, value in fields.items()
        }
        assert vars(self.refusal) == {"session_id": "s", **wanted}
        return self._recorded(*expected)

    def then_state(self, **fields: Any) -> Self:
        """The session has these values now; clock times stand for instants."""
        for name, wanted in fields.items():
            found = getattr(self.life.session, name)
            is_clock = name.endswith("_at") and isinstance(wanted, str)
            assert found == (instant(wanted) if is_clock else wanted), (name, found)
        return self

    def _recorded(self, *expected: Expected) -> Self:
        differences = [
            wanted.differs_from(event)
            for wanted, event in zip(expected, self.events, strict=False)
            if wanted.differs_from(event)
        ]
        assert not differences, differences
        assert len(self.events) == len(expected), self.events
        return self


def given(*steps: Step, under: RetentionPolicy | Versions = READING_ROOM) -> Story:
    """A session in whose life these steps have happened, none of them refused."""
    versions = (Version(1, 0, under),) if isinstance(under, RetentionPolicy) else under
    life = Life(versions)
    for step in steps:
        step.act(life, step.at)
    return Story(life)


def two_versions(old: RetentionPolicy, new: RetentionPolicy, effective_from: str) -> Versions:
    """A policy that changes at a clock time."""
    return (Version(1, 0, old), Version(2, instant(effective_from), new))
