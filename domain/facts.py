"""Facts of the log that are about no single session: requests of people, keys, restored databases.

They stand in the same log, in the same order and under the same proofs as the events of sessions.
Like those they carry no personal data: random ids, counts and closed enums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


@dataclass(frozen=True)
class Fact:
    """A fact about the installation.

    originator_id, originator_version: the stream it belongs to, such as a request, and its number
    there, from 1. effective_at: when it happened. policy: empty, unless it is about one. actor: as
    in `domain.session.Event`. ENUMS: which fields are closed enums.
    """

    TOPIC: ClassVar[str]
    ENUMS: ClassVar[Mapping[str, type[StrEnum]]] = {}

    originator_id: str
    originator_version: int
    effective_at: int
    policy: str
    actor: str


@dataclass(frozen=True)
class Pruned(Fact):
    """In the place of an event whose body was pruned: its hash, and nothing of what happened.

    It is never written: the log answers with it, so that nobody takes a hole for the end.
    effective_at: when it was pruned.
    """

    TOPIC: ClassVar[str] = "log.pruned.v1"

    leaf: bytes


FACTS: tuple[type[Fact], ...] = ()
"""All kinds there are."""
