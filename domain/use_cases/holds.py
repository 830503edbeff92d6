"""Holds: nothing of a session, or of a person wherever they take part, is deleted while one stands.

A hold of a session is an event of it. One of a person is no event of any session, so that the log
does not connect those; it stands beside the log as a fact of its own. Rules and requests that a
hold suspends go on when it ends or is released.
"""

from collections.abc import Sequence

from domain.errors import HoldUnknown, NotAllowed
from domain.facts import HoldPlaced, HoldReleased
from domain.ports import HoldRow, HoldStore, Keyring, RequestStore
from domain.session import Ground
from domain.use_cases.sessions import Sessions


class Holds:
    """The commands. `actor` is who asks."""

    def __init__(
        self, holds: HoldStore, requests: RequestStore, sessions: Sessions, keyring: Keyring
    ) -> None:
        self._holds = holds
        self._requests = requests
        self._sessions = sessions
        self._keyring = keyring

    def of_session(
        self, session_id: str, ground: Ground, until: int | None, now: int, actor: str
    ) -> HoldRow:
        """Nothing of the session is deleted while it stands.

        Raises NotAllowed for an end in the past, SessionNotFound, SessionErased.
        """
        hold = self._keyring.token()
        self._sessions.hold(session_id, hold, ground, until, now, actor)
        return HoldRow(hold, ground, now, until, session_id=session_id)

    def of_subject(
        self, name: str, ground: Ground, until: int | None, now: int, actor: str
    ) -> HoldRow:
        """Nothing of any session in which the person takes part, or which is theirs, is deleted.

        What is due by now happens first, as with every command. Raises NotAllowed for an end in the
        past, SubjectUnknown.
        """
        if until is not None and until <= now:
            raise NotAllowed("", "hold", "the hold would end in the past")
        lookup, hold = self._keyring.lookup("subject", name), self._keyring.token()
        self._sessions.settle(self._holds.sessions_of(lookup), now)
        row = HoldRow(hold, ground, now, until)
        self._holds.place(lookup, row, HoldPlaced(hold, 1, now, "", actor, ground, until), now)
        return row

    def release(self, hold: str, now: int, actor: str) -> None:
        """It stands no more, and what it suspended is due. Raises HoldUnknown."""
        found = self.find(hold, now)
        if found.session_id is not None:
            self._sessions.release(found.session_id, hold, now, actor)
        else:
            self._holds.release(hold, HoldReleased(hold, 2, now, "", actor), now)
        self._requests.wake(now)

    # -- doing again, on a restored database ----------------------------------------------------

    def place_again(
        self, hold: str, subject: str, ground: Ground, until: int | None, at: int, actor: str
    ) -> bool:
        """A hold on a person stands again since `at`; False if nothing is known of them."""
        row = HoldRow(hold, ground, at, until)
        fact = HoldPlaced(hold, 1, at, "", actor, ground, until)
        return self._holds.place_again(subject, row, fact, at)

    def release_again(self, hold: str, at: int, actor: str) -> bool:
        """It ends again; False if it does not stand."""
        try:
            self._holds.release(hold, HoldReleased(hold, 2, at, "", actor), at)
        except HoldUnknown:
            return False
        return True

    # -- looking --------------------------------------------------------------------------------

    def find(self, hold: str, now: int) -> HoldRow:
        """A hold that stands. Raises HoldUnknown."""
        found = self._holds.find(hold, now)
        if found is None:
            raise HoldUnknown(hold)
        return found

    def page(self, now: int, *, after: str = "", limit: int = 100) -> Sequence[HoldRow]:
        """Holds that stand, in order of id, at most `limit` behind id `after`."""
        return self._holds.page(now, after, limit)
