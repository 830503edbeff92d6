"""A clock that jumps ahead destroys no key before its time, on each provider and both databases."""

from dataclasses import dataclass

import pytest

from adapters.keyring.clock_guard import STEADY, ClockGuard, boot_id
from adapters.keyring.rotation import SETTLE, Rotation
from adapters.notify.alerts import Alerts
from domain.policy import DAY, HOUR, MINUTE, SECOND
from tests.contracts.key_stores import WINDOW, KeyStore
from tests.contracts.stores import SqlStore
from tests.contracts.test_destruction import destroyed

LIMIT = WINDOW // 4


@dataclass
class Machine:
    """Where a service runs: its clock may be set, its uptime goes on as time does."""

    store: SqlStore
    keys: KeyStore
    uptime: int = 0
    boot: str = "first"

    def start(self) -> tuple[Rotation, Alerts]:
        """A service that guards its clock."""
        alerts = Alerts()
        guard = ClockGuard(
            self.store.engines,
            self.keys.wall,
            LIMIT,
            alerts,
            uptime=lambda: self.uptime / SECOND,
            boot=self.boot,
        )
        return self.keys.rotation(self.store.engines, guard=guard, holder=self.boot), alerts

    def pass_time(self, micros: int) -> None:
        """For everybody."""
        self.uptime += micros
        self.keys.wall.now += micros

    def live(self, rotation: Rotation, micros: int, pace: int = 10 * MINUTE) -> None:
        """The service looks again and again."""
        for _ in range(micros // pace):
            self.pass_time(pace)
            rotation.run_due()

    def set_clock(self, micros: int) -> None:
        """Ahead, or back."""
        self.keys.wall.now += micros

    def restart(self, off: int, boot: str = "second") -> None:
        """The machine is off for so long."""
        self.keys.wall.now += off
        self.uptime, self.boot = 0, boot


@pytest.fixture
def machine(key_store: KeyStore, sql_store: SqlStore) -> Machine:
    return Machine(sql_store, key_store)


def retired_first(rotation: Rotation) -> str:
    """A KEK that is retired now."""
    rotation.rotate()
    return rotation.status()[0].id


def ids(rotation: Rotation) -> set[str]:
    return {kek.id for kek in rotation.status()}


def test_a_clock_that_runs_destroys_as_ever(machine: Machine) -> None:
    """In time, and nobody is alerted."""
    rotation, alerts = machine.start()
    first = retired_first(rotation)
    machine.live(rotation, WINDOW - HOUR, HOUR)
    assert first in ids(rotation)
    machine.live(rotation, 2 * HOUR, HOUR)
    assert first not in ids(rotation)
    assert not alerts.standing()["clock-jump"]


@pytest.mark.parametrize("jump", [LIMIT + HOUR, WINDOW, 4_000 * DAY])
def test_a_jump_destroys_nothing_early(machine: Machine, jump: int) -> None:
    """After an hour it is believed, and the terms that ran are longer by the jump: the window of
    backups passes as it would have without."""
    rotation, alerts = machine.start()
    first = retired_first(rotation)
    machine.live(rotation, DAY // 2)
    machine.set_clock(jump)
    machine.live(rotation, STEADY)
    assert alerts.standing()["clock-jump"]
    machine.live(rotation, 10 * MINUTE)
    assert not alerts.standing()["clock-jump"]
    machine.live(rotation, WINDOW - DAY // 2 - 2 * HOUR, HOUR)
    assert first in ids(rotation)
    assert destroyed(machine.store) == []
    machine.live(rotation, 2 * HOUR, HOUR)
    assert first not in ids(rotation)


def test_many_small_steps_are_one_large_one(machine: Machine) -> None:
    """Each would be believed alone."""
    rotation, alerts = machine.start()
    first = retired_first(rotation)
    for _ in range(8):
        machine.live(rotation, HOUR)
        machine.set_clock(DAY)
        rotation.run_due()
    assert first in ids(rotation)
    assert alerts.standing()["clock-jump"]


def test_a_clock_that_is_set_right_again_was_wrong(machine: Machine) -> None:
    """Nothing happened, and no term is longer for it."""
    rotation, alerts = machine.start()
    retired_first(rotation)
    before = rotation.status()[0]
    machine.live(rotation, HOUR)
    machine.set_clock(WINDOW)
    machine.live(rotation, HOUR // 2)
    machine.set_clock(-WINDOW)
    machine.live(rotation, 2 * SETTLE, SETTLE)
    assert not alerts.standing()["clock-jump"]
    assert rotation.status()[0] == before


def test_a_clock_that_goes_on_jumping_is_not_believed(machine: Machine) -> None:
    """The hour begins anew with each step."""
    rotation, alerts = machine.start()
    first = retired_first(rotation)
    machine.live(rotation, HOUR)
    for _ in range(5):
        machine.set_clock(2 * DAY)
        machine.live(rotation, HOUR - MINUTE, MINUTE)
        assert alerts.standing()["clock-jump"]
    assert first in ids(rotation)


def test_a_clock_that_was_behind_and_is_set_right_shortens_nothing(machine: Machine) -> None:
    """What was retired meanwhile began long ago, by the right clock."""
    rotation, _ = machine.start()
    machine.live(rotation, HOUR)
    machine.set_clock(-WINDOW)
    machine.live(rotation, HOUR)
    first = retired_first(rotation)
    machine.set_clock(WINDOW)
    machine.live(rotation, WINDOW - HOUR, HOUR)
    assert first in ids(rotation)
    machine.live(rotation, 3 * HOUR, HOUR)
    assert first not in ids(rotation)


def test_a_clock_that_was_years_ahead_and_is_set_right_keeps_nothing_for_years(
    machine: Machine,
) -> None:
    """It was believed, keys were made and retired by it; their terms begin when it is right."""
    rotation, _ = machine.start()
    first = retired_first(rotation)
    machine.live(rotation, HOUR)
    machine.set_clock(4_000 * DAY)
    machine.live(rotation, 2 * HOUR)
    machine.set_clock(-4_000 * DAY)
    machine.live(rotation, 2 * HOUR)
    found = rotation.status()
    assert first in {kek.id for kek in found}
    now = machine.keys.wall()
    assert all((kek.destroy_at or 0) <= now + WINDOW for kek in found)
    assert machine.keys.transit or 0 <= now - (found[-1].created_at or 0) <= 2 * HOUR
    machine.live(rotation, WINDOW, HOUR)
    assert first not in ids(rotation)


def test_a_machine_that_was_off_for_days_waits_for_as_long(machine: Machine) -> None:
    """Nobody can say whether its clock is right: no term ends while nobody looks."""
    rotation, _ = machine.start()
    first = retired_first(rotation)
    machine.live(rotation, HOUR)
    machine.restart(off=WINDOW)
    again, alerts = machine.start()
    machine.live(again, HOUR)
    assert alerts.standing()["clock-jump"]
    assert first in ids(again)
    machine.live(again, WINDOW - 4 * HOUR, HOUR)
    assert not alerts.standing()["clock-jump"]
    assert first in ids(again)
    machine.live(again, 4 * HOUR, HOUR)
    assert first not in ids(again)


def test_a_service_that_was_down_while_its_machine_ran_waits_for_nothing(machine: Machine) -> None:
    """The uptime of the machine says that this much time did pass."""
    rotation, _ = machine.start()
    first = retired_first(rotation)
    machine.live(rotation, HOUR)
    machine.pass_time(WINDOW)
    again, alerts = machine.start()
    machine.live(again, 2 * SETTLE, SETTLE)
    assert not alerts.standing()["clock-jump"]
    assert first not in ids(again)


def test_a_command_does_not_destroy_what_the_service_would_not(machine: Machine) -> None:
    """`lapse key rotate` looks, too; it has no hour to wait."""
    rotation, _ = machine.start()
    first = retired_first(rotation)
    machine.live(rotation, HOUR)
    machine.restart(off=WINDOW)
    command, _ = machine.start()
    command.rotate()
    assert first in ids(command)


def test_of_two_services_that_waited_one_makes_up_for_it(machine: Machine) -> None:
    """A term is longer by the jump once."""
    one, _ = machine.start()
    retired_first(one)
    retired_at = one.status()[0].retired_at
    assert retired_at is not None
    other, alerts = machine.start()
    machine.live(one, HOUR)
    other.run_due()
    machine.set_clock(WINDOW)
    for _ in range(2 * STEADY // (10 * MINUTE)):
        machine.pass_time(10 * MINUTE)
        one.run_due()
        other.run_due()
    assert not alerts.standing()["clock-jump"]
    assert abs(one.status()[0].retired_at - retired_at - WINDOW) < MINUTE  # type: ignore[operator]


def test_a_machine_is_known_by_its_start() -> None:
    """The same for every process of it."""
    assert boot_id() == boot_id()
