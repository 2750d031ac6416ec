"""``flask referral erase`` next to what else happens; what it removes is in the commands' tests."""

from __future__ import annotations

import threading
import time

import sqlalchemy as sa

from flask_referral.upkeep import personal

from ..conftest import MakeHost
from ..history import fetch
from ..history import NOON
from ..history import Referrer


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
