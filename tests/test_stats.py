"""Statistics: the same as counted by hand, by UTC days, cheap, and one's own only."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import typing as t

import pytest
import sqlalchemy as sa

from flask_referral.errors import ReferralError
from flask_referral.errors import UnknownUser

from .conftest import MakeHost
from .history import add_past
from .history import execute
from .history import NOON
from .history import Referrer
from .hosts import Host
from .hosts import KEYS
from .visiting import Clock

URL = "/api/referral/stats"


@pytest.fixture
def at_noon(clock: Clock) -> Clock:
    clock.time = NOON
    return clock


def set_time_zone(host: Host, zone: str) -> None:
    """Set the zone in which the database server shows times."""
    with host.app.app_context(), host.db.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            name = connection.scalar(sa.select(sa.func.current_database()))
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET timezone = '{zone}'")
    host.close()


@pytest.mark.parametrize(
    ("key", "zone"),
    [*((key, "Asia/Tokyo") for key in KEYS), ("int", "America/Los_Angeles")],
)
def test_random_histories(make: MakeHost, at_noon: Clock, key: str, zone: str) -> None:
    """Totals and series are what a plain count says, before and after every roll-up."""
    host = make(key=key)
    set_time_zone(host, zone)
    rng = random.Random(f"{key} {zone}")
    referrers = [Referrer(host) for _ in range(3)]
    for _ in range(3):
        for referrer in referrers[: rng.randrange(1, 4)]:
            add_past(referrer, at_noon.time, rng, days=rng.choice((1, 2, 40)))
        check(referrers, at_noon, (1, 30))
        host.cli("rollup")
        if rng.random() < 0.6:
            host.cli("purge", "--clicks-older-than", "3", "--delete", "--yes")
        check(referrers, at_noon, (1, 7, 60))
        at_noon.turn(days=41)


def check(referrers: list[Referrer], clock: Clock, days: tuple[int, ...]) -> None:
    for number in days:
        for referrer in referrers:
            assert referrer.stats(number) == referrer.expected(clock.time, number)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_days_begin_at_midnight_in_utc(make: MakeHost, at_noon: Clock, zone: str) -> None:
    host = make()
    set_time_zone(host, zone)
    referrer = Referrer(host)
    midnight = NOON.replace(hour=0)
    referrer.click(midnight - dt.timedelta(microseconds=1), midnight)
    referrer.convert(midnight - dt.timedelta(microseconds=1), "credited", 7)
    referrer.convert(midnight, "credited", 11)
    for _ in range(2):
        yesterday, today = referrer.stats(2)["daily"]
        for day, date, cents in ((yesterday, "2026-03-14", 7), (today, "2026-03-15", 11)):
            assert day == {
                "date": date,
                "clicks": 2,
                "signups": 1,
                "conversions": 1,
                "earned_cents": cents,
            }
        host.cli("rollup")


def test_a_moment_that_the_database_wrote_itself(make: MakeHost, at_noon: Clock) -> None:
    """SQLite's CURRENT_TIMESTAMP has no fraction of a second; midnight is of the new day."""
    host = make()
    referrer = Referrer(host)
    referrer.click(NOON.replace(hour=0))
    if host.app.config["SQLALCHEMY_DATABASE_URI"].startswith("sqlite"):
        execute(host, sa.text("UPDATE referral_clicks SET clicked_at = '2026-03-15 00:00:00'"))
    assert [day["clicks"] for day in referrer.stats(2)["daily"]] == [0, 1]


@pytest.mark.parametrize("rolled_up", [False, True])
def test_the_kinds_of_money(make: MakeHost, at_noon: Clock, rolled_up: bool) -> None:
    host = make()
    referrer = Referrer(host)
    long_ago = NOON - dt.timedelta(days=400)
    for moment in (NOON, long_ago):
        referrer.convert(moment, "credited", 1000)
        referrer.convert(moment, "credited", 500, taken=200)
        referrer.convert(moment, "reversed", 300, taken=300)
        referrer.convert(moment, "pending", 90, taken=20)
        referrer.convert(moment, "held", 5)
        referrer.convert(moment, "void", 4000, taken=4000)
        referrer.convert(moment, "void", 1, taken=1)
    if rolled_up:
        host.cli("rollup")
    found = referrer.stats(366)
    assert found["totals"] == {
        "clicks": 14,
        "signups": 14,
        "conversions": 10,
        "earned_cents": 3600,
        "pending_cents": 150,
        "reversed_cents": 1000,
    }
    assert found["daily"][-1] == {
        "date": "2026-03-15",
        "clicks": 7,
        "signups": 7,
        "conversions": 5,
        "earned_cents": 1800,
    }
    assert not any(day["clicks"] for day in found["daily"][:-1])


def test_a_deleted_buyer_changes_no_figure(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    referrer = Referrer(host)
    buyer = referrer.convert(NOON, "credited", 1000)
    before = referrer.stats(1)["totals"]
    referrer.lose(buyer)
    assert referrer.stats(1)["totals"] == before
    assert (before["signups"], before["earned_cents"]) == (1, 1000)


def test_renewals_earn_and_are_no_conversions(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    referrer = Referrer(host)
    buyer = referrer.convert(NOON, "credited", 1000)
    for number in (2, 3):
        referrer.earn(NOON, "credited", 300, number=number, referred_user_id=buyer)
    totals = referrer.stats(1)["totals"]
    assert (totals["conversions"], totals["earned_cents"]) == (1, 1600)


def test_what_was_earned_outlives_the_code(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    referrer = Referrer(host)
    referrer.earn(NOON, "credited", 700)
    execute(host, sa.delete(host.referral.models.ReferralCode))
    with host.app.test_request_context():
        found = host.referral.stats(referrer.id, 1)
    assert (found.code, found.link) == (None, None)
    assert (found.totals.earned_cents, found.daily[0].earned_cents) == (700, 700)
    assert found.totals.conversions == 1


def test_a_welcome_bonus_is_not_the_programs_earning(make: MakeHost, at_noon: Clock) -> None:
    """Of a user who was referred and refers others, only the latter counts."""
    host = make()
    referrer = Referrer(host)
    referrer.earn(NOON, "credited", 500, role="referred", referred_user_id=referrer.id)
    assert set(referrer.stats(1)["totals"].values()) == {0}


def test_the_series_has_no_gaps(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    referrer = Referrer(host)
    for days in (1, 2, 30, 366):
        dates = [dt.date.fromisoformat(day["date"]) for day in referrer.stats(days)["daily"]]
        assert len(dates) == days
        assert dates[-1] == NOON.date()
        assert all(b - a == dt.timedelta(days=1) for a, b in itertools.pairwise(dates))


@pytest.mark.parametrize("days", [0, -1, 367, 1.0, "30", True, None])
def test_days_out_of_bounds(make_sqlite: MakeHost, days: t.Any) -> None:
    host = make_sqlite()
    referrer = Referrer(host)
    with host.app.test_request_context(), pytest.raises(ReferralError, match="from 1 to 366"):
        host.referral.stats(referrer.id, days)


@pytest.mark.parametrize("key", KEYS)
def test_a_user_without_a_code_gets_none(make: MakeHost, key: str) -> None:
    host = make(key=key)
    user = host.add_user()
    with host.app.test_request_context():
        found = host.referral.stats(user, 2)
        assert (found.code, found.link) == (None, None)
        assert found.totals.clicks == found.totals.earned_cents == 0
        assert len(found.daily) == 2
        count = sa.select(sa.func.count()).select_from(host.referral.models.ReferralCode)
        assert host.db.session.scalar(count) == 0
    host.current_user = user
    answer = host.client().get(URL)
    assert answer.status_code == 200
    assert answer.get_json()["code"] is None
    assert answer.get_json()["link"] is None


def test_an_unknown_user(make: MakeHost) -> None:
    host = make()
    with host.app.test_request_context():
        for user in (12345, "somebody"):
            with pytest.raises(UnknownUser):
                host.referral.stats(user)


def test_a_link_needs_an_address(make_sqlite: MakeHost) -> None:
    """The totals do not."""
    host = make_sqlite(TESTING=False)
    referrer = Referrer(host)
    host.current_user = referrer.id
    with host.app.app_context():
        found = host.referral.stats(referrer.id)
        assert (found.code, found.link) == (referrer.code, None)
    answer = host.client().get(URL)
    assert (answer.status_code, answer.get_json()["link"]) == (200, None)


class TestBudget:
    """One statement, all of it ranges of indexes."""

    def test_statements(self, make: MakeHost, at_noon: Clock) -> None:
        host = make()
        referrer = Referrer(host)
        host.current_user = referrer.id
        add_past(referrer, NOON, random.Random(1), days=40)
        counts = []
        for _ in range(2):
            with host.statements() as seen:
                assert host.client().get(URL).status_code == 200
            counts.append(len(seen))
            host.cli("rollup")
        assert counts == [1, 1]
        with host.app.test_request_context(), host.statements() as seen:
            host.referral.stats(referrer.id)
        assert len(seen) == 1

    def test_plan(self, make_postgresql: MakeHost, at_noon: Clock) -> None:
        host = make_postgresql()
        referrers = [Referrer(host) for _ in range(20)]
        moments = [NOON - dt.timedelta(minutes=7 * number) for number in range(500)]
        buyer = host.add_user()
        for referrer in referrers:
            referrer.click(*moments)
            referrer.convert(NOON, "credited", 5)
        rewards = host.referral.models.ReferralReward.__table__
        row = {"role": "referrer", "provider": "host", "membership_id": "m", "status": "credited"}
        execute(
            host,
            sa.insert(rewards),
            [
                row
                | {
                    "user_id": referrer.id,
                    "referred_user_id": buyer,
                    "payment_id": f"{referrer.id} {moment}",
                    "number": 2,
                    "cents": 1,
                    "created_at": moment,
                }
                for referrer in referrers
                for moment in moments
            ],
        )
        with host.app.app_context(), host.db.engine.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in ("referral_clicks", "referral_daily", "referral_rewards"):
                connection.exec_driver_sql(f"VACUUM ANALYZE {table}")
        plans: list[str] = []
        eager: list[str] = []
        with host.app.app_context():
            engine = host.db.engine

        def explain(
            connection: t.Any, cursor: t.Any, statement: str, parameters: t.Any, *rest: t.Any
        ) -> None:
            if "referral_daily" in statement or "referral_rewards" in statement:
                with connection.connection.cursor() as other:
                    other.execute(f"EXPLAIN {statement}", parameters)
                    plans.append("\n".join(row[0] for row in other.fetchall()))
                    for name in ("parallel_setup_cost", "parallel_tuple_cost"):
                        other.execute(f"SET {name} = 0")
                    for kind in ("table", "index"):
                        other.execute(f"SET min_parallel_{kind}_scan_size = 0")
                    other.execute(f"EXPLAIN {statement}", parameters)
                    eager.append("\n".join(row[0] for row in other.fetchall()))

        sa.event.listen(engine, "before_cursor_execute", explain)
        referrers[0].stats()
        sa.event.remove(engine, "before_cursor_execute", explain)
        plan = "\n".join(plans)
        assert "Index Only Scan using idx_referral_clicks_referrer_user_id" in plan, plan
        assert "idx_referral_clicks_signups" in plan
        assert "idx_referral_rewards_user_id" in plan
        assert "Seq Scan on referral_clicks" not in plan
        assert "Seq Scan on referral_rewards" not in plan
        # However cheap workers are.
        assert "Gather" not in "".join(eager), eager


class TestApi:
    def test_the_json(self, make: MakeHost, at_noon: Clock) -> None:
        host = make(REFERRAL_BASE_URL="https://example.org")
        referrer = Referrer(host)
        host.current_user = referrer.id
        referrer.convert(NOON, "credited", 1000)
        answer = host.client().get(f"{URL}?days=1")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.get_json() == {
            "code": referrer.code,
            "link": f"https://example.org/r/{referrer.code}",
            "days": 1,
            "totals": {
                "clicks": 1,
                "signups": 1,
                "conversions": 1,
                "earned_cents": 1000,
                "pending_cents": 0,
                "reversed_cents": 0,
            },
            "daily": [
                {
                    "date": "2026-03-15",
                    "clicks": 1,
                    "signups": 1,
                    "conversions": 1,
                    "earned_cents": 1000,
                }
            ],
            "sources": [
                {
                    "source": None,
                    "clicks": 1,
                    "signups": 1,
                    "conversions": 1,
                    "earned_cents": 1000,
                }
            ],
        }

    def test_the_default_is_thirty_days(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        host.current_user = Referrer(host).id
        data = host.client().get(URL).get_json()
        assert data["days"] == len(data["daily"]) == 30
        assert host.client().get(f"{URL}?days=366").get_json()["days"] == 366

    def test_nobody_is_logged_in(self, make_sqlite: MakeHost) -> None:
        answer = make_sqlite().client().get(f"{URL}?days=x")
        assert answer.status_code == 401
        assert answer.get_json().keys() == {"error", "code"}

    @pytest.mark.parametrize(
        "days",
        [
            "",
            "0",
            "367",
            "-1",
            "+1",
            "1.0",
            "1e1",
            "x",
            "3_0",
            " 30",
            "9" * 5000,
            "30\0",
            "\u0663\u0660",
            "\u00b2",
        ],
    )
    def test_days_out_of_bounds(self, make_sqlite: MakeHost, days: str) -> None:
        host = make_sqlite()
        host.current_user = Referrer(host).id
        answer = host.client().get(URL, query_string={"days": days})
        assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_days")
        assert "from 1 to 366" in answer.get_json()["error"]

    def test_others_do_not_count(self, make: MakeHost, at_noon: Clock) -> None:
        host = make()
        mine, other = Referrer(host), Referrer(host)
        add_past(other, NOON, random.Random(2), days=3)
        host.current_user = mine.id
        assert set(host.client().get(URL).get_json()["totals"].values()) == {0}

    def test_under_row_level_security(self, make_postgresql: MakeHost, at_noon: Clock) -> None:
        """The same figures, through policies that show the user's own rows only."""
        host = make_postgresql(REFERRAL_RLS_ROLE="stats_reader")
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql("CREATE ROLE stats_reader")
        try:
            host.cli("rls", "grant", "--user-role", "stats_reader")
            referrer = Referrer(host)
            rng = random.Random(3)
            add_past(referrer, NOON, rng, days=20)
            add_past(Referrer(host), NOON, rng, days=20)
            host.current_user = referrer.id
            for _ in range(2):
                expected = referrer.expected(NOON, 30)
                assert referrer.stats(30) == expected
                with host.statements() as seen:
                    data = host.client().get(URL).get_json()
                assert data.items() >= expected.items()
                assert len([sql for sql in seen if "referral_" in sql]) == 1
                host.cli("rollup")
            host.current_user = host.add_user()
            assert host.client().get(URL).get_json()["code"] is None
            # It is the role that reads.
            execute(host, sa.text("REVOKE SELECT ON referral_daily FROM stats_reader"))
            host.current_user = referrer.id
            assert host.client().get(URL).status_code == 500
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                referrer.stats()
        finally:
            with host.app.app_context(), host.db.engine.begin() as connection:
                connection.exec_driver_sql("DROP OWNED BY stats_reader")
                connection.exec_driver_sql("DROP ROLE stats_reader")

    def test_the_host_has_the_session_open(self, make: MakeHost, at_noon: Clock) -> None:
        """One connection, and nothing of the host's is committed by a reading view."""
        host = make()
        referrer = Referrer(host)
        host.current_user = referrer.id

        def add_user() -> t.Any:
            host.db.session.add(host.User(name="not committed"))
            host.db.session.flush()
            return referrer.id

        host.referral.identity_loader(add_user)
        assert host.client().get(URL).status_code == 200
        with host.app.app_context():
            assert host.db.session.scalar(sa.select(sa.func.count()).select_from(host.User)) == 1


def test_json_of_the_method(make_sqlite: MakeHost, at_noon: Clock) -> None:
    host = make_sqlite()
    referrer = Referrer(host)
    host.current_user = referrer.id
    with host.app.test_request_context():
        data = host.referral.stats(referrer.id).to_dict()
    assert json.loads(json.dumps(data)) == host.client().get(URL).get_json()
