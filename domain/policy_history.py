"""The versions of a policy as an auditor reads them: from when, by whom, and what each changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.policy import Applied
from domain.ports import Recorded


@dataclass(frozen=True)
class Change:
    """A value that a version changed. path: such as `rules.expire-last_seen.after`. before, after:
    None where there was, or is, no such value."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True)
class VersionEntry:
    """One version as it entered the log. superseded: it never held, since a later one took its
    place before it took effect. changes: against the version before; () for the first."""

    recorded: Recorded
    applied: Applied
    superseded: bool
    changes: tuple[Change, ...]


def version_entries(history: Sequence[Recorded]) -> tuple[VersionEntry, ...]:
    """All versions of one policy, the oldest first. history: its stream in the log."""
    found: list[tuple[Recorded, Applied]] = [
        (one, one.event) for one in history if isinstance(one.event, Applied)
    ]
    entries, before = [], None
    for index, (recorded, applied) in enumerate(found):
        later = (one.effective_at for _, one in found[index + 1 :])
        superseded = any(at <= applied.effective_at for at in later)
        changed = tuple(changes(before, applied.document)) if before is not None else ()
        entries.append(VersionEntry(recorded, applied, superseded, changed))
        before = applied.document
    return tuple(entries)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Every value that differs, in order of path. Rules and variables go by their names."""
    old, new = dict(_values("", before)), dict(_values("", after))
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            yield Change(path, old.get(path), new.get(path))


def _values(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        named = value.items()
    elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        named = [(_name(one, number), one) for number, one in enumerate(value)]  # type: ignore[assignment]
    else:
        yield path, value
        return
    for name, inner in named:
        yield from _values(f"{path}.{name}" if path else str(name), inner)


def _name(one: Mapping[str, Any], number: int) -> str:
    return str(one.get("name", number))
