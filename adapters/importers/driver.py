"""Drives imports: source -> parser -> `Ingest`, file after file, with one clock for all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import stamina

from adapters.background import repeating
from adapters.importers.formats import FORMATS, Parser, VisitorBy, read
from adapters.importers.source import Source, SourceError
from domain.errors import ClockHeld, SourceUnreadable
from domain.policy import SECOND, Versions
from domain.ports import Keyring, Log, Vault
from domain.records import Record, Rejected
from domain.use_cases.ingest import BATCH, REJECTS_LISTED, SWEPT, Ingest

LEASE = 60 * SECOND
"""How long an import that died keeps other sweepers waiting."""

Progress = Callable[[int, int | None, int], None]
"""(bytes read, size of the file or None, lines read)."""

OnReject = Callable[[int, int, str], None]
"""(number of the file, line, reason)."""


@dataclass(frozen=True)
class Job:
    """What to import and how. paths: files, `-` is standard input."""

    paths: Sequence[str]
    format: str
    visitor: VisitorBy


@dataclass
class Report:
    """What an import did, over all its files. rejects: (number of the file, line, reason)."""

    lines: int = 0
    rejected: int = 0
    refused: int = 0
    sessions: int = 0
    participants: int = 0
    swept: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SWEPT, 0))
    events: dict[str, int] = field(default_factory=dict)
    rejects: list[tuple[int, int, str]] = field(default_factory=list)
    last: int = 0
    broken: str | None = None


class ClockLease:
    """The clock, held as long as an import runs.

    wall: the wall clock in microseconds.
    """

    def __init__(self, log: Log, holder: str, wall: Callable[[], int]) -> None:
        self._log = log
        self._holder = holder
        self._wall = wall

    def take(self, patience: float, on_wait: Callable[[], None]) -> None:
        """Take the clock, waiting up to `patience` seconds for who holds it: an import that was
        killed holds it for up to LEASE more. on_wait: called once, before the first wait.

        Raises ClockHeld.
        """
        retrying = stamina.RetryingCaller(
            attempts=None, timeout=patience, wait_initial=1.0, wait_max=1.0, wait_jitter=0.0
        ).on(ClockHeld)
        try:
            self.renew()
        except ClockHeld:
            if patience <= 0:
                raise
            on_wait()
            retrying(self.renew)

    def renew(self) -> None:
        """Raises ClockHeld if another import holds it."""
        self._log.lease_clock(self._holder, self._wall() + LEASE)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Taken, and renewed in the background however slowly records come; given back at the end.

        Raises ClockHeld.
        """
        self.renew()
        with repeating("lease", self.renew, LEASE / SECOND / 3, at_end=self._release):
            yield

    def _release(self) -> None:
        """If it fails the lease runs out by itself."""
        self._log.release_clock(self._holder)


@dataclass(frozen=True)
class Target:
    """Where records go and under which policy.

    on_record: told (session, time) of each record. on_reject: told (number of the file, line,
    reason) of each rejected line.
    """

    log: Log
    vault: Vault
    keyring: Keyring
    policies: Callable[[], Mapping[str, Versions]]
    policy: str
    lease: ClockLease
    holder: str
    wall: int
    on_record: Callable[[str, int], None] | None = None
    on_reject: OnReject | None = None


def run(
    job: Job, targets: Sequence[Target], until: Callable[[int], int], progress: Progress
) -> list[Report]:
    """Import every file of the job into every target, then let the clock run on.

    until: from the greatest time read to where the clock runs. Raises SourceUnreadable for a file
    that cannot be opened; one that breaks off in the middle keeps what came before, and the report
    says so. Raises ClockHeld if another import holds the clock, or took it.
    """
    with ExitStack() as leases:
        for target in targets:
            leases.enter_context(target.lease.held())
        return _run(job, targets, until, progress)


def _run(
    job: Job, targets: Sequence[Target], until: Callable[[int], int], progress: Progress
) -> list[Report]:
    reports = [Report() for _ in targets]
    broken: str | None = None
    for number, path in enumerate(job.paths, start=1):
        with _open(path) as source:
            ingests = [
                _ingest(job, number, source, target, report.last)
                for target, report in zip(targets, reports, strict=True)
            ]
            unfinished: list[Rejected] = []
            try:
                _feed(job, source, ingests, progress, unfinished)
            except SourceError as error:
                broken = f"file {number} {error.reason}"
        last_file = number == len(job.paths) or broken is not None
        for target, ingest, report in zip(targets, ingests, reports, strict=True):
            if last_file:
                ingest.run_until(until(ingest.tally.now))
            _add(report, ingest, number)
            _add_unfinished(report, unfinished, number, target.on_reject)
            report.broken = broken
        if broken is not None:
            break
    return reports


def _feed(
    job: Job,
    source: Source,
    ingests: Sequence[Ingest],
    progress: Progress,
    unfinished: list[Rejected],
) -> None:
    """unfinished: gets the last line if it is left for the next import."""
    parser = FORMATS[job.format](job.visitor, source.name)
    done = min(ingest.tally.line for ingest in ingests)
    try:
        records = _finished(read(source, parser, done), source, unfinished)
        for batch in _batches(records):
            for ingest in ingests:
                ingest.feed(batch, batch[-1].line, parser.header_lines)
            progress(source.bytes_read, source.size, batch[-1].line)
    except SourceError:
        _note_rest(source.lines_read, parser, ingests)
        raise
    _note_rest(source.lines_read - len(unfinished), parser, ingests)


def _finished(
    records: Iterator[Record | Rejected], source: Source, unfinished: list[Rejected]
) -> Iterator[Record | Rejected]:
    """All but a last line that has no line feed and makes no sense.

    Whoever writes the file may be in the middle of it: what is no record yet is left unread, so
    that the next import reads it whole. One that is a record already is read, since many logs end
    without a line feed; the bookmark counts lines, so whatever is written behind it is skipped.
    """
    for record in records:
        if isinstance(record, Rejected) and record.line == source.unfinished:
            unfinished.append(record)
        else:
            yield record


def _note_rest(lines_read: int, parser: Parser, ingests: Sequence[Ingest]) -> None:
    """Lines at the end that say nothing (a blank one, a notice) are read all the same.

    Only where the source ended: after any other error the last batch may not be written, and its
    lines must be read again.
    """
    for ingest in ingests:
        if lines_read > ingest.tally.line:
            ingest.feed((), lines_read, parser.header_lines)


def _open(path: str) -> Source:
    try:
        return Source(path)
    except SourceError as error:
        raise SourceUnreadable(f"a file cannot be read: {error.reason}") from None


def _ingest(job: Job, number: int, source: Source, target: Target, now: int) -> Ingest:
    """The import of one file. Its bookmark is found again by the same command on the same file.

    The path is hashed with a key: it may name people.
    """
    path = job.paths[number - 1]
    absolute = path if path == "-" else str(Path(path).resolve())
    parts = (job.format, job.visitor, target.policy, absolute, source.fingerprint)
    return Ingest(
        target.log,
        target.vault,
        target.keyring,
        target.policies,
        target.policy,
        name=f"import:{target.keyring.lookup('import', chr(0).join(parts)).hex()[:32]}",
        holder=target.holder,
        wall=target.wall,
        now=now,
        on_record=target.on_record,
        on_reject=partial(target.on_reject, number) if target.on_reject else None,
    )


def _batches(
    records: Iterator[Record | Rejected], size: int = BATCH
) -> Iterator[Sequence[Record | Rejected]]:
    """Lists of at most `size`; what was read before the source breaks off comes first."""
    batch: list[Record | Rejected] = []
    try:
        for record in records:
            batch.append(record)
            if len(batch) == size:
                yield batch
                batch = []
    except SourceError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _add(report: Report, ingest: Ingest, number: int) -> None:
    tally = ingest.tally
    report.lines += tally.lines
    report.rejected += tally.rejected
    report.refused += tally.refused
    report.sessions += tally.sessions
    report.participants += tally.participants
    for name, count in tally.swept.items():
        report.swept[name] += count
    for name, count in tally.events.items():
        report.events[name] = report.events.get(name, 0) + count
    report.rejects += [(number, line, reason) for line, reason in tally.rejects]
    report.last = max(report.last, tally.now)


def _add_unfinished(
    report: Report, unfinished: Sequence[Rejected], number: int, on_reject: OnReject | None
) -> None:
    """An unfinished line is reported like any other that makes no sense, as often as it is met."""
    for rejected in unfinished:
        report.lines += 1
        report.rejected += 1
        if len(report.rejects) < REJECTS_LISTED:
            report.rejects.append((number, rejected.line, str(rejected.reason)))
        if on_reject is not None:
            on_reject(number, rejected.line, str(rejected.reason))
