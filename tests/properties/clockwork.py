"""A second opinion on what is due: the life of a session, lived minute by minute.

It shares nothing with `domain.timeline` but the policy and the names of events. Where the timeline
calculates instants, the clockwork asks in every minute, of every rule, whether its time has come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.policy import MINUTE, Do, Rule, Since, Versions
from domain.session import Scope
from tests.domain.life import MIDNIGHT
from tests.properties.lives import AFTER, Deed

PARTS = (Scope.FULL, Scope.CHUNKS, Scope.FILES)

Told = tuple[str, int, str]
"""Kind of an event, its minute, and its rule and scope."""


@dataclass
class Clockwork:
    """The state of one session; all times are minutes since it was created."""

    versions: Versions
    now: int = 0
    told: list[Told] = field(default_factory=lambda: [("Created", 0, " ")])
    moments: dict[Since, int] = field(
        default_factory=lambda: {Since.CREATED: 0, Since.LAST_SEEN: 0}
    )
    sampled: int = 0  # the last presence that the log knows
    items: dict[Scope, list[int]] = field(default_factory=lambda: {part: [] for part in PARTS})
    gone: set[Scope] = field(default_factory=set)
    summarized: bool = False
    compressed: bool = False
    warned: int = -1
    extended: int = 0
    recovered: int | None = None
    held: tuple[int, int | None] | None = None  # from, until

    # -- the rules, asked in every minute

    def tick(self) -> None:
        """All that is due now, one after the other."""
        while (rule := self.first_due()) is not None:
            self.carry_out(rule)

    def first_due(self) -> Rule | None:
        for rule in self.rules():
            if Scope.EVERYTHING not in self.gone and self.is_due(rule):
                return rule
        return None

    def rules(self) -> Sequence[Rule]:
        """Those in force."""
        return [v for v in self.versions if self.minute(v.effective_from) <= self.now][
            -1
        ].policy.rules

    @staticmethod
    def minute(instant: int) -> int:
        return (instant - MIDNIGHT) // MINUTE

    def is_due(self, rule: Rule) -> bool:
        live = Since.EXPIRED not in self.moments
        match rule.do:
            case Do.WARN:
                return live and self.warns_now(rule)
            case Do.EXPIRE:
                return live and self.deadline(rule) is not None and self.now >= self.due(rule)
            case Do.COMPRESS:
                possible = live and not self.compressed and Scope.FULL not in self.gone
            case Do.SUMMARIZE:
                possible = Scope.FULL not in self.gone and not self.stands_hold()
            case Do.ERASE:
                possible = rule.scope not in self.gone and not self.stands_hold()
                if rule.scope is Scope.SUMMARY:
                    possible = possible and self.summarized
        base = self.base(rule)
        return possible and base is not None and self.now >= base + rule.after // MINUTE

    def due(self, rule: Rule) -> int:
        deadline = self.deadline(rule)
        assert deadline is not None
        return deadline

    def base(self, rule: Rule) -> int | None:
        """For items the oldest that is there, else the moment as it was last."""
        if rule.since is Since.STORED and rule.scope in PARTS:
            return min(self.items[rule.scope], default=None)
        return self.moments.get(rule.since)

    def deadline(self, rule: Rule) -> int | None:
        """When an expiry is to happen, as things are."""
        base = self.moments.get(rule.since)
        if base is None:
            return None
        after = rule.after // MINUTE
        again = 0 if self.recovered is None else self.recovered + after
        return max(base + after, again, self.extended)

    def warns_now(self, warning: Rule) -> bool:
        expiries = [rule for rule in self.rules() if rule.do is Do.EXPIRE]
        own = [
            (deadline, rule.after)
            for rule in expiries
            if rule.since is warning.since and (deadline := self.deadline(rule)) is not None
        ]
        if not own:
            return False
        deadline, after = min(own)
        fixed = [
            other
            for rule in expiries
            if rule.since not in (warning.since, Since.LAST_SEEN)
            and (other := self.deadline(rule)) is not None
        ]
        instant = deadline - (after - warning.after) // MINUTE
        change = self.next_change()
        return (
            self.warned < instant <= self.now < deadline
            and all(deadline <= max(other, self.since_version()) for other in fixed)
            and (change is None or deadline < change)
        )

    def since_version(self) -> int:
        return max(
            self.minute(v.effective_from)
            for v in self.versions
            if self.minute(v.effective_from) <= self.now
        )

    def next_change(self) -> int | None:
        return min(
            (m for v in self.versions if (m := self.minute(v.effective_from)) > self.now),
            default=None,
        )

    def stands_hold(self) -> bool:
        if self.held is None:
            return False
        since, until = self.held
        return since <= self.now and (until is None or self.now < until)

    def carry_out(self, rule: Rule) -> None:
        match rule.do:
            case Do.WARN:
                self.tell("Expiring", rule)
                self.warned = self.now
            case Do.EXPIRE:
                self.tell("Expired", rule)
                self.moments[Since.EXPIRED] = self.now
            case Do.COMPRESS:
                self.tell("Compressed", rule)
                self.compressed = True
            case Do.SUMMARIZE if Since.EXPIRED in self.moments:
                self.tell("Erased", rule, Scope.FULL)
                self.empty(Scope.FULL)
            case Do.SUMMARIZE:
                self.tell("Summarized", rule)
                self.summarized = True
                self.empty(Scope.FULL)
            case Do.ERASE:
                self.tell("Erased", rule, rule.scope)
                self.erase(rule)

    def erase(self, rule: Rule) -> None:
        scope = rule.scope or Scope.EVERYTHING
        if rule.since is Since.STORED and scope in PARTS:
            newest = self.moments[Since.STORED]
            if newest + rule.after // MINUTE > self.now:  # some of it has not had its time
                for part in PARTS if scope is Scope.FULL else (scope,):
                    self.items[part] = [newest] if self.items[part] else []
                return
        self.empty(scope)

    def empty(self, scope: Scope) -> None:
        emptied = PARTS if scope is Scope.FULL else (scope,)
        self.gone.update(emptied)
        for part in emptied:
            self.items[part] = []
        if scope is Scope.FULL:
            self.moments[Since.SUMMARIZED] = self.now

    def tell(self, kind: str, rule: Rule | None = None, scope: Scope | None = None) -> None:
        self.told.append((kind, self.now, f"{rule.name if rule else ''} {scope or ''}"))

    # -- what people do

    def do(self, deed: Deed) -> None:
        expired = self.moments.get(Since.EXPIRED)
        if Scope.EVERYTHING in self.gone:
            return
        match deed.what:
            case "recovered" if expired is not None:
                version = [v for v in self.versions if self.minute(v.effective_from) <= self.now]
                if self.now < expired + max(v.policy.recover for v in version) // MINUTE:
                    self.tell("Recovered")
                    self.recovered = self.now
                    del self.moments[Since.EXPIRED]
                    self.present(sampled=True)
            case "held":
                if not self.stands_hold():
                    self.tell("Held")
                    self.held = (self.now, None if deed.span is None else self.now + deed.span)
            case "released" if self.held is not None:
                self.tell("Released")
                self.held = None
            case _ if expired is None:
                self.do_alive(deed)

    def do_alive(self, deed: Deed) -> None:
        ended = {Since.COMPLETED, Since.FAILED} & self.moments.keys()
        match deed.what:
            case "seen":
                self.present(sampled=False)
            case "sampled" if self.now > self.sampled:
                self.tell("Seen")
                self.present(sampled=True)
            case "joined":
                self.tell("Joined")
                self.present(sampled=True)
            case "left":
                self.tell("Left")
                self.present(sampled=True)
            case "stored" if not ended and Scope.FULL not in self.gone:
                self.tell("Stored")
                self.moments[Since.STORED] = self.now
                self.gone -= set(PARTS)
                for part in PARTS:
                    self.items[part].append(self.now)
            case "completed" if not ended:
                self.tell("Completed")
                self.moments[Since.COMPLETED] = self.now
            case "failed" if not ended:
                self.tell("Failed")
                self.moments[Since.FAILED] = self.now
            case "extended" if deed.span is not None and self.now + deed.span > self.extended:
                self.tell("Extended")
                self.extended = self.now + deed.span
                self.warned = self.now
            case "evicted":
                self.told.append(("Expired", self.now, "limit "))
                self.moments[Since.EXPIRED] = self.now
                self.sampled = self.moments[Since.LAST_SEEN]

    def present(self, *, sampled: bool) -> None:
        self.moments[Since.LAST_SEEN] = self.now
        if sampled:
            self.sampled = self.now


def run(versions: Versions, done: Sequence[Deed]) -> list[Told]:
    """Everything that happens in such a life, minute by minute."""
    clockwork = Clockwork(versions)
    for clockwork.now in range((done[-1].at if done else 0) + AFTER + 1):
        clockwork.tick()
        for deed in done:
            if deed.at == clockwork.now:
                clockwork.do(deed)
                clockwork.tick()
    return clockwork.told
