"""The statements of the hot paths never read a large table from end to end."""

from __future__ import annotations

import pytest
from flask import request

from benchmarks import database
from benchmarks import history
from benchmarks import plans
from benchmarks.history import History

from ..conftest import MakeHost
from ..hosts import Host

#: Enough for a plan that is bad at ten million clicks to be bad here.
CLICKS, REFERRERS = 20_000, 2_000
LARGE = {"referral_clicks", "referral_codes", "users"}
#: The indexes on the time of all clicks, whoever's they are: upkeep and operators go by them.
BY_TIME = ("idx_referral_clicks_clicked_at", "idx_referral_clicks_bound_at")
PATHS = {
    "generate, code exists",
    "generate, new code",
    "click",
    "repeated click without its cookie",
    "attribution of a visit",
    "attribution of a typed code",
    "conversion",
    "renewal",
    "reversal",
    "statistics",
    "newest referrals",
    "older referrals",
}


@pytest.fixture
def loaded(make_postgresql: MakeHost, postgresql_url: str) -> tuple[Host, History]:
    """Return a host with a year of clicks, a tenth of them one referrer's."""
    host = make_postgresql(REFERRAL_RENEWALS=1)
    host.referral.identity_loader(lambda: request.headers.get("X-User"))
    connection = database.connect(database.dsn(postgresql_url))
    try:
        return host, history.load(connection, CLICKS, REFERRERS)
    finally:
        connection.close()


def read_whole(host: Host, made: History) -> dict[str, set[str]]:
    """Return which large tables each hot path reads from end to end."""
    found = plans.hot_paths(host.app, made.big, made.big_code)
    assert set(found) == PATHS
    # What is not looked at cannot be found wrong.
    assert all(found.values()), found
    return {
        name: {scan.table for scan in scans if scan.is_whole or scan.index in BY_TIME} & LARGE
        for name, scans in found.items()
    }


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_no_hot_statement_reads_all_clicks_codes_or_users(
    loaded: tuple[Host, History], is_rolled_up: bool
) -> None:
    host, made = loaded
    if is_rolled_up:
        host.cli("rollup")
    assert read_whole(host, made) == {path: set() for path in PATHS}


def test_no_batch_of_upkeep_reads_all_clicks(loaded: tuple[Host, History]) -> None:
    """But one count for each run, which the progress bar needs."""
    host, _ = loaded
    with host.app.app_context():
        engine = host.db.engine
    with plans.sent(engine) as seen:
        host.cli("rollup")
        for options in ([], ["--delete"]):
            host.cli("purge", "--clicks-older-than", "1", "--yes", *options)
    found: dict[str, set[bool]] = {}
    with engine.connect() as connection:
        for each in {each.text: each for each in seen}.values():
            if "count(*) AS count_1 \nFROM" in each.text and "INSERT" not in each.text:
                continue
            for scan in plans.scans(each.explain(connection)["Plan"]):
                if scan.table == "referral_clicks":
                    found.setdefault(each.text.split()[0], set()).add(scan.is_whole)
    assert found == {kind: {False} for kind in ("SELECT", "WITH", "UPDATE", "DELETE")}


@pytest.mark.parametrize(
    ("drop", "paths"),
    [
        (
            "DROP INDEX idx_referral_clicks_bound_unique; ALTER TABLE referral_clicks "
            "DROP CONSTRAINT referral_clicks_referred_user_id_referral_code_key",
            {"attribution of a visit", "attribution of a typed code", "conversion", "renewal"},
        ),
        ("DROP INDEX idx_referral_clicks_referrer_user_id", {"statistics"}),
        (
            "DROP INDEX idx_referral_clicks_referrals, idx_referral_clicks_signups, "
            "idx_referral_clicks_referrer_user_id",
            {"statistics", "newest referrals", "older referrals"},
        ),
    ],
)
def test_a_missing_index_would_be_noticed(
    loaded: tuple[Host, History], drop: str, paths: set[str]
) -> None:
    host, made = loaded
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql(drop)
    found = read_whole(host, made)
    assert {name for name, tables in found.items() if "referral_clicks" in tables} == paths
