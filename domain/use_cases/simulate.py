"""What-if: run real records through policies without any store, and count what would happen.

The simulation is an import (`use_cases/ingest.py`) into a log that keeps nothing but the sessions
alive; what is here only watches it. So a simulation cannot disagree with what an import then does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from domain.policy import HOUR, MINUTE, SECOND
from domain.ports import Append
from domain.session import Created, Erased, Event, Expired, Recovered, Scope, Summarized, Tier

MOST_STEPS = 50_000
"""Points a series keeps; beyond it looks a coarser grid, so that memory stays bounded."""
# No coarser than hours: a century has fewer of them than a million.
_GRIDS = (SECOND, MINUTE, HOUR)


class Series:
    """A number over time, kept as its changes on a grid that coarsens as it grows."""

    def __init__(self) -> None:
        self._grid = 0
        self._changes: dict[int, int] = {}

    def change(self, at: int, by: int) -> None:
        """`by` more (or less) from `at` on, microseconds."""
        slot = at // _GRIDS[self._grid]
        self._changes[slot] = self._changes.get(slot, 0) + by
        if len(self._changes) > MOST_STEPS and self._grid + 1 < len(_GRIDS):
            self._coarsen()

    def _coarsen(self) -> None:
        ratio = _GRIDS[self._grid + 1] // _GRIDS[self._grid]
        self._grid += 1
        coarse: dict[int, int] = {}
        for slot, by in self._changes.items():
            coarse[slot // ratio] = coarse.get(slot // ratio, 0) + by
        self._changes = coarse

    def levels(self) -> list[tuple[int, int]]:
        """(when, the number from then on), ascending."""
        level, levels = 0, []
        for slot in sorted(self._changes):
            level += self._changes[slot]
            levels.append((slot * _GRIDS[self._grid], level))
        return levels

    def counts(self) -> list[tuple[int, int]]:
        """(when, how many happened then), ascending."""
        grid = _GRIDS[self._grid]
        return [(slot * grid, self._changes[slot]) for slot in sorted(self._changes)]

    @property
    def peak(self) -> int:
        return max((level for _, level in self.levels()), default=0)


@dataclass
class Simulation:
    """What one policy did. `observe` and `on_record` are told what happens; the rest is counted.

    expiries, erasures: rule -> sessions. active: live sessions. kept: records per tier.
    """

    policy: str
    sessions: int = 0
    expiries: dict[str, int] = field(default_factory=dict)
    erasures: dict[str, int] = field(default_factory=dict)
    active: Series = field(default_factory=Series)
    expired: Series = field(default_factory=Series)
    kept: Mapping[Tier, Series] = field(
        default_factory=lambda: {Tier.FULL: Series(), Tier.SUMMARY: Series()}
    )
    _records: dict[str, int] = field(default_factory=dict)
    _tiers: dict[str, Tier] = field(default_factory=dict)
    _live: set[str] = field(default_factory=set)

    def on_record(self, session_id: str, at: int) -> None:
        """A record is about to become part of a session."""
        self._records[session_id] = self._records.get(session_id, 0) + 1
        self.kept[self._tiers.setdefault(session_id, Tier.FULL)].change(at, 1)

    def observe(self, appends: Sequence[Append]) -> None:
        """What was written."""
        for append in appends:
            for event in append.events:
                self._count(event)

    def _count(self, event: Event) -> None:
        at, session_id = event.effective_at, event.originator_id
        match event:
            case Created():
                self.sessions += 1
                self.active.change(at, 1)
                self._live.add(session_id)
            case Recovered():
                self._live.add(session_id)
                self.active.change(at, 1)
            case Expired():
                self._end(session_id, at)
                self.expired.change(at, 1)
                self.expiries[event.rule] = self.expiries.get(event.rule, 0) + 1
            case Summarized():
                self._move(session_id, at, Tier.SUMMARY)
            case Erased(scope=Scope.EVERYTHING):
                self._end(session_id, at)
                self.erasures[event.rule] = self.erasures.get(event.rule, 0) + 1
                self._move(session_id, at, Tier.NOTHING)
            case _:
                pass

    def _end(self, session_id: str, at: int) -> None:
        if session_id in self._live:
            self._live.remove(session_id)
            self.active.change(at, -1)

    def _move(self, session_id: str, at: int, tier: Tier) -> None:
        records = self._records.pop(session_id, 0)
        self.kept[self._tiers.pop(session_id, Tier.FULL)].change(at, -records)
        if tier is Tier.NOTHING:
            return
        # A summary is one record, whatever it sums up.
        self._records[session_id] = 1
        self._tiers[session_id] = tier
        self.kept[tier].change(at, 1)


def per_hour(points: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Counts summed into hours: (start of the hour, count), ascending, empty hours left out."""
    hours: dict[int, int] = {}
    for at, count in points:
        hours[at // HOUR] = hours.get(at // HOUR, 0) + count
    return [(hour * HOUR, hours[hour]) for hour in sorted(hours)]
