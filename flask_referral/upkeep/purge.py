"""Personal data of old clicks goes; the counts and the attributions stay."""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from ..db import days

if t.TYPE_CHECKING:
    from ..db.models import Models
BATCH = 1_000

_PERSONAL = ("ip_hash", "user_agent", "referrer_url")


class Purged(t.NamedTuple):
    """What a batch did."""

    #: Clicks that lost their personal fields.
    cleared: int
    #: Clicks that are gone.
    deleted: int


def count(connection: sa.Connection, models: Models, before: dt.datetime, *, delete: bool) -> int:
    """Return how many clicks :func:`batches` would change. One statement."""
    wanted = _wanted(models, connection.dialect.name, before, delete)
    return connection.execute(sa.select(sa.func.count()).where(wanted)).scalar_one()


def batches(
    connection: sa.Connection,
    models: Models,
    before: dt.datetime,
    *,
    delete: bool,
    size: int = BATCH,
) -> t.Iterator[Purged]:
    """Clear the address, user agent and referrer of clicks, oldest first, in small batches.

    After each batch what it did is yielded, for the caller to commit; no batch holds a lock that
    a new click waits for. It can be interrupted, repeated, and run twice at once.

    :param before: clicks older than this, aware.
    :param delete: whether to remove the clicks that no user is bound to. Of those only the ones
        that the sums of closed days hold are removed, so that no total changes: run
        :func:`flask_referral.rollup.close` first.
    """
    click = models.ReferralClick.__table__.c
    dialect = connection.dialect.name
    at = days.column(click.clicked_at, dialect)
    page = (
        sa.select(at.label("at"), click.id)
        .where(_wanted(models, dialect, before, delete))
        .order_by(at, click.id)
        .limit(size)
    )
    last: t.Any = None
    while True:
        rest = page if last is None else page.where(_is_after(at, click.id, last))
        found = connection.execute(rest).all()
        if not found:
            return
        last = found[-1]
        ids = [row.id for row in found]
        deleted = _delete(connection, models, ids) if delete else 0
        yield Purged(clear(connection, models, click.id.in_(ids)), deleted)


def clear(connection: sa.Connection, models: Models, where: sa.ColumnElement[bool]) -> int:
    """Clear the personal fields of some clicks; return how many had any. One statement."""
    statement = sa.update(models.ReferralClick.__table__).where(where, _is_personal(models))
    return connection.execute(statement.values(dict.fromkeys(_PERSONAL))).rowcount


def _is_after(
    at: sa.ColumnElement[t.Any], id: sa.Column[t.Any], last: t.Any
) -> sa.ColumnElement[bool]:
    position = sa.tuple_(sa.literal(last.at, at.type), sa.literal(last.id, id.type))
    return sa.tuple_(at, id) > position


def _wanted(
    models: Models, dialect: str, before: dt.datetime, delete: bool
) -> sa.ColumnElement[bool]:
    click = models.ReferralClick.__table__.c
    wanted = _is_personal(models)
    if delete:
        wanted = sa.or_(wanted, _is_removable(models, dialect))
    return sa.and_(click.clicked_at < before, wanted)


def _is_personal(models: Models) -> sa.ColumnElement[bool]:
    click = models.ReferralClick.__table__.c
    return sa.or_(*(click[name].is_not(None) for name in _PERSONAL))


def _is_removable(models: Models, dialect: str) -> sa.ColumnElement[bool]:
    click = models.ReferralClick.__table__.c
    daily = models.ReferralDaily.__table__.c
    is_summed = sa.exists().where(
        daily.referrer_user_id == click.referrer_user_id,
        daily.day >= days.date_of(click.clicked_at, dialect),
    )
    return sa.and_(click.referred_user_id.is_(None), is_summed)


def _delete(connection: sa.Connection, models: Models, ids: list[t.Any]) -> int:
    table = models.ReferralClick.__table__
    # Asked again: a user may have been bound to a click since the page was read.
    where = _is_removable(models, connection.dialect.name)
    return connection.execute(sa.delete(table).where(table.c.id.in_(ids), where)).rowcount
