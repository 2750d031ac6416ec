"""What has to be true of the conversions and the wallets together, whatever has happened."""

from __future__ import annotations

import collections
import dataclasses
import typing as t

import sqlalchemy as sa

from ..hosts import Host


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found.

    :param states: one tuple for each conversion, sorted.
    :param balances: the last balance of each user who has a wallet row.
    """

    states: list[tuple[t.Any, ...]]
    balances: dict[t.Any, int]


def audit(db: t.Any, host: Host) -> Audit:
    """Check the books, and return what is in them.

    :param db: a session or connection.
    :raises AssertionError: where a conversion has no credit, a credit no conversion, or a
        balance is not the sum of its rows.
    """
    table = host.referral.models.ReferralConversion.__table__
    wallet = host.Wallet.__table__
    conversions = db.execute(sa.select(table)).all()
    rows = db.execute(sa.select(wallet).order_by(wallet.c.id)).all()

    balances: dict[t.Any, int] = collections.defaultdict(int)
    last: dict[t.Any, int] = {}
    sums: dict[tuple[str, t.Any], int] = collections.defaultdict(int)
    bonuses: dict[str, int] = collections.defaultdict(int)
    for row in rows:
        balances[row.user_id] += row.amount_cents
        last[row.user_id] = row.balance_after_cents
        if row.reference_type == "referral_conversion":
            sums[row.reference_id, row.user_id] += row.amount_cents
            bonuses[row.reference_id] += row.type == "referral_bonus"

    expected: dict[tuple[str, t.Any], int] = {}
    for found in conversions:
        is_paid = found.status in ("credited", "reversed")
        id = str(found.id)
        assert bonuses.get(id, 0) <= is_paid, f"{found} has {bonuses.get(id, 0)} bonuses"
        assert 0 <= found.reversed_cents <= found.bonus_cents, found
        assert found.shortfall_cents >= 0, found
        assert is_paid or not found.shortfall_cents, found
        if is_paid:
            expected[id, found.referrer_user_id] = found.bonus_cents - found.reversed_cents
            expected[id, found.referred_user_id] = (
                found.referred_bonus_cents - found.referred_reversed_cents
            )
    assert {key: cents for key, cents in sums.items() if cents} == {
        key: cents for key, cents in expected.items() if cents
    }
    assert set(sums) <= set(expected), "credits without their conversion"
    assert last == dict(balances)
    referred = [found.referred_user_id for found in conversions]
    assert len(referred) == len(set(referred))
    states = sorted(
        (
            found.whop_membership_id,
            found.referrer_user_id,
            found.referred_user_id,
            found.status,
            found.bonus_cents,
            found.reversed_cents,
            found.referred_bonus_cents,
            found.referred_reversed_cents,
            found.shortfall_cents,
        )
        for found in conversions
    )
    return Audit(states, last)
