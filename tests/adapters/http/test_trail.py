"""What happened and how often, for those who look back."""

from typing import Any

from domain.policy import DAY, HOUR
from tests.adapters.http.conftest import Site


def lives(site: Site) -> tuple[str, str]:
    """A room and a visit from beginning to end: the visit an hour after the room."""
    room = site.session("reading-room", owner="host@example.org")
    site.wait(HOUR)
    visit = site.session("web-visit")
    site.wait(2 * DAY)
    site.sweep()
    return room, visit


def entries(site: Site, query: str = "", **how: Any) -> list[tuple[str, str]]:
    """(session, what happened) of one page."""
    found = site.ask("GET", f"/v1/audit{query}", role="auditor", **how)["entries"]
    return [(one["session_id"], one["event"].removeprefix("session.")) for one in found]


def test_the_trail_is_searched_by_policy_event_and_time(site: Site) -> None:
    """Any combination, in the order of time, with the rule; nobody's name is in it."""
    room, visit = lives(site)
    assert entries(site, "?event=session.created") == [(room, "created"), (visit, "created")]
    assert entries(site, "?policy=web-visit&from=2026-01-01T00:00:00Z") == [
        (visit, "created"),
        (visit, "expired"),
        (visit, "erased"),
    ]
    hour = "from=2026-01-01T01:00:00Z&to=2026-01-01T01:00:01Z"
    assert set(entries(site, f"?{hour}")) == {(room, "expired"), (visit, "created")}
    answer = site.ask("GET", "/v1/audit?event=session.expired", role="operator")
    assert {one["rule"] for one in answer["entries"]} == {"expire-last_seen"}
    assert "host@" not in str(site.ask("GET", "/v1/audit", role="privacy"))


def test_the_trail_comes_in_pages(site: Site) -> None:
    """Nothing twice, nothing left out; another mark than that of a page is refused."""
    lives(site)
    whole, after = [], ""
    for _ in range(100):
        page = site.ask("GET", f"/v1/audit?limit=2{after}", role="auditor")
        whole += [one["position"] for one in page["entries"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert sorted(whole) == list(range(1, site.lapse.log.head() + 1))
    for wrong in ("nowhere", "f" * 20 + "-1", "1"):
        problem = site.ask("GET", f"/v1/audit?after={wrong}", role="auditor", expect=422)
        assert problem["type"] == "urn:lapse:problem:cursor"


def test_usage_hour_by_hour(site: Site) -> None:
    """Events count in the hour in which they took effect, however late the sweep."""
    lives(site)
    path = "/v1/statistics/hourly"
    [created] = site.ask("GET", f"{path}?policy=web-visit&limit=1", role="operator")["hours"]
    assert created == {
        "hour": "2026-01-01T01:00:00.000Z",
        "policy": "web-visit",
        "event": "session.created",
        "count": 1,
        "bytes_freed": 0,
    }
    window = "from=2026-01-01T01:00:00Z&to=2026-01-01T02:00:00Z"
    page = site.ask("GET", f"{path}?{window}&limit=2", role="auditor")
    rest = site.ask("GET", f"{path}?{window}&limit=2&after={page['next']}", role="auditor")
    found = [(one["policy"], one["event"]) for one in page["hours"] + rest["hours"]]
    assert found == [
        ("reading-room", "session.expired"),
        ("web-visit", "session.created"),
        ("web-visit", "session.expired"),
    ]
    assert rest["next"] is None
    for wrong in ("nowhere", "f" * 20 + "-web-visit-session.created"):
        problem = site.ask("GET", f"{path}?after={wrong}", role="operator", expect=422)
        assert problem["type"] == "urn:lapse:problem:cursor"


def test_a_token_for_some_policies_looks_back_on_those_only(site: Site) -> None:
    """In lists they are all there is; to ask for another one is refused."""
    room, visit = lives(site)
    mine = site.token("auditor", "web-visit", "video-analysis")
    assert {session for session, _ in entries(site, token=mine)} <= {
        visit,
        "policy:web-visit",
        "policy:video-analysis",
    }
    hours = site.ask("GET", "/v1/statistics/hourly", token=mine)["hours"]
    assert {one["policy"] for one in hours} == {"web-visit"}
    for path in ("/v1/audit", "/v1/statistics/hourly"):
        site.ask("GET", f"{path}?policy=reading-room", token=mine, expect=403)
        site.ask("GET", f"{path}?policy=unheard-of", role="auditor", expect=422)
    assert room != visit
