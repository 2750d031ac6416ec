"""What the money has to do, as plain Python: no database, no order of locks, no SQL."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t
import uuid
from fractions import Fraction

HALF = Fraction(1, 2)
WHOLE = Fraction(1)

#: Of a refund: cents of the bonus, a share of the payment, or None for everything.
Part = int | Fraction | None
#: provider, the provider's id
Payment = tuple[str, str]
#: reason, cents taken back, cents missing
Answer = tuple[str, int, int]


class Ambiguous(Exception):
    """A part of a bonus may be a repetition or another one."""


@dataclasses.dataclass(frozen=True)
class Program:
    """The settings, the kind of the users' keys, whether a wallet may not go below zero."""

    hold_days: int = 0
    velocity_limit: int | None = None
    renewals: int | None = 0
    positive: bool = False
    net_shortfall: bool = True
    key: str = "int"

    def __str__(self) -> str:
        wallet = ("netted" if self.net_shortfall else "kept") if self.positive else "debts"
        return (
            f"hold {self.hold_days}, limit {self.velocity_limit}, renewals {self.renewals}, "
            f"{wallet}, {self.key}"
        )


@dataclasses.dataclass
class Fact:
    """A refund, or a dispute that was opened or won.

    :param payment: its id; None while it waits under the membership.
    """

    provider: str
    payment: str | None
    membership: str | None
    kind: str
    id: str | None
    part: Part
    at: dt.datetime

    @property
    def is_dispute(self) -> bool:
        return self.kind != "refund"

    def repeats(self, other: Fact) -> bool:
        """Whether both are the same news."""
        names = (self.provider, self.kind, self.id, self.payment)
        return names == (other.provider, other.kind, other.id, other.payment) and (
            self.payment is not None or self.membership == other.membership
        )


@dataclasses.dataclass
class Reward:
    """A reward as it should be stored."""

    payment: Payment
    membership: str
    role: str
    user: t.Any
    referred: t.Any
    number: int
    cents: int
    status: str
    available_at: dt.datetime | None
    created_at: dt.datetime
    has_conversion: bool = True
    reversed: int = 0
    shortfall: int = 0
    in_review: bool = False
    voided: bool = False
    #: Random; what it decides is the order of equal moments.
    id: uuid.UUID | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return (*self.payment, self.role)

    @property
    def is_paid(self) -> bool:
        return self.status in ("credited", "reversed")

    @property
    def is_gone(self) -> bool:
        return self.status in ("reversed", "void")

    @property
    def due(self) -> int:
        return self.cents - self.reversed


class Model:
    """All users' referrals, rewards and balances."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.referrers: dict[t.Any, t.Any] = {}
        #: by the click: the referrer, and when it was bound; also of accounts that are gone
        self.bindings: dict[uuid.UUID, tuple[t.Any, dt.datetime]] = {}
        self.clicks: dict[t.Any, uuid.UUID] = {}
        self.balances: dict[t.Any, int] = {}
        self.facts: list[Fact] = []
        self.rewards: list[Reward] = []
        #: payments that earned something, for ever
        self.claimed: set[Payment] = set()
        #: by the referred user: the referrer, and the bonus
        self.conversions: dict[t.Any, tuple[t.Any, int]] = {}
        #: what the policy was told last: the number, and when the payment that qualified was made
        self.asked: tuple[int, dt.datetime | None] | None = None

    def bind(self, user: t.Any, referrer: t.Any, click: uuid.UUID, now: dt.datetime) -> None:
        """Bind a user by a click."""
        self.referrers[user] = referrer
        self.clicks[user] = click
        self.bindings[click] = referrer, now

    # Purchases

    def of_payment(self, payment: Payment) -> list[Reward]:
        """Return what a payment earned, the referrer's first."""
        found = [one for one in self.rewards if one.payment == payment]
        return sorted(found, key=lambda one: one.role, reverse=True)

    def convert(
        self,
        user: t.Any,
        payment: Payment,
        membership: str,
        paid_cents: int | None,
        bonus: int,
        own: int,
        hold_days: int | None,
        now: dt.datetime,
    ) -> tuple[str, int]:
        """Return the reason, and the bonus that is told."""
        self.asked = None
        already = "already_converted", self.conversions.get(user, (None, 0))[1]
        if payment in self.claimed:
            told = [
                one.cents
                for one in self.of_payment(payment)
                # Another buyer's are not told.
                if one.role == "referrer" and one.referred in (None, user)
            ]
            return ("already_converted", told[0]) if told else already
        if user not in self.referrers:
            return "not_referred", 0
        live = [one for one in self.rewards if one.referred == user and not one.is_gone]
        number = 1 + max((one.number for one in live), default=0)
        if self.program.renewals is not None and number > self.program.renewals + 1:
            return already
        if paid_cents == 0:
            return "no_bonus", 0
        firsts = (one.created_at for one in live if one.number == 1)
        self.asked = number, max(firsts, default=None)
        if not bonus and not own:
            return "no_bonus", 0
        referrer = self.referrers[user]
        days = self.program.hold_days if hold_days is None else hold_days
        made = Reward(
            payment=payment,
            membership=membership,
            role="referrer",
            user=referrer,
            referred=user,
            number=number,
            cents=bonus,
            status="pending" if days else "credited",
            available_at=now + dt.timedelta(days=days),
            created_at=now,
        )
        if self._is_over_velocity(user, referrer, now):
            made.status, made.in_review = "held", True
        elif not days:
            made.available_at = None
        rows = [made]
        if own:
            rows.append(dataclasses.replace(made, role="referred", user=user, cents=own))
        self.rewards += rows
        self.claimed.add(payment)
        self.conversions.setdefault(user, (referrer, bonus))
        if made.is_paid:
            self._credit(rows)
        self._adopt(payment, membership)
        reason = {"credited": "converted" if number == 1 else "renewed"}.get(
            made.status, made.status
        )
        self._reconcile(rows)
        return reason, bonus

    def _is_over_velocity(self, user: t.Any, referrer: t.Any, now: dt.datetime) -> bool:
        limit = self.program.velocity_limit
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        today = [
            one
            for one in self.rewards
            if (one.user, one.role) == (referrer, "referrer") and one.created_at >= midnight
        ]
        click = self.clicks[user]
        bound_at = self.bindings[click][1]
        earlier = [
            at
            for other, (of, at) in self.bindings.items()
            if of == referrer and at.date() == bound_at.date() and (at, other) < (bound_at, click)
        ]
        return limit is not None and max(len(today), len(earlier)) >= limit

    def _adopt(self, payment: Payment, membership: str) -> None:
        """Give the facts that wait under a membership to its payment."""
        waiting = [
            fact
            for fact in self.facts
            if (fact.provider, fact.payment, fact.membership) == (payment[0], None, membership)
        ]
        for fact in waiting:
            self.facts.remove(fact)
            self._keep(dataclasses.replace(fact, payment=payment[1], id=fact.id or payment[1]))

    # Facts

    def report(self, fact: Fact) -> Answer:
        """Take a fact in.

        :raises Ambiguous: for a second part without an id.
        """
        has_id = fact.id is not None
        if fact.payment is None:
            fact = dataclasses.replace(fact, payment=self._meant(fact))
        if fact.payment is not None and not has_id:
            fact = dataclasses.replace(fact, id=fact.payment)
        if not self._keep(fact):
            if not has_id and fact.part is not None:
                raise Ambiguous
            return "already_reversed", 0, 0
        rows = [] if fact.payment is None else self.of_payment((fact.provider, fact.payment))
        return self._reconcile(rows) if rows else ("unknown_membership", 0, 0)

    def _meant(self, fact: Fact) -> str | None:
        """Return which payment of its membership a fact is about, if there is one."""
        found = [
            one
            for one in self.rewards
            if (one.payment[0], one.membership) == (fact.provider, fact.membership)
        ]
        known = {
            (other.provider, other.payment)
            for other in self.facts
            if fact.id is not None and (other.id, other.is_dispute) == (fact.id, fact.is_dispute)
        }
        # What the same refund or dispute was about before, else what qualified, the newest first.
        found.sort(key=lambda one: t.cast(t.Any, one.id))
        found.sort(key=lambda one: one.created_at, reverse=True)
        found.sort(key=lambda one: (one.payment not in known, one.number != 1))
        return found[0].payment[1] if found else None

    def _keep(self, fact: Fact) -> bool:
        """Keep a fact; return whether it is news."""
        for other in self.facts:
            if fact.repeats(other):
                # Without ids of their own: a part, and then everything that is left.
                is_rest = fact.id == fact.payment and fact.part is None and other.part is not None
                if is_rest or (fact.is_dispute and fact.at > other.at):
                    other.part, other.at = fact.part, fact.at
                    return True
                return False
        self.facts.append(fact)
        return True

    def _due_back(self, reward: Reward, bonus: int) -> Fraction:
        """Return which part of a reward all that is known takes back."""
        facts = [fact for fact in self.facts if (fact.provider, fact.payment) == reward.payment]
        refunds = [fact.part for fact in facts if fact.kind == "refund"]
        won = {fact.id: fact.at for fact in facts if fact.kind == "dispute_won"}
        is_open = any(
            fact.id not in won or won[fact.id] < fact.at
            for fact in facts
            if fact.kind == "dispute_opened"
        )
        if reward.voided or is_open or None in refunds:
            return WHOLE
        shares = [
            # Any cents of a bonus that does not exist are all of it.
            part if isinstance(part, Fraction) else Fraction(part, bonus or part)
            for part in refunds
            if part is not None
        ]
        return min(WHOLE, sum(shares, Fraction(0)))

    def _reconcile(self, rows: list[Reward]) -> Answer:
        bonus = next((one.cents for one in rows if one.role == "referrer"), 0)
        for fact in self.facts:
            if bonus and (fact.provider, fact.payment) == rows[0].payment:
                # The bonus may go with the referrer's account, its share of the payment stays.
                fact.part = Fraction(fact.part, bonus) if isinstance(fact.part, int) else fact.part
        answers = [self._settle(one, self._due_back(one, bonus)) for one in rows]
        told = next((one for one in answers if one[0] != "nothing_to_reverse"), answers[0])
        return told[0], max(0, answers[0][1]), answers[0][2]

    def _settle(self, reward: Reward, part: Fraction) -> Answer:
        due = int(part * reward.cents + HALF)
        is_gone = part == 1 or (due == reward.cents > 0)
        change = due - reward.reversed
        if not reward.is_paid:
            waiting = "held" if reward.in_review else "pending"
            reward.reversed, reward.status = due, "void" if is_gone else waiting
            return "voided" if change > 0 else "nothing_to_reverse", max(0, change), 0
        before = reward.shortfall
        taken = self._take(reward.user, change)
        reward.reversed += taken
        reward.shortfall = due - reward.reversed
        reward.status = "reversed" if is_gone else "credited"
        if taken < 0:
            self._net(reward.user, -taken)
        is_news = taken > 0 or reward.shortfall > before
        return "reversed" if is_news else "nothing_to_reverse", max(0, taken), reward.shortfall

    # Wallets

    def _credit(self, rows: list[Reward]) -> None:
        for reward in rows:
            self.balances[reward.user] = self.balances.get(reward.user, 0) + reward.due
        for reward in rows:
            self._net(reward.user, reward.due)

    def _take(self, user: t.Any, cents: int) -> int:
        balance = self.balances.get(user, 0)
        if cents > balance and cents > 0 and self.program.positive:
            cents = max(0, balance)
        self.balances[user] = balance - cents
        return cents

    def _net(self, user: t.Any, cents: int) -> None:
        """Let a wallet pay what it owes out of a credit."""
        owed = [one for one in self.rewards if one.user == user and one.shortfall]
        owed.sort(key=lambda one: (one.created_at, one.id))
        for reward in owed if self.program.net_shortfall else ():
            taken = min(cents, reward.shortfall)
            self.balances[user] -= taken
            reward.reversed += taken
            reward.shortfall -= taken
            cents -= taken

    # Time and reviewers

    def next_due(self) -> dt.datetime | None:
        """Return when the next pending reward is due, or None."""
        moments = (one.available_at for one in self.rewards if one.status == "pending")
        return min((moment for moment in moments if moment is not None), default=None)

    def mature(self, now: dt.datetime) -> int:
        due = [
            one
            for one in self.rewards
            if one.status == "pending" and one.available_at is not None and one.available_at <= now
        ]
        for reward in due:
            self._pay(reward)
        return len(due)

    def _pay(self, reward: Reward) -> None:
        reward.status = "credited"
        self._credit([reward])

    def release(self, reward: Reward, now: dt.datetime) -> bool:
        """Return whether it is not refused."""
        if reward.status != "held":
            return False
        reward.status, reward.in_review = "pending", False
        if t.cast(dt.datetime, reward.available_at) <= now:
            self._pay(reward)
        return True

    def void(self, reward: Reward) -> Answer | None:
        """Return None where it is refused."""
        if reward.status not in ("held", "pending"):
            return None
        reward.voided = True
        return self._reconcile([reward])

    # Accounts

    def delete(self, user: t.Any) -> None:
        """Remove a user with all that is the user's own."""
        self.rewards = [one for one in self.rewards if one.user != user]
        self.referrers = {
            referred: referrer
            for referred, referrer in self.referrers.items()
            if user not in (referred, referrer)
        }
        self.bindings = {
            click: (referrer, at)
            for click, (referrer, at) in self.bindings.items()
            if referrer != user
        }
        gone = [one for one, (referrer, _) in self.conversions.items() if user in (one, referrer)]
        for referred in gone:
            del self.conversions[referred]
        for reward in self.rewards:
            if reward.referred in gone:
                reward.has_conversion = False
            if reward.referred == user:
                reward.referred = None
        self.balances.pop(user, None)

    def stats(self, referrer: t.Any) -> dict[str, int]:
        """Return the totals that the referrer is told, but for the clicks."""
        own = [one for one in self.rewards if (one.user, one.role) == (referrer, "referrer")]
        paid = [one for one in own if one.is_paid]
        waiting = [one for one in own if one.status in ("pending", "held")]
        return {
            # Those too whose accounts are gone.
            "signups": sum(of == referrer for of, _ in self.bindings.values()),
            "conversions": sum(one.number == 1 and one.status != "void" for one in own),
            "earned_cents": sum(one.cents for one in paid),
            "pending_cents": sum(one.due for one in waiting),
            "reversed_cents": sum(one.reversed for one in paid),
        }
