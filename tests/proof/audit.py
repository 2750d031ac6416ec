"""What has to be true of rewards and wallets together, whatever has happened."""

from __future__ import annotations

import collections
import dataclasses
import typing as t

import sqlalchemy as sa

from flask_referral.conversions.claims import rewarded_by
from flask_referral.db.models import GONE
from flask_referral.db.models import PAID

from ..hosts import Host

#: provider, payment, role
Key = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found.

    :param rewards: rows of ``referral_rewards``.
    :param conversions: rows of ``referral_conversions`` by the referred user.
    :param balances: the last balance of each user who has a wallet row.
    """

    rewards: dict[Key, t.Any]
    conversions: dict[t.Any, t.Any]
    balances: dict[t.Any, int]


def audit(db: t.Any, host: Host) -> Audit:
    """Check the books, and return what is in them.

    :param db: a session or connection.
    :raises AssertionError: where a reward has no credit, a credit no reward, a payment two
        rewards of a role, or a balance is not the sum of its rows.
    """
    models, wallet = host.referral.models, host.Wallet.__table__
    rewards = db.execute(sa.select(models.ReferralReward.__table__)).all()
    conversions = db.execute(sa.select(models.ReferralConversion.__table__)).all()
    event = models.ReferralEvent.__table__.c
    claims = db.execute(
        sa.select(event.provider, event.event_id, event.outcome).filter_by(kind="payment")
    )
    rewarded = {(row.provider, row.event_id): rewarded_by(row.outcome) for row in claims}
    rows = db.execute(sa.select(wallet).order_by(wallet.c.id)).all()

    balances: dict[t.Any, int] = collections.Counter()
    last: dict[t.Any, int] = {}
    sums: dict[tuple[str, t.Any], int] = collections.Counter()
    bonuses: dict[str, int] = collections.Counter()
    for row in rows:
        balances[row.user_id] += row.amount_cents
        last[row.user_id] = row.balance_after_cents
        if row.reference_type == "referral_conversion":
            sums[row.reference_id, row.user_id] += row.amount_cents
            bonuses[row.reference_id] += row.type == "referral_bonus"
    assert last == dict(balances)

    by_key: dict[Key, t.Any] = {}
    expected: dict[tuple[str, t.Any], int] = {}
    for reward in rewards:
        key = (reward.provider, reward.payment_id, reward.role)
        assert key not in by_key, f"{reward} is a second one"
        by_key[key] = reward
        id, is_paid = str(reward.id), reward.status in PAID
        assert bonuses[id] == (is_paid and reward.cents > 0), f"{reward} has {bonuses[id]} bonuses"
        assert reward.reversed_cents >= 0 and reward.shortfall_cents >= 0, reward
        assert reward.reversed_cents + reward.shortfall_cents <= reward.cents, reward
        assert is_paid or not reward.shortfall_cents, reward
        if reward.status in GONE:
            assert reward.reversed_cents + reward.shortfall_cents == reward.cents, reward
        assert rewarded[key[:2]] is not None, f"the payment of {reward} can earn again"
        if is_paid:
            expected[id, reward.user_id] = reward.cents - reward.reversed_cents
    assert set(sums) <= set(expected), "credits without their reward"
    for place, cents in expected.items():
        assert sums[place] == cents, place

    # The seed's rows: the bonus of the payment that qualified has the conversion's own id.
    ids = {reward.id: reward for reward in rewards}
    for conversion in conversions:
        assert ids[conversion.id].cents == conversion.bonus_cents, conversion
    by_user = {conversion.referred_user_id: conversion for conversion in conversions}
    assert len(by_user) == len(conversions)
    return Audit(by_key, by_user, last)
