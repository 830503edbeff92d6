"""From refusals to exit codes: the one place where they meet.

0 done, 1 failed or not verified, 2 wrong usage, 3 refused because something changed or is pending,
4 stopped by a guard.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from adapters.clock import format_instant
from adapters.logs import place_of
from domain.errors import (
    WHOLE_ID,
    ClockHeld,
    Conflict,
    EffectiveTooSoon,
    LapseError,
    OnHold,
    PolicyInvalid,
    PolicyUnknown,
    RequestNotOpen,
    RestorePending,
    RotationHeld,
    SchemaTooNew,
    SchemaTooOld,
    SettingsInvalid,
    SourceUnreadable,
    is_cut,
)

DONE, FAILED, USAGE, REFUSED, GUARD = range(5)
INTERRUPTED = 128 + signal.SIGINT

_CODES: dict[type[LapseError], int] = {
    SettingsInvalid: USAGE,
    PolicyInvalid: USAGE,
    PolicyUnknown: USAGE,
    SourceUnreadable: USAGE,
    EffectiveTooSoon: USAGE,
    SchemaTooNew: REFUSED,
    SchemaTooOld: REFUSED,
    ClockHeld: REFUSED,
    Conflict: REFUSED,
    RestorePending: REFUSED,
    RotationHeld: REFUSED,
    OnHold: REFUSED,
    RequestNotOpen: REFUSED,
}


def exit_code(error: LapseError) -> int:
    """The exit code of a refusal: that of the nearest class in the table, else 1."""
    for cls in type(error).__mro__:
        if cls in _CODES:
            return _CODES[cls]
    return FAILED


@contextmanager
def refusals() -> Iterator[None]:
    """A refusal ends the command with its text on standard error and its exit code."""
    interrupts: list[int] = []
    with _remembered(interrupts):
        try:
            yield
        except typer.Exit:
            raise
        except BaseException as error:
            if interrupts or isinstance(error, KeyboardInterrupt):
                say_error("stopped; what was acknowledged is kept")
                raise typer.Exit(INTERRUPTED) from None
            if isinstance(error, LapseError):
                say_error(_said(error))
                raise typer.Exit(exit_code(error)) from None
            if isinstance(error, SQLAlchemyError):
                # Not one of ours: name its kind and keep its text, which may quote values.
                kind = type(error).__name__
                say_error(f"the database refused a statement ({kind}); nothing was changed")
                raise typer.Exit(FAILED) from None
            if isinstance(error, Exception):
                # A fault of Lapse, or a row that somebody changed. Its text may quote what it met.
                say_error(
                    f"an error that nobody foresaw ({type(error).__name__} at {place_of(error)}); "
                    "what was acknowledged is kept. `lapse db check` tells whether the database "
                    "is sound; if it is, please report this line"
                )
                raise typer.Exit(FAILED) from None
            raise


def _said(error: LapseError) -> str:
    """The text of a refusal; the domain carries times in microseconds and formats none."""
    if isinstance(error, EffectiveTooSoon):
        return f"{error}; the earliest possible time is {format_instant(error.earliest)} now"
    return str(error)


@contextmanager
def _remembered(interrupts: list[int]) -> Iterator[None]:
    """Note every Ctrl-C: what it interrupts may fail with something else on its way out, such as
    SQLAlchemy's AssertionError in the middle of a commit."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def nothing_known(given: str) -> str:
    """The log has nothing of a session or of `policy:NAME`."""
    whole = f": {WHOLE_ID}" if is_cut(given) and ":" not in given else ""
    return f"nothing is known of {given}{whole}"


def say_error(text: str) -> None:
    """One message on standard error, where progress is said, too. What would steer the terminal is
    taken out: it may come from a file."""
    text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"lapse: {text}")
