"""``python -m benchmarks``: flask-referral beside its floor and an ordinary ORM version."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import typing as t

import sqlalchemy as sa
from flask import Flask

from flask_referral import schema

from . import database
from . import floor
from . import measure
from . import orm
from . import ours
from .work import repeated
from .work import Request
from .work import Work

APPS = {"floor": floor.create_app, "ours": ours.create_app, "orm": orm.create_app}
WORKLOADS = {
    "existing_code": "generate, code exists",
    "new_code": "generate, new code",
    "click": "click on a share link",
    "hot_click": "click, all on one code",
    "repeated_click": "click that the cookie proves repeated",
    "conversion": "conversion with credit",
    "statistics": "statistics, 100 clicks",
    "page": "a page of the host's",
}
#: Those whose user is logged in.
IN_SESSION = ("existing_code", "new_code", "conversion", "statistics")
#: Requests of a round in process.
BATCH = 200
Make = t.Callable[[], Request]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="paired rounds in process")
    parser.add_argument("--seconds", type=float, default=0.8, help="of a round over HTTP")
    parser.add_argument("--only", choices=WORKLOADS, action="append", help="a workload")
    parser.add_argument("--no-http", action="store_true", help="measure in process only")
    arguments = parser.parse_args()
    only = arguments.only or list(WORKLOADS)
    with database.server() as url:
        names = [*APPS, *(f"{name} in session" for name in APPS)]
        print("Loading 10,000 referrers and 600,000 bound clicks ...", file=sys.stderr)
        database.create_host_tables(url)
        with ours.create_app(url).app_context():
            schema.upgrade()
        work = Work(database.load(url, names), _codes(url))
        print(measure.machine(url))
        print("\n## Processor time of a request, in process\n")
        _in_process(url, work, only, arguments.rounds, in_session=False)
        print("\n## The same where the host has loaded the user in its session\n")
        in_session = [name for name in only if name in IN_SESSION]
        _in_process(url, work, in_session, arguments.rounds, in_session=True)
        if not arguments.no_http:
            print(f"\n## Requests a second over gunicorn, {measure.WORKERS} sync workers\n")
            _over_http(url, work, only, arguments.seconds)


def _in_process(
    url: str, work: Work, only: t.Sequence[str], rounds: int, *, in_session: bool
) -> None:
    apps = {name: create(url, in_session=in_session) for name, create in APPS.items()}
    without = ours.create_app(url, with_referral=False)
    print("| work | floor, ms | ours, ms | floor : ours | floor : ORM version |")
    print("| --- | --- | --- | --- | --- |")
    for workload in only:
        times: dict[str, list[float]] = {name: [] for name in apps}
        makes = {
            name: _make(app, name + (" in session" if in_session else ""), work, workload)
            for name, app in apps.items()
        }
        # What a page of the host's costs is to be compared with the same host without us.
        compared = apps | ({"floor": without} if workload == "page" else {})
        for number in range(rounds + 1):
            for name, app in compared.items():
                batch = [makes[name]() for _ in range(BATCH)]
                took = measure.processor_time(app, batch)
                # The first round fills caches.
                if number:
                    times[name].append(took)
        ms = {name: 1000 * statistics.median(found) for name, found in times.items()}
        ratios = {name: _ratio(times["floor"], found) for name, found in times.items()}
        print(
            f"| {WORKLOADS[workload]} | {ms['floor']:.3f} | {ms['ours']:.3f} "
            f"| {ratios['ours']:.2f} | {ratios['orm']:.2f} |",
            flush=True,
        )
    for app in (*apps.values(), without):
        if "sqlalchemy" in app.extensions:
            with app.app_context():
                app.extensions["sqlalchemy"].engine.dispose()


def _over_http(url: str, work: Work, only: t.Sequence[str], seconds: float) -> None:
    print("| work | connections | floor, 1/s | ours, 1/s | ours : floor | ORM version : floor |")
    print("| --- | --- | --- | --- | --- | --- |")
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(measure.serve(name, url)) for name in APPS}
        apps = {name: create(url) for name, create in APPS.items()}
        for workload in only:
            makes = {name: _make(app, name, work, workload) for name, app in apps.items()}
            for connections, rounds in ((1, 2), (8, 3), (32, 2)):
                rates: dict[str, list[float]] = {name: [] for name in APPS}
                for _ in range(rounds):
                    for name, port in ports.items():
                        rate = measure.requests_per_second(
                            port, makes[name], connections=connections, seconds=seconds
                        )
                        rates[name].append(rate)
                median = {name: statistics.median(found) for name, found in rates.items()}
                ratios = {name: _ratio(found, rates["floor"]) for name, found in rates.items()}
                print(
                    f"| {WORKLOADS[workload]} | {connections} | {median['floor']:,.0f} "
                    f"| {median['ours']:,.0f} | {ratios['ours']:.2f} | {ratios['orm']:.2f} |",
                    flush=True,
                )


def _make(app: Flask, name: str, work: Work, workload: str) -> Make:
    if workload != "repeated_click":
        make = getattr(work, workload)
        return lambda: t.cast(Request, make(name))
    click = work.click(name)
    response = app.test_client(use_cookies=False).get(click.path, headers=click.headers)
    again = repeated(click, response.headers["Set-Cookie"].partition(";")[0])
    return lambda: again


def _ratio(above: t.Sequence[float], below: t.Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def _codes(url: str) -> list[str]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT code FROM referral_codes ORDER BY user_id"))
        return [row.code for row in found]


if __name__ == "__main__":
    main()
