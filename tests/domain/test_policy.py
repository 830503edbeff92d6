"""The policy language: what it says, what it refuses and where, what the environment replaces."""

import json
from collections.abc import Mapping

import pytest

from domain.errors import PolicyInvalid, Problem
from domain.policy import (
    DAY,
    HOUR,
    MILLISECOND,
    MINUTE,
    SECOND,
    WEEK,
    Do,
    Limits,
    OnExceed,
    Override,
    RetentionPolicy,
    Rule,
    Shared,
    Since,
    Unit,
    Version,
    format_duration,
    from_document,
    in_force,
    notes,
    parse,
    parse_duration,
    parse_size,
    stream_of,
    to_document,
)
from domain.session import Scope
from tests.domain.life import policy, preset

EXPIRE = '{ since = "last_seen", after = "1h", do = "expire" }'
ERASE = '{ since = "expired", after = "24h", do = "erase" }'
SUMMARIZE = '{ since = "created", after = "5m", do = "summarize" }'

DESIGN = """
[policy.reading-room]
presence = "30s"
rules = [
  { since = "last_seen",  after = "50m", do = "warn" },
  { since = "last_seen",  after = "1h",  do = "expire" },
  { since = "expired",    after = "24h", do = "erase" },
]
[policy.biometric-coach]
limits = { concurrent = 10 }
summary = { avg_stillness = "mean(stillness)", total_frames = "count()" }
rules = [
  { since = "created",    after = "5m",  do = "summarize" },
  { since = "summarized", after = "30m", do = "erase" },
]
"""
"""The two examples of the design, as printed there."""


def refused(text: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """What is wrong, by place; each place is named once in these tests."""
    with pytest.raises(PolicyInvalid) as refusal:
        parse(text, environment)
    problems = refusal.value.problems
    assert len({problem.place for problem in problems}) == len(problems), problems
    return {problem.place: problem.what for problem in problems}


def refused_policy(body: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The same for the body of one policy; places are relative to it."""
    problems = refused(f"[policy.p]\n{body}\n", environment)
    return {place.removeprefix("policy.p."): what for place, what in problems.items()}


def refused_rules(*rules: str, more: str = "") -> dict[str, str]:
    """The same for rules."""
    return refused_policy(f"{more}\nrules = [{', '.join(rules)}]")


class TestReading:
    """Policies that say what they mean."""

    def test_the_examples_of_the_design(self) -> None:
        """Both parse as printed, into what they say."""
        policies = parse(DESIGN)
        assert policies["reading-room"] == RetentionPolicy(
            "reading-room",
            (
                Rule("warn-last_seen", Since.LAST_SEEN, 50 * MINUTE, Do.WARN),
                Rule("expire-last_seen", Since.LAST_SEEN, HOUR, Do.EXPIRE),
                Rule("erase-expired", Since.EXPIRED, DAY, Do.ERASE, Scope.EVERYTHING),
            ),
            presence=30 * SECOND,
        )
        assert policies["biometric-coach"] == RetentionPolicy(
            "biometric-coach",
            (
                Rule("summarize-created", Since.CREATED, 5 * MINUTE, Do.SUMMARIZE),
                Rule("erase-summarized", Since.SUMMARIZED, 30 * MINUTE, Do.ERASE, Scope.EVERYTHING),
            ),
            limits=Limits(concurrent=10),
            summary={"avg_stillness": "mean(stillness)", "total_frames": "count()"},
        )

    def test_defaults(self) -> None:
        """What a policy does not say has a value all the same."""
        room = policy(EXPIRE)
        assert (room.presence, room.recover) == (None, 0)
        assert room.sweep == 15 * MINUTE
        assert room.audit_retention == 400 * DAY
        assert room.shared is Shared.REDACT
        assert room.limits == Limits()
        assert (room.summary, room.progress, room.environment) == ({}, (), ())

    def test_every_key(self) -> None:
        """Nothing that is written is lost."""
        text = """
        [policy.all]
        presence = "10s"
        sweep = "1m"
        recover = "2h"
        audit_retention = "30d"
        shared = "erase"
        progress = ["half", "done"]
        rules = [
          { name = "close", since = "last_seen", after = "1h30m", do = "expire" },
          { since = "expired", after = "1w", do = "erase" },
          { since = "stored", after = "10m", do = "erase", scope = "files" },
        ]
        environment = [{ name = "CLOSE_AFTER", sets = "rules[0].after", unit = "m", factor = 2 }]
        [policy.all.limits]
        concurrent = 3
        per_owner = 2
        on_exceed = "expire-oldest"
        session_bytes = "1MiB"
        total_bytes = "1GB"
        result_bytes = 4096
        [policy.all.summary]
        best = "max(score)"
        p95 = "quantile(latency.ms, 0.95)"
        """
        everything = parse(text)["all"]
        assert everything.rules == (
            Rule("close", Since.LAST_SEEN, 90 * MINUTE, Do.EXPIRE),
            Rule("erase-expired", Since.EXPIRED, WEEK, Do.ERASE, Scope.EVERYTHING),
            Rule("erase-files-stored", Since.STORED, 10 * MINUTE, Do.ERASE, Scope.FILES),
        )
        assert everything.limits == Limits(3, 2, OnExceed.EXPIRE_OLDEST, 2**20, 10**9, 4096)
        assert (everything.presence, everything.sweep) == (10 * SECOND, MINUTE)
        assert (everything.recover, everything.audit_retention) == (2 * HOUR, 30 * DAY)
        assert (everything.shared, everything.progress) == (Shared.ERASE, ("half", "done"))
        assert everything.summary == {"best": "max(score)", "p95": "quantile(latency.ms, 0.95)"}
        assert everything.environment == (
            Override("CLOSE_AFTER", "rules[0].after", Unit.MINUTES, 2.0),
        )

    def test_rules_in_tables_of_their_own(self) -> None:
        """Both ways in which TOML writes a list of tables mean the same."""
        text = '[policy.p]\n[[policy.p.rules]]\nsince = "created"\nafter = "1h"\ndo = "expire"\n'
        assert parse(text)["p"] == policy('{ since = "created", after = "1h", do = "expire" }')

    @pytest.mark.parametrize("name", ["reading-room", "video-analysis", "biometric-coach"])
    def test_what_the_log_keeps_reads_back(self, name: str) -> None:
        """The canonical form, once through JSON, gives an equal policy."""
        original = preset(name)
        document = json.loads(json.dumps(to_document(original)))
        assert from_document(name, document) == original

    def test_the_log_keeps_what_the_environment_made_of_it(self) -> None:
        """A policy read back asks no environment: its values are those that were applied."""
        text = DESIGN.replace(
            'presence = "30s"',
            'presence = "30s"\nenvironment = [{ name = "BEAT", sets = "presence", unit = "s" }]',
        )
        applied = parse(text, {"BEAT": "10"})["reading-room"]
        assert from_document("reading-room", to_document(applied)) == applied
        assert applied.presence == 10 * SECOND

    def test_what_was_applied_stays_readable(self) -> None:
        """A contradiction that only a later Lapse finds does not lock anybody out of the log."""
        kept = {"rules": [{"since": "expired", "after": "1h", "do": "erase"}]}
        assert from_document("p", kept).rules[0].after == HOUR
        with pytest.raises(PolicyInvalid):
            from_document("p", {"rules": [{"since": "expired", "do": "erase"}]})

    @pytest.mark.parametrize(
        ("rules", "every"),
        [
            (EXPIRE, 6 * MINUTE),
            (EXPIRE + ',{ since = "last_seen", after = "50m", do = "warn" }', 6 * MINUTE),
            (EXPIRE + ',{ since = "last_seen", after = "48h", do = "erase" }', 6 * MINUTE),
            ('{ since = "last_seen", after = "48h", do = "erase" }', 288 * MINUTE),
            ('{ since = "created", after = "48h", do = "erase" }', HOUR),
        ],
    )
    def test_samples_of_presence(self, rules: str, every: int) -> None:
        """A tenth of the idle period lies between two of them."""
        assert policy(rules).sample_every == every


class TestDurations:
    """How long."""

    @pytest.mark.parametrize(
        ("text", "micros"),
        [
            ("0s", 0),
            ("250ms", 250 * MILLISECOND),
            ("30s", 30 * SECOND),
            ("50m", 50 * MINUTE),
            ("1h30m", 90 * MINUTE),
            ("7d", 7 * DAY),
            ("2w1d", 15 * DAY),
            ("1d2h3m4s5ms", DAY + 2 * HOUR + 3 * MINUTE + 4 * SECOND + 5 * MILLISECOND),
            ("73000d", 200 * 365 * DAY),
        ],
    )
    def test_reading(self, text: str, micros: int) -> None:
        """Numbers with units, the greatest first."""
        assert parse_duration(text) == micros

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "5",
            "m",
            "5 m",
            "1.5h",
            "-5m",
            "5M",
            "5m5m",
            "30m1h",
            "1y",
            "5m ",
            "\u0665m",
            "73001d",
        ],
    )
    def test_refusing(self, text: str) -> None:
        """Anything else, and more than 200 years."""
        with pytest.raises(ValueError, match=r"duration|200 years"):
            parse_duration(text)

    @pytest.mark.parametrize("text", ["0s", "1ms", "59s", "1h30m", "6d23h", "15d", "400d"])
    def test_writing(self, text: str) -> None:
        """The shortest text with the same meaning."""
        assert format_duration(parse_duration(text)) == text


class TestSizes:
    """How much."""

    @pytest.mark.parametrize(
        ("value", "size"),
        [("1B", 1), ("5KB", 5_000), ("512MB", 512_000_000), ("1KiB", 1_024), (77, 77)],
    )
    def test_reading(self, value: object, size: int) -> None:
        """Powers of ten, of two with an i, and plain bytes."""
        assert parse_size(value) == size

    @pytest.mark.parametrize(
        "value", ["", "5", "0MB", "5kb", "-1B", "1.5MB", 0, -1, True, 1.5, None]
    )
    def test_refusing(self, value: object) -> None:
        """Anything else, and nothing at all."""
        with pytest.raises(ValueError, match="write a size"):
            parse_size(value)


class TestPlacesOfErrors:
    """Every error with the place where it stands."""

    def test_a_file_that_is_no_toml(self) -> None:
        """The line and column are the parser's."""
        problems = refused("[policy.p]\nrules = 1h\n")
        assert problems.keys() == {"file"}
        assert "line 2" in problems["file"]

    @pytest.mark.parametrize("text", ["", "[policy]", "policy = 5", "policy = []"])
    def test_no_policy(self, text: str) -> None:
        """A file without a policy is a mistake."""
        assert refused(text) == {"policy": "no policy in this file; write [policy.NAME]"}

    def test_keys_beside_the_policies(self) -> None:
        """Nothing else stands at the top."""
        problems = refused(f"title = 'x'\n[policies.p]\n[policy.p]\nrules = [{EXPIRE}]")
        assert problems == dict.fromkeys(
            ("policies", "title"), "unknown key; policies stand in tables [policy.NAME]"
        )

    @pytest.mark.parametrize("name", ["Room", "a b", "x" * 41, ""])
    def test_names_of_policies(self, name: str) -> None:
        """They enter the log and the metrics, so they are narrow."""
        assert refused(f'[policy."{name}"]\nrules = [{EXPIRE}]') == {
            f"policy.{name}": "a policy's name is 1 to 40 of a-z, 0-9, _ and -"
        }

    def test_a_policy_that_is_no_table(self) -> None:
        """Only tables are policies."""
        assert refused("[policy]\np = 5") == {"policy.p": "must be a table"}

    @pytest.mark.parametrize("body", ["", "rules = []", "rules = 5", 'rules = "x"'])
    def test_no_rules(self, body: str) -> None:
        """A policy without a rule keeps everything for ever by oversight."""
        assert refused_policy(body) == {"rules": "a policy needs at least one rule"}

    @pytest.mark.parametrize(
        ("body", "place", "what"),
        [
            ("sweeps = '1m'", "sweeps", "unknown key; known: audit_retention, "),
            ("presence = '30'", "presence", 'write a duration such as "30s"'),
            ("presence = 30", "presence", 'write a duration such as "30s"'),
            ("presence = '999ms'", "presence", "must be at least 1s"),
            ("sweep = '0s'", "sweep", "must be at least 1s"),
            ("recover = 'soon'", "recover", 'write a duration such as "30s"'),
            ("audit_retention = '23h'", "audit_retention", "must be at least 1d"),
            ("audit_retention = '201000d'", "audit_retention", "longer than 200 years"),
            ("shared = 'give'", "shared", "must be one of keep, redact, erase"),
            ("shared = 1", "shared", "must be one of keep, redact, erase"),
            ("limits = 5", "limits", "must be a table"),
            ("limits = { many = 5 }", "limits.many", "unknown key; known: concurrent, "),
            ("limits = { concurrent = 0 }", "limits.concurrent", "must be a whole number of at"),
            ("limits = { concurrent = true }", "limits.concurrent", "must be a whole number of"),
            ("limits = { per_owner = 1.5 }", "limits.per_owner", "must be a whole number of at"),
            ("limits = { session_bytes = 'x' }", "limits.session_bytes", "write a size such as"),
            (
                "limits = { per_owner = 1, on_exceed = 'x' }",
                "limits.on_exceed",
                "must be one of refuse, expire-oldest",
            ),
            (
                "limits = { on_exceed = 'expire-oldest' }",
                "limits.on_exceed",
                "has no meaning without per_owner or concurrent",
            ),
            (
                "limits = { session_bytes = '1MB', result_bytes = '2MB' }",
                "limits.result_bytes",
                "is more than session_bytes",
            ),
            (
                "limits = { session_bytes = '2GB', total_bytes = '1GB' }",
                "limits.session_bytes",
                "is more than total_bytes",
            ),
            ("summary = 5", "summary", "must be a table of aggregates"),
            ("summary = { x = 'avg(y)' }", "summary.x", "must be count(), duration(), quantile"),
            ("summary = { x = 5 }", "summary.x", "must be count(), duration(), quantile("),
            ("summary = { x = 'mean()' }", "summary.x", "must be count(), duration(), quantile"),
            ("summary = { 'a-b' = 'count()' }", "summary.a-b", "a field's name is 1 to 40"),
            ("progress = 'half'", "progress", "must be a list of names"),
            ("progress = ['a', 'B', 3]", "progress[1]", "a name is 1 to 40 of"),
            ("environment = 5", "environment", "must be a list of { name, sets, unit }"),
        ],
    )
    def test_values(self, body: str, place: str, what: str) -> None:
        """Each value is checked where it stands."""
        problems = refused_policy(f"{body}\nrules = [{EXPIRE}]")
        assert problems[place].startswith(what)
        assert problems.keys() <= {place, "progress[2]"}

    @pytest.mark.parametrize(
        ("rule", "place", "what"),
        [
            ("5", "rules[1]", "a rule is a table { since, after, do }"),
            ('{ after = "1h", do = "erase" }', "rules[1].since", "is missing"),
            ('{ since = "created", do = "erase" }', "rules[1].after", "is missing"),
            ('{ since = "created", after = "1h" }', "rules[1].do", "is missing"),
            (
                '{ since = "birth", after = "1h", do = "erase" }',
                "rules[1].since",
                "must be one of created, last_seen, completed, failed, summarized, expired, stored",
            ),
            (
                '{ since = "created", after = "1h", do = "forget" }',
                "rules[1].do",
                "must be one of warn, summarize, compress, expire, erase",
            ),
            (
                '{ since = "created", after = "1 h", do = "erase" }',
                "rules[1].after",
                'write a duration such as "30s", "50m", "1h30m" or "7d"',
            ),
            (
                '{ since = "created", after = "1h", do = "erase", when = "x" }',
                "rules[1].when",
                "unknown key; known: after, do, name, scope, since",
            ),
            (
                '{ since = "created", after = "1h", do = "erase", scope = "half" }',
                "rules[1].scope",
                "must be one of chunks, full, summary, files, everything",
            ),
            (
                '{ since = "created", after = "1h", do = "compress", scope = "full" }',
                "rules[1].scope",
                "only erase has a scope, not compress",
            ),
            (
                '{ since = "created", after = "1h", do = "erase", name = "No" }',
                "rules[1].name",
                "a rule's name is 1 to 40 of a-z, 0-9, _ and -",
            ),
            (
                '{ since = "created", after = "1h", do = "erase", name = "limit" }',
                "rules[1].name",
                "limit is what Lapse calls an end by no rule",
            ),
            (
                '{ since = "last_seen", after = "2h", do = "expire" }',
                "rules[1]",
                'two rules are named expire-last_seen; give one a `name = "..."` of its own',
            ),
        ],
    )
    def test_rules(self, rule: str, place: str, what: str) -> None:
        """The number counts from 0, also behind a rule that is wrong."""
        assert refused_rules(EXPIRE, rule) == {place: what}
        assert refused_rules("5", rule).keys() >= {"rules[0]"}

    def test_all_errors_at_once(self) -> None:
        """A file is refused as a whole, with everything that is wrong in all of its policies."""
        text = """
        extra = 1
        [policy.a]
        presence = "x"
        rules = [{ since = "created", after = "1h", do = "erase" }, { since = "x", do = "y" }]
        [policy.b]
        colour = "red"
        rules = [{ since = "expired", after = "1h", do = "erase" }]
        [policy.c]
        rules = [{ since = "expired", after = "1h", do = "erase" }]
        """
        assert list(refused(text)) == [
            "extra",
            "policy.a.rules[1].after",
            "policy.a.rules[1].since",
            "policy.a.rules[1].do",
            "policy.a.presence",
            "policy.b.colour",
            "policy.c.rules[0]",
        ]

    def test_the_text_names_each_place(self) -> None:
        """One line for each."""
        error = PolicyInvalid([Problem("a.b", "is wrong"), Problem("c", "is missing")])
        assert str(error) == "a.b: is wrong\nc: is missing"


class TestContradictions:
    """Rules that do not fit each other."""

    @pytest.mark.parametrize(
        ("rules", "index", "what"),
        [
            ([ERASE], 0, "can never be reached: no rule expires the session"),
            (
                [EXPIRE, ERASE, '{ since = "expired", after = "1h", do = "summarize" }'],
                2,
                "once a session has expired it can only be erased",
            ),
            (
                [EXPIRE, ERASE, '{ since = "expired", after = "1h", do = "warn" }'],
                2,
                "once a session has expired it can only be erased",
            ),
            (
                ['{ since = "summarized", after = "1h", do = "erase" }'],
                0,
                "no rule summarizes the session",
            ),
            (
                ['{ since = "created", after = "1h", do = "erase", scope = "summary" }'],
                0,
                "no rule summarizes the session",
            ),
            (
                [SUMMARIZE, '{ since = "summarized", after = "1h", do = "summarize" }'],
                1,
                "a session is summarized once",
            ),
            (
                ['{ since = "last_seen", after = "50m", do = "warn" }'],
                0,
                "warns of an expiry, but no rule expires the session since last_seen",
            ),
            (
                [EXPIRE, ERASE, '{ since = "created", after = "50m", do = "warn" }'],
                2,
                "warns of an expiry, but no rule expires the session since created",
            ),
            (
                [EXPIRE, ERASE, '{ since = "last_seen", after = "1h", do = "warn" }'],
                2,
                "warns when the session has expired: 1h is the end",
            ),
            (
                [
                    '{ since = "created", after = "1h", do = "erase" }',
                    '{ since = "created", after = "2h", do = "expire" }',
                ],
                1,
                "can never be reached: erase-created, 1h since created, comes first",
            ),
            (
                [
                    '{ since = "created", after = "1h", do = "erase" }',
                    '{ since = "created", after = "1h", do = "expire" }',
                ],
                1,
                "can never be reached: erase-created, 1h since created, comes first",
            ),
            (
                [
                    '{ since = "created", after = "1h", do = "erase" }',
                    '{ since = "last_seen", after = "2h", do = "erase" }',
                ],
                1,
                "can never be reached: erase-created, 1h since created, comes first",
            ),
            (
                [
                    '{ since = "created", after = "1h", do = "expire" }',
                    '{ since = "expired", after = "1h", do = "erase" }',
                    '{ since = "created", after = "2h", do = "compress" }',
                ],
                2,
                "can never be reached: expire-created, 1h since created, comes first",
            ),
            (
                [
                    '{ since = "created", after = "1h", do = "expire" }',
                    '{ since = "created", after = "24h", do = "erase" }',
                    '{ since = "expired", after = "24h", do = "erase" }',
                ],
                2,
                "can never be reached: erase-created, 1d since created, comes first",
            ),
            (
                [
                    EXPIRE,
                    '{ since = "last_seen", after = "12h", do = "erase" }',
                    ERASE,
                ],
                2,
                "can never be reached: erase-last_seen, 12h since last_seen, comes first",
            ),
            (
                [
                    SUMMARIZE,
                    '{ since = "summarized", after = "30m", do = "erase" }',
                    '{ since = "created", after = "1h", do = "compress" }',
                ],
                2,
                "can never be reached: summarize-created, 5m since created, comes first",
            ),
            (
                [
                    '{ since = "created", after = "5m", do = "erase", scope = "full" }',
                    '{ since = "created", after = "10m", do = "erase", scope = "chunks" }',
                ],
                1,
                "can never be reached: erase-full-created, 5m since created, comes first",
            ),
            (
                [SUMMARIZE, '{ since = "summarized", after = "5m", do = "compress" }'],
                1,
                "can never be reached: "
                "what it counts from cannot happen any more when it could act",
            ),
        ],
    )
    def test_rules_that_never_fire(self, rules: list[str], index: int, what: str) -> None:
        """The rule that can never be reached is named, with the one that always comes first."""
        assert refused_rules(*rules) == {f"rules[{index}]": what}

    @pytest.mark.parametrize(
        "rules",
        [
            # Idle or old, whichever comes first.
            [EXPIRE, ERASE, '{ since = "created", after = "8h", do = "expire" }'],
            # Idle rooms expire; nothing is kept for longer than a week in any case.
            [EXPIRE, ERASE, '{ since = "created", after = "7d", do = "erase" }'],
            # Expired and erased at the same instant, in the order of the rules.
            [
                '{ since = "created", after = "1h", do = "expire" }',
                '{ since = "created", after = "1h", do = "erase" }',
            ],
            # What was completed goes sooner than what was not.
            [
                EXPIRE,
                ERASE,
                '{ since = "completed", after = "5m", do = "erase" }',
                '{ since = "failed", after = "2h", do = "erase", scope = "files" }',
            ],
            # Two reminders.
            [
                EXPIRE,
                ERASE,
                '{ since = "last_seen", after = "30m", do = "warn", name = "first" }',
                '{ since = "last_seen", after = "50m", do = "warn", name = "second" }',
            ],
            # Idle or at the end of the day, with a warning of either.
            [
                EXPIRE,
                '{ since = "last_seen", after = "30m", do = "warn" }',
                '{ since = "created", after = "24h", do = "expire" }',
                '{ since = "created", after = "23h", do = "warn" }',
                ERASE,
            ],
            # Raw data, figures, the end.
            [
                SUMMARIZE,
                '{ since = "created", after = "10m", do = "expire" }',
                '{ since = "summarized", after = "30m", do = "erase" }',
            ],
            # The summary goes before the record.
            [
                SUMMARIZE,
                '{ since = "summarized", after = "30m", do = "erase", scope = "summary" }',
                '{ since = "created", after = "30d", do = "erase" }',
            ],
            # Idle for a while: only figures stay, and they end soon, whether people return or not.
            [
                '{ since = "last_seen", after = "10m", do = "summarize" }',
                '{ since = "summarized", after = "10m", do = "expire" }',
                '{ since = "last_seen", after = "15m", do = "expire" }',
                ERASE,
            ],
            # An expiry that never leads to an erasure, in a policy that erases nothing.
            [EXPIRE],
        ],
    )
    def test_rules_that_make_sense(self, rules: list[str]) -> None:
        """None of these is taken for a contradiction."""
        assert len(policy(",".join(rules)).rules) == len(rules)

    def test_a_limit_expires_too(self) -> None:
        """Where a limit ends the oldest, rules since `expired` and recovery have a meaning."""
        limits = '{ per_owner = 2, on_exceed = "expire-oldest" }'
        assert policy(ERASE, limits=limits, recover='"1h"').expires
        assert refused_rules(ERASE, more="limits = { per_owner = 2 }\nrecover = '1h'") == {
            "rules[0]": "can never be reached: no rule expires the session",
            "recover": "nothing expires, so nothing can be recovered",
        }

    def test_an_application_summarizes_too(self) -> None:
        """Where aggregates are declared, a session can be summarized without a rule."""
        policy('{ since = "summarized", after = "1h", do = "erase" }', summary='{ n = "count()" }')

    @pytest.mark.parametrize("since", ["completed", "failed", "stored"])
    def test_expired_and_never_erased(self, since: str) -> None:
        """A policy that erases what was completed must not keep hidden what was not, for ever."""
        erase = f'{{ since = "{since}", after = "1d", do = "erase" }}'
        assert refused_rules(EXPIRE, erase) == {
            "rules": "a session can expire and never be erased: "
            'add a rule { since = "expired", after = "...", do = "erase" }'
        }
        assert policy(",".join((EXPIRE, erase, ERASE)))

    @pytest.mark.parametrize(
        ("rules", "left"),
        [
            ([EXPIRE, ERASE], "1d"),
            ([EXPIRE, '{ since = "last_seen", after = "3h", do = "erase" }'], "2h"),
        ],
    )
    def test_recovery_ends_before_the_erasure(self, rules: list[str], left: str) -> None:
        """What is erased cannot be recovered, so the promise would be empty."""
        assert refused_rules(*rules, more="recover = '1d1s'") == {
            "recover": f"is longer than the {left} until everything is erased"
        }
        assert policy(",".join(rules), recover=f'"{left}"')

    def test_recovery_of_nothing(self) -> None:
        """Without an expiry there is nothing to recover."""
        assert refused_rules(
            '{ since = "created", after = "1h", do = "erase" }', more="recover = '1m'"
        ) == {"recover": "nothing expires, so nothing can be recovered"}

    def test_presence_is_denser_than_the_rules_that_watch_it(self) -> None:
        """Rooms would close between two heartbeats of people who are there."""
        assert refused_rules(EXPIRE, ERASE, more="presence = '1h'") == {
            "presence": "people are seen every 1h, but expire-last_seen comes 1h after that"
        }
        assert policy(EXPIRE, presence='"59m"').presence == 59 * MINUTE

    def test_contradictions_wait_for_values_that_can_be_read(self) -> None:
        """An expiry that is misspelt is no reason to say that none is there."""
        wrong = EXPIRE.replace("1h", "1 hour")
        assert refused_rules(wrong, ERASE).keys() == {"rules[0].after"}


OVERRIDES = """
[policy.my-room]
presence = "30s"
limits = { concurrent = 4 }
rules = [
  { since = "last_seen", after = "30m", do = "warn" },
  { since = "last_seen", after = "1h", do = "expire" },
  { since = "expired", after = "24h", do = "erase" },
]
environment = [
  { name = "IDLE_HOURS", sets = "rules[0].after", unit = "h", factor = 0.5 },
  { name = "IDLE_HOURS", sets = "rules[1].after", unit = "h" },
  { name = "ERASE_DAYS", sets = "rules[2].after", unit = "d" },
  { name = "BEAT", sets = "presence", unit = "s" },
  { name = "SWEEP", sets = "sweep", unit = "m" },
  { name = "MOST", sets = "limits.concurrent" },
  { name = "BYTES", sets = "limits.session_bytes", unit = "count" },
]
"""


def with_environment(**variables: str) -> RetentionPolicy:
    """The policy above under this environment."""
    return parse(OVERRIDES, variables)["my-room"]


class TestEnvironment:
    """Variables that replace values."""

    def test_none_given(self) -> None:
        """The file counts."""
        assert with_environment(OTHER="1") == parse(OVERRIDES)["my-room"]
        assert with_environment().rules[1].after == HOUR

    def test_times(self) -> None:
        """In the unit that is declared, fractions too, to the millisecond."""
        room = with_environment(IDLE_HOURS="2.5", ERASE_DAYS="3", BEAT="0.5e2", SWEEP="1")
        assert [rule.after for rule in room.rules] == [75 * MINUTE, 150 * MINUTE, 3 * DAY]
        assert (room.presence, room.sweep) == (50 * SECOND, MINUTE)

    def test_limits(self) -> None:
        """Also one that the file does not have."""
        room = with_environment(MOST="7", BYTES="1000000")
        assert room.limits == Limits(concurrent=7, session_bytes=10**6)

    def test_a_policy_without_limits_gets_one(self) -> None:
        """A variable may set what the file leaves open."""
        text = f"""[policy.p]
        rules = [{EXPIRE}]
        environment = [{{ name = "MOST", sets = "limits.concurrent" }}]"""
        assert parse(text)["p"].limits.concurrent is None
        assert parse(text, {"MOST": "3"})["p"].limits.concurrent == 3

    def test_the_long_name_wins(self) -> None:
        """Two systems may share a name: then the policy's own stands before it."""
        assert with_environment(MOST="7", MY_ROOM_MOST="2").limits.concurrent == 2
        assert with_environment(MY_ROOM_MOST="2").limits.concurrent == 2
        assert with_environment(OTHER_ROOM_MOST="2").limits.concurrent == 4

    @pytest.mark.parametrize("value", ["", "x", "0", "-1", "nan", "inf", "1e9", "0x10", "1,5"])
    def test_no_number(self, value: str) -> None:
        """The variable is named, once, with its unit; its value is not repeated."""
        assert refused(OVERRIDES, {"IDLE_HOURS": value}) == {
            "environment variable IDLE_HOURS": "must be a number above 0 (hours)"
        }

    def test_no_whole_number(self) -> None:
        """Half a session cannot be."""
        assert refused(OVERRIDES, {"MY_ROOM_MOST": "2.5"}) == {
            "environment variable MY_ROOM_MOST": "must be a whole number"
        }

    @pytest.mark.parametrize("value", ["0.0000000001", "9999999"])
    def test_no_time(self, value: str) -> None:
        """Too short to be counted, or longer than anybody lives."""
        assert refused(OVERRIDES, {"IDLE_HOURS": value}) == {
            "environment variable IDLE_HOURS": "must be a time of at least 1 ms "
            "and at most 200 years"
        }

    def test_a_value_that_does_not_fit(self) -> None:
        """What contradicts the policy is refused at its place, with the variable that did it."""
        assert refused(OVERRIDES, {"BEAT": "7200"}) == {
            "policy.my-room.presence": "people are seen every 2h, but warn-last_seen comes 30m "
            "after that (with BEAT as given)"
        }

    def test_several_wrong_at_once(self) -> None:
        """All of them are named."""
        assert refused(OVERRIDES, {"IDLE_HOURS": "x", "MOST": "y", "SWEEP": "1"}).keys() == {
            "environment variable IDLE_HOURS",
            "environment variable MOST",
        }

    @pytest.mark.parametrize(
        ("entry", "place", "what"),
        [
            ("5", "", "must be a table { name, sets, unit }"),
            ('{ sets = "sweep", unit = "s" }', ".name", "must be the name of an environment"),
            ('{ name = "low", sets = "sweep", unit = "s" }', ".name", "must be the name of an en"),
            ('{ name = "A", unit = "s" }', ".sets", "must be rules[N].after (the first rule is"),
            ('{ name = "A", sets = "rules[0].do", unit = "s" }', ".sets", "must be rules[N].aft"),
            ('{ name = "A", sets = "limits.on_exceed" }', ".sets", "must be rules[N].after"),
            ('{ name = "A", sets = "rules[1].after", unit = "s" }', ".sets", "this policy does"),
            ('{ name = "A", sets = "sweep" }', ".unit", "must be s, m, h or d, since it sets sw"),
            ('{ name = "A", sets = "limits.per_owner", unit = "s" }', ".unit", "must be count, "),
            ('{ name = "A", sets = "sweep", unit = "y" }', ".unit", "must be one of s, m, h, d,"),
            ('{ name = "A", sets = "sweep", unit = "s", factor = 0 }', ".factor", "must be a num"),
            ('{ name = "A", sets = "limits.concurrent", factor = 2 }', ".factor", "only times h"),
            ('{ name = "A", sets = "sweep", unit = "s", of = 1 }', ".of", "unknown key; known: "),
        ],
    )
    def test_declarations(self, entry: str, place: str, what: str) -> None:
        """A wrong declaration is found also when the variable is not set."""
        problems = refused_policy(f"rules = [{EXPIRE}]\nenvironment = [{entry}]")
        assert problems.keys() == {f"environment[0]{place}"}
        assert problems[f"environment[0]{place}"].startswith(what)

    def test_a_declaration_without_rules_to_set(self) -> None:
        """A wrong shape is told once, by the reader of that shape."""
        entry = '{ name = "A", sets = "rules[0].after", unit = "s" }'
        for rules in ("rules = 5", "rules = [5]"):
            problems = refused_policy(f"{rules}\nenvironment = [{entry}]", {"A": "5"})
            assert any(place.startswith("rules") for place in problems)
        limits = '{ name = "A", sets = "limits.concurrent" }'
        problems = refused_policy(
            f"rules = [{EXPIRE}]\nlimits = 5\nenvironment = [{limits}]", {"A": "5"}
        )
        assert problems == {"limits": "must be a table"}


class TestVersions:
    """A policy in the course of time."""

    def test_in_force(self) -> None:
        """Each from its instant on, the first since ever."""
        versions = [Version(1, 0, policy(EXPIRE)), Version(2, 100, policy(EXPIRE))]
        assert [in_force(versions, at).number for at in (-5, 0, 99, 100, 10**18)] == [1, 1, 1, 2, 2]

    def test_they_stand_in_the_log_under_a_stream_of_their_own(self) -> None:
        """No session can have that id."""
        assert stream_of("reading-room") == "policy:reading-room"


def test_a_policy_that_keeps_sessions_for_ever_is_noted() -> None:
    """It is allowed, since somebody may want just that; whoever checks it is told."""
    forever = (
        '[policy.p]\nrules = [{ since = "failed", after = "7d", do = "erase", scope = "files" }]'
    )
    [policy] = parse(forever).values()
    assert len(notes(policy)) == 1
    ends = '[policy.p]\nrules = [{ since = "created", after = "7d", do = "erase" }]'
    [policy] = parse(ends).values()
    assert notes(policy) == ()
