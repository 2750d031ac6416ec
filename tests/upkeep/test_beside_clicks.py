"""Clicks, sign-ups and purchases go on while a command of upkeep has not committed yet."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from benchmarks import database
from benchmarks import history
from benchmarks.history import History
from flask_referral import clicks
from flask_referral import clock
from flask_referral.clicks import Visit

from ..conftest import MakeHost
from ..hosts import Host

CLICKS, REFERRERS = 2_500, 40
#: The most rows that a transaction changes.
MOST = 1_000
COMMANDS = {
    "rollup": ("rollup",),
    "purge": ("purge", "--clicks-older-than", "1", "--yes"),
    "purge --delete": ("purge", "--clicks-older-than", "1", "--delete", "--yes"),
    "backfill": ("backfill", "--batch-size", "50"),
}


@pytest.fixture
def loaded(make_postgresql: MakeHost, postgresql_url: str) -> tuple[Host, History]:
    """Return a host with a year of clicks, a tenth of them one referrer's."""
    host = make_postgresql()
    connection = database.connect(database.dsn(postgresql_url))
    try:
        return host, history.load(connection, CLICKS, REFERRERS)
    finally:
        connection.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_nobody_waits_and_no_transaction_is_long(
    loaded: tuple[Host, History], command: str
) -> None:
    """At each commit, with all the locks of the transaction still held."""
    host, made = loaded
    state = host.referral.state
    with host.app.app_context():
        engine = host.db.engine
    # Its connections have no listeners: what is done over it is not the command's.
    beside = sa.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    visitors = iter(range(10**6))
    changed: list[int] = [0]

    def live() -> None:
        number = next(visitors)
        with beside.connect() as db:
            db.exec_driver_sql("SET lock_timeout = '1s'")
            for code in (made.big_code, made.codes[number % REFERRERS]):
                address = f"10.0.{number // 256}.{number % 256}"
                visit = Visit(code, clock.now(), address, "Firefox")
                recorded = clicks.record(db, state.models, state.settings, visit, b"secret")
                assert recorded is not None
                assert recorded.created
            # What a sale locks of a referrer: the code by its rewards, the user by the wallet.
            db.exec_driver_sql(
                "SELECT FROM referral_codes JOIN users ON users.id = user_id "
                f"WHERE users.id = {made.big} "
                "FOR NO KEY UPDATE OF users FOR KEY SHARE OF referral_codes"
            )

    def count(
        connection: t.Any, cursor: t.Any, statement: str, parameters: t.Any, *rest: t.Any
    ) -> None:
        if statement.startswith("UPDATE referral_rewards"):
            # Those of the batch's own clicks, which follow them.
            return
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            changed[-1] += cursor.rowcount
        elif statement.startswith("WITH"):
            # The sums of a day, which answers how many it wrote.
            ((number,),) = cursor.fetchall()
            cursor.scroll(0, mode="absolute")
            changed[-1] += number

    def committing(connection: sa.Connection) -> None:
        live()
        changed.append(0)

    event.listen(engine, "after_cursor_execute", count)
    event.listen(engine, "commit", committing)
    try:
        host.cli(*COMMANDS[command])
    finally:
        event.remove(engine, "after_cursor_execute", count)
        event.remove(engine, "commit", committing)
        beside.dispose()
    assert next(visitors) >= 3
    assert max(changed) <= MOST
    assert sum(changed) >= CLICKS / 20
