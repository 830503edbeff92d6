"""Many processes that append to one log, pause, fail and roll back: `append_from_processes`.

It runs in a Python of its own, which forks its writers before it starts any thread. Each writer
prints a line per acknowledged append: its number, then the positions it was given.
"""

import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path
from uuid import UUID, uuid5

from eventsourcing.persistence import IntegrityError, StoredEvent
from eventsourcing.utils import Environment

from adapters.log.recorder import ApplicationRecorder, Factory

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = UUID("5f6b4bb0-2f0e-4f0b-9d6e-0c6a6f0b7a11")
LONGEST_PAUSE = 0.003  # seconds, between appends and inside transactions
ROLLBACKS = 0.1  # share of the appends that are rolled back first


class Abort(Exception):
    """Rolls a transaction back."""


def append_from_processes(
    url: str, name: str, *, writers: int, appends: int, seed: int
) -> "subprocess.Popen[str]":
    """Starts them all; the lines come on its standard output."""
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "tests.contracts.writers"),
            *(url, name, str(writers), str(appends), str(seed)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def write(url: str, name: str, number: int, appends: int, seed: int) -> None:
    dice = random.Random(f"{seed}/{number}")
    originator_id = uuid5(NAMESPACE, f"{seed}/{number}")
    factory, recorder = open_recorder(url, name)
    version = 0
    for _ in range(appends):
        time.sleep(dice.uniform(0, LONGEST_PAUSE))
        if dice.random() < ROLLBACKS:
            dice.choice([fail_by_conflict, abort])(recorder, originator_id, version, dice)
        events = [event(originator_id, version + n) for n in range(1, dice.randint(1, 3) + 1)]
        positions = recorder.insert_events(events)
        version += len(events)
        line = " ".join(map(str, [number, *(positions or ())]))
        os.write(1, f"{line}\n".encode())  # whole, where print may be cut by another process
    factory.close()


def open_recorder(url: str, name: str) -> tuple[Factory, ApplicationRecorder]:
    factory = Factory(Environment(name, {"LAPSE_DATABASE_URL": url, "CREATE_TABLE": "no"}))
    return factory, factory.application_recorder()


def event(originator_id: UUID, version: int) -> StoredEvent:
    return StoredEvent(originator_id, version, "written", b"%d" % version)


def fail_by_conflict(
    recorder: ApplicationRecorder, originator_id: UUID, version: int, _: random.Random
) -> None:
    """A call of two events of which the second was recorded before, or twice the same."""
    stale = version or 1
    try:
        recorder.insert_events([event(originator_id, version + 1), event(originator_id, stale)])
    except IntegrityError:
        return
    raise AssertionError("a conflict was not noticed")


def abort(
    recorder: ApplicationRecorder, originator_id: UUID, version: int, dice: random.Random
) -> None:
    """A transaction that raised the head and inserted, dawdles, and is rolled back."""
    table = recorder.table
    rows = [table.row(event(originator_id, version + n)) for n in (1, 2)]
    try:
        with recorder.engines.write() as connection:
            table.insert(connection, table.lock_head(connection), rows)
            time.sleep(dice.uniform(0, LONGEST_PAUSE))
            raise Abort
    except Abort:
        pass


def main(url: str, name: str, writers: int, appends: int, seed: int) -> int:
    open_recorder(url, name)[0].close()  # loads once what every child would load: 0.2 s each
    children = [fork_writer(url, name, number, appends, seed) for number in range(writers)]
    endings = [os.waitpid(child, 0)[1] for child in children]
    return 1 if any(endings) else 0


def fork_writer(url: str, name: str, number: int, appends: int, seed: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        write(url, name, number, appends, seed)
    except BaseException:  # noqa: BLE001 - this process ends here whatever happened
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # taking a whole interpreter down properly would cost another 0.2 s each


if __name__ == "__main__":
    url, name, *numbers = sys.argv[1:]
    sys.exit(main(url, name, *map(int, numbers)))
