"""``flask referral rollup``: closed days once each, in order, in nobody's way."""

from __future__ import annotations

import datetime as dt
import json
import threading
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.upkeep import rollup

from ..conftest import MakeHost
from ..history import execute
from ..history import fetch
from ..history import NOON
from ..history import Referrer
from ..hosts import Host
from ..hosts import KEYS
from ..visiting import Clock

DAY = dt.timedelta(days=1)


@pytest.fixture
def at_noon(clock: Clock) -> Clock:
    clock.time = NOON
    return clock


def sums(host: Host) -> dict[tuple[t.Any, str], int]:
    """Return what is summed up, by referrer and day."""
    rows = fetch(host, host.referral.models.ReferralDaily.__table__)
    return {(row.referrer_user_id, row.day.isoformat()): row.clicks for row in rows}


def sums_by_source(host: Host) -> dict[tuple[t.Any, str, str, str], int]:
    """Return what is summed up, by referrer, day, source and campaign."""
    rows = fetch(host, host.referral.models.ReferralDailySource.__table__)
    return {
        (row.referrer_user_id, row.day.isoformat(), row.source, row.campaign): row.clicks
        for row in rows
    }


@pytest.mark.parametrize("key", KEYS)
def test_sums_of_days_that_have_ended(make: MakeHost, at_noon: Clock, key: str) -> None:
    host = make(key=key)
    one, two = Referrer(host), Referrer(host)
    one.click(NOON - 40 * DAY, NOON - 40 * DAY, NOON - 2 * DAY, NOON - DAY, NOON)
    two.click(NOON - 2 * DAY, NOON - 2 * DAY, NOON)
    data = json.loads(host.cli("rollup", "--json").stdout)
    assert data == {"days": 3, "sums": 4, "last_day": "2026-03-14"}
    assert sums(host) == {
        (one.id, "2026-02-03"): 2,
        (one.id, "2026-03-13"): 1,
        (one.id, "2026-03-14"): 1,
        (two.id, "2026-03-13"): 2,
    }
    before = sums(host)
    assert json.loads(host.cli("rollup", "--json").stdout)["days"] == 0
    assert host.cli("rollup").stdout == "All days that have ended are summed up already.\n"
    assert sums(host) == before


@pytest.mark.parametrize("key", KEYS)
def test_sums_by_source_and_campaign(make: MakeHost, at_noon: Clock, key: str) -> None:
    """What came directly and from no campaign is what they leave of the day's clicks."""
    host = make(key=key)
    one, two = Referrer(host), Referrer(host)
    day = NOON - DAY
    one.click(day, day)
    one.click(day, day, source="news")
    one.click(day, source="news", utm_campaign="May")
    one.click(day, utm_campaign="May")
    one.click(NOON, source="news")
    two.click(day - DAY, source="news")
    for _ in range(2):
        host.cli("rollup")
        assert sums_by_source(host) == {
            (one.id, "2026-03-14", "news", ""): 2,
            (one.id, "2026-03-14", "news", "May"): 1,
            (one.id, "2026-03-14", "", "May"): 1,
            (two.id, "2026-03-13", "news", ""): 1,
        }
    assert sums(host)[one.id, "2026-03-14"] == 6


def test_a_click_that_came_too_late_is_in_neither_sum(make: MakeHost, at_noon: Clock) -> None:
    """The sums by source are of the clicks that the day's counts, and of no others."""
    host = make()
    referrer = Referrer(host)
    referrer.click(NOON - DAY)
    host.cli("rollup")
    referrer.click(NOON - DAY, source="late")
    models = host.referral.models
    with host.app.app_context(), host.db.engine.begin() as connection:
        assert rollup._sum_up(connection, models, dt.date(2026, 3, 14)) == 0
    assert sums_by_source(host) == {}
    assert sums(host) == {(referrer.id, "2026-03-14"): 1}


def test_nothing_to_do(make: MakeHost) -> None:
    host = make()
    data = json.loads(host.cli("rollup", "--json").stdout)
    assert data == {"days": 0, "sums": 0, "last_day": None}


def test_what_it_says(make_sqlite: MakeHost, at_noon: Clock) -> None:
    host = make_sqlite()
    Referrer(host).click(NOON - 5 * DAY, NOON - DAY)
    result = host.cli("rollup")
    assert result.stdout == "Summed up 2 days, the last is 2026-03-14.\n"
    assert "Summing up days" in result.stderr


def test_a_day_is_closed_an_hour_after_its_end(make: MakeHost, clock: Clock) -> None:
    host = make()
    referrer = Referrer(host)
    referrer.click(NOON)
    midnight = NOON.replace(hour=0) + DAY
    for minutes, expected in ((0, {}), (59, {}), (60, {(referrer.id, "2026-03-15"): 1})):
        clock.time = midnight + dt.timedelta(minutes=minutes)
        host.cli("rollup")
        assert sums(host) == expected


def test_an_interrupted_run_goes_on(
    make: MakeHost, at_noon: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make()
    referrer = Referrer(host)
    referrer.click(*(NOON - number * DAY for number in range(6)))
    expected = referrer.expected(NOON, 10)
    sum_up = rollup._sum_up

    def interrupted(connection: sa.Connection, models: t.Any, day: dt.date) -> int:
        done = sum_up(connection, models, day)
        if day == dt.date(2026, 3, 12):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(rollup, "_sum_up", interrupted)
    message = host.failure("rollup")
    assert "Interrupted; summed up 2 days so far, which stays. Run the command again" in message
    assert [day for _, day in sums(host)] == ["2026-03-10", "2026-03-11"]
    assert referrer.stats(10) == expected
    monkeypatch.undo()
    monkeypatch.setattr("flask_referral.clock.now", lambda: NOON)
    host.cli("rollup")
    assert len(sums(host)) == 5
    assert referrer.stats(10) == expected


def test_two_runs_at_once(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    referrers = [Referrer(host) for _ in range(5)]
    for referrer in referrers:
        referrer.click(*(NOON - number * DAY / 2 for number in range(60)))
        referrer.click(*(NOON - number * DAY for number in range(30)), source="news")
    barrier = threading.Barrier(2)
    written: list[int] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with host.app.app_context():
                models, engine = host.referral.models, host.db.engine
            with engine.connect() as connection:
                barrier.wait()
                for closed in rollup.close(connection, models, NOON):
                    connection.commit()
                    written.append(closed.referrers)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(written) == len(sums(host)) == len(sums_by_source(host)) == 5 * 29
    for referrer in referrers:
        assert referrer.stats(40) == referrer.expected(NOON, 40)


def test_a_run_behind_another_adds_nothing(make_postgresql: MakeHost, at_noon: Clock) -> None:
    """The second waits for the first one's day, then finds all of it written."""
    host = make_postgresql()
    referrer = Referrer(host)
    referrer.click(NOON - 2 * DAY, NOON - DAY)
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    with engine.connect() as first, engine.connect() as second:
        ahead = rollup.close(first, models, NOON)
        assert next(ahead).referrers == 1
        second.exec_driver_sql("SET lock_timeout = '100ms'")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            next(rollup.close(second, models, NOON))
        second.rollback()
        first.commit()
        assert [closed.referrers for closed in rollup.close(second, models, NOON)] == [1]
        second.commit()
        with pytest.raises(StopIteration):
            first.rollback()
            assert next(ahead).referrers == 0
            next(ahead)


def test_no_click_waits(make_postgresql: MakeHost, at_noon: Clock) -> None:
    """Clicks of the same referrer, and sign-ups of old ones, go on while a day is summed up."""
    host = make_postgresql()
    referrer = Referrer(host)
    (old,) = referrer.click(NOON - DAY)
    visitor = host.add_user()
    table = host.referral.models.ReferralClick.__table__
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    with engine.connect() as running, engine.begin() as live:
        next(rollup.close(running, models, NOON))
        live.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
        live.execute(
            sa.insert(table).values(
                referral_code=referrer.code, referrer_user_id=referrer.id, clicked_at=NOON
            )
        )
        live.execute(sa.update(table).where(table.c.id == old).values(referred_user_id=visitor))
        live.execute(sa.update(host.User).where(host.User.id == referrer.id).values(name="new"))
        running.commit()


def test_a_user_deleted_meanwhile(
    make_postgresql: MakeHost, at_noon: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day is summed up again without the user, whose clicks went too."""
    host = make_postgresql()
    gone, stays = Referrer(host), Referrer(host)
    for referrer in (gone, stays):
        referrer.click(NOON - DAY, NOON - DAY)
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    began = threading.Event()
    with engine.connect() as deleting, engine.connect() as running:
        deleting.execute(sa.delete(host.User).where(host.User.id == gone.id))
        pid = running.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        running.rollback()
        closed: list[rollup.Closed] = []

        def run() -> None:
            began.set()
            for day in rollup.close(running, models, NOON):
                running.commit()
                closed.append(day)

        thread = threading.Thread(target=run)
        thread.start()
        began.wait()
        # The sum's foreign key waits for the deletion to be decided.
        with engine.connect() as watching:
            while not watching.exec_driver_sql(
                f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
            ).scalar():
                watching.rollback()
                assert thread.is_alive()
        deleting.commit()
        thread.join()
    assert closed == [rollup.Closed(dt.date(2026, 3, 14), 1)]
    assert sums(host) == {(stays.id, "2026-03-14"): 2}


def test_a_failure_that_stays_is_told(make_postgresql: MakeHost, at_noon: Clock) -> None:
    host = make_postgresql()
    Referrer(host).click(NOON - DAY)
    execute(host, sa.text("ALTER TABLE referral_daily ADD CHECK (clicks > 1)"))
    message = host.failure("rollup")
    assert "The database refused" in message
    assert "Traceback" not in message


def test_new_clicks_of_another_time_zone(make_postgresql: MakeHost, clock: Clock) -> None:
    """Which day is closed is a matter of UTC, not of the machine that runs the command."""
    tokyo = dt.timezone(dt.timedelta(hours=9))
    clock.time = dt.datetime(2026, 3, 15, 8, tzinfo=tokyo)
    assert rollup.last_closable(clock.time) == dt.date(2026, 3, 13)
    assert rollup.last_closable(NOON.replace(hour=0, minute=59)) == dt.date(2026, 3, 13)
    assert rollup.last_closable(NOON.replace(hour=1)) == dt.date(2026, 3, 14)
