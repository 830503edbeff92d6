"""The demonstration, as somebody sees it who has just unpacked Lapse."""

import re

import httpx2
import pytest

from tests.acceptance.commands import DONE, Installation, Running
from tests.servers import wait_until

URL = re.compile(r"^  pages +(http://\S+)$", re.MULTILINE)
TOKEN = re.compile(r"^  token +(\S+)$", re.MULTILINE)


def said(demo: Running) -> tuple[str, str]:
    """The address of the example pages and the token for them."""

    def introduced() -> bool:
        assert demo.is_alive, demo.so_far
        return TOKEN.search(demo.so_far.out) is not None

    wait_until(introduced, 60, "the demo to introduce itself")
    url, token = URL.search(demo.so_far.out), TOKEN.search(demo.so_far.out)
    assert url is not None
    assert token is not None
    return url[1], token[1]


def test_the_example_pages_are_live_until_the_demo_ends(site: Installation) -> None:
    """With the token that it prints, which is in no address and good for the examples alone."""
    demo = site.start("demo", "--folder", "demo")
    try:
        url, token = said(demo)
        assert token not in url
        for page in ("", "reading-room.html", "biometric-coach.html", "video-analysis.html"):
            answer = httpx2.get(url + page)
            assert (answer.status_code, "<title>" in answer.text) == (200, True)
        sessions = url.replace("/examples/", "/v1/sessions")
        headers = {"Authorization": f"Bearer {token}"}
        statuses = {
            policy: httpx2.post(
                sessions, json={"policy": policy}, headers=headers, timeout=60.0
            ).status_code
            for policy in ("reading-room", "biometric-coach", "video-analysis", "web-visit")
        }
        assert statuses.pop("web-visit") == 403
        assert set(statuses.values()) == {201}
    finally:
        ended = demo.interrupt()
    assert ended.code == DONE, ended
    assert "the folded state is what it says" in ended.out
    with pytest.raises(httpx2.TransportError):
        httpx2.get(url)


def test_a_demo_that_is_told_to_stop_ends_with_its_summary(site: Installation) -> None:
    """By SIGTERM, as a supervisor or `kill` does, as by Ctrl-C, until which it goes on."""
    demo = site.start("demo", "--folder", "demo")
    said(demo)
    ended = demo.stop()
    assert ended.code == DONE, ended
    assert "until Ctrl-C" in ended.out
    assert "the folded state is what it says" in ended.out
