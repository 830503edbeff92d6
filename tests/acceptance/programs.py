"""What tests run as programs of their own: deeds for which there is no command yet."""

import os
import sys
import time

from adapters.cli.options import load
from adapters.clock import parse_instant
from adapters.wiring import open_lapse
from domain.session import Ground


def hold() -> None:
    """Place a hold: on which session, and until when (RFC 3339)."""
    _, session_id, until = sys.argv
    with open_lapse(load(None)) as lapse:
        end, now = parse_instant(until, "the end of the hold"), lapse.clock()
        lapse.sessions.hold(session_id, "case-1", Ground.LEGAL_CLAIM, end, now, "operator")


def release() -> None:
    """Release that hold."""
    _, session_id = sys.argv
    with open_lapse(load(None)) as lapse:
        lapse.sessions.release(session_id, "case-1", lapse.clock(), "operator")


def follow() -> None:
    """Read the log as it grows, for ever; print page, position, session, version of each event."""
    with open_lapse(load(None), create=False) as lapse:
        page, position = 0, 0
        while True:
            found = lapse.log.read(position, 500)
            if not found:
                time.sleep(0.001)  # others need the processor, too
                continue
            page, position = page + 1, found[-1].position
            lines = (
                f"{page} {one.position} {one.event.originator_id} {one.event.originator_version}\n"
                for one in found
            )
            os.write(1, "".join(lines).encode())


def create_and_say() -> None:
    """Create sessions for ever; print the id of each one that was acknowledged."""
    with open_lapse(load(None)) as lapse:
        while True:
            session = lapse.sessions.create("web-visit", lapse.clock(), "producer", owner="ann")
            os.write(1, f"{session.id}\n".encode())
