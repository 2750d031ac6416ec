"""The desk's lists: which rows, in which order, with which columns, and how they are found."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing as t

import sqlalchemy as sa

from ... import disabled
from ... import referrals as people
from ...clock import as_utc
from ...db import sql
from ...db.models import Models
from ...payments.known import DELIVERY
from ...upkeep import acts
from .finding import Found
from .listing import Listing
from .listing import Where


class Column(t.NamedTuple):
    """A column, on the page and in the export.

    :param kind: how the page shows it: ``text``, ``user``, ``time``, ``cents`` or ``status``.
    """

    name: str
    title: str
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class List:
    """A list.

    :param describe: makes the statement of rows out of their places.
    :param find: the conditions that a search means, each with an index; none: it means nothing.
    :param filters: what may be chosen, by its name; the first is shown first.
    :param tell: makes values by the columns' names out of a row.
    """

    listing: Listing
    columns: tuple[Column, ...]
    describe: t.Callable[[sa.Subquery], sa.Select[t.Any]]
    find: t.Callable[[Found], list[Where]]
    filters: t.Mapping[str, Where] = dataclasses.field(default_factory=dict)
    tell: t.Callable[[t.Any], dict[str, t.Any]] = lambda row: row._asdict()

    def told(self, row: t.Any) -> dict[str, t.Any]:
        """Return a row's values; moments are aware, in UTC."""
        values = self.tell(row)
        return {
            name: as_utc(value) if isinstance(value, dt.datetime) else value
            for name, value in values.items()
        }


_USER, _CODE = Column("user_id", "User", "user"), Column("code", "Code", "code")
_PAYMENT = (
    Column("provider", "Provider"),
    Column("payment_id", "Payment"),
    Column("membership_id", "Membership"),
)


def _any_of(*pairs: tuple[sa.Column[t.Any], t.Sequence[t.Any]]) -> list[Where]:
    # One condition for each value: each of them has its place in the index.
    return [column == value for column, values in pairs for value in values]


def codes(models: Models) -> List:
    """Return the list of codes, with what came of each of them."""
    code, issued = models.ReferralCode.__table__.c, models.ReferralIssuedCode.__table__.c
    click, conversion = models.ReferralClick.__table__.c, models.ReferralConversion.__table__.c
    listing = Listing(code.created_at, (code.id,))

    def counted(column: sa.Column[t.Any], *where: Where) -> sa.ScalarSelect[t.Any]:
        count = sa.select(sa.func.count()).where(column == code.user_id, *where)
        return count.correlate(code.user_id.table).scalar_subquery()

    shared = sa.select(issued.code).where(issued.user_id == code.user_id, issued.is_current)

    def describe(shown: sa.Subquery) -> sa.Select[t.Any]:
        return (
            sa.select(
                code.user_id,
                code.code,
                shared.limit(1).correlate(code.user_id.table).scalar_subquery().label("shared"),
                code.created_at,
                counted(click.referrer_user_id, click.bound_at.is_not(None)).label("signups"),
                counted(conversion.referrer_user_id).label("conversions"),
                disabled.is_disabled(models, code.user_id).label("is_disabled"),
            )
            .select_from(shown)
            .join(code.user_id.table, listing.joined(shown))
        )

    return List(
        listing,
        (
            _USER,
            _CODE,
            Column("shared", "Shared code", "code"),
            Column("created_at", "Created", "time"),
            Column("signups", "Sign-ups", "number"),
            Column("conversions", "Conversions", "number"),
            Column("is_disabled", "Switched off", "flag"),
        ),
        describe,
        lambda found: _any_of((code.user_id, found.people)),
    )


def referrals(models: Models) -> List:
    """Return the list of referrals, with what each of them earned its referrer."""
    click = models.ReferralClick.__table__.c
    listing = Listing(click.bound_at, (click.id,))

    def describe(shown: sa.Subquery) -> sa.Select[t.Any]:
        own = (
            sa.select(
                shown.c.place,
                click.id,
                click.bound_at,
                click.referrer_user_id,
                click.referred_user_id,
                click.referral_code,
            )
            .select_from(shown)
            .join(click.id.table, listing.joined(shown))
            .subquery("own")
        )
        further = (own.c.referrer_user_id, own.c.referred_user_id, own.c.referral_code)
        summed = people.summed(models, own, own.c.referrer_user_id, *further)
        return summed.join(shown, shown.c.id == own.c.id).group_by(shown.c.place, shown.c.id)

    def tell(row: t.Any) -> dict[str, t.Any]:
        entry = people.entry(row)
        return {
            "referrer_user_id": row.referrer_user_id,
            "referred_user_id": row.referred_user_id,
            "code": row.referral_code,
            "signed_up_at": entry.signed_up_at,
            "status": entry.state,
            "payments": entry.payments,
            "earned_cents": entry.earned_cents,
            "pending_cents": entry.pending_cents,
            "reversed_cents": entry.reversed_cents,
        }

    def find(found: Found) -> list[Where]:
        return _any_of(
            (click.referrer_user_id, found.users),
            (click.referred_user_id, found.users),
            (click.id, found.click_ids),
        )

    return List(
        listing,
        (
            Column("referrer_user_id", "Referrer", "user"),
            Column("referred_user_id", "Referred", "user"),
            _CODE,
            Column("signed_up_at", "Signed up", "time"),
            Column("status", "State", "status"),
            Column("payments", "Payments", "number"),
            Column("earned_cents", "Earned", "cents"),
            Column("pending_cents", "Pending", "cents"),
            Column("reversed_cents", "Taken back", "cents"),
        ),
        describe,
        find,
        tell=tell,
    )


def rewards(models: Models) -> List:
    """Return the list of rewards; what waits for a reviewer is shown first."""
    reward = models.ReferralReward.__table__
    listing = Listing(reward.c.created_at, (reward.c.id,))

    def find(found: Found) -> list[Where]:
        return _any_of(
            (reward.c.user_id, found.users),
            (reward.c.referred_user_id, found.users),
            (reward.c.id, found.reward_ids),
        )

    return List(
        listing,
        (
            Column("id", "Reward", "reward"),
            _USER,
            Column("role", "Role"),
            Column("status", "Status", "status"),
            Column("cents", "Amount", "cents"),
            Column("reversed_cents", "Taken back", "cents"),
            Column("created_at", "Created", "time"),
            Column("available_at", "Due", "time"),
            Column("referred_user_id", "Buyer", "user"),
            *_PAYMENT,
        ),
        lambda shown: sa.select(reward).select_from(shown).join(reward, listing.joined(shown)),
        find,
        {
            status: reward.c.status == sql.word(status)
            for status in ("held", "pending", "credited", "reversed", "void")
        },
    )


def deliveries(models: Models) -> List:
    """Return the list of the deliveries of payment providers."""
    event = models.ReferralEvent.__table__
    waits = event.c.details.is_not(None)

    def tell(row: t.Any) -> dict[str, t.Any]:
        return {**row._asdict(), "waits": row.details is not None}

    return _events(
        models,
        DELIVERY,
        (
            Column("event_id", "Delivery", "delivery"),
            Column("provider", "Provider"),
            Column("type", "Reported"),
            Column("outcome", "Outcome", "status"),
            Column("waits", "Waits", "flag"),
            Column("received_at", "Received", "time"),
            Column("user_id", "Buyer", "user"),
            Column("payment_id", "Payment"),
            Column("membership_id", "Membership"),
            Column("amount_cents", "Amount", "number"),
        ),
        {"waiting": waits},
        tell,
    )


def history(models: Models) -> List:
    """Return the list of what operators did, here and on the command line."""

    def tell(row: t.Any) -> dict[str, t.Any]:
        entry = acts.Entry.of(row)
        return {
            **entry._asdict(),
            "payment_id": row.payment_id,
            "before": _listed(entry.before),
            "after": _listed(entry.after),
        }

    return _events(
        models,
        acts.KIND,
        (
            Column("at", "When", "time"),
            Column("by", "Who"),
            Column("act", "Act", "status"),
            Column("reason", "Why"),
            _USER,
            Column("reference", "On"),
            Column("payment_id", "Payment"),
            Column("before", "Before"),
            Column("after", "After"),
        ),
        {},
        tell,
    )


def _listed(values: t.Mapping[str, t.Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _events(
    models: Models,
    kind: str,
    columns: tuple[Column, ...],
    filters: t.Mapping[str, Where],
    tell: t.Callable[[t.Any], dict[str, t.Any]],
) -> List:
    event = models.ReferralEvent.__table__
    key = (event.c.provider, event.c.event_id)
    listing = Listing(event.c.received_at, key, (event.c.kind == sql.word(kind),))

    def find(found: Found) -> list[Where]:
        return _any_of(
            (event.c.payment_id, [found.text]),
            (event.c.membership_id, [found.text]),
            (event.c.user_id, found.users),
        )

    def describe(shown: sa.Subquery) -> sa.Select[t.Any]:
        is_same = sa.and_(event.c.kind == sql.word(kind), listing.joined(shown))
        return sa.select(event).select_from(shown).join(event, is_same)

    return List(listing, columns, describe, find, filters, tell)


def disabled_users(models: Models) -> List:
    """Return the list of users whose code is switched off."""
    off = models.ReferralDisabled.__table__
    listing = Listing(off.c.since, (off.c.user_id,))
    return List(
        listing,
        (_USER, Column("since", "Since", "time"), Column("reason", "Why")),
        lambda shown: sa.select(off).select_from(shown).join(off, listing.joined(shown)),
        lambda found: _any_of((off.c.user_id, found.people)),
    )
