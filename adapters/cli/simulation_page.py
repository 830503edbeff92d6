"""The outcome of a simulation, for programs (JSON) and people (one self-contained HTML page)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.clock import format_instant
from adapters.importers.driver import Report
from domain.session import Tier
from domain.use_cases.simulate import Simulation, per_hour, thinned

POINTS = 240
"""Points of a drawn line: more than a screen shows side by side."""


@dataclass(frozen=True)
class Outcome:
    """What one policy did. Lines are (when in microseconds, number), ascending.

    active: live sessions. expired: expiries per hour. kept: records kept, per tier.
    """

    policy: str
    sessions: int
    participants: int
    refused: int
    peak_active: int
    expiries: Mapping[str, int]
    erasures: Mapping[str, int]
    active: Sequence[tuple[int, int]]
    expired: Sequence[tuple[int, int]]
    kept: Mapping[Tier, Sequence[tuple[int, int]]]

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "sessions": self.sessions,
            "participants": self.participants,
            "refused": self.refused,
            "peak_active": self.peak_active,
            "expiries": dict(self.expiries),
            "erasures": dict(self.erasures),
            "active": _points(self.active),
            "expired_per_hour": _points(self.expired),
            "records_kept": {str(tier): _points(line) for tier, line in self.kept.items() if line},
        }


def outcome(simulation: Simulation, report: Report) -> Outcome:
    """The figures of one policy after its run."""
    return Outcome(
        policy=simulation.policy,
        sessions=simulation.sessions,
        participants=report.participants,
        refused=report.refused,
        peak_active=simulation.active.peak,
        expiries=simulation.expiries,
        erasures=simulation.erasures,
        active=thinned(simulation.active.levels(), POINTS),
        expired=per_hour(simulation.expired.counts()),
        kept={tier: thinned(series.levels(), POINTS) for tier, series in simulation.kept.items()},
    )


def _points(line: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    return [{"at": format_instant(at), "value": value} for at, value in line]


def page(outcomes: Sequence[Outcome]) -> str:
    """One HTML page with charts and tables, without scripts and without anything from elsewhere.

    Its own content security policy holds it to that: of all resources, only the one style that
    stands in it is allowed, by its hash.
    """
    style = _style(outcomes)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _PAGE.format(
        digest=digest,
        style=Markup(style),
        lead=_lead(outcomes),
        figures=_figures(outcomes),
        charts=Markup("").join(
            draw(outcomes, *_panels_size(outcomes)) for draw in (_active, _expired, _kept)
        ),
        rules=_rules(outcomes),
    )
