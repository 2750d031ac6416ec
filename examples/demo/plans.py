"""What Larkmail sells, and what it gives for an invitation."""

from __future__ import annotations

import dataclasses

from flask_referral import Purchase
from flask_referral import Reward


@dataclasses.dataclass(frozen=True)
class Plan:
    """A subscription.

    :param cents: the price of a period, in cents.
    :param period: ``month`` or ``year``.
    :param returns_days: for so many days it can be returned; until then nobody gets a bonus.
    """

    name: str
    cents: int
    period: str
    readers: str
    features: tuple[str, ...]
    returns_days: int = 0


PLANS = {
    "basic": Plan(
        "Basic",
        900,
        "month",
        "Up to 1,000 readers",
        ("One newsletter", "Archive on the web"),
    ),
    "team": Plan(
        "Team",
        2900,
        "month",
        "Up to 20,000 readers",
        ("Five newsletters", "Drafts that several people write"),
    ),
    "annual": Plan(
        "Annual",
        29000,
        "year",
        "Up to 20,000 readers",
        ("All of Team, two months free", "Returnable for 14 days"),
        returns_days=14,
    ),
}

#: Who invites gets this for a friend's first payment, in cents …
BONUS_CENTS = 1000
#: … this for each of the next ``RENEWALS`` payments …
RENEWAL_CENTS = 200
RENEWALS = 3
#: … and the friend gets this, which the invitation on the landing page promises.
WELCOME_CENTS = 500


def reward_policy(purchase: Purchase) -> Reward:
    """Say what a payment of a referred user is worth to both."""
    plan = PLANS.get(str(purchase.metadata.get("plan")))
    # A year's price can be asked back for two weeks, and so long the bonus waits.
    hold_days = plan.returns_days if plan is not None else None
    if purchase.number > 1:
        return Reward(RENEWAL_CENTS, hold_days=hold_days)
    return Reward(BONUS_CENTS, referred_cents=WELCOME_CENTS, hold_days=hold_days)
