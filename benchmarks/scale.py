"""``python -m benchmarks.scale``: what grows with the clicks, and whether they wait for upkeep."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import statistics
import sys
import time
import typing as t

import sqlalchemy as sa
from sqlalchemy import event

from flask_referral import clicks
from flask_referral import clock
from flask_referral import schema
from flask_referral import stats
from flask_referral.clicks import Visit
from flask_referral.db import sql
from flask_referral.host.state import State

from . import database
from . import history
from . import measure
from . import ours
from . import plans
from .config import DAYS
from .config import SECRET_KEY
from .history import History
from .plans import BROWSER
from .plans import Scan

SIZES = (10_000, 1_000_000, 10_000_000)
REFERRERS = 10_000
#: The most clicks a second while something else runs.
PACE = 200
#: Seconds; clicks are looked at in windows of that length.
WINDOW = 2
#: A command runs for some windows and is held between two transactions for one, in turns, so that
#: clicks beside it and without it are compared at the same time, whatever else the machine does.
RUNS = 3
#: Milliseconds; a click that waits longer than this for a lock is given up and counted.
LOCK_TIMEOUT = 20
#: In this order: the sums of all days, what is personal of a tenth of the clicks, nearly all
#: clicks, and the codes of all who signed up.
UPKEEP = {
    "rollup": ("rollup",),
    "purge, the oldest tenth": ("purge", "--clicks-older-than", "329", "--yes"),
    "purge --delete, all": ("purge", "--clicks-older-than", "1", "--delete", "--yes"),
    "backfill": ("backfill",),
}


class Waits(t.NamedTuple):
    """How long clicks took while something else ran, or nothing."""

    beside: str
    #: Of what ran, while it was not held.
    seconds: float
    #: What it says that it did.
    did: str
    #: By all, the clicks too.
    wal_bytes: int
    #: How many clicks waited for a lock.
    locked: int
    #: The seconds of each click, by windows: while it ran, and while it was held.
    running: list[list[float]]
    held: list[list[float]]


class Result(t.NamedTuple):
    """What was measured at one size."""

    figures: dict[str, str]
    waits: list[Waits]
    plans: dict[str, list[Scan]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="numbers of clicks, with commas"
    )
    parser.add_argument("--seconds", type=float, default=30, help="of clicks beside nothing")
    arguments = parser.parse_args()
    results: dict[int, Result] = {}
    for size in map(int, arguments.sizes.split(",")):
        # As hosts have it; what it does beside the commands is part of the figures.
        with database.server(autovacuum="on") as url:
            if not results:
                print(measure.machine(url), flush=True)
            results[size] = _measure(url, size, arguments.seconds)
    _print(results)


def _measure(url: str, size: int, seconds: float) -> Result:
    def tell(text: object) -> None:
        print(f"{time.strftime('%X')} {size:,}: {text}", file=sys.stderr, flush=True)

    database.create_host_tables(url)
    app = ours.create_app(url, REFERRAL_RENEWALS=1)
    figures: dict[str, str] = {}
    with app.app_context():
        schema.upgrade()
        state: State = app.extensions["referral"].state
        connection = database.connect(database.dsn(url))
        began = time.monotonic()
        loaded = history.load(connection, size, REFERRERS, tell)
        connection.close()
        figures["loading"] = f"{time.monotonic() - began:.0f} s"
        visitors = Visitors(url, state, loaded)

        def statistics_of(when: str) -> None:
            for name, user in (("100 clicks", loaded.typical), ("a tenth of all", loaded.big)):
                figures[f"statistics, {name}, {when}"] = _statistics(state, user)

        statistics_of("before a roll-up")
        found: dict[str, list[Scan]] = {}
        waits = [visitors.alone("nothing", seconds)]
        for name, command in UPKEEP.items():
            tell(_row(size, waits[-1]))
            waits.append(visitors.beside(name, command))
            if name == "rollup":
                statistics_of("after it")
                found = plans.hot_paths(app, loaded.big, loaded.big_code)
                figures["clicks, each code in turn"] = visitors.rate(loaded.codes, seconds / 5)
                figures["clicks, all on one code"] = visitors.rate([loaded.big_code], seconds / 5)
                tell(figures)
        waits.append(visitors.alone("nothing, at the end", seconds))
        state.engine.dispose()
    return Result(figures, waits, found)


class Visitors:
    """People who click, each for the first time."""

    def __init__(self, url: str, state: State, loaded: History) -> None:
        self._url = url
        self._state = state
        self._loaded = loaded
        self._number = 0
        self._locked = 0

    def alone(self, beside: str, seconds: float) -> Waits:
        """Click while nothing of ours runs."""
        before = self._wal()
        with self._clicking() as db:
            windows = [self._window(db) for _ in range(math.ceil(seconds / WINDOW))]
        return Waits(beside, seconds, "", self._wal() - before, self._locked, windows, [])

    def beside(self, name: str, command: t.Sequence[str]) -> Waits:
        """Click while a command runs, in a process of its own."""
        spawn = multiprocessing.get_context("spawn")
        may_run, is_held = spawn.Event(), spawn.Event()
        result, report = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_run, args=(self._url, command, may_run, is_held, report))
        running: list[list[float]] = []
        held: list[list[float]] = []

        def is_over() -> bool:
            return not process.is_alive() or result.poll()

        with self._clicking() as db:
            before = self._wal()
            process.start()
            while not is_over():
                may_run.set()
                for _ in range(RUNS):
                    running.append(self._window(db, is_over))
                is_held.clear()
                may_run.clear()
                # It ends its transaction first.
                self._window(db, lambda: is_over() or is_held.is_set(), math.inf)
                if not is_over():
                    held.append(self._window(db))
            may_run.set()
            seconds, did = result.recv()
            process.join()
            wal_bytes = self._wal() - before
        running = [window for window in running if window]
        return Waits(name, seconds, did, wal_bytes, self._locked, running, held)

    def rate(self, codes: t.Sequence[str], seconds: float) -> str:
        """Click on some codes as fast as one connection can."""
        done = 0
        began = time.perf_counter()
        with self._state.autocommit() as db:
            while time.perf_counter() - began < seconds:
                self._click(db, codes[done % len(codes)])
                done += 1
        return f"{done / (time.perf_counter() - began):,.0f} a second"

    @contextlib.contextmanager
    def _clicking(self) -> t.Iterator[sql.Connection]:
        self._locked = 0
        with self._state.autocommit() as db, sql.driver(db).cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT}")
            yield db
            cursor.execute("RESET lock_timeout")

    def _window(
        self,
        db: sql.Connection,
        is_over: t.Callable[[], bool] = lambda: False,
        seconds: float = WINDOW,
    ) -> list[float]:
        """Click at a steady pace, a tenth of the time on the one code that has a tenth of all."""
        times: list[float] = []
        codes = self._loaded.codes
        due = time.perf_counter()
        ends = due + seconds
        while due < ends and not is_over():
            is_big = self._number % 10 == 0
            code = self._loaded.big_code if is_big else codes[self._number % len(codes)]
            began = time.perf_counter()
            try:
                self._click(db, code)
            except sa.exc.DBAPIError as error:
                if sql.sqlstate(error) != sql.LOCK_NOT_AVAILABLE:
                    raise
                self._locked += 1
            ended = time.perf_counter()
            times.append(ended - began)
            due = max(due + 1 / PACE, ended)
            time.sleep(due - ended)
        return times

    def _click(self, db: sql.Connection, code: str) -> None:
        self._number += 1
        visit = Visit(code, clock.now(), "203.0.113.7", f"{BROWSER} {self._number}")
        state = self._state
        recorded = clicks.record(db, state.models, state.settings, visit, SECRET_KEY.encode())
        assert recorded is not None and recorded.created

    def _wal(self) -> int:
        with self._state.engine.connect() as db:
            found = db.exec_driver_sql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")
            return int(found.scalar_one())


def _run(url: str, command: t.Sequence[str], may_run: t.Any, is_held: t.Any, report: t.Any) -> None:
    """Run ``flask referral COMMAND``; report its seconds and what it says."""
    app = ours.create_app(url)
    held = 0.0

    def hold(connection: sa.Connection) -> None:
        nonlocal held
        began = time.monotonic()
        if not may_run.is_set():
            is_held.set()
            may_run.wait()
        held += time.monotonic() - began

    with app.app_context():
        event.listen(app.extensions["sqlalchemy"].engine, "begin", hold)
    began = time.monotonic()
    result = app.test_cli_runner().invoke(args=["referral", *command, "--json"])
    seconds = time.monotonic() - began - held
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    numbers = (f"{name} {value:,}" for name, value in told.items() if isinstance(value, int))
    report.send((seconds, ", ".join(numbers)))


def _statistics(state: State, user: t.Any) -> str:
    """Return the milliseconds of a user's statistics: in the database, and in all."""

    def collect(db: sql.Connection) -> None:
        stats.collect(db, state.models, user, DAYS, now=clock.now(), link=lambda code: None)

    in_database, in_all = [], []
    with state.autocommit() as db:
        for _ in range(20):
            began = time.perf_counter()
            collect(db)
            in_all.append(time.perf_counter() - began)
    with plans.sent(state.engine) as seen, state.autocommit() as db:
        collect(db)
    with state.engine.connect() as connection:
        for _ in range(9):
            found = [each.explain(connection, "ANALYZE", "TIMING OFF") for each in seen]
            in_database.append([plan["Planning Time"] + plan["Execution Time"] for plan in found])
    total = statistics.median(map(sum, in_database))
    return f"{total:.2f} ms; {1000 * statistics.median(in_all):.2f} ms"


def _print(results: dict[int, Result]) -> None:
    sizes = list(results)
    print("\n| work | " + " | ".join(f"{size:,} clicks" for size in sizes) + " |")
    print("| --- |" + " --- |" * len(sizes))
    for name in results[sizes[0]].figures:
        print(f"| {name} | " + " | ".join(results[size].figures[name] for size in sizes) + " |")
    print("\n### Clicks beside upkeep\n")
    print(
        "| size | beside | took | did | WAL | waited for a lock | clicks | p50, ms | p99, ms "
        "| worst of 2 s, ms | worst, ms |"
    )
    print("| --- |" + " --- |" * 10)
    for size in sizes:
        for waits in results[size].waits:
            print(_row(size, waits))
    print("\n### Plans\n")
    print("| work | how tables are read | at |")
    print("| --- | --- | --- |")
    for name in results[sizes[0]].plans:
        plans_of: dict[str, list[str]] = {}
        for size in sizes:
            plans_of.setdefault(_plan(results[size].plans[name]), []).append(f"{size:,}")
        for plan, at in plans_of.items():
            print(f"| {name} | {plan} | {'; '.join(at) if len(plans_of) > 1 else 'all'} |")


def _row(size: int, waits: Waits) -> str:
    sides = [windows for windows in (waits.running, waits.held) if windows]
    columns = zip(*map(_columns, sides), strict=True)
    return (
        f"| {size:,} | {waits.beside} | {waits.seconds:.1f} s | {waits.did} "
        f"| {waits.wal_bytes / 2**20:,.0f} MB | {waits.locked} | "
        + " | ".join(" / ".join(column) for column in columns)
        + " |"
    )


def _columns(windows: list[list[float]]) -> t.Iterator[str]:
    times = [1000 * took for window in windows for took in window]
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    yield f"{len(times):,}"
    yield f"{cuts[49]:.2f}"
    yield f"{cuts[98]:.1f}"
    yield f"{1000 * statistics.median(map(max, windows)):.1f}"
    yield f"{max(times):.1f}"


def _plan(scans: list[Scan]) -> str:
    found = ", ".join(dict.fromkeys(map(str, scans)))
    is_bad = any(scan.is_whole and scan.table == "referral_clicks" for scan in scans)
    return f"**{found}**" if is_bad else found


if __name__ == "__main__":
    main()
