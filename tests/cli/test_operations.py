"""Commands of operators: statistics, conversions by hand, what is known of a user, its removal."""

from __future__ import annotations

import datetime as dt
import json
import random
import threading
import typing as t
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from flask_referral.conversions import maturity
from flask_referral.conversions import rewards as rewards_station
from flask_referral.results import ConversionReason
from flask_referral.results import Purchase
from flask_referral.results import ReversalReason
from flask_referral.results import Reward
from flask_referral.upkeep import personal

from ..conftest import MakeHost
from ..history import add_past
from ..history import execute
from ..history import fetch
from ..history import NOON
from ..history import PERSONAL
from ..history import Referrer
from ..hosts import Host
from ..hosts import KEYS
from ..visiting import Clock

DAY = dt.timedelta(days=1)
#: No user of any kind of key.
NOBODY = {"int": "999", "uuid": str(uuid.UUID(int=7)), "str": "nobody"}


@pytest.fixture(autouse=True)
def at_noon(clock: Clock) -> Clock:
    clock.time = NOON
    return clock


def says(host: Host, *args: str) -> t.Any:
    """Run a command with ``--json`` and return what it reports."""
    return json.loads(host.cli(*args, "--json").stdout)


def refused(host: Host, *args: str) -> str:
    """Run a command that has to fail with one line, and return it."""
    result = host.cli(*args, status=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def sign_up(referrer: Referrer, moment: dt.datetime = NOON) -> t.Any:
    """Store a user who came through a code."""
    user = referrer.host.add_user()
    referrer.click(moment, by=user)
    return user


def balance(host: Host, user: t.Any) -> int:
    rows = fetch(host, host.Wallet.__table__)
    return sum(row.amount_cents for row in rows if row.user_id == user)


def conversions(host: Host) -> list[t.Any]:
    return fetch(host, host.referral.models.ReferralConversion.__table__)


def rewards(host: Host) -> list[t.Any]:
    return fetch(host, host.referral.models.ReferralReward.__table__)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "args", [("stats",), ("export",), ("erase", "--yes"), ("convert", "mem_1")]
)
def test_unknown_users(make: MakeHost, key: str, args: tuple[str, ...]) -> None:
    host = make(key=key)
    command, *rest = args
    assert "There is no user" in refused(host, command, NOBODY[key], *rest)
    if key != "str":
        assert "cannot be a user's id" in refused(host, command, "no id", *rest)


class TestStats:
    def test_json_is_that_of_the_api(self, make: MakeHost) -> None:
        host = make(REFERRAL_BASE_URL="https://example.org")
        referrer = Referrer(host)
        host.current_user = referrer.id
        add_past(referrer, NOON, random.Random(5), days=9)
        answer = host.client().get("/api/referral/stats?days=9")
        assert says(host, "stats", str(referrer.id), "--days", "9") == answer.get_json()

    def test_the_table(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(REFERRAL_BASE_URL="https://example.org")
        referrer = Referrer(host)
        referrer.click(*[NOON] * 1234)
        referrer.convert(NOON - DAY, "credited", 1000, taken=1)
        assert host.cli("stats", str(referrer.id), "--days", "2").stdout == (
            f"Code         {referrer.code}\n"
            f"Link         https://example.org/r/{referrer.code}\n"
            "Clicks       1,235\n"
            "Sign-ups     1\n"
            "Conversions  1\n"
            "Earned       1,000 cents\n"
            "Pending      0 cents\n"
            "Reversed     1 cent\n"
            "\n"
            "Day (UTC)      Clicks  Sign-ups  Conversions  Earned cents\n"
            "2026-03-14          1         1            1         1,000\n"
            "2026-03-15      1,234         0            0             0\n"
            "\n"
            "   Clicks  Sign-ups  Conversions  Earned cents  Source\n"
            "    1,235         1            1         1,000  (direct)\n"
        )

    def test_without_an_address_it_says_why(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        referrer = Referrer(host)
        assert "set REFERRAL_BASE_URL" in host.cli("stats", str(referrer.id)).stdout
        data = says(host, "stats", str(referrer.id))
        assert data["code"] == referrer.code
        assert data["link"] is None

    def test_without_a_code(self, make: MakeHost) -> None:
        host = make()
        user = str(host.add_user())
        assert "none yet" in host.cli("stats", user).stdout
        assert says(host, "stats", user)["code"] is None

    @pytest.mark.parametrize("days", ["0", "367", "x"])
    def test_days_out_of_bounds(self, make_sqlite: MakeHost, days: str) -> None:
        host = make_sqlite()
        assert "--days" in host.failure("stats", "1", "--days", days, status=2)


class TestConvertAndReverse:
    @pytest.mark.parametrize("key", KEYS)
    def test_a_payment_earns_once(self, make: MakeHost, key: str) -> None:
        host = make(key=key)
        referrer = Referrer(host)
        user = sign_up(referrer)
        data = says(host, "convert", str(user), "mem_1", "--bonus-cents", "250")
        (conversion,) = conversions(host)
        plain = int if key == "int" else str
        told = {
            "user": plain(user),
            "membership": "mem_1",
            "payment": "mem_1",
            "provider": "host",
            "reason": "converted",
            "created": True,
            "bonus_cents": 250,
            "conversion": str(conversion.id),
            "rewards": [
                {
                    "reward": str(conversion.id),
                    "user": plain(referrer.id),
                    "role": "referrer",
                    "status": "credited",
                    "cents": 250,
                    "reversed_cents": 0,
                    "available_at": None,
                }
            ],
        }
        assert data == told
        again = says(host, "convert", str(user), "mem_1")
        assert again == told | {"reason": "already_converted", "created": False}
        assert balance(host, referrer.id) == 250

    def test_both_beneficiaries_are_told(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(reward_policy=lambda purchase: Reward(1000, 50))
        user = sign_up(referrer := Referrer(host))
        data = says(host, "convert", str(user), "mem_1")
        found = [(each["user"], each["role"], each["cents"]) for each in data["rewards"]]
        assert found == [(referrer.id, "referrer", 1000), (user, "referred", 50)]
        assert says(host, "reverse", "mem_1")["reversed_cents"] == 1000
        assert {row.status for row in rewards(host)} == {"reversed"}

    def test_what_was_paid_is_the_policys_to_know(self, make_sqlite: MakeHost) -> None:
        seen: list[Purchase] = []
        host = make_sqlite(reward_policy=seen.append)
        user = str(sign_up(Referrer(host)))
        paid = ("--paid-cents", "3000", "--currency", "JPY")
        says(host, "convert", user, "mem_1", "--payment-id", "pay_1", "--provider", "shop", *paid)
        (purchase,) = seen
        assert (purchase.provider, purchase.payment_id) == ("shop", "pay_1")
        assert (purchase.paid_cents, purchase.currency) == (None, "jpy")
        assert purchase.paid_amount == 3000

    def test_providers_are_told_apart(self, make: MakeHost) -> None:
        """The same ids of another provider are another payment."""
        host = make(REFERRAL_RENEWALS=None)
        referrer = Referrer(host)
        user = str(sign_up(referrer))
        for provider, reason in (("host", "converted"), ("shop", "renewed")):
            data = says(host, "convert", user, "m", "--payment-id", "p", "--provider", provider)
            assert data["reason"] == reason
        args = ("reverse", "m", "--payment-id", "p", "--provider")
        assert says(host, *args, "other")["reason"] == "unknown_membership"
        assert balance(host, referrer.id) == 2000
        (reward,) = says(host, *args, "shop")["rewards"]
        assert reward["reward"] == data["rewards"][0]["reward"]
        assert (reward["status"], reward["reversed_cents"]) == ("reversed", 1000)
        assert says(host, *args, "shop")["reason"] == "already_reversed"
        assert balance(host, referrer.id) == 1000

    def test_what_it_says(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(REFERRAL_HOLD_DAYS=7)
        user = sign_up(Referrer(host))
        text = host.cli("convert", str(user), "mem_1").stdout
        (reward,) = rewards(host)
        assert text == (
            "Converted: 1,000 cents for the referrer, pending until 2026-03-22T12:00:00+00:00. "
            f"Reward {reward.id}.\n"
        )
        assert "handled before" in host.cli("convert", str(user), "mem_1").stdout
        assert "no further payment" in host.cli("convert", str(user), "mem_2").stdout
        stranger = str(host.add_user())
        assert host.cli("convert", stranger, "mem_2").stdout == (
            "Nobody referred this user; nothing was stored.\n"
        )
        assert says(host, "convert", stranger, "mem_2")["conversion"] is None

    def test_each_outcome_has_a_sentence(self) -> None:
        from flask_referral.cli import conversions as commands

        assert set(commands._CONVERTED) == set(ConversionReason)
        assert set(commands._REVERSED) == set(ReversalReason)

    def test_refused(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        user = str(sign_up(Referrer(host)))
        assert "is no amount" in refused(host, "convert", user, "m", "--bonus-cents=-1")
        assert "is no amount" in refused(host, "convert", user, "m", "--paid-cents=-1")
        assert "currency" in refused(host, "convert", user, "m", "--currency", "euro")
        assert "is no membership id" in refused(host, "convert", user, "")
        assert "is no payment id" in refused(host, "convert", user, "m", "--payment-id", "")
        assert "is no provider" in refused(host, "convert", user, "m", "--provider", "")
        assert "is no membership id" in refused(host, "reverse", "x" * 300)
        assert "is no amount" in refused(host, "reverse", "m", "--amount-cents", "0")
        assert "bonus-cents" in host.failure("convert", user, "m", "--bonus-cents", "x", status=2)
        assert conversions(host) == []

    def test_reverse(self, make: MakeHost) -> None:
        host = make()
        referrer = Referrer(host)
        says(host, "convert", str(sign_up(referrer)), "mem_1")
        args = ("reverse", "mem_1", "--refund-id", "re_1", "--amount-cents", "300")
        (conversion,) = conversions(host)
        assert says(host, *args, "--reason", "asked for") == {
            "reason": "reversed",
            "conversion": str(conversion.id),
            "reversed_cents": 300,
            "shortfall_cents": 0,
            "rewards": [
                {
                    "reward": str(conversion.id),
                    "user": referrer.id,
                    "role": "referrer",
                    "status": "credited",
                    "cents": 1000,
                    "reversed_cents": 300,
                    "available_at": None,
                }
            ],
        }
        assert says(host, *args)["reason"] == "already_reversed"
        assert balance(host, referrer.id) == 700
        assert host.cli("reverse", "mem_1").stdout == "Took 700 cents back.\n"
        assert balance(host, referrer.id) == 0
        events = fetch(host, host.referral.models.ReferralEvent.__table__)
        outcomes = [row.outcome for row in events if row.kind == "refund"]
        assert sorted(outcomes) == ["asked for", "by an operator"]

    def test_an_amount_without_a_refunds_id_is_taken_once(self, make: MakeHost) -> None:
        """A second one may be a repetition, and nobody can tell."""
        host = make()
        referrer = Referrer(host)
        says(host, "convert", str(sign_up(referrer)), "mem_1")
        args = ("reverse", "mem_1", "--amount-cents", "300")
        assert says(host, *args)["reversed_cents"] == 300
        assert "pass refund_id" in refused(host, *args)
        assert balance(host, referrer.id) == 700

    def test_reverse_of_an_unknown_membership_is_kept(self, make: MakeHost) -> None:
        host = make()
        referrer = Referrer(host)
        assert "the refund is kept" in host.cli("reverse", "mem_1").stdout
        says(host, "convert", str(sign_up(referrer)), "mem_1")
        assert balance(host, referrer.id) == 0


class TestMature:
    def pending(self, host: Host, number: int) -> Referrer:
        referrer = Referrer(host)
        for index in range(number):
            user = sign_up(referrer)
            with host.app.app_context():
                host.referral.convert(user, f"mem_{uuid.uuid4()}-{index}")
                host.db.session.commit()
        return referrer

    def test_what_is_due_is_credited(
        self, make: MakeHost, at_noon: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = make(REFERRAL_HOLD_DAYS=7)
        monkeypatch.setattr(maturity.mature, "__kwdefaults__", {"batch": 2, "refused": None})
        referrer = self.pending(host, 5)
        assert says(host, "mature")["credited"] == 0
        assert host.cli("mature").stdout == "Nothing was due.\n"
        at_noon.turn(days=7)
        said = {"credited": 5, "refused": [], "now": "2026-03-22T12:00:00+00:00"}
        assert says(host, "mature") == said
        assert says(host, "mature")["credited"] == 0
        assert balance(host, referrer.id) == 5000

    @pytest.mark.parametrize(
        ("now", "credited"),
        [
            ("2026-03-22T11:59:59", 0),
            ("2026-03-22T12:00", 1),
            ("2026-03-22T12:00:00Z", 1),
            ("2026-03-22T13:30+02:00", 0),
            ("2026-03-22T21:00+09:00", 1),
            ("2026-03-22", 0),
            ("2026-03-23", 1),
        ],
    )
    def test_another_moment(self, make_sqlite: MakeHost, now: str, credited: int) -> None:
        host = make_sqlite(REFERRAL_HOLD_DAYS=7)
        self.pending(host, 1)
        assert says(host, "mature", "--now", now)["credited"] == credited

    @pytest.mark.parametrize("now", ["", "soon", "2026-13-01", "22.3.2026", "0001-01-01T00:00+09"])
    def test_no_moment(self, make_sqlite: MakeHost, now: str) -> None:
        assert "--now" in make_sqlite().failure("mature", "--now", now, status=2)

    def test_each_batch_is_committed(
        self, make: MakeHost, at_noon: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = make(REFERRAL_HOLD_DAYS=7)
        monkeypatch.setattr(maturity.mature, "__kwdefaults__", {"batch": 2, "refused": None})
        referrer = self.pending(host, 5)
        at_noon.turn(days=8)
        credit = rewards_station.credit
        calls = iter(range(100))

        def interrupted(*args: t.Any) -> None:
            if next(calls) == 3:
                raise KeyboardInterrupt
            credit(*args)

        monkeypatch.setattr(rewards_station, "credit", interrupted)
        assert "Interrupted; credited 2 rewards so far" in host.failure("mature")
        assert balance(host, referrer.id) == 2000
        monkeypatch.setattr(rewards_station, "credit", credit)
        assert host.cli("mature").stdout == "Credited 3 rewards.\n"
        assert balance(host, referrer.id) == 5000


class TestReview:
    """``release`` and ``void`` of what the velocity limit held back."""

    def held(self, host: Host) -> tuple[Referrer, list[str]]:
        referrer = Referrer(host)
        users = [sign_up(referrer, NOON - number * DAY) for number in range(3)]
        found = [says(host, "convert", str(user), f"mem_{user}") for user in users]
        assert [data["reason"] for data in found] == ["converted", "held", "held"]
        return referrer, [data["rewards"][0]["reward"] for data in found]

    def test_both(self, make: MakeHost) -> None:
        host = make(REFERRAL_VELOCITY_LIMIT=1)
        referrer, (credited, one, two) = self.held(host)
        assert says(host, "release", one) == {
            "reward": one,
            "user": referrer.id,
            "role": "referrer",
            "status": "credited",
            "cents": 1000,
            "reversed_cents": 0,
            "available_at": "2026-03-15T12:00:00+00:00",
        }
        assert balance(host, referrer.id) == 2000
        assert "Nothing was changed" in host.cli("void", two, status=1, input="n\n").stderr
        assert "--yes" in host.failure("void", two)
        assert host.cli("void", two, input="y\n").stdout.endswith(
            "Gave 1,000 cents up before they were paid.\n"
        )
        assert balance(host, referrer.id) == 2000
        statuses = {str(row.id): row.status for row in rewards(host)}
        assert statuses == {credited: "credited", one: "credited", two: "void"}
        for command in (("release",), ("void", "--yes")):
            name, *rest = command
            assert "is credited, not held" in refused(host, name, credited, *rest)
            assert "There is no reward" in refused(host, name, str(uuid.uuid4()), *rest)
            assert "cannot be a reward's id" in refused(host, name, "mem_1", *rest)

    def test_released_into_a_hold(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(REFERRAL_VELOCITY_LIMIT=1, REFERRAL_HOLD_DAYS=7)
        referrer = Referrer(host)
        for number in range(2):
            found = says(host, "convert", str(sign_up(referrer)), f"mem_{number}")
        assert host.cli("release", found["rewards"][0]["reward"]).stdout == (
            "Released: 1,000 cents, pending until 2026-03-22T12:00:00+00:00.\n"
        )

    def test_void_as_json(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(REFERRAL_VELOCITY_LIMIT=1)
        referrer, (_, held, _) = self.held(host)
        assert says(host, "void", held, "--yes") == {
            "reason": "voided",
            "reward": held,
            "user": referrer.id,
            "role": "referrer",
            "status": "void",
            "cents": 1000,
            "reversed_cents": 1000,
            "available_at": "2026-03-15T12:00:00+00:00",
        }

    def test_of_two_beneficiaries_each_is_decided_on(self, make: MakeHost) -> None:
        host = make(REFERRAL_VELOCITY_LIMIT=0, reward_policy=lambda purchase: Reward(1000, 50))
        user = sign_up(referrer := Referrer(host))
        one, two = says(host, "convert", str(user), "mem_1")["rewards"]
        assert says(host, "void", one["reward"], "--yes")["reversed_cents"] == 1000
        assert says(host, "release", two["reward"])["status"] == "credited"
        assert (balance(host, referrer.id), balance(host, user)) == (0, 50)


class TestExport:
    @pytest.mark.parametrize("key", KEYS)
    def test_all_that_is_known(self, make: MakeHost, key: str) -> None:
        """Of the user, that is; of the others no id and no personal field."""
        host = make(key=key)
        first, second = Referrer(host), Referrer(host)
        user = Referrer(host)
        tags = {"utm_source": "News", "utm_medium": "email", "utm_campaign": "May"}
        first.click(NOON - 3 * DAY, by=user.id, ip_hash="2026-03:mine", source="news", **tags)
        user.click(NOON - 2 * DAY, ip_hash="2026-03:theirs", source="blog.example")
        buyer = sign_up(user, NOON - 2 * DAY)
        host.cli("rollup")
        says(host, "convert", str(user.id), "mem_user")
        with host.app.app_context():
            host.referral.convert(buyer, "mem_buyer", metadata={"note": "theirs"})
            host.db.session.commit()
        says(host, "reverse", "mem_user", "--amount-cents", "10")
        says(host, "reverse", "mem_buyer", "--amount-cents", "20")
        sign_up(second)

        data = says(host, "export", str(user.id))
        assert json.loads(host.cli("export", str(user.id)).stdout) == data
        assert data["user"] == (user.id if key == "int" else str(user.id))
        assert data["code"]["code"] == user.code
        moment = (NOON - 2 * DAY).isoformat()
        assert sorted(data["clicks"], key=lambda row: row["signed_up"]) == [
            {"clicked_at": moment, "signed_up": False, "source": "blog.example"},
            {"clicked_at": moment, "signed_up": True, "source": None},
        ]
        assert data["daily"] == [{"day": "2026-03-13", "clicks": 2}]
        assert data["daily_sources"] == [
            {"day": "2026-03-13", "source": "blog.example", "campaign": "", "clicks": 1}
        ]
        assert data["own_clicks"] == [
            {
                "referral_code": first.code,
                "clicked_at": (NOON - 3 * DAY).isoformat(),
                "bound_at": (NOON - 3 * DAY).isoformat(),
                "referrer_url": "https://example.org/page",
                "user_agent": "Firefox",
                "ip_hash": "2026-03:mine",
                **tags,
                "source": "news",
            }
        ]
        (as_referrer,) = data["conversions_as_referrer"]
        (reward,) = data["rewards"]
        assert (as_referrer["bonus_cents"], as_referrer["id"]) == (1000, reward["id"])
        assert (reward["cents"], reward["reversed_cents"], reward["role"]) == (1000, 20, "referrer")
        (as_referred,) = data["conversions_as_referred"]
        assert as_referred["whop_membership_id"] == "mem_user"
        (payment,) = data["payments"]
        assert payment == {
            "provider": "host",
            "payment_id": "mem_user",
            "membership_id": "mem_user",
            "number": 1,
            "created_at": NOON.isoformat(),
        }
        assert {row["membership_id"] for row in data["events"]} == {"mem_user"}
        kinds = sorted(row["kind"] for row in data["events"])
        assert kinds == ["membership", "payment", "refund"]
        assert [row["amount_cents"] for row in data["wallet"]] == [1000, -20]
        text = json.dumps(data)
        assert "theirs" not in text
        assert "mem_buyer" not in text
        if key != "int":
            for other in (first.id, second.id, buyer):
                assert str(other) not in text

    def test_what_happened_to_ones_payments(self, make: MakeHost) -> None:
        """All of it, however it was told, of each provider; a reviewer's doubts are not told."""
        host = make(
            REFERRAL_RENEWALS=None,
            REFERRAL_VELOCITY_LIMIT=0,
            reward_policy=lambda purchase: Reward(1000, 50),
        )
        referrer = Referrer(host)
        user = str(sign_up(referrer))
        theirs = ("--provider", "shop", "--payment-id")
        # Before its payment, by the payment's id: the membership is none that was paid for.
        says(host, "reverse", "none", *theirs, "p", "--refund-id", "r_1", "--amount-cents", "1")
        says(host, "convert", user, "m", *theirs, "p")
        says(host, "convert", user, "m")
        says(host, "convert", str(sign_up(referrer)), "other", *theirs, "m")
        data = says(host, "export", user)
        named = [(each["provider"], each["payment_id"]) for each in data["payments"]]
        assert named == [("shop", "p"), ("host", "m")]
        assert [(each["role"], each["cents"]) for each in data["rewards"]] == [("referred", 50)] * 2
        events = sorted(
            (each["provider"], each["kind"], each["reference"]) for each in data["events"]
        )
        assert events == [
            ("host", "membership", None),
            ("host", "payment", None),
            ("shop", "membership", None),
            ("shop", "payment", None),
            ("shop", "refund", "r_1"),
        ]
        assert not {"payment_id", "referred_user_id", "user_id"} & data["rewards"][0].keys()

    def test_a_user_who_did_nothing(self, make: MakeHost) -> None:
        host = make()
        data = says(host, "export", str(host.add_user()))
        assert data.pop("user")
        assert data.pop("code") is None
        assert set(map(str, data.values())) == {"[]"}

    def test_without_a_wallet(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite(wallet=False)
        referrer = Referrer(host)
        says(host, "convert", str(sign_up(referrer)), "mem_1")
        data = says(host, "export", str(referrer.id))
        assert data["wallet"] == []
        assert len(data["conversions_as_referrer"]) == len(data["rewards"]) == 1


class TestErase:
    @pytest.mark.parametrize("key", KEYS)
    def test_a_user_without_conversions(self, make: MakeHost, key: str) -> None:
        host = make(key=key)
        other, user = Referrer(host), Referrer(host)
        other.click(NOON - 3 * DAY, by=user.id)
        other.click(NOON - 2 * DAY)
        user.click(NOON - 2 * DAY, NOON)
        visitor = sign_up(user)
        host.cli("rollup")
        expected = other.expected(NOON, 9)
        data = says(host, "erase", str(user.id), "--yes")
        assert data == {
            "user": user.id if key == "int" else str(user.id),
            "code": "removed",
            "clicks": 3,
            "own_clicks": 1,
            "deliveries": 0,
        }
        known = says(host, "export", str(user.id))
        assert (known["code"], known["clicks"], known["daily"]) == (None, [], [])
        (own,) = known["own_clicks"]
        assert [own[name] for name in PERSONAL] == [None, None, None]
        assert other.stats(9) == expected
        assert len(says(host, "export", str(other.id))["clicks"]) == 2
        assert says(host, "convert", str(visitor), "mem_1")["reason"] == "not_referred"
        # Again: there is nothing any more, and that is no failure.
        assert says(host, "erase", str(user.id), "--yes") == data | {
            "code": "none",
            "clicks": 0,
            "own_clicks": 0,
        }

    @pytest.mark.parametrize("enforced", [False, True])
    def test_money_stays(self, make: MakeHost, at_noon: Clock, enforced: bool) -> None:
        """Nothing is paid again, what is pending is paid, and refunds are taken back."""
        host = make(
            reward_policy=lambda purchase: Reward(50, hold_days=1) if purchase.metadata else None
        )
        if enforced:
            enforce_foreign_keys(host)
        referrer = Referrer(host)
        refunded, redelivered, waiting = (sign_up(referrer) for _ in range(3))
        for user in (refunded, redelivered):
            says(host, "convert", str(user), f"mem_{user}")
        with host.app.app_context():
            host.referral.convert(waiting, "mem_waiting", metadata={"hold": 1})
            host.db.session.commit()
        wallet = fetch(host, host.Wallet.__table__)
        earned = rewards(host)
        before = {row.id: {**row._mapping, "referral_code": ""} for row in conversions(host)}
        for _ in range(2):
            data = says(host, "erase", str(referrer.id), "--yes")
            assert data["code"] == "replaced"
        assert fetch(host, host.Wallet.__table__) == wallet
        assert rewards(host) == earned
        after = {row.id: {**row._mapping, "referral_code": ""} for row in conversions(host)}
        assert after == before
        (new,) = {row.referral_code for row in conversions(host)}
        assert new != referrer.code
        known = says(host, "export", str(referrer.id))
        assert known["code"] is None
        assert len(known["conversions_as_referrer"]) == len(after)
        assert (known["clicks"], known["daily"]) == ([], [])
        # The old link is nobody's.
        answer = host.client().get(f"/api/referral/codes/{referrer.code}")
        assert answer.get_json()["valid"] is False

        assert balance(host, referrer.id) == 2000
        for membership, reason in (
            (f"mem_{redelivered}", "already_converted"),
            ("mem_other", "not_referred"),
        ):
            assert says(host, "convert", str(redelivered), membership)["reason"] == reason
        assert says(host, "reverse", f"mem_{refunded}")["reversed_cents"] == 1000
        assert balance(host, referrer.id) == 1000
        at_noon.turn(days=2)
        assert says(host, "mature")["credited"] == 1
        assert balance(host, referrer.id) == 1050
        # And the user may begin again.
        host.current_user = referrer.id
        assert host.client().post("/api/referral/generate").get_json() == {"code": new}

    def test_the_users_row_takes_the_rest(self, make_postgresql: MakeHost) -> None:
        """After that a membership once credited is still not credited again."""
        host = make_postgresql()
        referrer, other = Referrer(host), Referrer(host)
        user = sign_up(referrer)
        says(host, "convert", str(user), "mem_1")
        says(host, "erase", str(referrer.id), "--yes")
        execute(host, sa.delete(host.User).where(host.User.id == referrer.id))
        assert conversions(host) == []
        other.click(NOON, by=user)
        assert says(host, "convert", str(user), "mem_1")["reason"] == "already_converted"
        assert says(host, "reverse", "mem_1")["reason"] == "unknown_membership"
        assert balance(host, other.id) == 0

    def test_it_asks_first(self, make_sqlite: MakeHost) -> None:
        host = make_sqlite()
        referrer = Referrer(host)
        referrer.click(NOON)
        user = str(referrer.id)
        assert "Nothing was changed" in host.cli("erase", user, status=1, input="n\n").stderr
        assert "--yes" in host.failure("erase", user)
        assert says(host, "export", user)["code"] is not None
        assert host.cli("erase", user, input="y\n").stdout.endswith(
            "The code is removed; 1 click deleted, 0 visits of the user's own cleared.\n"
        )

    def test_all_or_nothing(
        self, database_url: str, host_on: t.Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Through an engine in AUTOCOMMIT, too."""
        host = host_on(database_url)
        referrer = Referrer(host)
        says(host, "convert", str(sign_up(referrer)), "mem_1")
        before = says(host, "export", str(referrer.id))
        other = Referrer(host)
        monkeypatch.setattr("flask_referral.codes.generate_referral_code", lambda: other.code)
        autocommit = host_on(
            database_url,
            migrate=False,
            SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"},
        )
        for each in (host, autocommit):
            assert "The database refused" in refused(each, "erase", str(referrer.id), "--yes")
        assert says(host, "export", str(referrer.id)) == before

    def test_a_purchase_on_its_way_is_waited_for(self, make_postgresql: MakeHost) -> None:
        host = make_postgresql()
        referrer = Referrer(host)
        user = sign_up(referrer)
        with host.app.app_context():
            models, engine = host.referral.models, host.db.engine
            host.referral.convert(user, "mem_1")
            done: list[personal.Erased] = []

            def work() -> None:
                with engine.begin() as connection:
                    done.append(personal.erase(connection, models, referrer.id, NOON))

            thread = threading.Thread(target=work)
            thread.start()
            with engine.connect() as watching:
                while not watching.exec_driver_sql(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND wait_event_type = 'Lock'"
                ).scalar():
                    watching.rollback()
                    assert thread.is_alive()
            host.db.session.commit()
            thread.join()
        assert [erased.code for erased in done] == ["replaced"]
        assert len(conversions(host)) == 1
        assert balance(host, referrer.id) == 1000

    def test_what_a_deleted_user_left(self, make_sqlite: MakeHost) -> None:
        """Foreign keys are off on SQLite, and a table that is built anew loses our trigger."""
        host = make_sqlite()
        referrer = Referrer(host)
        referrer.click(NOON)
        execute(host, sa.text("DROP TRIGGER referral_users_deleted"))
        execute(host, sa.delete(host.User).where(host.User.id == referrer.id))
        assert says(host, "erase", str(referrer.id), "--yes")["clicks"] == 1
        assert "There is no user" in refused(host, "erase", str(referrer.id), "--yes")


def enforce_foreign_keys(host: Host) -> None:
    with host.app.app_context():
        engine = host.db.engine
    if engine.dialect.name == "sqlite":
        engine.dispose()

        @event.listens_for(engine, "connect")
        def switch_on(connection: t.Any, record: t.Any) -> None:
            connection.execute("PRAGMA foreign_keys = ON")
