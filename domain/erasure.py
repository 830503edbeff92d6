"""What a privacy officer does: requests of data subjects, and what an erasure reaches."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """What an erasure took, in ids that say nothing by themselves.

    sessions: erased whole. parts: (session, token) of people whose part went from sessions that go
    on. subjects: ids of people of whom nothing is left. keks: every key-encryption key there was
    when it was carried out; once none of them is left, no copy of the database opens what it took.
    """

    sessions: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()
    subjects: tuple[str, ...] = ()
    keks: tuple[str, ...] = ()
