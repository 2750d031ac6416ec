"""People who refer themselves, each other, or who had been customers for long."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
import time
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_referral import AttributionReason as Reason
from flask_referral import ConfigurationError
from flask_referral import Referral
from flask_referral import signals

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..money import balance
from ..money import PATIENCE
from ..money import pay
from ..money import rewards
from ..visiting import add_referrer
from ..visiting import browser
from ..visiting import Clock
from ..visiting import COOKIE
from ..visiting import cookie_value
from ..visiting import make_code
from ..whop import CONFIG
from ..whop import outcome
from ..whop import payment

DAY = dt.timedelta(days=1)


def visit(host: Host, code: str) -> str:
    """Follow a link and return the cookie."""
    return cookie_value(browser(host).get(f"/r/{code}", headers={"User-Agent": "visitor"}))


def attribute(host: Host, user: t.Any, code: str | None = None, cookie: str | None = None) -> str:
    """Sign up in a request of its own, commit, and return the reason."""
    headers = {} if cookie is None else {"Cookie": f"{COOKIE}={cookie}"}
    with host.app.test_request_context("/sign-up", method="POST", headers=headers):
        reason = host.referral.attribute(user, code=code).reason
        host.db.session.commit()
    return reason


def bound(host: Host) -> set[tuple[t.Any, t.Any]]:
    """Return who referred whom."""
    click = host.referral.models.ReferralClick
    query = sa.select(click.referrer_user_id, click.referred_user_id)
    with host.app.app_context():
        rows = host.db.session.execute(query.where(click.referred_user_id.is_not(None)))
        return {tuple(row) for row in rows}


def kept(host: Host) -> list[tuple[t.Any, str, str]]:
    """Return the refusals that are kept: of whom, by which code, and why."""
    event = host.referral.models.ReferralEvent
    query = sa.select(event.user_id, event.reference, event.outcome).filter_by(kind="attribution")
    with host.app.app_context():
        return [tuple(row) for row in host.db.session.execute(query)]


def set_created(host: Host, user: t.Any, moment: dt.datetime | None) -> None:
    with host.app.app_context(), host.db.engine.begin() as connection:
        update = sa.update(host.User).where(host.User.id == user)
        connection.execute(update.values(created_at=moment))


class TestRings:
    @pytest.mark.parametrize("key", KEYS)
    @pytest.mark.parametrize("typed", [True, False])
    def test_two_users_do_not_refer_each_other(self, make: MakeHost, key: str, typed: bool) -> None:
        host = make(key=key)
        (ada, code_of_ada), (bob, code_of_bob) = add_referrer(host), add_referrer(host)
        cookie = None if typed else visit(host, code_of_bob)
        assert attribute(host, bob, code_of_ada) == Reason.attributed
        for _ in range(2):
            code = code_of_bob if typed else None
            assert attribute(host, ada, code, cookie) == Reason.circular
        assert bound(host) == {(ada, bob)}
        assert kept(host) == [(ada, code_of_bob, "circular")]
        assert pay(host, ada) == "not_referred"
        assert balance(host, bob) == 0

    def test_not_at_the_same_moment_either(self, make_postgresql: MakeHost) -> None:
        host = make_postgresql()
        (ada, code_of_ada), (bob, code_of_bob) = add_referrer(host), add_referrer(host)
        reasons: list[str] = []
        thread = threading.Thread(
            target=lambda: reasons.append(attribute(host, ada, code_of_bob)), daemon=True
        )
        with host.app.test_request_context():
            assert host.referral.attribute(bob, code_of_ada).reason is Reason.attributed
            thread.start()
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            deadline = time.monotonic() + PATIENCE
            while host.db.session.scalar(waiting) == 0 and thread.is_alive():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            host.db.session.commit()
        thread.join(PATIENCE)
        assert reasons == [Reason.circular]
        assert bound(host) == {(ada, bob)}

    def test_an_operator_makes_no_circle(self, make: MakeHost) -> None:
        host = make()
        (ada, code_of_ada), (bob, code_of_bob) = add_referrer(host), add_referrer(host)
        attribute(host, bob, code_of_ada)
        assert "each other" in host.failure("reattribute", str(ada), code_of_bob, "--yes")
        assert bound(host) == {(ada, bob)}

    def test_a_chain_is_no_ring(self, make: MakeHost) -> None:
        host = make()
        people = [add_referrer(host) for _ in range(4)]
        for (_, code), (user, _) in itertools.pairwise(people):
            assert attribute(host, user, code) == Reason.attributed


class TestTheHostsOwnCheck:
    @pytest.mark.parametrize("asynchronous", [True, False])
    @pytest.mark.parametrize("typed", [True, False])
    def test_refuses(self, make: MakeHost, asynchronous: bool, typed: bool) -> None:
        host = make()
        referrer, code = add_referrer(host)
        same_card, other_card = host.add_user(), host.add_user()
        asked: list[t.Any] = []

        def check(user: t.Any, referrer: t.Any, code: str) -> bool:
            asked.append((user, referrer, code))
            return bool(user != same_card)

        async def check_later(user: t.Any, referrer: t.Any, code: str) -> bool:
            return check(user, referrer, code)

        given = check_later if asynchronous else check
        assert host.referral.attribution_check(given) is given
        cookie = None if typed else visit(host, code)
        for user, reason in ((same_card, Reason.refused), (other_card, Reason.attributed)):
            with host.statements() as sent:
                assert attribute(host, user, code if typed else None, cookie) == reason
            assert len(sent) <= 2, sent
        assert asked == [(same_card, referrer, code), (other_card, referrer, code)]
        assert bound(host) == {(referrer, other_card)}
        assert kept(host) == [(same_card, code, "refused")]

    def test_is_asked_last(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        referrer, code = add_referrer(host)
        host.referral.attribution_check(lambda *_: pytest.fail("nobody is to be bound"))
        assert attribute(host, referrer, code) == Reason.self_referral
        assert attribute(host, host.add_user(), "ZZZZZZZZ") == Reason.unknown_code

    def test_what_it_raises_is_the_hosts(self, make: MakeHost) -> None:
        host = make()
        _, code = add_referrer(host)

        def check(user: t.Any, referrer: t.Any, code: str) -> bool:
            raise LookupError("no card")

        host.referral.attribution_check(check)
        with pytest.raises(LookupError, match="no card"):
            attribute(host, host.add_user(), code)
        assert bound(host) == set()


class TestLateCodes:
    def test_a_customer_who_types_a_code_was_brought_by_nobody(self, make: MakeHost) -> None:
        host = make(**CONFIG, REFERRAL_RENEWALS=None)
        referrer, code = add_referrer(host)
        buyer = host.add_user()
        assert outcome(host, payment(buyer), id="evt_1") == "not_referred"
        assert attribute(host, buyer, code) == Reason.existing_account
        assert bound(host) == set()
        renewal = payment(buyer, id="pay_2")
        assert outcome(host, renewal, id="evt_2") == "not_referred"
        assert balance(host, referrer) == 0

    @pytest.mark.parametrize(
        ("before", "reason"),
        [
            (dt.timedelta(minutes=2), Reason.existing_account),
            # The visit was first, and the provider faster than the sign-up.
            (dt.timedelta(minutes=-2), Reason.attributed),
        ],
    )
    @pytest.mark.parametrize("typed", [True, False])
    def test_a_visit_counts_from_before_the_payment(
        self, make: MakeHost, before: dt.timedelta, reason: Reason, typed: bool
    ) -> None:
        host = make(**CONFIG)
        _, code = add_referrer(host)
        cookie = visit(host, code)
        buyer = host.add_user()
        assert outcome(host, payment(buyer), id="evt_1") == "not_referred"
        event = host.referral.models.ReferralEvent.__table__
        with host.app.app_context(), host.db.engine.begin() as connection:
            moment = dt.datetime.now(dt.UTC) - before
            connection.execute(sa.update(event).values(occurred_at=moment))
        assert attribute(host, buyer, code if typed else None, cookie) == reason

    def test_who_converted_is_not_brought_again_by_another(self, make: MakeHost) -> None:
        host = make()
        (ada, code_of_ada), (_, code_of_bob) = add_referrer(host), add_referrer(host)
        buyer = host.add_user()
        attribute(host, buyer, code_of_ada)
        assert pay(host, buyer) == "converted"
        host.cli("erase", str(ada), "--yes")
        assert attribute(host, buyer, code_of_bob) == Reason.existing_account
        assert bound(host) == set()


class TestSpellings:
    """Keys that are equal to the database and different to Python."""

    #: To PostgreSQL's CHAR blanks at the end are nothing, as to SQLite's RTRIM.
    @pytest.fixture(params=["NOCASE", "RTRIM", "CHAR"])
    def spelling(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def host(
        self,
        spelling: str,
        request: pytest.FixtureRequest,
        host_on: t.Callable[..., Host],
    ) -> Host:
        if spelling == "CHAR":
            return host_on(request.getfixturevalue("postgresql_url"), key="char")
        url = request.getfixturevalue("sqlite_url")
        return host_on(url, key="str", collation=spelling)

    @pytest.fixture
    def ada(self, spelling: str, host: Host) -> str:
        return str(host.add_user(id="ada".ljust(26) if spelling == "CHAR" else "ada"))

    @pytest.fixture
    def other(self, spelling: str) -> str:
        return {"NOCASE": "ADA", "RTRIM": "ada  ", "CHAR": "ada"}[spelling]

    def test_nobody_refers_himself_by_another_spelling(
        self, host: Host, ada: str, other: str
    ) -> None:
        code = make_code(host, ada)
        cookie = visit(host, code)
        assert attribute(host, other, code) == Reason.self_referral
        assert attribute(host, other, cookie=cookie) == Reason.self_referral
        assert bound(host) == set()
        assert pay(host, other) == "not_referred"

    def test_there_is_one_code_for_all_spellings(self, host: Host, ada: str, other: str) -> None:
        assert make_code(host, ada) == make_code(host, other)

    def test_the_own_visit_is_none(self, host: Host, ada: str, other: str) -> None:
        code, host.current_user = make_code(host, ada), other
        answer = browser(host).get(f"/r/{code}", headers={"User-Agent": "visitor"})
        assert answer.status_code == 302 and "Set-Cookie" not in answer.headers

    def test_a_new_user_is_known_as_the_table_spells_him(
        self, host: Host, ada: str, other: str
    ) -> None:
        code = make_code(host, host.add_user(id="bob".ljust(26) if ada[3:] else "bob"))
        told: list[t.Any] = []

        def receive(app: Flask, **values: t.Any) -> None:
            told.append(values["user_id"])

        with signals.user_attributed.connected_to(receive):
            assert attribute(host, other, code) == Reason.attributed
        assert [user for _, user in bound(host)] == told == [ada]
        assert pay(host, other) == "converted"
        assert pay(host, ada) == "already_converted"
        with host.app.app_context():
            # Told to the buyer, and to nobody else.
            assert len(host.referral.convert(other, "mem_1").rewards) == 1
        assert [row.referred_user_id for row in rewards(host)] == [ada]


class TestOldAccounts:
    def test_a_column_that_is_set_and_missing_stops_the_start(self) -> None:
        for name in ("joined_on", "name"):
            db = SQLAlchemy()
            users = sa.Table(
                "users",
                db.metadata,
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("name", sa.Text),
            )
            app = Flask("host")
            app.config.update(
                SQLALCHEMY_DATABASE_URI="sqlite://", REFERRAL_USER_CREATED_COLUMN=name
            )
            db.init_app(app)
            with pytest.raises(ConfigurationError, match=f"REFERRAL_USER_CREATED_COLUMN.*{name}"):
                Referral(app, db, user_model=users)

    @pytest.mark.parametrize("typed", [True, False])
    @pytest.mark.parametrize("age", [5 * 365 * DAY, None])
    def test_an_old_account_is_referred_by_nobody(
        self, make: MakeHost, clock: Clock, age: dt.timedelta | None, typed: bool
    ) -> None:
        host = make()
        _, code = add_referrer(host)
        cookie = visit(host, code)
        user = host.add_user()
        set_created(host, user, None if age is None else clock.time - age)
        assert attribute(host, user, code if typed else None, cookie) == Reason.existing_account
        assert bound(host) == set()
