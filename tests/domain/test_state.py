"""What a session has become after its events, and histories that cannot be."""

import re
from dataclasses import replace
from typing import Any

import pytest
from eventsourcing.domain import DomainEventProtocol, ImmutableAggregateProtocol

from domain.session import (
    EVENTS,
    SCHEDULER,
    TOPICS,
    Compressed,
    Created,
    Erased,
    Event,
    Expired,
    Failed,
    Failure,
    Ground,
    Held,
    Hold,
    Joined,
    Left,
    Phase,
    Scope,
    Seen,
    Session,
    Stored,
    Summarized,
    Tier,
    evolve,
    project,
)

HEAD: tuple[str, str] = ("p", SCHEDULER)


def history(*events: tuple[type[Event], int, dict[str, Any]]) -> list[Event]:
    """Events of one session in order: kind, instant, and the fields of the kind."""
    return [
        kind("s", version, at, *HEAD, **fields)
        for version, (kind, at, fields) in enumerate(events, start=1)
    ]


def told(*events: tuple[type[Event], int, dict[str, Any]]) -> Session:
    """The session that such a history leads to."""
    session = project(None, history((Created, 100, {"policy_version": 1}), *events))
    assert session is not None
    return session


RULE: dict[str, Any] = {"rule": "r", "policy_version": 1}


class TestTopics:
    """How events are called in the log."""

    def test_each_event_has_a_versioned_topic_of_its_own(self) -> None:
        """Stored bytes never name a module or class."""
        assert len(TOPICS) == len(EVENTS)
        for topic, kind in TOPICS.items():
            assert re.fullmatch(rf"session\.{kind.__name__.lower()}\.v[1-9]", topic)

    def test_the_library_accepts_them(self) -> None:
        """Events and session satisfy the protocols of `eventsourcing` (checked by mypy as well)."""
        event: DomainEventProtocol[str] = history((Created, 100, {"policy_version": 1}))[0]
        session: ImmutableAggregateProtocol[str] = evolve(None, Created("s", 1, 100, *HEAD, 1))
        assert (event.originator_id, event.originator_version) == ("s", 1)
        assert (session.id, session.version) == ("s", 1)


class TestHistories:
    """Folding events, and refusing those that cannot belong together."""

    def test_folding_is_the_same_at_once_and_step_by_step(self) -> None:
        """A snapshot in the middle changes nothing."""
        events = history(
            (Created, 100, {"policy_version": 1}),
            (Joined, 110, {"token": "a"}),
            (Seen, 120, {}),
            (Left, 130, {"token": "a"}),
        )
        for middle in range(1, len(events) + 1):
            assert project(project(None, events[:middle]), events[middle:]) == project(None, events)

    def test_no_events_no_session(self) -> None:
        """An empty history is no session."""
        assert project(None, []) is None

    def test_it_begins_with_created(self) -> None:
        """Anything else has lost its beginning."""
        with pytest.raises(ValueError, match="does not start with created"):
            evolve(None, Seen("s", 1, 100, *HEAD))

    @pytest.mark.parametrize("version", [1, 3])
    def test_versions_follow_each_other(self, version: int) -> None:
        """A gap or a repetition is an error, never skipped."""
        with pytest.raises(ValueError, match=f"jumps from 1 to {version}"):
            evolve(told(), Seen("s", version, 200, *HEAD))

    def test_it_begins_once(self) -> None:
        """A second beginning cannot follow."""
        with pytest.raises(ValueError, match="Created cannot follow"):
            evolve(told(), Created("s", 2, 200, *HEAD, 1))

    def test_states_compare_by_value(self) -> None:
        """Made by `of`, by `changed` or by the constructor, equal fields are equal sessions."""
        session = told((Seen, 150, {}))
        assert session == replace(session)
        assert session != session.changed(version=7)
        assert session.changed(version=7).last_seen_at == 150


class TestPhaseAndTier:
    """Where a session stands, and what is still kept."""

    @pytest.mark.parametrize(
        ("events", "phase"),
        [
            ([], Phase.ACTIVE),
            ([(Failed, 110, {"reason": Failure.ERROR})], Phase.FAILED),
            ([(Expired, 110, {**RULE, "last_seen": 100})], Phase.EXPIRED),
            (
                [
                    (Failed, 105, {"reason": Failure.ERROR}),
                    (Expired, 110, {**RULE, "last_seen": 100}),
                ],
                Phase.EXPIRED,
            ),
            ([(Erased, 110, {"scope": Scope.EVERYTHING, **RULE})], Phase.ERASED),
        ],
    )
    def test_phases(self, events: list[Any], phase: Phase) -> None:
        """The latest stage counts."""
        assert told(*events).phase is phase

    @pytest.mark.parametrize(
        ("events", "tier"),
        [
            ([], Tier.FULL),
            ([(Compressed, 110, RULE)], Tier.FULL),
            ([(Erased, 110, {"scope": Scope.CHUNKS, **RULE})], Tier.FULL),
            ([(Summarized, 110, RULE)], Tier.SUMMARY),
            ([(Erased, 110, {"scope": Scope.FULL, **RULE})], Tier.SUMMARY),
            (
                [(Summarized, 110, RULE), (Erased, 120, {"scope": Scope.SUMMARY, **RULE})],
                Tier.NOTHING,
            ),
            ([(Erased, 110, {"scope": Scope.EVERYTHING, **RULE})], Tier.NOTHING),
        ],
    )
    def test_tiers(self, events: list[Any], tier: Tier) -> None:
        """Full, summary, nothing."""
        assert told(*events).tier is tier


class TestFigures:
    """Counts and bytes."""

    def test_bytes_fall_with_what_is_freed(self) -> None:
        """Never below zero, even if more was freed than was known."""
        session = told(
            (Stored, 110, {"items": 2, "size": 1_000}),
            (Compressed, 120, {**RULE, "bytes_freed": 300}),
        )
        assert (session.items, session.size) == (2, 700)
        freed: dict[str, Any] = {"scope": Scope.CHUNKS, **RULE, "bytes_freed": 5_000}
        assert evolve(session, Erased("s", 4, 130, *HEAD, **freed)).size == 0
        summarized = evolve(session, Summarized("s", 4, 130, *HEAD, **RULE, bytes_freed=650))
        assert summarized.size == 50

    def test_presence_never_moves_back(self) -> None:
        """An event that is effective earlier than the last presence leaves it."""
        session = told((Seen, 150, {}), (Joined, 120, {"token": "a"}), (Left, 130, {"token": "a"}))
        assert session.last_seen_at == 150

    def test_an_expiry_keeps_the_presence_it_was_decided_on(self) -> None:
        """Presence of which the log has no sample enters with the expiry."""
        assert told((Expired, 400, {**RULE, "last_seen": 170})).last_seen_at == 170

    def test_what_an_erasure_leaves_counts_on(self) -> None:
        """Where the vault says when the oldest chunk that is left was stored, it counts."""
        session = told(
            (Stored, 110, {"items": 1, "size": 1}),
            (Stored, 120, {"items": 1, "size": 1}),
            (Stored, 130, {"items": 1, "size": 1}),
            (Erased, 140, {"scope": Scope.CHUNKS, **RULE, "oldest_left": 120}),
        )
        assert session.oldest_chunk_at == 120
        assert (session.oldest_item_at, session.oldest_file_at) == (110, 110)
        assert Scope.CHUNKS not in session.erased


class TestHolds:
    """Until when something is protected."""

    @pytest.mark.parametrize(
        ("holds", "at", "until"),
        [
            ((), 50, 50),
            ((Hold("a", 10, 40),), 50, 50),
            ((Hold("a", 10, 50),), 50, 50),
            ((Hold("a", 50, 60),), 50, 60),
            ((Hold("a", 51, 60),), 50, 50),
            ((Hold("a", 10, 60), Hold("b", 60, 70)), 50, 70),
            ((Hold("b", 60, 70), Hold("a", 10, 60)), 50, 70),
            ((Hold("a", 10, 60), Hold("b", 61, 70)), 50, 60),
            ((Hold("a", 10, 60), Hold("b", 20, 55)), 50, 60),
            ((Hold("a", 10, None),), 50, None),
            ((Hold("a", 10, 60), Hold("b", 55, None)), 50, None),
            ((Hold("a", 10, 60), Hold("b", 61, None)), 50, 60),
        ],
    )
    def test_held_until(self, holds: tuple[Hold, ...], at: int, until: int | None) -> None:
        """From its begin to its end, the end not included; holds that touch are one."""
        assert told().changed(holds=holds).held_until(at) == until

    def test_placed_again_it_stands_once(self) -> None:
        """The newer term of a hold replaces the one that ended."""
        again = {"hold": "a", "ground": Ground.LEGAL_CLAIM}
        session = told((Held, 110, {**again, "until": 120}), (Held, 130, {**again, "until": None}))
        assert session.holds == (Hold("a", 130, None),)
