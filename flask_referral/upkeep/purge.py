"""Personal data of old clicks goes; the counts and the attributions stay.

The id of a click that a visit made is derived from the address, so it is personal too: whoever
has the application's secret can try addresses. It is replaced by a random one as soon as no visit
needs it any more, that is, when it is in no cookie that counts and no visit would make it again.
Nothing of ours refers to it but those cookies.
"""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from .. import clicks
from ..db import days
from ..db.models import new_uuid

if t.TYPE_CHECKING:
    from ..db.models import Models
BATCH = 1_000

_PERSONAL = ("ip_hash", "user_agent", "referrer_url")


class Purged(t.NamedTuple):
    """What a batch did."""

    #: Clicks that lost personal fields, or the id that a visit made.
    cleared: int
    #: Clicks that are gone.
    deleted: int


def count(
    connection: sa.Connection,
    models: Models,
    before: dt.datetime,
    *,
    forgotten: dt.datetime,
    delete: bool,
) -> int:
    """Return how many clicks :func:`batches` would change. One statement."""
    wanted = _wanted(models, connection.dialect.name, before, forgotten, delete)
    return connection.execute(sa.select(sa.func.count()).where(wanted)).scalar_one()


def batches(
    connection: sa.Connection,
    models: Models,
    before: dt.datetime,
    *,
    forgotten: dt.datetime,
    delete: bool,
    size: int = BATCH,
) -> t.Iterator[Purged]:
    """Clear the address, user agent and referrer of clicks, oldest first, in small batches.

    After each batch what it did is yielded, for the caller to commit; no batch holds a lock that
    a new click waits for. It can be interrupted, repeated, and run twice at once.

    :param before: clicks older than this, aware.
    :param forgotten: what :func:`flask_referral.clicks.forgotten_since` returned.
    :param delete: whether to remove the clicks that no user is bound to. Of those only the ones
        that the sums of closed days hold are removed, so that no total changes: run
        :func:`flask_referral.rollup.close` first.
    """
    click = models.ReferralClick.__table__.c
    dialect = connection.dialect.name
    at = days.column(click.clicked_at, dialect)
    page = (
        sa.select(at.label("at"), click.id)
        .where(_wanted(models, dialect, before, forgotten, delete))
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
        cleared = clear(connection, models, click.id.in_(ids), click.clicked_at < forgotten)
        yield Purged(cleared, deleted)


def clear(
    connection: sa.Connection,
    models: Models,
    where: sa.ColumnElement[bool],
    may_rename: sa.ColumnElement[bool],
) -> int:
    """Clear what is personal of some clicks; return how many had any of it. One statement.

    :param may_rename: whether a click's id may be replaced.
    """
    click = models.ReferralClick.__table__
    dialect = connection.dialect.name
    rename = sa.and_(may_rename, _is_derived(click.c.id, dialect))
    statement = sa.update(click).where(where, sa.or_(_is_personal(models), rename))
    new_id = sa.case((rename, _renamed(click.c.id, dialect)), else_=click.c.id)
    return connection.execute(statement.values(dict.fromkeys(_PERSONAL) | {"id": new_id})).rowcount


def _is_derived(id: sa.Column[t.Any], dialect: str) -> sa.ColumnElement[bool]:
    version = sa.func.substr(_digits(id, dialect), 13, 1)
    return version == str(clicks.DERIVED)


def _renamed(id: sa.Column[t.Any], dialect: str) -> sa.ColumnElement[t.Any]:
    """Return an id that keeps its time, which is the window's, and is random otherwise."""
    time = sa.func.substr(_digits(id, dialect), 1, 12)
    rest = sa.func.substr(_digits(new_uuid(), dialect), 14)
    new = time.concat(str(clicks.RANDOM)).concat(rest)
    return sa.type_coerce(new, id.type) if dialect == "sqlite" else sa.cast(new, id.type)


def _digits(id: sa.ColumnElement[t.Any], dialect: str) -> sa.ColumnElement[str]:
    """Return the 32 hexadecimal digits of an id, as SQLite stores it."""
    if dialect == "sqlite":
        return sa.type_coerce(id, sa.Text())
    return sa.func.replace(sa.cast(id, sa.Text()), "-", "", type_=sa.Text())


def _is_after(
    at: sa.ColumnElement[t.Any], id: sa.Column[t.Any], last: t.Any
) -> sa.ColumnElement[bool]:
    position = sa.tuple_(sa.literal(last.at, at.type), sa.literal(last.id, id.type))
    return sa.tuple_(at, id) > position


def _wanted(
    models: Models, dialect: str, before: dt.datetime, forgotten: dt.datetime, delete: bool
) -> sa.ColumnElement[bool]:
    click = models.ReferralClick.__table__.c
    renamed = sa.and_(click.clicked_at < forgotten, _is_derived(click.id, dialect))
    wanted = sa.or_(_is_personal(models), renamed)
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
