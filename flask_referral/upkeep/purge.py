"""Personal data of old clicks goes; the counts and the attributions stay.

The id of a click that a visit made is derived from the address, so it is personal too: whoever
has the application's secret can try addresses. It is replaced by a random one as soon as no visit
needs it any more, that is, when it is in no cookie that counts and no visit would make it again.
Of ours the rewards of a buyer refer to it, which follow, and those cookies.
"""

from __future__ import annotations

import datetime as dt
import typing as t

import sqlalchemy as sa

from .. import clicks
from ..db import days
from ..db import qualified
from ..db.models import new_uuid

if t.TYPE_CHECKING:
    from ..db.models import Models
BATCH = 1_000

PERSONAL = ("ip_hash", "user_agent", "referrer_url")
#: What a link was tagged with, which may name the one person whom it was made for. It stays until
#: that person is erased, as the sums by campaign need it.
TAGS = ("utm_source", "utm_medium", "utm_campaign")


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
    return int(qualified.execute(connection, sa.select(sa.func.count()).where(wanted)).scalar_one())


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
    wanted = (
        sa.select(at.label("at"), click.id)
        .where(_wanted(models, dialect, before, forgotten, delete))
        .order_by(at, click.id)
    )
    last: t.Any = None
    while True:
        rest = wanted if last is None else wanted.where(_is_after(at, click.id, last))
        # Where the page begins and ends is all that is asked: a thousand ids, read and sent twice,
        # take 17 ms of this process, more than the database needs to delete their rows.
        page = rest.limit(size).subquery()
        begin = sa.func.min(page.c.at).over().label("begin")
        ends = sa.select(page, begin).order_by(page.c.at.desc(), page.c.id.desc()).limit(1)
        last = qualified.execute(connection, ends).first()
        if last is None:
            return
        is_in_page = _is_in_page(at, click.id, last)
        deleted = _delete(connection, models, is_in_page) if delete else 0
        cleared = clear(connection, models, is_in_page, click.clicked_at < forgotten)
        yield Purged(cleared, deleted)


def clear(
    connection: sa.Connection,
    models: Models,
    where: sa.ColumnElement[bool],
    may_rename: sa.ColumnElement[bool],
    names: t.Iterable[str] = PERSONAL,
) -> int:
    """Clear what is personal of some clicks; return how many had any of it.

    Two statements, and two more where ids are replaced that somebody signed up by: the rewards
    follow. The source stays, which statistics count: a word that many share, or a site's name.

    :param may_rename: whether a click's id may be replaced.
    :param names: the columns to clear.
    """
    click = models.ReferralClick.__table__
    dialect = connection.dialect.name
    rename = sa.and_(may_rename, _is_derived(click.c.id, dialect))
    names = tuple(names)
    followed = _rename_bound(connection, models, sa.and_(where, rename), names)
    statement = sa.update(click).where(where, sa.or_(_has_any(models, names), rename))
    new_id = sa.case((rename, _renamed(click.c.id, dialect)), else_=click.c.id)
    cleared = qualified.execute(
        connection, statement.values(dict.fromkeys(names) | {"id": new_id})
    ).rowcount
    return followed + cleared


def _rename_bound(
    connection: sa.Connection, models: Models, where: sa.ColumnElement[bool], names: tuple[str, ...]
) -> int:
    """Replace the ids of clicks that somebody signed up by, and clear them; return how many.

    They are locked first: a purchase that names one and is not committed yet is waited for, and
    its rewards are there for the statement that follows.
    """
    click, reward = models.ReferralClick.__table__, models.ReferralReward.__table__
    bound = sa.select(click.c.id).where(where, click.c.bound_at.is_not(None)).order_by(click.c.id)
    found = qualified.execute(connection, bound.with_for_update()).scalars().all()
    if not found:
        return 0
    changes = [{"old": id, "new": clicks.forgotten_id(id)} for id in found]
    old = sa.bindparam("old", type_=click.c.id.type)
    new = sa.bindparam("new", type_=click.c.id.type)
    follow = sa.update(reward).where(reward.c.click_id == old).values(click_id=new)
    rename = sa.update(click).where(click.c.id == old)
    qualified.execute(connection, follow, changes)
    qualified.execute(connection, rename.values(dict.fromkeys(names) | {"id": new}), changes)
    return len(found)


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
    return sa.tuple_(at, id) > _position(at, id, last)


def _is_in_page(
    at: sa.ColumnElement[t.Any], id: sa.Column[t.Any], last: t.Any
) -> sa.ColumnElement[bool]:
    # The times by themselves, too: of pairs PostgreSQL cannot tell how few rows lie between.
    begin, end = sa.literal(last.begin, at.type), sa.literal(last.at, at.type)
    return sa.and_(at >= begin, at <= end, sa.tuple_(at, id) <= _position(at, id, last))


def _position(
    at: sa.ColumnElement[t.Any], id: sa.Column[t.Any], row: t.Any
) -> sa.ColumnElement[t.Any]:
    return sa.tuple_(sa.literal(row.at, at.type), sa.literal(row.id, id.type))


def _wanted(
    models: Models, dialect: str, before: dt.datetime, forgotten: dt.datetime, delete: bool
) -> sa.ColumnElement[bool]:
    click = models.ReferralClick.__table__.c
    renamed = sa.and_(click.clicked_at < forgotten, _is_derived(click.id, dialect))
    wanted = sa.or_(_has_any(models, PERSONAL), renamed)
    if delete:
        wanted = sa.or_(wanted, _is_removable(models, dialect))
    return sa.and_(click.clicked_at < before, wanted)


def _has_any(models: Models, names: t.Iterable[str]) -> sa.ColumnElement[bool]:
    click = models.ReferralClick.__table__.c
    return sa.or_(*(click[name].is_not(None) for name in names))


def _is_removable(models: Models, dialect: str) -> sa.ColumnElement[bool]:
    click = models.ReferralClick.__table__.c
    daily = models.ReferralDaily.__table__.c
    is_summed = sa.exists().where(
        daily.referrer_user_id == click.referrer_user_id,
        daily.day >= days.date_of(click.clicked_at, dialect),
    )
    return sa.and_(click.bound_at.is_(None), is_summed)


def _delete(connection: sa.Connection, models: Models, where: sa.ColumnElement[bool]) -> int:
    table = models.ReferralClick.__table__
    # Asked again: a user may have been bound to a click since the page was read.
    removable = _is_removable(models, connection.dialect.name)
    return qualified.execute(connection, sa.delete(table).where(where, removable)).rowcount
