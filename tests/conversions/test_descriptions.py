"""What wallets say of referrals, in the application's own language."""

from __future__ import annotations

import flask_babel
import sqlalchemy as sa

from flask_referral.conversions.facts import Kind
from flask_referral.results import Reward

from ..conftest import MakeHost
from ..hosts import Host
from ..money import happen
from ..money import pay
from ..money import refer
from ..money import refund
from ..money import withdraw


def live_through(host: Host) -> set[tuple[int, str]]:
    """Let both wallets have a row of each kind, and return what each is."""
    referrer = host.add_user()
    friend = refer(host, referrer)
    pay(host, friend, "mem_1")
    withdraw(host, referrer, 900)
    withdraw(host, friend, 400)
    refund(host, "mem_1")
    # The rest is taken of what comes next.
    pay(host, friend, "mem_2")
    happen(host, Kind.dispute_opened, payment_id="mem_2", membership_id="mem_2", id="dp_1")
    happen(host, Kind.dispute_won, payment_id="mem_2", membership_id="mem_2", id="dp_1", minutes=1)
    query = sa.select(host.Wallet.amount_cents, host.Wallet.description)
    with host.app.app_context():
        own = query.where(host.Wallet.type != "withdrawal")
        return {(row.amount_cents, row.description) for row in host.db.session.execute(own)}


def make_program(make: MakeHost) -> Host:
    return make(
        positive_wallet=True,
        reward_policy=lambda purchase: Reward(1000, referred_cents=500),
        REFERRAL_RENEWALS=None,
    )


def test_every_row_says_what_it_is(make: MakeHost) -> None:
    assert live_through(make_program(make)) == {
        (1000, "Referral bonus"),
        (500, "Welcome bonus"),
        (-100, "Referral bonus taken back"),
        (-100, "Welcome bonus taken back"),
        (-900, "Referral bonus taken back, missing until now"),
        (-400, "Welcome bonus taken back, missing until now"),
        (100, "Referral bonus given back"),
        (100, "Welcome bonus given back"),
    }


def test_rows_are_in_the_applications_language_whoever_asks(make: MakeHost) -> None:
    host = make_program(make)
    # The buyer's; who will read the referrer's wallet is somebody else.
    flask_babel.Babel(host.app, default_locale="de", locale_selector=lambda: "ja")
    assert live_through(host) == {
        (1000, "Empfehlungsbonus"),
        (500, "Willkommensbonus"),
        (-100, "Empfehlungsbonus zurückgenommen"),
        (-100, "Willkommensbonus zurückgenommen"),
        (-900, "Empfehlungsbonus zurückgenommen, bisher nicht gedeckt"),
        (-400, "Willkommensbonus zurückgenommen, bisher nicht gedeckt"),
        (100, "Empfehlungsbonus wieder gutgeschrieben"),
        (100, "Willkommensbonus wieder gutgeschrieben"),
    }
