"""``flask referral erase`` next to what else happens; what it removes is in the commands' tests."""

from __future__ import annotations

import datetime as dt
import threading
import time

import sqlalchemy as sa

from flask_referral.upkeep import personal

from ..conftest import MakeHost
from ..history import execute
from ..history import fetch
from ..history import NOON
from ..history import Referrer
from ..visiting import Clock

DAY = dt.timedelta(days=1)


def test_a_purchase_at_the_same_time_is_no_deadlock(make_postgresql: MakeHost) -> None:
    """A purchase locks the code first and its buyer's click afterwards."""
    host = make_postgresql()
    referrer, buyer = Referrer(host), host.add_user()
    referrer.click(NOON, by=buyer)
    referrer.click(NOON)
    with host.app.app_context():
        models, engine = host.referral.models, host.db.engine
    code, click = models.ReferralCode.__table__, models.ReferralClick.__table__
    done: list[personal.Erased | BaseException] = []

    def erase() -> None:
        try:
            with engine.begin() as connection:
                done.append(personal.erase(connection, models, referrer.id, NOON))
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=erase)
    with engine.begin() as purchase:
        purchase.execute(sa.select(code).with_for_update(read=True, key_share=True))
        thread.start()
        until = time.monotonic() + 30
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not purchase.exec_driver_sql(waiting).scalar():
            assert time.monotonic() < until
        of_buyer = sa.select(click.c.id).where(click.c.referred_user_id == buyer)
        assert purchase.execute(of_buyer.with_for_update()).first() is not None
    thread.join(30)
    assert not thread.is_alive()
    assert done == [personal.Erased("removed", 2, 0, 0)]
    assert fetch(host, click) == []


def test_nothing_is_left_of_where_ones_visitors_came_from(make: MakeHost, clock: Clock) -> None:
    clock.time = NOON
    host = make()
    referrer, other = Referrer(host), Referrer(host)
    for each in (referrer, other):
        each.click(NOON - DAY, source="news", utm_campaign="May")
    host.cli("rollup")
    sums = host.referral.models.ReferralDailySource.__table__
    assert len(fetch(host, sums)) == 2
    host.cli("erase", str(referrer.id), "--yes")
    assert [row.referrer_user_id for row in fetch(host, sums)] == [other.id]


def test_the_sums_by_source_go_even_where_the_code_and_its_clicks_went_before(
    make: MakeHost, clock: Clock
) -> None:
    clock.time = NOON
    host = make()
    referrer = Referrer(host)
    referrer.click(NOON - DAY, source="news")
    host.cli("rollup")
    for model in (host.referral.models.ReferralClick, host.referral.models.ReferralCode):
        execute(host, sa.delete(model.__table__))
    host.cli("erase", str(referrer.id), "--yes")
    assert fetch(host, host.referral.models.ReferralDailySource.__table__) == []


def test_the_tags_of_ones_own_visit_go_and_its_source_is_counted_on(
    make: MakeHost, clock: Clock
) -> None:
    """A link may have been made for that one person; the figures are the referrer's."""
    clock.time = NOON
    host = make()
    referrer, visitor = Referrer(host), host.add_user()
    tags = {"utm_source": "News", "utm_medium": "mail", "utm_campaign": "for you"}
    referrer.click(NOON, by=visitor, source="news", **tags)
    expected = referrer.expected(NOON, 1)
    host.cli("erase", str(visitor), "--yes")
    (row,) = fetch(host, host.referral.models.ReferralClick.__table__)
    assert (row.utm_source, row.utm_medium, row.utm_campaign) == (None, None, None)
    assert row.source == "news"
    assert referrer.stats(1) == expected
