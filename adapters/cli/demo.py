"""`lapse demo`: the main job on the embedded default, weeks of it in a minute."""

import shutil
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table

from adapters.cli.demo_examples import Examples, serving_examples
from adapters.cli.demo_feed import Deed, Do, feed
from adapters.cli.errors import refusals
from adapters.cli.options import load
from adapters.cli.output import console, print_json
from adapters.clock import format_instant
from adapters.log.checks import check_log
from adapters.scheduler.ticker import Ticker
from adapters.settings import Settings
from adapters.wiring import Lapse, open_lapse
from domain.errors import LapseError, LimitReached, SessionErased, SessionExpired, SettingsInvalid
from domain.policy import DAY, MILLISECOND, SECOND, parse_duration
from domain.session import Failure
from domain.use_cases.presence import see
from projections import usage

DAYS = 40
"""Days that pass in a minute, or in `--for`: enough for the longest rule of the presets, 30."""
USUAL_RUN = 60 * SECOND
PRODUCER = "demo"
MARK = ".lapse-demo"


class FastClock:
    """A clock that runs `speed` times as fast as the machine's, from `start` on.

    limit: it never passes this, the time of the next deed: a machine that cannot keep up slows the
    days down instead of letting sessions expire whose visitors are only waiting in line.
    """

    def __init__(self, start: int, speed: float) -> None:
        self._start = start
        self._speed = speed
        self._began = time.monotonic()
        self.limit = start

    def __call__(self) -> int:
        passed = round((time.monotonic() - self._began) * self._speed * SECOND)
        return min(self._start + passed, self.limit)

    @property
    def is_over(self) -> bool:
        """Whether the days of one run have passed on the machine's clock."""
        return (time.monotonic() - self._began) * self._speed >= DAYS * DAY / SECOND


class Demo:
    """Carries out the deeds of a feed as a producer would."""

    def __init__(self, lapse: Lapse) -> None:
        self._lapse = lapse
        self._ids: dict[int, str] = {}
        self._tokens: dict[tuple[int, str], str] = {}
        self.refused: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.deeds = 0

    def carry_out(self, deed: Deed) -> None:
        """One deed at its own time. What Lapse refuses is counted: it is part of the show."""
        self.deeds += 1
        try:
            self._try(deed)
        except LimitReached:
            self.refused[deed.policy] += 1
        except (SessionExpired, SessionErased):
            self.late[deed.policy] += 1
        except LapseError:
            self.refused[deed.policy] += 1

    def _try(self, deed: Deed) -> None:
        sessions, now = self._lapse.sessions, deed.at
        if deed.do is Do.CREATE:
            session = sessions.create(deed.policy, now, PRODUCER, owner=deed.who)
            self._ids[deed.visit] = session.id
            return
        session_id = self._ids.get(deed.visit)
        if session_id is None:
            return  # its creation was refused
        match deed.do:
            case Do.JOIN:
                token = sessions.join(session_id, deed.who, now, PRODUCER)
                self._tokens[deed.visit, deed.who] = token
            case Do.LEAVE:
                token = self._tokens.get((deed.visit, deed.who), "")
                sessions.leave(session_id, token, now, PRODUCER)
            case Do.SEE:
                pair = (session_id, self._tokens.get((deed.visit, deed.who), ""))
                lapse = self._lapse
                see(lapse.log, lapse.vault, lapse.policies, {pair: now}, now, PRODUCER)
            case Do.STORE:
                sessions.store(session_id, 1, deed.size, now, PRODUCER)
            case Do.COMPLETE:
                sessions.complete(session_id, now, PRODUCER)
            case Do.FAIL:
                sessions.fail(session_id, Failure.ERROR, now, PRODUCER)


def demo(
    run_for: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="DURATION", help="End by itself after this long, such as 60s."
        ),
    ] = None,
    folder: Annotated[
        Path,
        typer.Option("--folder", metavar="FOLDER", help="Where the demo's databases and keys go."),
    ] = Path("lapse-demo"),
    seed: Annotated[
        int, typer.Option("--seed", metavar="NUMBER", help="Another seed, other people.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Watch the main job: a made-up feed through every preset, with the clock running fast.

    Beside it the example pages are live, on loopback. Uses databases of its own and nothing else.
    It goes on until Ctrl-C or SIGTERM, or for as long as --for says, and ends with a summary.
    """
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    with refusals():
        try:
            duration = parse_duration(run_for) if run_for is not None else None
        except ValueError as error:
            raise SettingsInvalid(f"--for: {error}") from None
        settings = _fresh(folder)
        with ExitStack() as parts:
            lapse = parts.enter_context(open_lapse(settings))
            examples = None
            if not as_json:
                beside = serving_examples(settings, folder / "examples")
                examples = parts.enter_context(beside)
            _run(lapse, folder, duration, seed, examples)


def _as_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fresh(folder: Path) -> Settings:
    """An empty folder for the demo. Only a folder that an earlier demo made is emptied."""
    settings = load(None)
    try:
        _empty(folder)
    except OSError as error:
        raise SettingsInvalid(
            f"--folder: {folder} cannot be written ({error.strerror}); name another one"
        ) from None
    return settings.model_copy(
        update={
            "database_url": f"sqlite:///{(folder / 'db' / 'lapse.db').resolve()}",
            "key_url": (folder / "keys").resolve().as_uri(),
            "ledger_url": None,
            "log_level": "warning",
        }
    )


def _empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise SettingsInvalid(
            f"--folder: {folder} holds something else than an earlier demo; name another one"
        )
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "db").mkdir(mode=0o700, parents=True)
    (folder / MARK).touch()


def _run(
    lapse: Lapse, folder: Path, duration: int | None, seed: int, examples: Examples | None
) -> None:
    """examples: None for an answer in JSON."""
    as_json = examples is None
    wall = lapse.clock()
    start = wall - DAYS * DAY
    clock = FastClock(start, DAYS * DAY / (duration or USUAL_RUN))
    stop = threading.Event()
    show = Demo(lapse)
    ticker = Ticker(lapse.log, lapse.policies, clock, lapse.holder, read_again=100 * MILLISECOND)
    projecting = threading.Thread(target=lapse.projector.run, args=(stop,), daemon=True)
    ticker.start()
    projecting.start()
    try:
        if examples is not None:  # from here on Ctrl-C ends it with the summary
            _introduce(folder, duration, examples)
        _pace(lapse, show, clock, seed, start, ends=duration is not None, quiet=as_json)
    except KeyboardInterrupt:
        pass
    finally:
        ticker.close()
        stop.set()
        lapse.projector.wake()
        projecting.join()
    _conclude(lapse, show, clock(), folder, as_json=as_json)


def _pace(
    lapse: Lapse, show: Demo, clock: FastClock, seed: int, start: int, *, ends: bool, quiet: bool
) -> None:
    """Carry deeds out as the fast clock reaches them; look around twice a second."""
    waiting = threading.Event()
    shown = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for deed in feed(seed, start):
            clock.limit = deed.at
            while clock() < deed.at:
                waiting.wait(0.01)
            show.carry_out(deed)
            if ends and clock.is_over:
                return
            if not quiet and console.is_terminal and time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                live.update(_table(lapse, show, clock()), refresh=True)


def _introduce(folder: Path, duration: int | None, examples: Examples) -> None:
    if duration is None:
        pace = f"{DAYS} days a minute, until Ctrl-C ends it with a summary"
    else:
        pace = f"Up to {DAYS} days in {duration / SECOND:.0f} s"
    console.print(
        f"{pace}: made-up people visit, read, train, upload and leave,\n"
        "and Lapse forgets them on time. Everything happens in one SQLite file; who somebody was\n"
        "is sealed under keys that go when the session is erased.\n"
        f"  database  {folder / 'db' / 'lapse.db'}\n  keys      {folder / 'keys'}\n\n"
        "Meanwhile three example pages are live, at the usual pace and with a database of their\n"
        "own: a reading room, a biometric coach, a video analysis. They ask for this token, which\n"
        "ends with the demo:\n"
        f"  pages     {examples.url}\n  token     {examples.token}\n",
        markup=False,
        soft_wrap=True,
    )


def _table(lapse: Lapse, show: Demo, now: int) -> Table:
    table = Table(
        title=format_instant(now), title_justify="left", header_style="bold", box=SIMPLE_HEAD
    )
    for column in ("policy", "created", "live", "summarized", "expired", "erasures", "refused"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in _figures(lapse, show):
        table.add_row(*(str(cell) for cell in row.values()))
    return table


def _figures(lapse: Lapse, show: Demo) -> list[dict[str, str | int]]:
    with lapse.engines.read() as connection:
        totals = {(one.policy, one.event): one.count for one in usage.totals(connection)}
    return [
        {
            "policy": name,
            "created": totals.get((name, "session.created"), 0),
            "live": lapse.log.live(name),
            "summarized": totals.get((name, "session.summarized"), 0),
            "expired": totals.get((name, "session.expired"), 0),
            "erasures": totals.get((name, "session.erased"), 0),
            "refused": show.refused[name],
        }
        for name in sorted(lapse.policies.known)
    ]


def _conclude(lapse: Lapse, show: Demo, now: int, folder: Path, *, as_json: bool) -> None:
    lapse.projector.catch_up()
    findings = list(check_log(lapse.engines, lapse.log, lapse.clock(), lambda _done, _total: None))
    figures = _figures(lapse, show)
    if as_json:
        print_json(
            {
                "policies": figures,
                "deeds": show.deeds,
                "events": lapse.log.head(),
                "ok": not findings,
            }
        )
        return
    console.print(_table(lapse, show, now))
    url = f"sqlite:///{folder / 'db' / 'lapse.db'}"
    keys = (folder / "keys").resolve().as_uri()
    verdict = "and the folded state is what it says" if not findings else "BUT IT IS NOT WHOLE"
    console.print(
        f"{show.deeds} deeds, {lapse.log.head()} events; the log was read back, {verdict}.\n"
        "Look around:\n"
        f"  export LAPSE_DATABASE_URL={url} LAPSE_KEY_URL={keys}\n"
        "  lapse status\n  lapse sessions\n  lapse audit show ID\n  lapse db check",
        markup=False,
        soft_wrap=True,
    )
    if findings:
        raise typer.Exit(1)
