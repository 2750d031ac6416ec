"""``flask referral purge``: personal data goes, counts and attributions stay."""

from __future__ import annotations

import datetime as dt
import json
import random
import threading
import typing as t
import uuid

import pytest
import sqlalchemy as sa

from flask_referral.clicks import derive_id
from flask_referral.clicks import Visit
from flask_referral.results import ConversionReason
from flask_referral.settings import Settings
from flask_referral.upkeep import purge
from flask_referral.upkeep import rollup

from ..conftest import MakeHost
from ..history import add_past
from ..history import fetch
from ..history import NOON
from ..history import PERSONAL
from ..history import Referrer
from ..hosts import Host
from ..hosts import KEYS
from ..visiting import add_referrer
from ..visiting import BROWSER
from ..visiting import browser
from ..visiting import clicks
from ..visiting import Clock
from ..visiting import COOKIE

DAY = dt.timedelta(days=1)


@pytest.fixture
def at_noon(clock: Clock) -> Clock:
    clock.time = NOON
    return clock


def stored(host: Host) -> dict[t.Any, tuple[str | None, ...]]:
    """Return the personal fields of each click."""
    rows = fetch(host, host.referral.models.ReferralClick.__table__)
    return {row.id: tuple(getattr(row, name) for name in PERSONAL) for row in rows}


def run(host: Host, *args: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(host.cli("purge", *args, "--yes", "--json").stdout)
    assert found.pop("deliveries") == 0
    return found


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("delete", [False, True])
def test_what_goes_and_what_stays(make: MakeHost, at_noon: Clock, key: str, delete: bool) -> None:
    host = make(key=key)
    referrer = Referrer(host)
    (young,) = referrer.click(NOON - 90 * DAY)
    (old,) = referrer.click(NOON - 90 * DAY - dt.timedelta(microseconds=1))
    (bound,) = referrer.click(NOON - 200 * DAY, by=(visitor := host.add_user()))
    (empty,) = referrer.click(NOON - 200 * DAY, **dict.fromkeys(PERSONAL))
    args = ("--clicks-older-than", "90", *(["--delete"] if delete else []))
    before = stored(host)
    expected = referrer.expected(NOON, 366)
    assert run(host, *args) == (
        {"cleared": 1, "deleted": 2} if delete else {"cleared": 2, "deleted": 0}
    )
    nothing = (None, None, None)
    after = {young: before[young], bound: nothing}
    assert stored(host) == (after if delete else after | {old: nothing, empty: nothing})
    assert referrer.stats(366) == expected
    assert run(host, *args) == {"cleared": 0, "deleted": 0}
    with host.app.app_context():
        result = host.referral.convert(visitor, "mem_1")
        assert result.reason is ConversionReason.converted
        assert result.conversion is not None
        assert result.conversion.referrer_user_id == referrer.id


def test_random_histories(make: MakeHost, at_noon: Clock) -> None:
    """Whatever is deleted, whenever, no figure changes."""
    host = make()
    rng = random.Random(4)
    referrers = [Referrer(host) for _ in range(4)]
    for _ in range(4):
        for referrer in referrers:
            add_past(referrer, at_noon.time, rng, days=rng.choice((1, 3, 40)))
        days = rng.choice((0, 1, 2, 30))
        run(host, "--clicks-older-than", str(days), "--delete")
        for referrer in referrers:
            assert referrer.stats(60) == referrer.expected(at_noon.time, 60)
        at_noon.turn(days=41, hours=-rng.randrange(24))


def test_only_what_a_sum_holds_is_deleted(make: MakeHost, clock: Clock) -> None:
    """Half an hour after midnight yesterday is not closed, and its clicks stay."""
    host = make()
    referrer = Referrer(host)
    (yesterday,) = referrer.click(NOON - DAY)
    clock.time = NOON.replace(hour=0, minute=30)
    (today,) = referrer.click(clock.time)
    assert run(host, "--clicks-older-than", "0", "--delete") == {"cleared": 1, "deleted": 0}
    assert set(stored(host)) == {yesterday, today}
    clock.time = NOON
    assert run(host, "--clicks-older-than", "0", "--delete") == {"cleared": 1, "deleted": 1}
    assert set(stored(host)) == {today}
    assert referrer.stats(2) == referrer.expected(NOON, 2)


def test_a_late_click_is_not_lost(make: MakeHost, at_noon: Clock) -> None:
    """Committed after its day was closed, it is in no sum, and so it may not be deleted."""
    host = make()
    early, late = Referrer(host), Referrer(host)
    early.click(NOON - 3 * DAY, NOON - 2 * DAY)
    host.cli("rollup")
    (id,) = late.click(NOON - 3 * DAY)
    assert run(host, "--clicks-older-than", "1", "--delete") == {"cleared": 1, "deleted": 2}
    assert set(stored(host)) == {id}
    assert late.stats(5) == late.expected(NOON, 5)


def test_batches_take_all_of_them(make: MakeHost, at_noon: Clock) -> None:
    """Clicks of the same moment on both sides of a batch's end, too."""
    host = make()
    referrer = Referrer(host)
    for _ in range(3):
        referrer.click(*([NOON - 5 * DAY] * 7), NOON - 4 * DAY)
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    with engine.connect() as connection:
        assert purge.count(connection, models, NOON, forgotten=NOON, delete=False) == 24
        made = list(purge.batches(connection, models, NOON, forgotten=NOON, delete=False, size=5))
        connection.commit()
    assert made == [(5, 0)] * 4 + [(4, 0)]
    assert set(stored(host).values()) == {(None, None, None)}
    host.cli("rollup")
    with engine.connect() as connection:
        assert purge.count(connection, models, NOON, forgotten=NOON, delete=True) == 24
        made = list(purge.batches(connection, models, NOON, forgotten=NOON, delete=True, size=5))
        connection.commit()
    assert made == [(0, 5)] * 4 + [(0, 4)]
    assert stored(host) == {}


def test_a_batch_sends_four_statements_whatever_its_size(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    referrer = Referrer(host)
    referrer.click(*(NOON - DAY * number for number in range(2, 26)))
    host.cli("rollup")
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    sent: list[list[str]] = []
    for size in (2, 20):
        with host.statements() as seen, engine.connect() as connection:
            batch = next(
                purge.batches(connection, models, NOON, forgotten=NOON, delete=True, size=size)
            )
            connection.rollback()
        assert batch == (0, size)
        sent.append(seen)
    small, large = sent
    assert small == large
    # The page, the sign-ups in it, the removal, what is cleared.
    assert len(small) == 4


def test_a_moment_that_the_database_wrote_itself(make_sqlite: MakeHost, at_noon: Clock) -> None:
    """SQLite's CURRENT_TIMESTAMP has no fraction of a second; no such click is passed over."""
    host = make_sqlite()
    Referrer(host).click(*([NOON - 5 * DAY] * 9))
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE referral_clicks SET clicked_at = '2026-03-01 10:00:00'")
        models = host.referral.models
        for batch in purge.batches(connection, models, NOON, forgotten=NOON, delete=False, size=2):
            assert batch.cleared
    assert set(stored(host).values()) == {(None, None, None)}


def test_no_click_waits(make_postgresql: MakeHost, at_noon: Clock) -> None:
    host = make_postgresql()
    referrer = Referrer(host)
    referrer.click(*(NOON - DAY for _ in range(5)))
    referrer.click(NOON - DAY, by=host.add_user())
    host.cli("rollup")
    table = host.referral.models.ReferralClick.__table__
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    for delete in (False, True):
        with engine.connect() as running, engine.begin() as live:
            next(purge.batches(running, models, NOON, forgotten=NOON, delete=delete))
            live.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
            live.execute(
                sa.insert(table).values(
                    referral_code=referrer.code, referrer_user_id=referrer.id, clicked_at=NOON
                )
            )
            running.commit()


def test_a_click_bound_meanwhile_stays(make_postgresql: MakeHost, at_noon: Clock) -> None:
    """Its visitor signed up between the reading of the page and the deletion."""
    host = make_postgresql()
    referrer = Referrer(host)
    bound, _ = referrer.click(NOON - DAY, NOON - DAY)
    visitor = host.add_user()
    host.cli("rollup")
    table = host.referral.models.ReferralClick.__table__
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    bind = sa.update(table).where(table.c.id == bound).values(referred_user_id=visitor)
    with engine.connect() as running, engine.connect() as live:
        live.execute(bind)
        pid = running.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        running.rollback()
        made: list[purge.Purged] = []

        def work() -> None:
            made.extend(purge.batches(running, models, NOON, forgotten=NOON, delete=True))
            running.commit()

        thread = threading.Thread(target=work)
        thread.start()
        with engine.connect() as watching:
            while not watching.exec_driver_sql(
                f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
            ).scalar():
                watching.rollback()
                assert thread.is_alive()
        live.commit()
        thread.join()
    assert made == [(1, 1)]
    assert stored(host) == {bound: (None, None, None)}


def test_two_runs_at_once(make: MakeHost, at_noon: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make()
    referrer = Referrer(host)
    referrer.click(*(NOON - DAY * number / 50 for number in range(50, 300)))
    expected = referrer.expected(NOON, 10)
    host.cli("rollup")
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    barrier = threading.Barrier(2)
    made: list[purge.Purged] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with engine.connect() as connection:
                barrier.wait()
                before = NOON - DAY
                for batch in purge.batches(
                    connection, models, before, forgotten=before, delete=True, size=20
                ):
                    connection.commit()
                    made.append(batch)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(batch.deleted for batch in made) == 249
    assert referrer.stats(10) == expected


def test_what_a_link_was_tagged_with_stays_for_the_sums(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    referrer = Referrer(host)
    tags = {"utm_source": "News", "utm_medium": "m", "utm_campaign": "c", "source": "news"}
    referrer.click(NOON - 90 * DAY, by=host.add_user(), **tags)
    assert run(host, "--clicks-older-than", "30") == {"cleared": 1, "deleted": 0}
    (row,) = fetch(host, host.referral.models.ReferralClick.__table__)
    assert row.referrer_url is None
    assert {name: getattr(row, name) for name in tags} == tags


def guess(host: Host, code: str, at: dt.datetime) -> uuid.UUID:
    """Return what whoever has the secret and the agent finds for an address."""
    visit = Visit(code, at, "127.0.0.1", BROWSER)
    return derive_id(visit, host.app.secret_key.encode(), Settings())  # type: ignore[union-attr]


def test_no_address_can_be_tried_on_the_id_of_a_purged_click(make: MakeHost, clock: Clock) -> None:
    host = make(REFERRAL_IP_KEY="key")
    _, code = add_referrer(host)
    browser(host).get(f"/r/{code}")
    (before,) = clicks(host)
    assert before.id == guess(host, code, clock.time)
    clock.turn(days=30, minutes=2)
    assert run(host, "--clicks-older-than", "7") == {"cleared": 1, "deleted": 0}
    (after,) = clicks(host)
    assert (after.ip_hash, after.user_agent) == (None, None)
    assert (after.id.version, after.id.variant) == (7, uuid.RFC_4122)
    # Only the day, which "clicked_at" tells anyway, is still in it.
    assert after.id.int >> 80 == before.id.int >> 80
    assert after.id.int & (2**62 - 1) != before.id.int & (2**62 - 1)
    assert run(host, "--clicks-older-than", "7") == {"cleared": 0, "deleted": 0}
    assert clicks(host) == [after]


def test_a_click_keeps_the_id_that_a_cookie_may_bring_back(make: MakeHost, clock: Clock) -> None:
    host = make(REFERRAL_IP_KEY="key")
    _, code = add_referrer(host)
    client = browser(host)
    client.get(f"/r/{code}")
    (before,) = clicks(host)
    clock.turn(days=29)
    assert run(host, "--clicks-older-than", "7") == {"cleared": 1, "deleted": 0}
    (cleared,) = clicks(host)
    assert (cleared.id, cleared.ip_hash) == (before.id, None)
    user = host.add_user(created_at=clock.time)
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    headers = {"Cookie": f"{COOKIE}={cookie.value}"}
    with host.app.test_request_context(headers=headers):
        assert host.referral.attribute(user).reason == "attributed"
        host.db.session.commit()
    # The visit's own click, which a later purge gives another id.
    (bound,) = clicks(host)
    assert (bound.id, bound.referred_user_id) == (before.id, user)
    clock.turn(days=2)
    assert run(host, "--clicks-older-than", "7") == {"cleared": 1, "deleted": 0}
    (last,) = clicks(host)
    assert (last.id.version, last.referred_user_id) == (7, user)


class TestAsking:
    @pytest.mark.parametrize("delete", [[], ["--delete"]])
    def test_it_asks_first(self, make_sqlite: MakeHost, at_noon: Clock, delete: list[str]) -> None:
        host = make_sqlite()
        referrer = Referrer(host)
        referrer.click(NOON - 9 * DAY)
        before = stored(host)
        args = ("purge", "--clicks-older-than", "7", *delete)
        result = host.cli(*args, status=1, input="n\n")
        assert "Nothing was changed." in result.stderr
        assert ("delete those" in result.stderr) is bool(delete)
        result = host.cli(*args, status=1)
        assert "--yes" in result.stderr
        assert stored(host) == before
        assert fetch(host, host.referral.models.ReferralDaily.__table__) == []
        result = host.cli(*args, input="y\n")
        assert result.stdout.endswith(
            "Cleared 0 clicks, deleted 1.\n" if delete else "Cleared 1 click.\n"
        )

    @pytest.mark.parametrize("days", ["-1", "x", "99999999999", "1.5"])
    def test_days_that_cannot_be(self, make_sqlite: MakeHost, days: str) -> None:
        host = make_sqlite()
        assert "older-than" in host.failure("purge", f"--clicks-older-than={days}", status=2)

    def test_days_are_required(self, make_sqlite: MakeHost) -> None:
        assert "older-than" in make_sqlite().failure("purge", "--yes", status=2)

    def test_an_interrupted_run_goes_on(
        self, make: MakeHost, at_noon: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = make()
        referrer = Referrer(host)
        referrer.click(*(NOON - DAY * number for number in range(1, 10)))
        monkeypatch.setattr(purge.batches, "__kwdefaults__", {"size": 2})
        clear = purge.clear
        calls = iter(range(100))

        def interrupted(*args: t.Any) -> int:
            if next(calls) == 3:
                raise KeyboardInterrupt
            return clear(*args)

        monkeypatch.setattr(purge, "clear", interrupted)
        message = host.failure("purge", "--clicks-older-than", "0", "--delete", "--yes")
        assert "Interrupted; cleared 0 clicks, deleted 6 so far, which stays." in message
        assert len(stored(host)) == 3
        assert run(host, "--clicks-older-than", "0", "--delete") == {"cleared": 0, "deleted": 3}
        assert referrer.stats(20) == referrer.expected(NOON, 20)


def test_the_sums_come_first(make: MakeHost, at_noon: Clock) -> None:
    """``--delete`` rolls up what it will delete; without it nothing is rolled up."""
    host = make()
    referrer = Referrer(host)
    referrer.click(NOON - 9 * DAY)
    run(host, "--clicks-older-than", "7")
    assert fetch(host, host.referral.models.ReferralDaily.__table__) == []
    run(host, "--clicks-older-than", "7", "--delete")
    (row,) = fetch(host, host.referral.models.ReferralDaily.__table__)
    assert (row.clicks, row.day) == (1, (NOON - 9 * DAY).date())
    assert rollup.last_closable(NOON) > row.day
