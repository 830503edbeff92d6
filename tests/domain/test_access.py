"""What of a session somebody gets a copy of."""

import pytest

from domain.access import Involvement
from domain.policy import Shared

ANN, BOB = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("owns", "participants", "about_them", "about_others"),
    [
        (False, (ANN,), True, False),
        (False, (ANN, BOB), True, True),
        (False, (BOB,), False, True),
        (False, (), False, False),
        (True, (), True, False),
        (True, (BOB,), False, True),
    ],
)
def test_what_is_about_somebody(
    owns: bool, participants: tuple[str, ...], about_them: bool, about_others: bool
) -> None:
    """What names them; what names nobody only if the session is theirs, and never what names
    somebody else alone."""
    ann = Involvement(frozenset({ANN}), owns=owns)
    assert ann.is_about(participants) is about_them
    assert ann.is_about_others(participants) is about_others


@pytest.mark.parametrize("shared", list(Shared))
def test_whose_content_they_get(shared: Shared) -> None:
    """Their own always; what is about others too where the policy keeps it whole."""
    ann = Involvement(frozenset({ANN}), owns=False)
    assert ann.may_have((ANN,), shared)
    assert ann.may_have((ANN, BOB), shared) is (shared is Shared.KEEP)
