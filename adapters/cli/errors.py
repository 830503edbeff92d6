"""From refusals to exit codes: the one place where they meet.

0 done, 1 failed or not verified, 2 wrong usage, 3 refused because something changed or is pending,
4 stopped by a guard.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import (
    ClockHeld,
    Conflict,
    EffectiveTooSoon,
    LapseError,
    PolicyInvalid,
    PolicyUnknown,
    SchemaTooNew,
    SchemaTooOld,
    SettingsInvalid,
    SourceUnreadable,
)

DONE, FAILED, USAGE, REFUSED, GUARD = range(5)

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
    try:
        yield
    except LapseError as error:
        say_error(str(error))
        raise typer.Exit(exit_code(error)) from None
    except SQLAlchemyError as error:
        # Not one of ours: name its kind and keep its text, which may quote values, to itself.
        say_error(f"the database refused a statement ({type(error).__name__}); nothing was changed")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        say_error("stopped; what was acknowledged is kept")
        raise typer.Exit(130) from None


def say_error(text: str) -> None:
    """One message on standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"lapse: {text}")
