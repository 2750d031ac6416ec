"""Station 3: one referrer for each user, bound with a reason or refused with one."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import threading
import typing as t

import pytest
import sqlalchemy as sa
from flask import Flask
from flask import request
from flask_sqlalchemy import SQLAlchemy

from flask_referral import Attribution
from flask_referral import AttributionReason as Reason
from flask_referral import ConfigurationError
from flask_referral import Referral
from flask_referral import signals
from flask_referral.errors import UnknownUser

from .conftest import MakeHost
from .hosts import Host
from .hosts import KEYS
from .visiting import add_referrer
from .visiting import browser
from .visiting import clicks
from .visiting import Clock
from .visiting import COOKIE
from .visiting import cookie_value
from .visiting import make_code

WINDOW = dt.timedelta(days=30)
UNKNOWN = "ZZZZZZZZ"


def visit(host: Host, code: str, agent: str = "visitor") -> str:
    """Follow a link and return the cookie."""
    return cookie_value(browser(host).get(f"/r/{code}", headers={"User-Agent": agent}))


@contextlib.contextmanager
def request_with(host: Host, cookie: str | None) -> t.Iterator[None]:
    headers = {} if cookie is None else {"Cookie": f"{COOKIE}={cookie}"}
    with host.app.test_request_context("/sign-up", method="POST", headers=headers):
        yield


def attribute(
    host: Host, user_id: t.Any, cookie: str | None = None, code: str | None = None
) -> Attribution:
    """Attribute in a request of its own, and commit."""
    with request_with(host, cookie):
        result = host.referral.attribute(user_id, code=code)
        # Read what belongs to the session before it goes.
        assert result.click is None or result.click.id
        host.db.session.commit()
        return result


def add_user_at(host: Host, moment: dt.datetime | None) -> t.Any:
    return host.add_user(created_at=moment)


def bound(host: Host) -> list[tuple[t.Any, t.Any, str]]:
    """Return who referred whom by which code."""
    return [
        (row.referrer_user_id, row.referred_user_id, row.referral_code)
        for row in clicks(host)
        if row.referred_user_id is not None
    ]


@pytest.mark.parametrize("key", KEYS)
class TestVisit:
    def test_is_bound(self, make: MakeHost, clock: Clock, key: str) -> None:
        host = make(key=key)
        referrer, code = add_referrer(host)
        cookie = visit(host, code)
        user = host.add_user()
        with request_with(host, cookie):
            result = host.referral.attribute(user)
            assert result.reason is Reason.attributed
            assert (result.referrer_id, result.code) == (referrer, code)
            assert result.click is not None
            assert (result.click.referred_user_id, result.click.referral_code) == (user, code)
            host.db.session.commit()
        # The click itself, not another row.
        [row] = clicks(host)
        assert row.bound_at.replace(tzinfo=dt.UTC) == clock.time
        assert bound(host) == [(referrer, user, code)]

    def test_only_once(self, make: MakeHost, key: str) -> None:
        host = make(key=key)
        referrer, code = add_referrer(host)
        _, other = add_referrer(host)
        cookie = visit(host, code)
        user = host.add_user()
        attribute(host, user, cookie)
        for again in (
            attribute(host, user, cookie),
            attribute(host, user, visit(host, other)),
            attribute(host, user, code=other),
            attribute(host, user, code=UNKNOWN),
        ):
            assert again.reason is Reason.already_attributed
            assert (again.referrer_id, again.code) == (referrer, code)
        assert bound(host) == [(referrer, user, code)]

    def test_second_person_on_the_same_computer(self, make: MakeHost, key: str) -> None:
        host = make(key=key)
        _, code = add_referrer(host)
        cookie = visit(host, code)
        users = [host.add_user(), host.add_user()]
        assert [attribute(host, user, cookie).reason for user in users] == [Reason.attributed] * 2
        assert {user for _, user, _ in bound(host)} == set(users)
        # Sign-ups never exceed clicks.
        assert len(clicks(host)) == 2

    def test_survives_the_purge_of_the_click(self, make: MakeHost, key: str) -> None:
        host = make(key=key)
        referrer, code = add_referrer(host)
        cookie = visit(host, code)
        table = host.referral.models.ReferralClick.__table__
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.execute(sa.delete(table))
        user = host.add_user()
        assert attribute(host, user, cookie).reason is Reason.attributed
        assert bound(host) == [(referrer, user, code)]

    def test_own_visit(self, make: MakeHost, key: str) -> None:
        # The cookie was set before the referrer logged in.
        host = make(key=key)
        referrer, code = add_referrer(host)
        result = attribute(host, referrer, visit(host, code))
        assert (result.reason, result.click) == (Reason.self_referral, None)
        assert attribute(host, referrer, code=code).reason is Reason.self_referral
        assert bound(host) == []


class TestReasons:
    @pytest.fixture
    def host(self, make: MakeHost) -> Host:
        return make()

    def test_no_visit(self, host: Host) -> None:
        user = host.add_user()
        with host.statements() as sent:
            for code in (None, "", "  "):
                assert attribute(host, user, code=code) == Attribution(Reason.no_visit)
        assert sent == []

    def test_no_request(self, host: Host) -> None:
        _, code = add_referrer(host)
        user = host.add_user()
        with host.app.app_context():
            assert host.referral.attribute(user).reason is Reason.no_visit
            assert host.referral.attribute(user, code=code).reason is Reason.attributed
            assert host.referral.carry() == ""

    @pytest.mark.parametrize("cookie", ["junk", "1.K7M2PQ9X.0.0.x", "\x00", "x" * 100_000])
    def test_forged_cookie(self, host: Host, cookie: str) -> None:
        assert attribute(host, host.add_user(), cookie).reason is Reason.no_visit

    def test_edited_cookie(self, host: Host) -> None:
        _, code = add_referrer(host)
        _, other = add_referrer(host)
        edited = visit(host, code).replace(code, other)
        assert attribute(host, host.add_user(), edited).reason is Reason.no_visit
        assert bound(host) == []

    @pytest.mark.parametrize("code", [UNKNOWN, "nonsense", "\0", "\u202e" * 8, "x" * 100_000, "🂡"])
    def test_unknown_code(self, host: Host, code: str) -> None:
        _, known = add_referrer(host)
        user = host.add_user()
        assert attribute(host, user, code=code).reason is Reason.unknown_code
        # What was typed goes before the visit; the host may ask again without it.
        assert attribute(host, user, visit(host, known), code).reason is Reason.unknown_code
        assert bound(host) == []

    def test_code_that_has_gone(self, host: Host) -> None:
        referrer, code = add_referrer(host)
        cookie = visit(host, code)
        with host.app.app_context():
            host.db.session.delete(host.db.session.get(host.User, referrer))
            host.db.session.execute(sa.delete(host.referral.models.ReferralCode))
            host.db.session.commit()
        result = attribute(host, host.add_user(), cookie)
        assert (result.reason, result.code) == (Reason.unknown_code, code)

    @pytest.mark.parametrize(
        ("age", "reason"),
        [
            (WINDOW - dt.timedelta(seconds=2), Reason.attributed),
            (WINDOW, Reason.window_over),
            (WINDOW * 10, Reason.window_over),
        ],
    )
    def test_window(self, host: Host, clock: Clock, age: dt.timedelta, reason: Reason) -> None:
        _, code = add_referrer(host)
        cookie = visit(host, code)
        clock.time += age
        user = add_user_at(host, clock.time)
        result = attribute(host, user, cookie)
        assert (result.reason, result.code) == (reason, code)
        assert len(bound(host)) == (reason is Reason.attributed)

    def test_window_of_the_stored_click(self, host: Host, clock: Clock) -> None:
        _, code = add_referrer(host)
        cookie = visit(host, code)
        table = host.referral.models.ReferralClick.__table__
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.execute(sa.update(table).values(clicked_at=clock.time - WINDOW))
        assert attribute(host, host.add_user(), cookie).reason is Reason.window_over

    @pytest.mark.parametrize("naive", [True, False])
    def test_account_older_than_the_click(self, host: Host, clock: Clock, naive: bool) -> None:
        _, code = add_referrer(host)
        # No time zone is 67 minutes away from another.
        born = clock.time - dt.timedelta(minutes=67)
        user = add_user_at(host, born.replace(tzinfo=None) if naive else born)
        result = attribute(host, user, visit(host, code))
        assert (result.reason, result.click) == (Reason.existing_account, None)
        assert bound(host) == []

    def test_date_with_a_zone_is_no_matter_of_zones(
        self, make_postgresql: MakeHost, clock: Clock
    ) -> None:
        host = make_postgresql()
        _, code = add_referrer(host)
        user = add_user_at(host, clock.time - dt.timedelta(hours=1))
        assert attribute(host, user, visit(host, code)).reason is Reason.existing_account

    def test_clocks_that_differ_a_little(self, host: Host, clock: Clock) -> None:
        _, code = add_referrer(host)
        user = add_user_at(host, clock.time - dt.timedelta(seconds=30))
        assert attribute(host, user, visit(host, code)).reason is Reason.attributed

    def test_account_without_a_date_is_of_a_time_before_dates(self, host: Host) -> None:
        _, code = add_referrer(host)
        user = host.add_user()
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.execute(sa.update(host.User).values(created_at=None))
        for result in (attribute(host, user, visit(host, code)), attribute(host, user, code=code)):
            assert result.reason is Reason.existing_account
        assert bound(host) == []

    def test_a_host_may_say_that_accounts_have_no_date(self, make: MakeHost, clock: Clock) -> None:
        host = make(REFERRAL_USER_CREATED_COLUMN=None)
        _, code = add_referrer(host)
        user = host.add_user(name="Ada", created_at=clock.time - dt.timedelta(days=1000))
        assert attribute(host, user, visit(host, code)).reason is Reason.attributed


class TestLocalTime:
    """A column without a zone, written by ``datetime.now`` on a server that is not in UTC."""

    @pytest.fixture
    def host(self, make: MakeHost) -> Host:
        return make(naive=True)

    def attribute(
        self, host: Host, born: dt.datetime, cookie: str | None, code: str | None = None
    ) -> Reason:
        return attribute(host, add_user_at(host, born.replace(tzinfo=None)), cookie, code).reason

    @pytest.mark.parametrize("hours", [-12, -9.5, -8, -3.5, -1, 0, 1, 5.75, 9, 14])
    def test_a_new_account_is_new(self, host: Host, clock: Clock, hours: float) -> None:
        _, code = add_referrer(host)
        local = clock.time + dt.timedelta(hours=hours)
        assert self.attribute(host, local, visit(host, code)) is Reason.attributed
        assert self.attribute(host, local, None, code) is Reason.attributed

    @pytest.mark.parametrize("hours", [-8, 0])
    def test_an_account_made_some_time_after_the_visit(
        self, host: Host, clock: Clock, hours: float
    ) -> None:
        _, code = add_referrer(host)
        cookie = visit(host, code)
        clock.turn(hours=3, minutes=7)
        local = clock.time + dt.timedelta(hours=hours, minutes=-50)
        assert self.attribute(host, local, cookie) is Reason.attributed

    @pytest.mark.parametrize(
        "age", [dt.timedelta(minutes=67), dt.timedelta(hours=13), dt.timedelta(days=3)]
    )
    def test_an_account_that_is_older_in_every_zone(
        self, host: Host, clock: Clock, age: dt.timedelta
    ) -> None:
        _, code = add_referrer(host)
        born = clock.time - age
        assert self.attribute(host, born, visit(host, code)) is Reason.existing_account

    def test_an_older_account_and_an_older_visit(self, host: Host, clock: Clock) -> None:
        _, code = add_referrer(host)
        born = clock.time - dt.timedelta(hours=13)
        cookie = visit(host, code)
        clock.turn(days=2)
        assert self.attribute(host, born, cookie) is Reason.existing_account

    @pytest.mark.parametrize(
        ("age", "reason"),
        [
            (WINDOW + dt.timedelta(hours=11, minutes=59), Reason.attributed),
            (WINDOW + dt.timedelta(hours=12, minutes=2), Reason.existing_account),
        ],
    )
    def test_window_of_a_typed_code(
        self, host: Host, clock: Clock, age: dt.timedelta, reason: Reason
    ) -> None:
        _, code = add_referrer(host)
        assert self.attribute(host, clock.time - age, None, code) is reason


class Unpleasant(sa.TypeDecorator[t.Any]):
    """A host's own kind of moment, which is no datetime."""

    impl = sa.DateTime
    cache_ok = True

    def process_result_value(self, value: t.Any, dialect: t.Any) -> t.Any:
        return value and value.isoformat()


def test_date_of_a_type_of_the_hosts(clock: Clock) -> None:
    db = SQLAlchemy()
    born = clock.time.replace(tzinfo=None) - dt.timedelta(minutes=67)

    class User(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "users"
        id = sa.Column(sa.Integer, primary_key=True)
        joined = sa.Column("created_at", Unpleasant, default=born)

    app = Flask("host")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", SECRET_KEY="for tests only")
    db.init_app(app)
    referral = Referral(app, db, user_model=User)
    with app.app_context():
        db.create_all()
        db.session.add_all([User(id=1), User(id=2)])
        code = referral.get_or_create_code(1).code
        db.session.commit()
        cookie = app.test_client().get(f"/r/{code}").headers["Set-Cookie"].partition(";")[0]
        with app.test_request_context(headers={"Cookie": cookie}):
            assert referral.attribute(2).reason is Reason.existing_account


class TestTypedCode:
    @pytest.fixture
    def host(self, make: MakeHost) -> Host:
        return make()

    def test_has_a_click_of_its_own(self, host: Host, clock: Clock) -> None:
        referrer, code = add_referrer(host)
        user = host.add_user()
        result = attribute(host, user, code=f" {code[:4].lower()}-{code[4:]} ")
        assert (result.reason, result.code, result.referrer_id) == (
            Reason.attributed,
            code,
            referrer,
        )
        [row] = clicks(host)
        assert (row.referral_code, row.referred_user_id) == (code, user)
        assert row.clicked_at == row.bound_at
        assert row.clicked_at.replace(tzinfo=dt.UTC) == clock.time

    def test_goes_before_the_visit(self, host: Host) -> None:
        _, visited = add_referrer(host)
        typist, typed = add_referrer(host)
        user = host.add_user()
        result = attribute(host, user, visit(host, visited), typed)
        assert (result.reason, result.code) == (Reason.attributed, typed)
        assert bound(host) == [(typist, user, typed)]

    def test_uses_the_visit_through_the_same_code(self, host: Host) -> None:
        _, code = add_referrer(host)
        user = host.add_user()
        assert attribute(host, user, visit(host, code), code).reason is Reason.attributed
        assert len(clicks(host)) == 1

    def test_needs_no_valid_visit(self, host: Host, clock: Clock) -> None:
        _, code = add_referrer(host)
        cookie = visit(host, code)
        clock.turn(days=40)
        user = add_user_at(host, clock.time)
        assert attribute(host, user, cookie, code).reason is Reason.attributed
        assert len(clicks(host)) == 2

    @pytest.mark.parametrize(
        ("age", "reason"),
        [
            (WINDOW - dt.timedelta(hours=1), Reason.attributed),
            # On SQLite a date has no zone, which may explain half a day.
            (WINDOW + dt.timedelta(hours=13), Reason.existing_account),
        ],
    )
    def test_age_of_the_account(
        self, host: Host, clock: Clock, age: dt.timedelta, reason: Reason
    ) -> None:
        _, code = add_referrer(host)
        user = add_user_at(host, clock.time - age)
        assert attribute(host, user, code=code).reason is reason


class TestCarriedCode:
    """A round trip through somebody else's log-in page, which loses the cookie."""

    def carried(self, host: Host, cookie: str) -> str:
        with request_with(host, cookie):
            return host.referral.carry()

    def test_round_trip(self, make: MakeHost) -> None:
        host = make()
        referrer, code = add_referrer(host)
        state = self.carried(host, visit(host, code))
        user = host.add_user()
        result = attribute(host, user, code=state)
        assert (result.reason, result.code) == (Reason.attributed, code)
        # The visit's own click.
        assert len(clicks(host)) == 1
        assert bound(host) == [(referrer, user, code)]

    def test_is_safe_in_a_url(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        state = self.carried(host, visit(host, add_referrer(host)[1]))
        assert state.isascii() and len(state) < 128
        with host.app.test_request_context(f"/callback?state={state}"):
            assert request.args["state"] == state

    def test_window(self, make: MakeHost, clock: Clock) -> None:
        host = make()
        state = self.carried(host, visit(host, add_referrer(host)[1]))
        clock.turn(days=31)
        assert attribute(host, host.add_user(), code=state).reason is Reason.window_over

    def test_old_account(self, make: MakeHost, clock: Clock) -> None:
        host = make()
        state = self.carried(host, visit(host, add_referrer(host)[1]))
        user = add_user_at(host, clock.time - dt.timedelta(days=1))
        assert attribute(host, user, code=state).reason is Reason.existing_account

    def test_forged(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        _, code = add_referrer(host)
        _, other = add_referrer(host)
        cookie = visit(host, code)
        forged = self.carried(host, cookie).replace(code, other)
        user = host.add_user()
        assert attribute(host, user, code=forged).reason is Reason.unknown_code
        # A cookie is no state.
        assert attribute(host, user, code=cookie).reason is Reason.unknown_code

    def test_nothing_to_carry(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        with request_with(host, None):
            assert host.referral.carry() == ""
        assert attribute(host, host.add_user(), code="").reason is Reason.no_visit


class TestTransaction:
    @pytest.fixture
    def host(self, make: MakeHost) -> Host:
        return make()

    def test_statement_budget(self, host: Host, clock: Clock) -> None:
        _, code = add_referrer(host)
        cookie = visit(host, code)
        old = add_user_at(host, clock.time - dt.timedelta(days=99))
        first, second, third = (host.add_user() for _ in range(3))
        for user, visited, typed in (
            (first, cookie, None),
            (first, cookie, None),
            (second, cookie, None),
            (third, None, code),
            (old, cookie, None),
            (old, None, UNKNOWN),
        ):
            with host.statements() as sent:
                attribute(host, user, visited, typed)
            assert len(sent) <= 2, sent

    def test_joins_the_hosts(self, host: Host) -> None:
        _, code = add_referrer(host)
        cookie = visit(host, code)
        with request_with(host, cookie):
            user = host.User(name="not flushed")
            host.db.session.add(user)
            assert host.referral.attribute(user).reason is Reason.attributed
            host.db.session.rollback()
        assert bound(host) == []
        with host.app.app_context():
            assert (
                host.db.session.scalar(sa.select(host.User).filter_by(name="not flushed")) is None
            )

    @pytest.mark.parametrize("by_id", [True, False])
    def test_user_with_a_key_of_its_own_that_is_not_flushed(
        self, make: MakeHost, by_id: bool
    ) -> None:
        host = make(key="str")
        _, code = add_referrer(host)
        with request_with(host, visit(host, code)):
            user = host.User(id="ada")
            host.db.session.add(user)
            # As in a host that flushes by itself only; SQLAlchemy 2.0 does so here in any case.
            with host.db.session.no_autoflush:
                result = host.referral.attribute("ada" if by_id else user)
            assert result.reason is Reason.attributed
            host.db.session.commit()
        assert [referred for _, referred, _ in bound(host)] == ["ada"]

    def test_signal_follows_the_commit(self, host: Host) -> None:
        referrer, code = add_referrer(host)
        cookie = visit(host, code)
        user = host.add_user()
        told: list[t.Any] = []

        def receive(app: Flask, **values: t.Any) -> None:
            told.append(values)

        with signals.user_attributed.connected_to(receive):
            with request_with(host, cookie):
                host.referral.attribute(user)
                host.db.session.rollback()
                host.referral.attribute(user)
                assert told == []
                host.db.session.commit()
            assert told == [{"user_id": user, "referrer_id": referrer, "code": code}]
            attribute(host, user, cookie)
        assert len(told) == 1

    def test_nobody(self, host: Host) -> None:
        _, code = add_referrer(host)
        with request_with(host, visit(host, code)):
            host.db.session.add(host.User(name="pending"))
            with pytest.raises(UnknownUser, match="flush"):
                host.referral.attribute(999)
            # The host's transaction goes on.
            host.db.session.commit()
        assert bound(host) == []

    def test_many_calls_for_one_user(self, host: Host) -> None:
        codes = [add_referrer(host)[1] for _ in range(4)]
        cookies = [visit(host, code) for code in codes]
        for _ in range(5):
            user = host.add_user()
            results = self.at_once(
                [
                    *((user, cookie, None) for cookie in cookies),
                    *((user, None, code) for code in codes),
                ],
                host,
            )
            reasons = sorted(result.reason for result in results)
            assert reasons == [Reason.already_attributed] * 7 + [Reason.attributed]
            # All have heard of the one that won.
            assert len({(result.referrer_id, result.code) for result in results}) == 1
            assert len([row for row in bound(host) if row[1] == user]) == 1

    def test_many_users_of_one_computer(self, host: Host) -> None:
        referrer, code = add_referrer(host)
        cookie = visit(host, code)
        users = [host.add_user() for _ in range(8)]
        results = self.at_once([(user, cookie, None) for user in users], host)
        assert [result.reason for result in results] == [Reason.attributed] * 8
        assert sorted(bound(host)) == [(referrer, user, code) for user in users]
        assert len(clicks(host)) == 8

    def at_once(
        self, calls: list[tuple[t.Any, str | None, str | None]], host: Host
    ) -> list[Attribution]:
        barrier = threading.Barrier(len(calls))
        results: list[Attribution] = []

        def run(user: t.Any, cookie: str | None, code: str | None) -> None:
            with request_with(host, cookie):
                barrier.wait()
                result = host.referral.attribute(user, code=code)
                # The caller's transaction has survived whatever happened.
                host.db.session.execute(sa.select(host.User.id).limit(1)).all()
                host.db.session.commit()
                results.append(result)

        threads = [threading.Thread(target=run, args=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == len(calls)
        return results


class TestAutomatically:
    """``REFERRAL_AUTO_ATTRIBUTE``"""

    @pytest.fixture
    def host(self, make: MakeHost) -> Host:
        return make(REFERRAL_AUTO_ATTRIBUTE=True)

    def test_binds(self, host: Host) -> None:
        referrer, code = add_referrer(host)
        with request_with(host, visit(host, code)):
            user = host.User(name="Ada")
            host.db.session.add(user)
            host.db.session.commit()
            assert host.referral.attribute(user).reason is Reason.already_attributed
            assert bound(host) == [(referrer, user.id, code)]

    def test_signal(self, host: Host) -> None:
        referrer, code = add_referrer(host)
        told: list[t.Any] = []

        def receive(app: Flask, **values: t.Any) -> None:
            told.append((values["referrer_id"], values["code"]))

        with signals.user_attributed.connected_to(receive), request_with(host, visit(host, code)):
            host.db.session.add(host.User())
            host.db.session.flush()
            assert told == []
            host.db.session.commit()
        assert told == [(referrer, code)]

    def test_off_by_default(self, make: MakeHost) -> None:
        host = make()
        _, code = add_referrer(host)
        with request_with(host, visit(host, code)):
            host.db.session.add(host.User())
            host.db.session.commit()
        assert bound(host) == []

    def test_rolled_back_with_the_user(self, host: Host) -> None:
        _, code = add_referrer(host)
        with request_with(host, visit(host, code)):
            host.db.session.add(host.User())
            host.db.session.flush()
            host.db.session.rollback()
        assert bound(host) == []

    def test_without_a_visit(self, host: Host) -> None:
        with host.statements() as outside:
            host.add_user()
        with request_with(host, "junk"), host.statements() as inside:
            host.db.session.add(host.User())
            host.db.session.commit()
        assert len(inside) == len(outside) - 1  # add_user() reads the key back

    def test_failure_does_not_fail_the_sign_up(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, code = add_referrer(host)
        cookie = visit(host, code)
        with host.app.app_context(), host.db.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE referral_clicks RENAME TO away")
        with request_with(host, cookie):
            host.db.session.add(host.User(name="Ada"))
            host.db.session.commit()
            assert host.db.session.scalar(sa.select(host.User).filter_by(name="Ada")) is not None
        assert "not bound" in caplog.text

    def test_application_that_shares_the_class(self, clock: Clock) -> None:
        db = SQLAlchemy()

        class User(db.Model):  # type: ignore[name-defined,misc]
            __tablename__ = "users"
            id = sa.Column(sa.Integer, primary_key=True)

        referral = Referral()
        found = {}
        for name, on in (("on", True), ("off", False)):
            app = Flask(name)
            app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", SECRET_KEY="for tests only")
            app.config["REFERRAL_AUTO_ATTRIBUTE"] = on
            db.init_app(app)
            referral.init_app(app, db, user_model=User)
            with app.app_context():
                db.create_all()
                db.session.add(User(id=1))
                code = referral.get_or_create_code(1).code
                db.session.commit()
                cookie = app.test_client().get(f"/r/{code}").headers["Set-Cookie"].partition(";")
                with app.test_request_context(headers={"Cookie": cookie[0]}):
                    db.session.add(User(id=2))
                    db.session.commit()
                click = referral.models.ReferralClick
                found[name] = db.session.scalars(sa.select(click.referred_user_id)).all()
        assert found == {"on": [2], "off": [None]}

    def test_table_users(self) -> None:
        db = SQLAlchemy()
        users = sa.Table("users", db.metadata, sa.Column("id", sa.Integer, primary_key=True))
        app = Flask("host")
        app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", REFERRAL_AUTO_ATTRIBUTE=True)
        db.init_app(app)
        with pytest.raises(ConfigurationError, match=r"referral\.attribute"):
            Referral(app, db, user_model=users)


class TestReattribute:
    """``flask referral reattribute``"""

    @pytest.fixture(params=KEYS)
    def host(self, make: MakeHost, request: pytest.FixtureRequest) -> Host:
        return make(key=request.param)

    def test_moves(self, host: Host) -> None:
        _, before = add_referrer(host)
        referrer, code = add_referrer(host)
        user = host.add_user()
        attribute(host, user, visit(host, before))
        answer = host.cli("reattribute", str(user), code.lower(), "--yes", "--json")
        found = json.loads(answer.stdout)
        assert (found["user"], found["before"], found["code"]) == (
            user if isinstance(user, int) else str(user),
            before,
            code,
        )
        assert bound(host) == [(referrer, user, code)]
        # The other referrer keeps the click.
        [kept] = [row for row in clicks(host) if row.referral_code == before]
        assert (kept.referred_user_id, kept.bound_at) == (None, None)
        # And back again.
        host.cli("reattribute", str(user), before, "--yes")
        assert [row[2] for row in bound(host)] == [before]

    def test_binds_who_was_not_bound(self, host: Host) -> None:
        referrer, code = add_referrer(host)
        user = host.add_user()
        assert "nobody before" in host.cli("reattribute", str(user), code).output
        assert bound(host) == [(referrer, user, code)]

    def test_refusals(self, host: Host) -> None:
        referrer, code = add_referrer(host)
        user = host.add_user()
        attribute(host, user, code=code)
        own = make_code(host, user)
        missing = str(user)[:-1] + ("8" if str(user)[-1] != "8" else "9")
        for arguments, words in (
            ((str(user), UNKNOWN), "no code"),
            ((str(user), "nonsense"), "no referral code"),
            ((str(user), own), "own"),
            ((str(user), code), "already"),
            ((missing, code), "no user"),
        ):
            answer = host.cli("reattribute", *arguments, "--yes", status=1)
            assert words in answer.stderr
            assert len(answer.stderr.splitlines()) == 1
        assert bound(host) == [(referrer, user, code)]

    def test_user_with_a_conversion(self, host: Host) -> None:
        referrer, before = add_referrer(host)
        _, code = add_referrer(host)
        user = host.add_user()
        attribute(host, user, code=before)
        conversion = host.referral.models.ReferralConversion
        with host.app.app_context():
            host.db.session.add(
                conversion(
                    referrer_user_id=referrer,
                    referred_user_id=user,
                    referral_code=before,
                    whop_membership_id="mem_1",
                    bonus_cents=1000,
                )
            )
            host.db.session.commit()
        answer = host.cli("reattribute", str(user), code, "--yes", status=1)
        assert "conversion" in answer.stderr
        assert bound(host) == [(referrer, user, before)]
