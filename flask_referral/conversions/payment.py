"""What is told of a payment, checked before anything is asked of the database."""

from __future__ import annotations

import dataclasses
import decimal
import math
import typing as t

from ..currency import checked_currency
from ..currency import to_units
from ..errors import ReferralError
from ..texts import cleaned_text

#: The provider of the host's own calls.
HOST = "host"
#: What an INTEGER column holds.
MOST_CENTS = 2**31 - 1
#: What a BIGINT column holds.
MOST_PAID = 2**63 - 1
LONGEST_ID = 255
_DEEPEST = 32
# Of whole numbers; what a double holds, as JSON's readers expect.
_LARGEST = 10**308


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Payment:
    """What a provider charged once; ``provider`` and ``id`` name it.

    :param paid: what was paid in the minor unit of ``currency``; None: not known.
    :param converted_cents: the same in cents of the wallet's currency; None: not known.
    """

    provider: str
    id: str
    membership_id: str
    paid: int | None = None
    currency: str | None = None
    converted_cents: int | None = None
    metadata: dict[str, t.Any] = dataclasses.field(default_factory=dict)

    @property
    def paid_amount(self) -> decimal.Decimal | None:
        """What was paid, in units of its currency."""
        if self.paid is None or self.currency is None:
            return None
        return to_units(self.paid, self.currency)


def checked_payment(
    *,
    membership_id: t.Any,
    payment_id: t.Any,
    provider: t.Any,
    paid_cents: t.Any,
    currency: t.Any,
    metadata: t.Any,
    wallet_currency: str,
) -> Payment:
    """Return what a host tells of a payment, or refuse it.

    :param paid_cents: in the minor unit of ``currency``.
    :param currency: None for the wallet's.
    :raises ReferralError: for an id, an amount, a currency or metadata that make no sense.
    """
    membership_id = checked_id(membership_id, "membership id")
    paid = (
        None
        if paid_cents is None
        else checked_cents(paid_cents, "paid_cents", least=0, most=MOST_PAID)
    )
    currency = wallet_currency if currency is None else checked_currency(currency)
    return Payment(
        provider=checked_id(provider, "provider"),
        id=membership_id if payment_id is None else checked_id(payment_id, "payment id"),
        membership_id=membership_id,
        paid=paid,
        currency=None if paid is None else currency,
        # Nothing is nothing in every currency.
        converted_cents=paid if currency == wallet_currency or paid == 0 else None,
        metadata=checked_metadata(metadata),
    )


def is_id(value: t.Any) -> t.TypeGuard[str]:
    """Whether this can be an id of a provider's: 1 to 255 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_ID and value.isprintable()


def checked_id(value: t.Any, what: str) -> str:
    """Return an id of a provider's, or refuse it.

    :raises ReferralError: where it is no string of 1 to 255 printable characters.
    """
    if not is_id(value):
        raise ReferralError(
            f"{value!r:.80} is no {what}: pass a string of 1 to {LONGEST_ID} printable characters."
        )
    return value


def checked_cents(value: t.Any, what: str, *, least: int, most: int = MOST_CENTS) -> int:
    """Return an amount, or refuse it.

    :raises ReferralError: where it is no whole number of cents in these bounds.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ReferralError(
            f"{what}={value!r:.40} is no amount: pass a whole number of cents from {least} to "
            f"{most}."
        )
    return int(value)


def checked_metadata(value: t.Any) -> dict[str, t.Any]:
    """Return metadata as JSON that every database takes, or refuse it.

    What buyers may write is cleaned: NUL and lone surrogates go, numbers that JSON does not have
    (NaN, infinity) become None.

    :raises ReferralError: where it is no dict of JSON's own types, or nested too deeply.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ReferralError(f"metadata is a {type(value).__name__}: pass a dict, or None.")
    cleaned: dict[str, t.Any] = _cleaned(value, _DEEPEST)
    return cleaned


def _cleaned(value: t.Any, depth: int) -> t.Any:
    if depth == 0:
        raise ReferralError(f"metadata is nested more than {_DEEPEST} deep: pass a flatter dict.")
    if isinstance(value, str):
        return cleaned_text(value)
    if (isinstance(value, bool | int) and abs(value) <= _LARGEST) or value is None:
        return value
    if isinstance(value, float | decimal.Decimal):
        # A signaling NaN cannot become a float; a large Decimal becomes infinity.
        is_nan = isinstance(value, decimal.Decimal) and value.is_nan()
        number = math.nan if is_nan else float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, list | tuple):
        return [_cleaned(item, depth - 1) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_cleaned(key, depth): _cleaned(item, depth - 1) for key, item in value.items()}
    raise ReferralError(
        f"metadata holds a {type(value).__name__}, which is not JSON: pass text, numbers, lists "
        "and dicts with text as keys."
    )
