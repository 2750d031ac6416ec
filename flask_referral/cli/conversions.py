"""``flask referral convert``, ``reverse``, ``mature``, ``release`` and ``void``."""

from __future__ import annotations

import datetime as dt
import uuid

import click
from flask.cli import with_appcontext

from .. import clock
from .. import codes
from ..conversions import maturity
from ..conversions.payment import HOST
from ..conversions.transaction import Transaction
from ..db.models import RewardStatus
from ..errors import ReferralError
from ..host.identity import user_id
from ..results import ConversionReason
from ..results import ReversalReason
from . import batches
from .batches import plural
from .group import confirm
from .group import extension
from .group import json_option
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
    ConversionReason.no_bonus: "The bonus is 0 cents; nothing was stored.",
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
payment_option = click.option(
    "--payment-id", help="The provider's id of the payment.  [default: MEMBERSHIP's]"
)


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
@click.option("--bonus-cents", type=int, help="The referrer's bonus, instead of the usual one.")
@json_option
@with_appcontext
def convert(
    user: str,
    membership: str,
    payment_id: str | None,
    provider: str,
    bonus_cents: int | None,
    as_json: bool,
) -> None:
    """Record a payment of USER (an id) for MEMBERSHIP and credit the referrer.

    It may be repeated: a payment earns once.
    """
    current = state()
    key = user_id(current, user)
    codes.require_user(_begin().db, current.models, key)
    result = extension().convert(
        key, membership, payment_id=payment_id, provider=provider, bonus_cents=bonus_cents
    )
    current.db.session.commit()
    found = result.conversion
    due = next((reward.available_at for reward in result.rewards), None)
    text = _CONVERTED[result.reason].format(
        cents=plural(result.bonus_cents, "cent"), date=due and clock.as_utc(due).isoformat()
    )
    data = {
        "user": key,
        "membership": membership,
        "reason": result.reason,
        "created": result.created,
        "bonus_cents": result.bonus_cents,
        "conversion": found and found.id,
        "referrer": found and found.referrer_user_id,
        "rewards": [reward.id for reward in result.rewards],
    }
    report(as_json, data, text if not result.rewards else f"{text} Reward {result.rewards[0].id}.")


@click.command()
@click.argument("membership")
@click.option("--reason", default="by an operator", show_default=True, help="For the record.")
@payment_option
@provider_option
@click.option("--refund-id", help="The provider's id of the refund.  [default: the payment's]")
@click.option(
    "--amount-cents", type=int, help="How much of the bonus.  [default: all that is left]"
)
@json_option
@with_appcontext
def reverse(
    membership: str,
    reason: str,
    payment_id: str | None,
    provider: str,
    refund_id: str | None,
    amount_cents: int | None,
    as_json: bool,
) -> None:
    """Take the bonus of MEMBERSHIP back, once for each refund id."""
    result = extension().reverse(
        membership,
        reason=reason,
        payment_id=payment_id,
        provider=provider,
        refund_id=refund_id,
        amount_cents=amount_cents,
    )
    state().db.session.commit()
    text = _reversed(result.reason, result.reversed_cents)
    if result.shortfall_cents:
        text += f" {plural(result.shortfall_cents, 'cent')} were not in the wallet any more."
    data = {
        "reason": result.reason,
        "conversion": result.conversion and result.conversion.id,
        "reversed_cents": result.reversed_cents,
        "shortfall_cents": result.shortfall_cents,
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
    credited = sum(
        batches.run(
            state().db.session(),
            iter(lambda: maturity.mature(_begin(), moment), None),
            label="Crediting",
            length=maturity.count_due(_begin(), moment),
            size=int,
            summary=lambda done: f"credited {plural(sum(done), 'reward')}",
        )
    )
    text = f"Credited {plural(credited, 'reward')}." if credited else "Nothing was due."
    report(as_json, {"credited": credited, "now": moment.isoformat()}, text)


@click.command()
@click.argument("reward")
@json_option
@with_appcontext
def release(reward: str, as_json: bool) -> None:
    """Let the held REWARD (an id) go: credited now, or when its hold is over."""
    found = maturity.release(_begin(), _reward_id(reward), clock.now())
    state().db.session.commit()
    available_at = found.available_at and found.available_at.isoformat()
    data = {
        "reward": found.id,
        "status": found.status,
        "cents": found.due_cents,
        "available_at": available_at,
    }
    is_paid = found.status is RewardStatus.credited
    when = "credited" if is_paid else f"pending until {available_at}"
    report(as_json, data, f"Released: {plural(found.due_cents, 'cent')}, {when}.")


@click.command()
@click.argument("reward")
@yes_option
@json_option
@with_appcontext
def void(reward: str, yes: bool, as_json: bool) -> None:
    """Give the held or pending REWARD (an id) up, for good."""
    key = _reward_id(reward)
    confirm(f"Give reward {key} up, for good?", yes)
    outcome = maturity.void(_begin(), key, clock.now())
    state().db.session.commit()
    data = {"reason": outcome.reason, "reward": key, "cents": outcome.cents}
    report(as_json, data, _reversed(outcome.reason, outcome.cents))


def _reversed(reason: ReversalReason, cents: int) -> str:
    return _REVERSED[reason].format(cents=plural(cents, "cent"))


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
