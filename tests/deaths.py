"""A process that dies at any step: before a statement or a commit reaches the database, and before
or after whatever else a test counts as a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


class Killed(BaseException):
    """The process is no more: nothing handles this, and open transactions end without a commit."""


class Countdown:
    """Kills at the `last`-th step (None: never), and at all that follow: who is dead does nothing
    either. count: steps so far."""

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self.last = last

    def step(self, *_: Any) -> None:
        self.count += 1
        if self.last is not None and self.count >= self.last:
            raise Killed

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """The same, with a step before and one behind it."""

        def acting(*arguments: Any) -> Any:
            self.step()
            answer = act(*arguments)
            self.step()
            return answer

        return acting


@contextmanager
def killed_at(last: int | None) -> Iterator[Countdown]:
    """Every statement and every commit of this process is a step, while the block runs."""
    countdown = Countdown(last)
    hooks = ("before_cursor_execute", "commit")
    for hook in hooks:
        event.listen(Engine, hook, countdown.step)
    try:
        yield countdown
    finally:
        for hook in hooks:
            event.remove(Engine, hook, countdown.step)
