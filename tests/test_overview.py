"""The figures of the whole program."""

from __future__ import annotations

import collections
import datetime as dt
import json
import random
import typing as t

import pytest
import sqlalchemy as sa

from benchmarks import database
from benchmarks import history
from benchmarks import plans
from flask_referral import Overview
from flask_referral import Reward
from flask_referral.errors import ReferralError

from . import whop
from .conftest import MakeHost
from .history import add_past
from .history import NOON
from .history import Referrer
from .hosts import Host
from .hosts import KEYS
from .money import delete_user
from .money import pay
from .money import refer
from .money import sign_up_on_days_of_their_own
from .visiting import add_referrer
from .visiting import Clock

DAY = dt.timedelta(days=1)


@pytest.fixture
def at_noon(clock: Clock) -> Clock:
    clock.time = NOON
    return clock


def overview(host: Host, days: int = 30) -> Overview:
    with host.app.app_context():
        return host.referral.overview(days)


def added(found: t.Iterable[dict[str, t.Any]]) -> dict[str, t.Any]:
    """Return the sums of some figures; of what is no number nothing."""
    sums: collections.Counter[str] = collections.Counter()
    for each in found:
        sums.update({name: value for name, value in each.items() if isinstance(value, int)})
    return dict(sums)


@pytest.mark.parametrize("key", KEYS)
def test_random_histories(make: MakeHost, at_noon: Clock, key: str) -> None:
    """It says what the referrers' own figures add up to, before and after every roll-up."""
    host = make(key=key)
    rng = random.Random(f"overview {key}")
    referrers = [Referrer(host) for _ in range(3)]
    for _ in range(3):
        for referrer in referrers[: rng.randrange(1, 4)]:
            add_past(referrer, at_noon.time, rng, days=rng.choice((1, 2, 40)))
        check(host, referrers, at_noon, (1, 30))
        host.cli("rollup")
        if rng.random() < 0.6:
            host.cli("purge", "--clicks-older-than", "3", "--delete", "--yes")
        check(host, referrers, at_noon, (1, 7, 60))
        at_noon.turn(days=41)


def check(host: Host, referrers: list[Referrer], clock: Clock, days: tuple[int, ...]) -> None:
    for number in days:
        found = overview(host, number)
        each = [referrer.expected(clock.time, number) for referrer in referrers]
        totals = added(one["totals"] for one in each)
        assert {name: getattr(found.totals, name) for name in totals} == totals
        daily = [added(each) for each in zip(*(one["daily"] for one in each), strict=True)]
        assert [
            {name: value for name, value in vars(day).items() if name != "date"}
            for day in found.daily
        ] == daily
        assert found.daily[-1].date == clock.time.date()
        by_source = collections.defaultdict(list)
        for one in each:
            for source in one["sources"]:
                by_source[source["source"]].append(source)
        assert {source.source: added([vars(source)]) for source in found.sources} == {
            name: added(sources) for name, sources in by_source.items()
        }
        period = added(daily)
        assert {name: getattr(found.period, name) for name in period} == period


def test_campaigns_of_links_and_of_the_policy_are_told_apart(
    make: MakeHost, at_noon: Clock
) -> None:
    host = make()
    one, two = Referrer(host), Referrer(host)
    friend = host.add_user()
    one.click(NOON - DAY, NOON - DAY, source="news", utm_campaign="May")
    one.click(NOON, by=friend, utm_campaign="May")
    two.click(NOON, utm_campaign="June")
    for referrer, values in (
        (one, {"campaign": "launch"}),
        (one, {"campaign": "launch", "number": 2, "shortfall_cents": 50}),
        (two, {"campaign": "spring"}),
        (two, {}),
    ):
        referrer.earn(NOON, "credited", 500, 200, **values)
    for _ in range(2):
        found = overview(host, 1)
        assert [vars(each) for each in found.utm_campaigns] == [
            {"utm_campaign": "May", "clicks": 3, "signups": 1},
            {"utm_campaign": "June", "clicks": 1, "signups": 0},
        ]
        launch, spring = found.campaigns
        assert (launch.campaign, launch.conversions, launch.payments) == ("launch", 1, 2)
        assert (launch.earned_cents, launch.reversed_cents) == (1000, 400)
        assert (launch.shortfall_cents, found.totals.shortfall_cents) == (50, 50)
        assert (spring.campaign, spring.conversions, spring.payments) == ("spring", 1, 1)
        host.cli("rollup")


def test_rates_money_and_what_waits(make: MakeHost) -> None:
    """What was paid counts welcome bonuses, which are nobody's conversions."""
    host = make(
        REFERRAL_VELOCITY_LIMIT=1,
        reward_policy=lambda purchase: Reward(1000, referred_cents=300),
        **whop.CONFIG,
    )
    referrer, _ = add_referrer(host)
    friends = [refer(host, referrer) for _ in range(4)]
    sign_up_on_days_of_their_own(host)
    assert pay(host, friends[0], "mem_0") == "converted"
    assert pay(host, friends[1], "mem_1") == "held"
    assert whop.outcome(host, whop.payment("nobody", "mem_9"), id="evt") == "unknown_user"
    with host.app.app_context():
        host.referral.reverse("mem_0", reason="refunded", amount_cents=500)
        host.db.session.commit()
    found = overview(host)
    totals = found.totals
    assert (totals.clicks, totals.signups, totals.conversions) == (4, 4, 2)
    assert (totals.signup_rate, totals.conversion_rate) == (1.0, 0.5)
    assert (totals.earned_cents, totals.reversed_cents, totals.paid_cents) == (1300, 650, 650)
    assert totals.pending_cents == 1300
    assert (found.waiting.held, found.waiting.due, found.waiting.deliveries) == (2, 0, 1)
    told = found.to_dict()
    assert told["totals"]["conversion_rate"] == 0.5
    assert json.loads(json.dumps(told)) == told


def test_due_rewards_wait_for_a_run_of_mature(make: MakeHost, clock: Clock) -> None:
    host = make(REFERRAL_HOLD_DAYS=2)
    referrer, _ = add_referrer(host)
    assert pay(host, refer(host, referrer)) == "pending"
    assert overview(host).waiting.due == 0
    clock.turn(days=3)
    assert overview(host).waiting.due == 1
    host.cli("mature")
    assert overview(host).waiting.due == 0


def test_a_welcome_bonus_is_owed_and_is_nobodys_payment(make: MakeHost) -> None:
    host = make(
        REFERRAL_HOLD_DAYS=2,
        reward_policy=lambda purchase: Reward(1000, referred_cents=300, campaign="launch"),
    )
    referrer, _ = add_referrer(host)
    assert pay(host, refer(host, referrer)) == "pending"
    found = overview(host)
    (launch,) = found.campaigns
    assert (launch.conversions, launch.payments, launch.pending_cents) == (1, 1, 1300)
    assert (found.totals.conversions, found.totals.pending_cents) == (1, 1300)


def test_a_sign_up_is_of_its_own_day(make: MakeHost, at_noon: Clock) -> None:
    """A click of before the period brings a sign-up into it, before and after the roll-up."""
    host = make()
    Referrer(host).click(NOON - 3 * DAY, by=host.add_user(), bound_at=NOON - DAY)
    for _ in range(2):
        found = overview(host, 2)
        assert [(day.clicks, day.signups) for day in found.daily] == [(0, 1), (0, 0)]
        assert (found.period.clicks, found.period.signups) == (0, 1)
        assert (found.totals.clicks, found.totals.signups) == (1, 1)
        host.cli("rollup")


def test_who_is_deleted_takes_no_days_of_others_along(make: MakeHost, at_noon: Clock) -> None:
    """Where the only sums of the last closed days go, nothing of others is lost or doubled."""
    host = make()
    leaving, staying = Referrer(host), Referrer(host)
    staying.click(NOON - 5 * DAY, NOON - 4 * DAY, NOON)
    leaving.click(NOON - 4 * DAY, NOON - 2 * DAY, NOON - DAY)
    host.cli("rollup")
    assert overview(host).totals.clicks == 6
    delete_user(host, leaving.id)
    assert overview(host).totals.clicks == 3
    staying.click(NOON)
    host.cli("rollup")
    assert overview(host).totals.clicks == 4
    at_noon.turn(days=1)
    host.cli("rollup")
    assert overview(host).totals.clicks == 4


def test_a_replica_is_read_from(new_sqlite_url: t.Callable[[], str], host_on: t.Any) -> None:
    urls = new_sqlite_url(), new_sqlite_url()
    copy = host_on(urls[1])
    Referrer(copy).click(NOON, NOON)
    binds = {"SQLALCHEMY_BINDS": {"replica": urls[1]}, "REFERRAL_READ_BIND": "replica"}
    host = host_on(urls[0], **binds)
    assert overview(host).totals.clicks == 2


def test_nothing_is_nothing(make: MakeHost) -> None:
    found = overview(make(), 3)
    assert (found.totals.signup_rate, found.totals.conversion_rate) == (None, None)
    assert (len(found.daily), found.sources, found.campaigns) == (3, (), ())


def test_it_takes_three_statements_whatever_there_is(make: MakeHost, at_noon: Clock) -> None:
    host = make()
    for number in range(2):
        with host.app.app_context(), host.statements() as seen:
            host.referral.overview()
        assert len(seen) == 3, number
        for _ in range(3):
            add_past(Referrer(host), NOON, random.Random(number), days=9)


@pytest.mark.parametrize("days", [0, 367, True, "30", 2.0])
def test_days_out_of_bounds_are_refused(make_sqlite: MakeHost, days: t.Any) -> None:
    with pytest.raises(ReferralError, match="days must be a whole number from 1 to 366"):
        overview(make_sqlite(), days)


def test_of_clicks_that_are_summed_up_none_is_read(
    make_postgresql: MakeHost, postgresql_url: str
) -> None:
    """And of sign-ups their index alone."""
    host = make_postgresql()
    connection = database.connect(database.dsn(postgresql_url))
    try:
        history.load(connection, 20_000, 2_000)
    finally:
        connection.close()
    host.cli("rollup")
    with host.app.app_context():
        engine = host.db.engine
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(sa.text("VACUUM ANALYZE"))
        with plans.sent(engine) as seen:
            host.referral.overview()
    with engine.connect() as db:
        scans = [scan for each in seen for scan in plans.scans(each.explain(db)["Plan"])]
    of_clicks = [scan for scan in scans if scan.table == "referral_clicks"]
    assert {scan.index for scan in of_clicks if scan.is_whole} == {"idx_referral_clicks_bound_at"}
    assert "idx_referral_clicks_clicked_at" in {scan.index for scan in of_clicks}


def test_the_command_prints_what_operators_ask(make_sqlite: MakeHost, at_noon: Clock) -> None:
    host = make_sqlite(REFERRAL_CURRENCY="eur")
    referrer = Referrer(host)
    referrer.click(NOON, NOON, NOON, source="news\x1b[31m", utm_campaign="May")
    referrer.convert(NOON, "credited", 123456, source="news\x1b[31m")
    text = host.cli("overview", "--days", "2").stdout
    assert "Paid" in text and "€1,234.56" in text
    assert "2026-03-14" in text and "2026-03-15" in text
    assert "May" in text
    assert "\x1b" not in text
    told = json.loads(host.cli("overview", "--days", "2", "--json").stdout)
    assert told["totals"]["paid_cents"] == 123456
    assert len(told["daily"]) == 2
    board = host.cli("leaderboard").stdout
    assert "€1,234.56" in board and str(referrer.id) in board
    (first,) = json.loads(host.cli("leaderboard", "--json").stdout)
    assert (first["rank"], first["user"], first["earned_cents"]) == (1, referrer.id, 123456)
    assert host.cli("leaderboard", "--days", "1", "--limit", "1").exit_code == 0
    assert "--days" in host.failure("overview", "--days", "0", status=2)


def test_tables_obey_nobody_and_stay_in_line(make_sqlite: MakeHost, at_noon: Clock) -> None:
    """Whatever letters names are in: a terminal gives some of them two places, some none."""
    host = make_sqlite()
    referrer = Referrer(host)
    host.referral.display_name_loader(lambda user: "春\x1b[2J")
    referrer.convert(NOON, "credited", 500)
    names = ("春の祭り", "e\u0301te\u0301", "May\x1b[31m\u202e")
    for number, name in enumerate(names, 1):
        referrer.click(*[NOON] * number, utm_campaign=name)
    text = host.cli("overview", "--days", "1").stdout + host.cli("leaderboard").stdout
    assert not {"\x1b", "\u202e"} & set(text)
    assert "May\\x1b[31m\\u202e" in text and "春\\x1b[2J" in text
    lines = text.splitlines()
    begin = next(at for at, line in enumerate(lines) if line.startswith("Campaign of links"))
    # "春の祭り" takes eight places, and the accents none.
    table = lines[begin : begin + 4]
    ends = [len(line) + (4 if "春" in line else 0) - line.count("\u0301") for line in table]
    assert len(set(ends)) == 1, table


def test_a_board_without_customers_says_so(make_sqlite: MakeHost) -> None:
    assert make_sqlite().cli("leaderboard").stdout == "Nobody has brought a customer yet.\n"
