"""``flask referral convert``, ``reverse``, ``mature``, ``release`` and ``void``."""

from __future__ import annotations

import datetime as dt
import typing as t
import uuid

import click
from flask.cli import with_appcontext

from .. import clock
from .. import codes
from ..conversions import convert as conversion
from ..conversions import maturity
from ..conversions import reversals
from ..conversions.payment import checked_payment
from ..conversions.payment import HOST
from ..conversions.rewards import Row
from ..conversions.transaction import Transaction
from ..db.models import RewardStatus
from ..errors import ReferralError
from ..errors import WalletRefused
from ..host.identity import user_id
from ..results import ConversionReason
from ..results import ReversalReason
from ..upkeep import acts
from ..upkeep import review
from . import batches
from .batches import plural
from .group import confirm
from .group import json_option
from .group import operated
from .group import report
from .group import state
from .group import yes_option

_CONVERTED = {
    ConversionReason.converted: "Converted: {cents} for the referrer.",
    ConversionReason.renewed: "Renewed: {cents} for the referrer.",
    ConversionReason.pending: "Converted: {cents} for the referrer, pending until {date}.",
    ConversionReason.held: "Converted: {cents} for the referrer, held; release or void it.",
    ConversionReason.already_converted: "This payment was handled before, or the user has no "
    "further payment that may earn; nothing was changed.",
    ConversionReason.not_referred: "Nobody referred this user; nothing was stored.",
    ConversionReason.disabled: "The referrer's code is switched off; nothing was stored.",
    ConversionReason.no_bonus: "The bonus is 0 cents, or the payment is below "
    "REFERRAL_MIN_PAYMENT_CENTS; nothing was stored.",
}
_REVERSED = {
    ReversalReason.reversed: "Took {cents} back.",
    ReversalReason.voided: "Gave {cents} up before they were paid.",
    ReversalReason.already_reversed: "This refund was handled before; nothing was changed.",
    ReversalReason.nothing_to_reverse: "Nothing of the bonus is left; the refund is recorded.",
    ReversalReason.unknown_membership: "No payment of this membership earned anything yet; the "
    "refund is kept and will be applied when one does.",
}

provider_option = click.option(
    "--provider", default=HOST, show_default=True, help="Who named the payment: host, whop, ..."
)
payment_option = click.option("--payment-id", help="The provider's id of the payment.")


def _moment(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> dt.datetime | None:
    if value is None:
        return None
    try:
        return clock.as_utc(dt.datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r:.80} is no ISO 8601 moment, such as 2026-11-22T18:30Z."
        ) from None


@click.command()
@click.argument("user")
@click.argument("membership")
@payment_option
@provider_option
@click.option("--paid-cents", type=int, help="What was paid, in the minor unit of its currency.")
@click.option("--currency", help="Its three letters.  [default: REFERRAL_CURRENCY]")
@click.option("--bonus-cents", type=int, help="The referrer's bonus, instead of the usual one.")
@operated()
@json_option
@with_appcontext
def convert(
    user: str,
    membership: str,
    payment_id: str | None,
    provider: str,
    paid_cents: int | None,
    currency: str | None,
    bonus_cents: int | None,
    by: acts.Operator,
    as_json: bool,
) -> None:
    """Record a payment of USER (an id) for MEMBERSHIP and credit the referrer.

    It may be repeated: a payment, which is MEMBERSHIP's own unless you name another, earns once.
    """
    current = state()
    key = user_id(current, user)
    payment = checked_payment(
        membership_id=membership,
        payment_id=payment_id,
        provider=provider,
        paid_cents=paid_cents,
        currency=currency,
        metadata=None,
        wallet_currency=current.settings.currency,
    )
    tx = _begin()
    codes.require_user(tx.db, current.models, key)
    now, policy = clock.now(), current.reward_policy
    outcome = conversion.convert(tx, key, payment, policy=policy, bonus_cents=bonus_cents, now=now)
    if outcome.created:
        for row in outcome.rewards:
            act = acts.Act.convert
            acts.record_reward(tx.db, current.models, by, act, now=now, before=None, after=row)
    tx.session.commit()
    first = _told(outcome.rewards[0]) if outcome.rewards else {}
    text = _CONVERTED[outcome.reason].format(
        cents=plural(outcome.bonus_cents, "cent"), date=first.get("available_at")
    )
    data = {
        "user": key,
        "membership": payment.membership_id,
        "payment": payment.id,
        "provider": payment.provider,
        "reason": outcome.reason,
        "created": outcome.created,
        "bonus_cents": outcome.bonus_cents,
        "conversion": outcome.conversion and outcome.conversion["id"],
        "rewards": list(map(_told, outcome.rewards)),
    }
    report(as_json, data, f"{text} Reward {first['reward']}." if first else text)


@click.command()
@click.argument("membership")
@payment_option
@provider_option
@click.option("--refund-id", help="The provider's id of the refund.  [default: the payment's]")
@click.option(
    "--amount-cents", type=int, help="How much of the bonus.  [default: all that is left]"
)
@operated()
@json_option
@with_appcontext
def reverse(
    membership: str,
    payment_id: str | None,
    provider: str,
    refund_id: str | None,
    amount_cents: int | None,
    by: acts.Operator,
    as_json: bool,
) -> None:
    """Take the bonus of MEMBERSHIP back, once for each refund id.

    That is the bonus of its payment that qualified, unless you name another payment.
    """
    tx = _begin()
    outcome = review.take_back(
        tx,
        by,
        membership,
        payment_id=payment_id,
        provider=provider,
        refund_id=refund_id,
        amount_cents=amount_cents,
        now=clock.now(),
    )
    tx.session.commit()
    text = _reversed(outcome)
    if outcome.shortfall_cents:
        text += f" {plural(outcome.shortfall_cents, 'cent')} were not in the wallet any more."
    data = {
        "reason": outcome.reason,
        "conversion": outcome.conversion_id,
        "reversed_cents": outcome.cents,
        "shortfall_cents": outcome.shortfall_cents,
        "rewards": list(map(_told, outcome.rows)),
    }
    report(as_json, data, text)


@click.command()
@click.option(
    "--now",
    callback=_moment,
    metavar="ISO8601",
    help="Credit what is due at this moment; UTC where it names no zone.  [default: now]",
)
@json_option
@with_appcontext
def mature(now: dt.datetime | None, as_json: bool) -> None:
    """Credit the pending rewards whose hold is over.

    Run it as often as you like: it can be interrupted, repeated and run twice at once.
    """
    moment = now or clock.now()
    refused: list[WalletRefused] = []
    credited = sum(
        batches.run(
            state().db.session(),
            iter(lambda: maturity.mature(_begin(), moment, refused=refused), None),
            label="Crediting",
            length=maturity.count_due(_begin(), moment),
            size=int,
            summary=lambda done: f"credited {plural(sum(done), 'reward')}",
        )
    )
    text = f"Credited {plural(credited, 'reward')}." if credited else "Nothing was due."
    data = {"credited": credited, "refused": list(map(str, refused)), "now": moment.isoformat()}
    report(as_json, data, text)
    if refused:
        raise click.ClickException(
            f"{plural(len(refused), 'reward')} could not be credited and will be tried again in a "
            f"day. The first: {refused[0]}"
        )


@click.command()
@click.argument("reward")
@operated()
@json_option
@with_appcontext
def release(reward: str, by: acts.Operator, as_json: bool) -> None:
    """Let the held REWARD (an id) go: credited now, or when its hold is over."""
    tx = _begin()
    row = review.release(tx, by, _reward_id(reward), clock.now())
    tx.session.commit()
    data = _told(row)
    is_paid = row.status is RewardStatus.credited
    when = "credited" if is_paid else f"pending until {data['available_at']}"
    report(as_json, data, f"Released: {plural(row.due_cents, 'cent')}, {when}.")


@click.command()
@click.argument("reward")
@operated()
@yes_option
@json_option
@with_appcontext
def void(reward: str, by: acts.Operator, yes: bool, as_json: bool) -> None:
    """Give the held or pending REWARD (an id) up, for good."""
    key = _reward_id(reward)
    confirm(f"Give reward {key} up, for good?", yes)
    tx = _begin()
    outcome = review.void(tx, by, key, clock.now())
    tx.session.commit()
    data = {"reason": outcome.reason, **_told(outcome.rows[0])}
    report(as_json, data, _reversed(outcome))


def _reversed(outcome: reversals.Outcome) -> str:
    return _REVERSED[outcome.reason].format(cents=plural(outcome.cents, "cent"))


def _told(row: Row) -> dict[str, t.Any]:
    return {
        "reward": row.id,
        "user": row.user_id,
        "role": row.role,
        "status": row.status,
        "cents": row.cents,
        "reversed_cents": row.reversed_cents,
        "available_at": row.available_at and row.available_at.isoformat(),
    }


def _begin() -> Transaction:
    current = state()
    return Transaction.begin(
        current.db.session(), current.models, current.settings, current.wallet_table
    )


def _reward_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ReferralError(f"{text!r:.80} cannot be a reward's id, which is a UUID.") from None
