"""What answers to auditors hold."""

from typing import Any

from pydantic import Field

from adapters.http.models import Answer


class CountsView(Answer):
    """How many sessions there were, those that are erased included."""

    sessions: int
    phases: dict[str, int] = Field(examples=[{"active": 3, "expired": 1, "erased": 12}])
    tiers: dict[str, int] = Field(examples=[{"full": 3, "summary": 1, "nothing": 12}])
    held: int
    stored_bytes: int


class ReplayView(Answer):
    """What was known, or so, at a time: of one session (`session`, `position`, `state`), or counts
    of all (the others)."""

    until: str | None
    by: str = Field(examples=["recorded"])
    session: str | None = None
    position: int | None = None
    state: dict[str, Any] | None = None
    head: int | None = None
    events: int | None = None
    pruned: int | None = Field(None, description="Positions whose event is gone: not counted.")
    total: CountsView | None = None
    policies: dict[str, CountsView] | None = None


class StepView(Answer):
    """One step of the computation of a deadline. `at`: the deadline after it."""

    because: str = Field(examples=["since"])
    at: str | None
    position: int | None = Field(description="Of the event it follows from; null: of none.")
    text: str = Field(examples=["it counts from last_seen"])


class EndingView(Answer):
    """Something was taken away: when, why, who did it."""

    position: int
    event: str = Field(examples=["session.expired"])
    scope: str | None
    effective_at: str | None
    recorded_at: str | None
    late_seconds: float
    actor: str
    by: str = Field(examples=["rule"])
    rule: dict[str, Any] | None
    policy_version: int | None
    bytes_freed: int
    steps: list[StepView]
    due_at: str | None
    agrees: bool = Field(description="Whether the computation comes to what was carried out.")


class WhyView(Answer):
    """Why things were taken away from a session."""

    session: str
    policy: str
    endings: list[EndingView]
    versions: list[dict[str, Any]]


class SweptView(Answer):
    """due = done + held + rearmed + failed."""

    batches: int
    due: int
    done: int
    held: int
    rearmed: int
    failed: int
    events: int


class SweptHour(SweptView):
    """What sweeps reported in an hour."""

    hour: str | None
    adds_up: bool


class CompletenessView(Answer):
    """Whether all was done that was due in a period of whole hours."""

    since: str | None
    until: str | None
    ok: bool
    adds_up: bool
    swept: SweptView
    hours: list[SweptHour]
    recorded: dict[str, int]
    done: list[dict[str, Any]]
    asked_at: str | None
    overdue: list[dict[str, Any]]
    next: str | None


class PolicyHistoryView(Answer):
    """The versions of one policy: from when, by whom, and what each changed."""

    policy: str
    versions: list[dict[str, Any]]


class PolicyHistories(Answer):
    """The same of several policies."""

    policies: list[PolicyHistoryView]
