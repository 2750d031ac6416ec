"""``flask referral convert``, ``reverse``, ``mature``, ``release`` and ``void``."""

from __future__ import annotations

import datetime as dt
import uuid

import click
import sqlalchemy as sa
from flask.cli import with_appcontext

from .. import clock
from .. import codes
from ..conversions import maturity
from ..errors import ReferralError
from ..host.identity import user_id
from ..results import ConversionReason
from ..results import ReversalReason
from ..results import ReversalResult
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
    ConversionReason.pending: "Converted: {cents} for the referrer, pending until {date}.",
    ConversionReason.held: "Converted: {cents} for the referrer, held; release or void it.",
    ConversionReason.already_converted: "This user or membership has converted already; nothing "
    "was changed.",
    ConversionReason.not_referred: "Nobody referred this user; nothing was stored.",
    ConversionReason.no_bonus: "The bonus is 0 cents; nothing was stored.",
}
_REVERSED = {
    ReversalReason.reversed: "Took {cents} back.",
    ReversalReason.voided: "Gave {cents} up before they were paid.",
    ReversalReason.already_reversed: "This refund was handled before; nothing was changed.",
    ReversalReason.nothing_to_reverse: "Nothing of the bonus is left; the refund is recorded.",
    ReversalReason.unknown_membership: "No conversion has this membership yet; the refund is kept "
    "and will be applied when its purchase comes.",
}


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
@click.option("--bonus-cents", type=int, help="The referrer's bonus, instead of the usual one.")
@json_option
@with_appcontext
def convert(user: str, membership: str, bonus_cents: int | None, as_json: bool) -> None:
    """Record the purchase MEMBERSHIP of USER (an id) and credit the referrer.

    It may be repeated: a user and a membership convert once.
    """
    current = state()
    session = current.db.session()
    key = user_id(current, user)
    codes.require_user(session, current.models, key)
    result = extension().convert(key, membership, bonus_cents=bonus_cents)
    session.commit()
    found = result.conversion
    text = _CONVERTED[result.reason].format(
        cents=plural(result.bonus_cents, "cent"),
        date=found and found.available_at and clock.as_utc(found.available_at).isoformat(),
    )
    data = {
        "user": key,
        "membership": membership,
        "reason": result.reason,
        "created": result.created,
        "bonus_cents": result.bonus_cents,
        "conversion": found and found.id,
        "referrer": found and found.referrer_user_id,
    }
    report(as_json, data, text if found is None else f"{text} Conversion {found.id}.")


@click.command()
@click.argument("membership")
@click.option("--reason", default="by an operator", show_default=True, help="For the record.")
@click.option("--refund-id", help="The provider's id of the refund.  [default: MEMBERSHIP]")
@click.option(
    "--amount-cents", type=int, help="How much of the bonus.  [default: all that is left]"
)
@json_option
@with_appcontext
def reverse(
    membership: str, reason: str, refund_id: str | None, amount_cents: int | None, as_json: bool
) -> None:
    """Take the bonus of MEMBERSHIP back, once for each refund id."""
    result = extension().reverse(
        membership, reason=reason, refund_id=refund_id, amount_cents=amount_cents
    )
    state().db.session.commit()
    _report_reversal(result, as_json)


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
    """Credit the pending conversions whose hold is over.

    Run it as often as you like: it can be interrupted, repeated and run twice at once.
    """
    moment = now or clock.now()
    ledger = state().ledger
    conversion = ledger.models.ReferralConversion
    due = sa.select(sa.func.count()).where(
        conversion.status == "pending", conversion.available_at <= moment
    )
    session = ledger.session

    credited = sum(
        batches.run(
            session,
            iter(lambda: maturity.mature(ledger, moment), None),
            label="Crediting",
            length=session.scalar(due) or 0,
            size=int,
            summary=lambda done: f"credited {plural(sum(done), 'conversion')}",
        )
    )
    text = f"Credited {plural(credited, 'conversion')}." if credited else "Nothing was due."
    report(as_json, {"credited": credited, "now": moment.isoformat()}, text)


@click.command()
@click.argument("conversion")
@json_option
@with_appcontext
def release(conversion: str, as_json: bool) -> None:
    """Let the held CONVERSION (an id) go: credited now, or when its hold is over."""
    found = maturity.release(state().ledger, _conversion_id(conversion), clock.now())
    state().db.session.commit()
    available_at = found.available_at and clock.as_utc(found.available_at).isoformat()
    data = {
        "conversion": found.id,
        "status": found.status,
        "bonus_cents": found.bonus_cents,
        "available_at": available_at,
    }
    when = "credited" if found.status == "credited" else f"pending until {available_at}"
    report(as_json, data, f"Released: {plural(found.bonus_cents, 'cent')}, {when}.")


@click.command()
@click.argument("conversion")
@yes_option
@json_option
@with_appcontext
def void(conversion: str, yes: bool, as_json: bool) -> None:
    """Give the held or pending CONVERSION (an id) up, for good."""
    key = _conversion_id(conversion)
    confirm(f"Give the bonus of conversion {key} up, for good?", yes)
    result = maturity.void(state().ledger, key)
    state().db.session.commit()
    _report_reversal(result, as_json)


def _report_reversal(result: ReversalResult, as_json: bool) -> None:
    text = _REVERSED[result.reason].format(cents=plural(result.reversed_cents, "cent"))
    if result.shortfall_cents:
        text += f" {plural(result.shortfall_cents, 'cent')} were not in the wallet any more."
    data = {
        "reason": result.reason,
        "conversion": result.conversion and result.conversion.id,
        "reversed_cents": result.reversed_cents,
        "shortfall_cents": result.shortfall_cents,
    }
    report(as_json, data, text)


def _conversion_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ReferralError(f"{text!r:.80} cannot be a conversion's id, which is a UUID.") from None
