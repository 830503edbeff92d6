"""Every provider of key-encryption keys, opened the same way, and people who are sealed by them."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adapters.keyring.clock_guard import ClockGuard
from adapters.keyring.escrow import Escrow
from adapters.keyring.keks import TransitKey
from adapters.keyring.keyring import Keyring
from adapters.keyring.opening import open_keyring
from adapters.keyring.rotation import Rotation
from adapters.log.engine import Engines
from domain.policy import DAY
from domain.ports import Admission, Append, Changes, SubjectKey
from tests.contracts.authors import TEN, opening
from tests.contracts.stores import SqlStore, Wall
from tests.transit import NAME, FakeTransit, fake_transit

WINDOW = 7 * DAY


@dataclass
class KeyStore:
    """Where the keys of one database are. wall: the time there and here. escrow: of a key file."""

    where: Path | TransitKey
    wall: Wall
    transit: FakeTransit | None
    opened: list[Keyring] = field(default_factory=list)
    escrow: Escrow | None = None

    def open(self, engines: Engines) -> Keyring:
        """As a process does when it starts."""
        self.opened.append(open_keyring(engines, self.where, None, self.wall(), self.escrow))
        return self.opened[-1]

    def close(self) -> None:
        for keyring in self.opened:
            keyring.close()

    def rotation(
        self,
        engines: Engines,
        holder: str = "rotator",
        keyring: Keyring | None = None,
        page: int = 3,
        guard: ClockGuard | None = None,
    ) -> Rotation:
        """As a process does that rotates every day and keeps backups for a week."""
        return Rotation(
            engines,
            keyring or self.open(engines),
            self.wall,
            holder,
            every=DAY,
            restore_window=WINDOW,
            page=page,
            guard=guard,
        )


@contextmanager
def open_key_store(kind: str, folder: Path) -> Iterator[KeyStore]:
    """A key store of its own, `file` or `transit`."""
    wall = Wall()
    wall.now = TEN
    if kind == "file":
        yield KeyStore(folder / "keys", wall, None)
        return
    with (
        fake_transit(folder, wall) as vault,
        closing(KeyStore(transit_key(vault), wall, vault)) as store,
    ):
        yield store


def transit_key(vault: FakeTransit, token: Callable[[], str] | None = None) -> TransitKey:
    return TransitKey(
        vault.url, "transit", NAME, token or (lambda: vault.token), vault.ca_file, timeout=30.0
    )


# -- people -----------------------------------------------------------------------------------


def admitting(keyring: Keyring, session_id: str, *names: str) -> Append:
    """A session begins with these people in it, sealed for good."""
    admitted = [_admission(keyring, session_id, name) for name in names]
    return opening(session_id, changes=Changes(admitted=tuple(admitted)))


def _admission(keyring: Keyring, session_id: str, name: str) -> Admission:
    subject = keyring.new_subject(keyring.lookup("subject", name))
    token = f"token-{name}"
    sealed, wrapped = keyring.seal_identity(subject, session_id, token, name)
    return Admission(token, "participant", subject, sealed, wrapped, TEN)


def people_of(store: SqlStore, keyring: Keyring, session_id: str) -> set[str]:
    """Who is in a session, opened with what the database holds."""
    return {
        keyring.open_identity(one.subject, session_id, one.member.token, one.wrapped, one.sealed)
        for one in store.vault.identities(session_id, "", 1_000)
    }


def subject_of(store: SqlStore, keyring: Keyring, name: str) -> SubjectKey:
    lookup = keyring.lookup("subject", name)
    return store.vault.subjects([lookup])[lookup]
