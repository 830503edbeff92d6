"""The only file that puts things together: settings in, a running Lapse out."""

import gc
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adapters.archive import zipped
from adapters.evidence import Evidence, open_evidence
from adapters.keyring.clock_guard import ClockGuard
from adapters.keyring.escrow import Escrow
from adapters.keyring.keyring import Keyring
from adapters.keyring.moving import begin as begin_generations
from adapters.keyring.opening import open_keyring, open_signers, store_of
from adapters.keyring.rotation import Rotation
from adapters.keyring.signing import CHECKPOINTS, Signers, origin, public_keys
from adapters.ledger.opening import open_ledger
from adapters.log.checkpoint import Checkpoints, keep_last, published_reach
from adapters.log.engine import Engines, open_engines, parse_url
from adapters.log.event_log import SqlLog
from adapters.log.migrate import Schema, require_current, schema_of
from adapters.log.note import VerifierKey
from adapters.log.pruning import Pruning
from adapters.log.remembering import Remembering
from adapters.log.tree import Tree
from adapters.log.verify import Verifier
from adapters.log.witness import Witness, parse_witness
from adapters.notify.alerts import Alerts
from adapters.presets import PRESETS, preset_text
from adapters.projector import Projector
from adapters.restoring import Restoring
from adapters.settings import Settings, environment
from adapters.vault.copies import SqlCopies, SqlHoldings
from adapters.vault.lookups import SubjectLookups
from adapters.vault.maintenance import Maintenance, Verification
from adapters.vault.portable import Portable
from adapters.vault.requests import SqlHolds, SqlRequests
from adapters.vault.rows import SqlVault
from adapters.vault.scan import SqlScanner
from adapters.vault.summaries import AggregateSummaries, check_aggregates
from adapters.vault.waiting import WaitingFor, waiting_for
from domain.errors import (
    CorruptEvent,
    PolicyInvalid,
    Problem,
    SchemaTooOld,
    SettingsInvalid,
    StoreError,
)
from domain.policy import RetentionPolicy, parse, parse_duration
from domain.ports import RequestRow
from domain.use_cases.access import Access, Contents
from domain.use_cases.erase import pruned_before
from domain.use_cases.erasure_requests import ErasureRequests
from domain.use_cases.holds import Holds
from domain.use_cases.items import Items
from domain.use_cases.policies import PolicyBook, apply_configured, rearm_changed
from domain.use_cases.restore import repeat_for_people
from domain.use_cases.sessions import Sessions
from projections.catalogue import PROJECTIONS

OPERATOR = "operator"
"""The actor of what somebody does at the command line."""


@dataclass(frozen=True)
class Lapse:
    """Everything one process works with. clock: microseconds since the epoch. restoring: whether
    the database was restored, and what follows from it."""

    settings: Settings
    engines: Engines
    log: SqlLog
    vault: SqlVault
    keyring: Keyring
    policies: PolicyBook
    sessions: Sessions
    items: Items
    holds: Holds
    projector: Projector
    alerts: Alerts
    restoring: Restoring
    holder: str
    tree: Tree
    evidence: Evidence | None

    def pruning(self) -> Pruning:
        """What takes the bodies of events whose time is over."""
        return Pruning(self.engines, lambda now: pruned_before(self.policies.known, now))

    @cached_property
    def signers(self) -> Signers:
        """What this installation signs with. Raises KeyUnavailable."""
        return open_signers(self.engines, self.keyring)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Makes and keeps checkpoints. Raises SettingsInvalid."""
        return Checkpoints(
            self.engines,
            self.tree,
            store_of(self.engines),
            lambda: self.signers.checkpoints,
            every=parse_duration(self.settings.checkpoint_every),
            evidence=self.evidence,
            witnesses=self._witnesses(),
            alerts=self.alerts,
        )

    def verifier(self, key: VerifierKey | None = None) -> Verifier:
        """Compares the log with what was signed. key: that somebody kept; by default the one of
        this installation. Raises KeyUnavailable if the key store holds another."""
        store = store_of(self.engines)
        if key is None and public_keys(self.engines):
            key = self.signers.checkpoints.verifier_key()
        return Verifier(
            self.engines,
            self.checkpoints,
            store,
            key or VerifierKey(origin(store, 1), bytes(32)),  # nothing was ever signed
            self.evidence,
            self._witnesses(),
        )

    def _witnesses(self) -> Sequence[Witness]:
        return [parse_witness(one) for one in self.settings.witnesses]

    def clock(self) -> int:
        return self.settings.make_clock()()

    def restore(self, keep_on: Callable[[], bool] = lambda: True) -> None:
        """Do again what a restored database has forgotten, then record what is configured.

        keep_on: asked between two steps. Raises LedgerTooShort, StoreError, KeyUnavailable.
        """
        self.restoring.run(keep_on)
        if not self.restoring.is_pending:
            self.record_configured(configured_policies(self.settings))

    def record_configured(self, policies: Sequence[RetentionPolicy]) -> None:
        """Policies whose configuration changed are in force from now on."""
        apply_configured(self.log, policies, self.clock(), OPERATOR)
        rearm_changed(self.log, self.policies.refresh(), self.clock())

    def rotation(self) -> Rotation:
        """What rotates the keys of this database. The clock of a test is set by hand: it is
        believed."""
        window = parse_duration(self.settings.restore_window)
        guarded = self.settings.clock is None
        return Rotation(
            self.engines,
            self.keyring,
            self.clock,
            self.holder,
            every=parse_duration(self.settings.key_rotation),
            restore_window=window,
            wake=self.log.wakeups.notify,
            guard=ClockGuard(self.engines, self.clock, window // 4, self.alerts)
            if guarded
            else None,
        )

    def access(self) -> Access:
        """What gives people a copy of what is held about them."""
        portable = Portable(
            SqlHoldings(self.engines, self.log.lookups),
            self.log,
            self.vault,
            self.keyring,
            self.sessions,
            self.policies,
            AggregateSummaries(),
        )
        return Access(
            SqlCopies(self.engines, self.log.wakeups.notify),
            self.vault,
            self.keyring,
            Contents(portable.sessions, portable.entries, zipped),
            term=parse_duration(self.settings.copy_term),
        )

    @cached_property
    def maintenance(self) -> Maintenance:
        """What cleans the database up physically."""
        return Maintenance(
            self.engines,
            self.rotation().renew_table,
            self.clock,
            self.holder,
            every=parse_duration(self.settings.physical_cleanup),
        )

    @cached_property
    def verification(self) -> Verification:
        """What says whether an erasure is verified."""
        return Verification(SqlScanner(self.engines, self.keyring.kept), self.maintenance)

    @cached_property
    def requests(self) -> ErasureRequests:
        """What people ask to have erased."""
        return _requests(
            self.engines, self.log, self.keyring, self.policies, verifier=self.verification
        )

    def waiting_for(self, rows: Sequence[RequestRow]) -> Sequence[WaitingFor | None]:
        """What requests for erasure wait for now, in their order. Raises StoreError."""
        now, last = self.clock(), self.maintenance.last()
        return [waiting_for(row, self.verification, now, last) for row in rows]


@contextmanager
def open_database(settings: Settings) -> Iterator[Engines]:
    """The database alone, whatever its schema: for `lapse db`."""
    engines = open_engines(
        settings.database_url, pool_size=settings.pool_size, lock_timeout=settings.lock_timeout
    )
    try:
        yield engines
    finally:
        engines.close()


@contextmanager
def open_lapse(
    settings: Settings,
    *,
    create: bool = True,
    applying: Sequence[RetentionPolicy] = (),
    restore: bool = True,
) -> Iterator[Lapse]:
    """Open database, keyring and policies.

    create: an empty database becomes one of Lapse, and policies whose configuration changed are
    recorded. Without, this only looks: the environment of somebody who asks changes nothing.
    applying: policies that the caller is about to apply, from when it says; where the same are
    configured, recording them first would put them in force at once. restore: what a restored
    database has forgotten is done again before this yields; without, the caller does so with
    `Lapse.restore` before anything else.

    Raises a LapseError that says what is wrong before anything is written.
    """
    settings.make_clock()()
    policies = configured_policies(settings)
    database = database_file(settings)
    if database is not None and create:
        make_folder(database.parent)
    elif not create:
        require_database(settings)
    with open_database(settings) as engines, ExitStack() as parts:
        require_current(engines, create=create)
        lapse = _joined(settings, engines, database, parts)
        if create:
            lapse.keyring.keks.keep_escrow()
            _ = lapse.signers  # made, or refused, before anything is written
            begin_generations(engines, lapse.keyring.keks)
        if create and restore:
            lapse.restoring.run()
            lapse.record_configured([one for one in policies if one not in applying])
        elif create:
            lapse.restoring.is_needed()
        lapse.policies.refresh()
        yield lapse
        if create:
            lapse.restoring.close()
            _bring_tree_up(lapse)


def _joined(settings: Settings, engines: Engines, database: Path | None, parts: ExitStack) -> Lapse:
    """Everything over a database whose schema is current. parts: close what must be closed."""
    clock, alerts = settings.make_clock(), Alerts()
    keyring = parts.enter_context(
        closing(
            open_keyring(engines, settings.key_store, database, clock(), _escrow(settings, alerts))
        )
    )
    ledger = Remembering(
        open_ledger(settings.ledger, store_of(engines), database),
        lambda well: alerts.end("ledger") if well else alerts.begin("ledger"),
    )
    lookups = SubjectLookups(engines, keyring.keks)
    log = SqlLog(engines, clock, keyring.forget_subjects, ledger, lookups)
    parts.enter_context(closing(log))
    book, vault = PolicyBook(log), SqlVault(engines, lookups)
    evidence, tree = _evidence(settings, database), Tree(engines)
    sessions = Sessions(log, vault, keyring, book)
    return Lapse(
        settings=settings,
        engines=engines,
        log=log,
        vault=vault,
        keyring=keyring,
        policies=book,
        sessions=sessions,
        items=Items(vault, keyring, book, sessions, AggregateSummaries()),
        holds=_holds(engines, log, keyring, book),
        projector=Projector(engines, log, PROJECTIONS, clock),
        alerts=alerts,
        restoring=_restoring(engines, keyring, ledger, clock, evidence, tree),
        holder=f"{os.getpid()}-{secrets.token_hex(4)}",
        tree=tree,
        evidence=evidence,
    )


def _restoring(
    engines: Engines,
    keyring: Keyring,
    ledger: Remembering,
    clock: Callable[[], int],
    evidence: Evidence | None,
    tree: Tree,
) -> Restoring:
    """What is done again for people goes through a log that writes nothing into the ledger: the one
    that it is told."""
    store = store_of(engines)

    def signed_by() -> bytes | None:
        return public_keys(engines).get(CHECKPOINTS)

    return Restoring(
        engines,
        ledger,
        keyring.keks,
        clock,
        lambda log, book, entry: repeat_for_people(
            _requests(engines, log, keyring, book), _holds(engines, log, keyring, book), entry
        ),
        evidence=lambda: published_reach(evidence, store, signed_by()),
        erased=keyring.forget_subjects,
        on_epoch=lambda connection, epoch: tree.open_epoch(
            connection, epoch, keep_last(connection, evidence, store, signed_by(), clock())
        ),
    )


def _requests(
    engines: Engines,
    log: SqlLog,
    keyring: Keyring,
    policies: PolicyBook,
    verifier: Verification | None = None,
) -> ErasureRequests:
    vault = SqlVault(engines, log.lookups)
    return ErasureRequests(
        SqlRequests(engines, log),
        Sessions(log, vault, keyring, policies),
        log,
        vault,
        keyring,
        policies,
        AggregateSummaries(),
        keks=lambda: living_keks(keyring),
        verifier=verifier,
    )


def _holds(engines: Engines, log: SqlLog, keyring: Keyring, policies: PolicyBook) -> Holds:
    sessions = Sessions(log, SqlVault(engines, log.lookups), keyring, policies)
    return Holds(SqlHolds(engines, log), SqlRequests(engines, log), sessions, keyring)


def _bring_tree_up(lapse: Lapse) -> None:
    """What this process wrote is in the tree when it ends. What stands in the way is found by
    whoever needs the tree: it is no failure of what was written."""
    with suppress(StoreError, CorruptEvent):
        lapse.tree.follow()


def _escrow(settings: Settings, alerts: Alerts) -> Escrow | None:
    """Raises SettingsInvalid."""
    folder = settings.key_escrow
    if folder is None:
        return None
    return Escrow(folder, lambda well: alerts.end("escrow") if well else alerts.begin("escrow"))


def _evidence(settings: Settings, database: Path | None) -> Evidence | None:
    """Raises SettingsInvalid."""
    if settings.evidence_url is None:
        return None
    return open_evidence(settings.evidence_url, database)


def living_keks(keyring: Keyring) -> Sequence[str]:
    """Ids of all key-encryption keys there are now, whoever made or destroyed one."""
    keyring.keks.look_again()
    return [kek.id for kek in keyring.keks.keks()]


def settle_memory() -> None:
    """Once per process, after everything is imported and before work begins.

    A batch makes some ten thousand short-lived objects; with Python's own thresholds the collector
    walks all that was ever imported every few batches, a quarter of the time of a sweep. What is
    imported is never garbage, so it is set aside, and young objects are looked at less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def has_database(settings: Settings) -> bool:
    """Whether there is a database of Lapse yet; makes none."""
    file = database_file(settings)
    if file is not None and not file.exists():
        return False
    with open_database(settings) as engines:
        return schema_of(engines) is not Schema.ABSENT


def require_database(settings: Settings) -> None:
    """Refuse to go on without a database. Raises SchemaTooOld."""
    if not has_database(settings):
        raise SchemaTooOld(
            "there is no database here yet: is LAPSE_DATABASE_URL (or --db) the right one? If so, "
            "`lapse db upgrade` makes it, and so do `lapse ingest` and `lapse serve`"
        )


def configured_policies(settings: Settings) -> Sequence[RetentionPolicy]:
    """The presets and the policies of LAPSE_POLICY_FILE, environment variables applied.

    Raises PolicyInvalid with every error of every file.
    """
    variables = environment()
    found: dict[str, RetentionPolicy] = {}
    problems: list[Problem] = []
    for name in PRESETS:
        try:
            found.update(parse(preset_text(name), variables))
        except PolicyInvalid as error:
            problems += error.problems
    try:
        found.update(_policies_of_file(settings, variables))
    except PolicyInvalid as error:
        problems += error.problems
    if problems:
        raise PolicyInvalid(problems)
    check_aggregates(found.values())
    return list(found.values())


def _policies_of_file(
    settings: Settings, variables: Mapping[str, str]
) -> Mapping[str, RetentionPolicy]:
    """The policies of LAPSE_POLICY_FILE. Raises SettingsInvalid and PolicyInvalid that name it."""
    if settings.policy_file is None:
        return {}
    try:
        return parse(read_policy_file(settings.policy_file), variables)
    except SettingsInvalid as error:
        raise SettingsInvalid(f"LAPSE_POLICY_FILE: {error}") from None
    except PolicyInvalid as error:
        raise PolicyInvalid(
            [Problem(f"LAPSE_POLICY_FILE: {one.place}", one.what) for one in error.problems]
        ) from None


def read_policy_file(path: Path) -> str:
    """The text of a policy file. Raises SettingsInvalid."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsInvalid(f"the policy file cannot be read: {reason}") from None


def database_file(settings: Settings) -> Path | None:
    """The SQLite file behind the database URL, None for a server."""
    url = parse_url(settings.database_url)
    if url.get_backend_name() != "sqlite":
        return None
    return Path(str(url.database))


def make_folder(folder: Path) -> None:
    """The folder of an embedded database, for its owner alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsInvalid(
            f"the database's folder cannot be made ({error.strerror}): choose another with "
            "LAPSE_DATABASE_URL or --db"
        ) from None
