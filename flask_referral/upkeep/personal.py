"""What is known of one user: all of it as data, and its removal."""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from .. import codes
from .. import wallet
from ..clicks import TOLD
from ..clock import as_utc
from ..conversions.facts import Kind
from ..db import qualified
from ..db.models import RewardRole
from . import acts
from . import deliverer
from . import deliveries
from . import purge

if t.TYPE_CHECKING:
    from ..db.models import Models
_OWN_VISIT = ("referral_code", "clicked_at", "bound_at", *TOLD)
#: Columns of a conversion that say who the other one is, what the other one bought or earned, and
#: the code, which after an erasure is one that nobody has seen.
_OTHERS_OF_REFERRER = ("referred_user_id", "whop_membership_id", "metadata_", "referral_code")
_OTHERS_OF_REFERRED = ("referrer_user_id", "bonus_cents", "referral_code")
#: Columns of a reward that say who bought, and what; of the user's own that is told apart.
_OTHERS_OF_REWARD = ("user_id", "referred_user_id", "provider", "payment_id", "membership_id")
_OWN_PAYMENT = ("provider", "payment_id", "membership_id", "number", "created_at")


class Erased(t.NamedTuple):
    """What :func:`erase` removed."""

    #: ``removed``, ``replaced`` (by one that nobody has seen), or ``none``
    code: str
    #: Visits through the user's code.
    clicks: int
    #: The user's own visits, which lost their personal fields.
    own_clicks: int
    #: Deliveries that waited and told of the user's purchases, which lost what was kept of them.
    deliveries: int


def export(
    connection: sa.Connection, models: Models, wallet_table: sa.Table | None, user_id: t.Any
) -> dict[str, t.Any]:
    """Return all that is known of a user, ready for JSON.

    Of other people it tells no ids and nothing personal: of the visitors through the user's
    code when they came, from which source, and whether they signed up, of those who bought what
    they earned him; of the referrer's reward for a payment of the user's own nothing.

    :param wallet_table: the host's wallet, or None; of it the referral rows are told.
    :raises UnknownUser: where there is no such user.
    """
    codes.require_user(connection, models, user_id)
    code = models.ReferralCode.__table__.c
    click = models.ReferralClick.__table__.c
    daily = models.ReferralDaily.__table__.c
    issued, off = models.ReferralIssuedCode.__table__.c, models.ReferralDisabled.__table__.c
    daily_source = models.ReferralDailySource.__table__.c
    conversion = models.ReferralConversion.__table__.c
    reward = models.ReferralReward.__table__.c
    event, outbox = models.ReferralEvent.__table__.c, models.ReferralOutbox.__table__.c

    def rows(columns: t.Iterable[t.Any], where: t.Any, order: t.Any) -> list[dict[str, t.Any]]:
        found = qualified.execute(connection, sa.select(*columns).where(where).order_by(order))
        return [dict(zip(found.keys(), map(_plain, row), strict=True)) for row in found]

    def conversions(where: t.Any, others: t.Container[str]) -> list[dict[str, t.Any]]:
        return rows(_without(conversion, others), where, conversion.converted_at)

    # One that came in place of another, since it has older conversions, and was never used.
    is_unseen = sa.and_(
        sa.exists().where(
            conversion.referral_code == code.code, conversion.converted_at <= code.created_at
        ),
        ~sa.exists().where(click.referral_code == code.code),
    )
    is_seen = sa.and_(code.user_id == user_id, ~is_unseen)
    is_own_code = sa.and_(
        issued.user_id == user_id, ~sa.exists().where(code.code == issued.code, is_unseen)
    )
    owned = rows((code.code, code.created_at), is_seen, code.code)
    signed_up = click.bound_at.is_not(None).label("signed_up")
    visits = rows(
        (click.clicked_at, signed_up, click.source),
        click.referrer_user_id == user_id,
        click.clicked_at,
    )
    own_visit = [click[name] for name in _OWN_VISIT]
    payments = rows(
        [reward[name] for name in _OWN_PAYMENT],
        # The one that each payment has.
        sa.and_(reward.referred_user_id == user_id, reward.role == RewardRole.referrer),
        reward.created_at,
    )
    return {
        "user": _plain(user_id),
        "code": owned[0] if owned else None,
        "codes": rows(
            (issued.code, issued.issued_at, issued.is_current), is_own_code, issued.issued_at
        ),
        "disabled": rows((off.since, off.reason), off.user_id == user_id, off.since),
        "clicks": visits,
        "daily": rows((daily.day, daily.clicks), daily.referrer_user_id == user_id, daily.day),
        "daily_sources": rows(
            (daily_source.day, daily_source.source, daily_source.campaign, daily_source.clicks),
            daily_source.referrer_user_id == user_id,
            daily_source.day,
        ),
        "own_clicks": rows(own_visit, click.referred_user_id == user_id, click.clicked_at),
        "conversions_as_referrer": conversions(
            conversion.referrer_user_id == user_id, _OTHERS_OF_REFERRER
        ),
        "conversions_as_referred": conversions(
            conversion.referred_user_id == user_id, _OTHERS_OF_REFERRED
        ),
        "rewards": rows(
            _without(reward, _OTHERS_OF_REWARD), reward.user_id == user_id, reward.created_at
        ),
        "payments": payments,
        "events": rows(
            _without_bonuses(event),
            sa.or_(
                _is_about(models, payments),
                sa.and_(event.user_id == user_id, event.kind != acts.KIND),
            ),
            event.received_at,
        ),
        "outbox": rows(
            (outbox.event, outbox.created_at),
            deliverer.is_about(models, user_id),
            outbox.id,
        ),
        "acts": rows(
            (event.type, event.outcome.label("reason"), event.received_at),
            sa.and_(event.user_id == user_id, event.kind == acts.KIND),
            event.received_at,
        ),
        "wallet": _wallet_rows(rows, wallet_table, user_id),
    }


def _without(columns: t.Any, others: t.Container[str]) -> list[sa.Label[t.Any]]:
    return [column.label(column.name) for column in columns if column.key not in others]


def _without_bonuses(event: t.Any) -> list[sa.ColumnElement[t.Any]]:
    """Return the columns of an event; how much of the referrer's bonus a fact took is not told.

    What was paid and refunded stands in the deliveries.
    """
    is_of_bonus = event.kind.in_(list(Kind))
    amounts = ("amount_cents", "base_cents")
    return [
        sa.case((is_of_bonus, sa.null()), else_=column).label(column.name)
        if column.name in amounts
        else column.label(column.name)
        for column in event
    ]


def _is_about(models: Models, payments: list[dict[str, t.Any]]) -> sa.ColumnElement[bool]:
    """Whether an event is about one of the user's own payments, and not about its referrer."""
    event = models.ReferralEvent.__table__.c
    alias = models.ReferralEvent.__table__.alias("alias").c
    named = {
        kind: [(each["provider"], each[column]) for each in payments]
        for kind, column in ((Kind.payment, "payment_id"), (Kind.membership, "membership_id"))
    }
    # What the provider also calls them.
    others = sa.select(alias.provider, alias.event_id).where(
        alias.kind == Kind.alias,
        sa.tuple_(alias.provider, alias.payment_id).in_(named[Kind.payment]),
    )
    return sa.and_(
        # Which a reviewer decides on.
        event.kind.not_in((Kind.hold, Kind.release, Kind.void, acts.KIND)),
        sa.or_(
            sa.tuple_(event.provider, event.payment_id).in_(named[Kind.payment]),
            sa.tuple_(event.provider, event.payment_id).in_(others),
            sa.tuple_(event.provider, event.membership_id).in_(named[Kind.membership]),
            # A claim that came with a fact alone has its id only.
            *(
                sa.and_(event.kind == kind, sa.tuple_(event.provider, event.event_id).in_(ids))
                for kind, ids in named.items()
            ),
        ),
    )


def erase(connection: sa.Connection, models: Models, user_id: t.Any, now: dt.datetime) -> Erased:
    """Remove a user's code, its clicks, and the personal fields of the user's own visits.

    Wallet, conversions and rewards stay as they are, the user's as referrer too, until the host
    deletes the user's row: they are the record of money that was paid. So nobody's purchase is
    paid for a second time, what is pending is credited when it is due, and a refund takes the
    bonus back. Since a conversion has to name a code of its referrer's, the code of a user with
    conversions is replaced by one that nobody has seen instead of removed.

    A user whose code is switched off stays so, without the reason; so do acts of operators on the
    user's rewards, and others about the user go.

    Deliveries of the user's purchases that wait to be handled once more lose what was kept of
    them: those whose buyer the user is or is named as, and those of payments and memberships
    that earned a reward. Which other ones are the user's, nobody knows.

    It may be repeated. Users who signed up through the code are referred by nobody afterwards:
    what they buy from then on earns nothing.

    :param connection: in READ COMMITTED or on SQLite.
    :raises UnknownUser: where there is no such user and nothing was left of one.
    """
    click = models.ReferralClick.__table__
    summed = (models.ReferralDailySource.__table__, models.ReferralDaily.__table__)
    is_own = click.c.referred_user_id == user_id
    through_code = click.c.referrer_user_id == user_id

    def delete_clicks(*where: sa.ColumnElement[bool]) -> int:
        return qualified.execute(connection, sa.delete(click).where(*where)).rowcount

    # First, as a purchase does.
    forgotten = deliveries.forget_user(connection, models, user_id)
    # Without the code's lock, which visits wait for; there may be a million of them. Bound ones
    # come after it: a purchase locks the code first and then its buyer's click.
    clicks = delete_clicks(through_code, click.c.bound_at.is_(None))
    code = _lock_code(connection, models, user_id)
    # Those too that came before the code was locked; a new one waits, and finds no code then.
    clicks += delete_clicks(through_code)
    done = "none" if code is None else _retire(connection, models, code, now)
    sums = 0
    for table in summed:
        gone = sa.delete(table).where(table.c.referrer_user_id == user_id)
        sums += qualified.execute(connection, gone).rowcount
    acts.forget_user(connection, models, user_id)
    deliverer.forget_user(connection, models, user_id)
    own_clicks = purge.clear(connection, models, is_own, sa.true(), (*purge.PERSONAL, *purge.TAGS))
    if not (clicks or sums or own_clicks or code or forgotten):
        codes.require_user(connection, models, user_id)
    return Erased(done, clicks, own_clicks, forgotten)


def _lock_code(connection: sa.Connection, models: Models, user_id: t.Any) -> str | None:
    code = models.ReferralCode.__table__.c
    # A purchase or a click that names the code and is not committed yet is waited for.
    return qualified.execute(
        connection, sa.select(code.code).where(code.user_id == user_id).with_for_update()
    ).scalar()


def _retire(connection: sa.Connection, models: Models, old: str, now: dt.datetime) -> str:
    code = models.ReferralCode.__table__
    conversion = models.ReferralConversion.__table__
    names_it = conversion.c.referral_code == old
    if (
        qualified.execute(connection, sa.select(conversion.c.id).where(names_it).limit(1)).first()
        is None
    ):
        qualified.execute(connection, sa.delete(code).where(code.c.code == old))
        return "removed"
    new = codes.generate_referral_code()
    renamed = sa.update(code).where(code.c.code == old).values(code=new, created_at=now)
    follow = sa.update(conversion).where(names_it).values(referral_code=new)
    if connection.dialect.name == "sqlite":
        # For hosts that switched foreign keys on; it ends with the transaction.
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        qualified.execute(connection, follow)
        qualified.execute(connection, renamed)
    else:
        # One statement: PostgreSQL looks at the foreign key when it has ended.
        qualified.execute(connection, renamed.add_cte(follow.cte("follow")))
    return "replaced"


def _wallet_rows(
    rows: t.Callable[..., list[dict[str, t.Any]]], table: sa.Table | None, user_id: t.Any
) -> list[dict[str, t.Any]]:
    if table is None:
        return []
    columns = {column.name: column for column in table.columns}
    own = sa.and_(columns["user_id"] == user_id, columns["reference_type"] == wallet.REFERENCE_TYPE)
    order = columns.get("created_at", columns["reference_id"])
    # What we write into "metadata" are the ids of what somebody else bought.
    told = [column.label(name) for name, column in columns.items() if name != "metadata"]
    return rows(told, own, order)


def _plain(value: t.Any) -> t.Any:
    if isinstance(value, dt.datetime):
        return as_utc(value).isoformat()
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, bool | int | str | dict | list) or value is None:
        return value
    return str(value)
