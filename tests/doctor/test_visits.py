"""What ``flask referral doctor`` says about visitors' addresses and the dates of accounts."""

from __future__ import annotations

import datetime as dt
import typing as t

import pytest

from flask_referral.doctor.visits import LONGEST_RING

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import KEYS
from ..money import refer
from ..visiting import add_referrer
from ..visiting import Clock
from .conftest import examine
from .conftest import HEALTHY


def said(host: Host, check: str) -> list[str]:
    """Return the warnings of a check."""
    found = [each for each in examine(host) if each["check"] == check]
    assert {each["level"] for each in found} <= {"ok", "warning"}, found
    return [f"{each['message']} {each['cure']}" for each in found if each["level"] == "warning"]


def visit(host: Host, code: str, number: int, *, address: str, browsers: int = 7) -> None:
    """Visit with a browser of its own."""
    host.client().get(
        f"/r/{code}?{number}",
        headers={"User-Agent": f"Browser {number % browsers}", "Referer": f"https://x/{number}"},
        environ_base={"REMOTE_ADDR": address},
    )


class TestAddresses:
    def test_one_for_everybody(self, make: MakeHost, clock: Clock) -> None:
        host = make(**{**HEALTHY, "REFERRAL_DEDUPE_SECONDS": 1})
        _, code = add_referrer(host)
        clock.time = clock.time.replace(day=2)
        for number in range(19):
            visit(host, code, number, address="10.0.0.1")
            clock.turn(seconds=1)
        assert said(host, "addresses") == []
        visit(host, code, 19, address="10.0.0.1")
        [sentence] = said(host, "addresses")
        assert "20 clicks" in sentence and "ProxyFix" in sentence
        visit(host, code, 20, address="192.0.2.1")
        assert said(host, "addresses") == []

    def test_of_one_browser_is_somebody_trying(self, make_sqlite: MakeHost, clock: Clock) -> None:
        host = make_sqlite(**{**HEALTHY, "REFERRAL_DEDUPE_SECONDS": 1})
        _, code = add_referrer(host)
        for number in range(25):
            visit(host, code, number, address="10.0.0.1", browsers=1)
            clock.turn(seconds=1)
        assert said(host, "addresses") == []

    def test_nothing_is_known_without_the_key(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(**{**HEALTHY, "REFERRAL_IP_KEY": None})
        assert "addresses" not in {each["check"] for each in examine(host)}
        # Visitors are told apart without it.
        _, code = add_referrer(host)
        for number in range(2):
            visit(host, code, 1, address=f"192.0.2.{number}")
        [sentence] = said(host, "ip-key")
        assert "told apart by their addresses all the same" in sentence


class TestCreatedAt:
    @pytest.fixture
    def sign_up(self, make: MakeHost, clock: Clock) -> t.Callable[..., Host]:
        def build(*offsets: dt.timedelta, **options: t.Any) -> Host:
            host = make(**HEALTHY, **{"naive": True, **options})
            _, code = add_referrer(host)
            for offset in offsets:
                clock.turn(minutes=7)
                born = clock.time + offset
                user = host.add_user(
                    created_at=born.replace(tzinfo=None) if options.get("naive", True) else born
                )
                with host.app.app_context():
                    host.referral.attribute(user, code=code)
                    host.db.session.commit()
            return host

        return build

    @pytest.mark.parametrize(("hours", "shown"), [(-8, "-8"), (5.75, "+5.75")])
    def test_local_time(self, sign_up: t.Callable[..., Host], hours: float, shown: str) -> None:
        host = sign_up(*[dt.timedelta(hours=hours, seconds=-20)] * 3)
        [sentence] = said(host, "created-at")
        assert f"created_at that is {shown} hours" in sentence and "datetime.now(UTC)" in sentence

    @pytest.mark.parametrize(
        "minutes",
        [[0, 0, 0], [0, 0, 0, -480, -480, -480], [-480, -480], [-65, -66, -67], []],
        ids=["UTC", "half of them", "two", "no zone", "nobody"],
    )
    def test_nothing_to_say(self, sign_up: t.Callable[..., Host], minutes: list[int]) -> None:
        host = sign_up(*[dt.timedelta(minutes=each) for each in minutes])
        assert said(host, "created-at") == []

    def test_no_such_column(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(**HEALTHY, REFERRAL_USER_CREATED_COLUMN=None)
        assert "created-at" not in {each["check"] for each in examine(host)}


class TestRings:
    def ring(self, host: Host, size: int) -> list[t.Any]:
        """Store people of whom each referred the next, and the last the first."""
        users = [host.add_user() for _ in range(size)]
        click = host.referral.models.ReferralClick
        with host.app.app_context():
            for referrer, referred in zip(users, [*users[1:], users[0]], strict=True):
                code = host.referral.get_or_create_code(referrer).code
                row = click(referral_code=code, referrer_user_id=referrer)
                row.referred_user_id = referred
                host.db.session.add(row)
            host.db.session.commit()
        return users

    @pytest.mark.parametrize("key", KEYS)
    def test_each_refers_the_next(self, make: MakeHost, key: str) -> None:
        host = make(key=key, **HEALTHY)
        users = [*self.ring(host, 2), *self.ring(host, 3)]
        refer(host, refer(host, users[0]))
        [sentence] = said(host, "rings")
        assert sentence.startswith("5 users refer each other in a ring")
        for user in users:
            assert f"{user} (of " in sentence
        assert "@referral.attribution_check" in sentence

    def test_a_ring_may_be_long(self, make: MakeHost) -> None:
        host = make(**HEALTHY)
        self.ring(host, LONGEST_RING)
        [sentence] = said(host, "rings")
        assert f"(of {LONGEST_RING}), ..." in sentence

    def test_a_chain_is_none(self, make: MakeHost) -> None:
        host = make(**HEALTHY)
        user = host.add_user()
        for _ in range(LONGEST_RING + 2):
            user = refer(host, user)
        assert said(host, "rings") == []


def words(host: Host) -> list[dict[str, t.Any]]:
    return [each for each in examine(host) if each["check"] == "words"]


def choose(host: Host) -> None:
    user = host.add_user()
    with host.app.app_context():
        host.referral.set_code(user, "ada")
        host.db.session.commit()


def test_words_that_lead_to_nobody_are_a_fault(make: MakeHost) -> None:
    host = make(**HEALTHY)
    add_referrer(host)
    assert [finding["level"] for finding in words(host)] == ["ok"]
    choose(host)
    (finding,) = words(host)
    assert finding["level"] == "fault"
    assert "1 word that was chosen" in finding["message"]
    assert "REFERRAL_VANITY_CODES = True" in finding["cure"]


def test_words_that_lead_to_their_users_are_none(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**{**HEALTHY, "REFERRAL_VANITY_CODES": True})
    choose(host)
    assert words(host) == []
