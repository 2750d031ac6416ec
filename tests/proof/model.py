"""What the money has to do, as plain Python: no database, no order of locks, no SQL."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
from fractions import Fraction

HALF = Fraction(1, 2)


@dataclasses.dataclass(frozen=True)
class Program:
    """The settings, and whether a wallet may not go below zero."""

    hold_days: int
    velocity_limit: int | None
    positive: bool

    def __str__(self) -> str:
        debts = "no debts" if self.positive else "debts"
        return f"hold {self.hold_days}, limit {self.velocity_limit}, {debts}"


@dataclasses.dataclass
class Facts:
    """What is known of a membership besides its purchase."""

    #: by refund id: cents of the bonus, a share of the payment, or None for everything
    refunds: dict[str, int | Fraction | None] = dataclasses.field(default_factory=dict)
    opened: set[str] = dataclasses.field(default_factory=set)
    won: set[str] = dataclasses.field(default_factory=set)
    voided: bool = False

    def due(self, bonus: int) -> Fraction:
        """Return which part of the bonuses has to be taken back.

        :param bonus: the referrer's, in cents, which refunds without a share are cents of.
        """
        parts = list(self.refunds.values())
        if self.voided or self.opened - self.won or None in parts:
            return Fraction(1)
        if not bonus and any(isinstance(part, int) for part in parts):
            return Fraction(1)
        shares = [
            part if isinstance(part, Fraction) else Fraction(part, bonus)
            for part in parts
            if part is not None
        ]
        return min(Fraction(1), sum(shares, Fraction(0)))


@dataclasses.dataclass
class Conversion:
    """A conversion as it should be stored."""

    membership: str
    referrer: t.Any
    referred: t.Any
    bonus: int
    referred_bonus: int
    converted_at: dt.datetime
    status: str
    available_at: dt.datetime | None = None
    reversed: int = 0
    referred_reversed: int = 0
    shortfall: int = 0

    @property
    def is_paid(self) -> bool:
        return self.status in ("credited", "reversed")

    def state(self) -> tuple[t.Any, ...]:
        """Return what is compared with the database."""
        return (
            self.membership,
            self.referrer,
            self.referred,
            self.status,
            self.bonus,
            self.reversed,
            self.referred_bonus,
            self.referred_reversed,
            self.shortfall,
        )

    def nets(self) -> dict[t.Any, int]:
        """Return what our rows of this conversion add up to, by user."""
        if not self.is_paid:
            return {}
        sums = {
            self.referrer: self.bonus - self.reversed,
            self.referred: self.referred_bonus - self.referred_reversed,
        }
        return {user: cents for user, cents in sums.items() if cents}


Answer = tuple[str, int, int]


class Model:
    """All users' referrals, conversions and balances."""

    def __init__(self, program: Program) -> None:
        self.hold = dt.timedelta(days=program.hold_days)
        self.velocity_limit = program.velocity_limit
        self.positive = program.positive
        self.referrers: dict[t.Any, t.Any] = {}
        self.balances: dict[t.Any, int] = {}
        self.facts: dict[str, Facts] = {}
        self.conversions: list[Conversion] = []

    def of_membership(self, membership: str) -> Conversion | None:
        found = (one for one in self.conversions if one.membership == membership)
        return next(found, None)

    def convert(
        self, user: t.Any, membership: str, bonus: int, referred_bonus: int, now: dt.datetime
    ) -> tuple[str, int]:
        """Return the reason and the bonus of the conversion that is there now."""
        there = [one for one in self.conversions if one.referred == user]
        there += [one for one in self.conversions if one.membership == membership]
        if there:
            return "already_converted", there[0].bonus
        if user not in self.referrers:
            return "not_referred", 0
        if not bonus and not referred_bonus:
            return "no_bonus", 0
        referrer = self.referrers[user]
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        today = [
            one
            for one in self.conversions
            if one.referrer == referrer and one.converted_at >= midnight
        ]
        made = Conversion(membership, referrer, user, bonus, referred_bonus, now, "credited")
        if self.velocity_limit is not None and len(today) >= self.velocity_limit:
            made.status = "held"
        elif self.hold:
            made.status, made.available_at = "pending", now + self.hold
        reason = {"credited": "converted"}.get(made.status, made.status)
        self.conversions.append(made)
        if made.is_paid:
            self._pay(made)
        if membership in self.facts:
            self._reconcile(made)
        return reason, bonus

    def refund(self, membership: str, id: str, part: int | Fraction | None) -> Answer:
        facts = self.facts.setdefault(membership, Facts())
        if id in facts.refunds:
            return "already_reversed", 0, 0
        facts.refunds[id] = part
        return self._news(membership)

    def dispute(self, membership: str, id: str, won: bool) -> Answer:
        facts = self.facts.setdefault(membership, Facts())
        known = facts.won if won else facts.opened
        if id in known:
            return "already_reversed", 0, 0
        known.add(id)
        return self._news(membership)

    def void(self, conversion: Conversion) -> Answer | None:
        """Return None where it is refused."""
        if conversion.status not in ("held", "pending"):
            return None
        self.facts.setdefault(conversion.membership, Facts()).voided = True
        return self._news(conversion.membership)

    def release(self, conversion: Conversion, now: dt.datetime) -> bool:
        if conversion.status != "held":
            return False
        conversion.available_at = conversion.converted_at + self.hold
        conversion.status = "pending"
        if conversion.available_at <= now:
            self._mature(conversion)
        return True

    def next_due(self) -> dt.datetime | None:
        """Return when the next pending bonus is due, or None."""
        moments = (one.available_at for one in self.conversions if one.status == "pending")
        return min((moment for moment in moments if moment is not None), default=None)

    def mature(self, now: dt.datetime) -> int:
        due = [
            one
            for one in self.conversions
            if one.status == "pending" and one.available_at is not None and one.available_at <= now
        ]
        for conversion in due:
            self._mature(conversion)
        return len(due)

    def _mature(self, conversion: Conversion) -> None:
        conversion.status = "credited"
        self._pay(conversion)

    def _pay(self, conversion: Conversion) -> None:
        for user, cents in conversion.nets().items():
            self.balances[user] = self.balances.get(user, 0) + cents

    def _take(self, user: t.Any, cents: int) -> int:
        balance = self.balances.get(user, 0)
        if cents > balance and cents > 0 and self.positive:
            cents = max(0, balance)
        self.balances[user] = balance - cents
        return cents

    def _news(self, membership: str) -> Answer:
        conversion = self.of_membership(membership)
        if conversion is None:
            return "unknown_membership", 0, 0
        return self._reconcile(conversion)

    def _reconcile(self, conversion: Conversion) -> Answer:
        part = self.facts[conversion.membership].due(conversion.bonus)
        due = int(conversion.bonus * part + HALF)
        referred_due = int(conversion.referred_bonus * part + HALF)
        gone = (due, referred_due) == (conversion.bonus, conversion.referred_bonus)
        before = conversion.shortfall
        change = due - conversion.reversed
        referred_change = referred_due - conversion.referred_reversed
        if not conversion.is_paid:
            conversion.reversed, conversion.referred_reversed = due, referred_due
            waiting = "held" if conversion.available_at is None else "pending"
            conversion.status = "void" if gone else waiting
            if change < 0 or referred_change < 0 or not (change or referred_change):
                return "nothing_to_reverse", 0, 0
            return "voided", change, 0
        taken = self._take(conversion.referrer, change)
        referred_taken = self._take(conversion.referred, referred_change)
        conversion.reversed += taken
        conversion.referred_reversed += referred_taken
        missing = due - conversion.reversed
        conversion.shortfall = missing + referred_due - conversion.referred_reversed
        conversion.status = "reversed" if gone else "credited"
        if taken > 0 or referred_taken > 0 or conversion.shortfall > before:
            return "reversed", max(0, taken), missing
        return "nothing_to_reverse", 0, 0
