"""Codes for the users who were there before the extension."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from .. import codes
from ..db import qualified
from ..db import sql
from ..errors import CodeExhausted

if t.TYPE_CHECKING:
    from ..db.models import Models


def count_missing(connection: sa.Connection, models: Models) -> int:
    """Return how many users have no code. One statement, which reads the whole user table."""
    missing = qualified.execute(
        connection,
        sa.select(sa.func.count()).select_from(models.user_key.table).where(_has_no_code(models)),
    )
    return int(missing.scalar_one())


def batches(connection: sa.Connection, models: Models, size: int) -> t.Iterator[int]:
    """Make codes for the users without one, in the order of their keys.

    After each batch the number of codes that it made is yielded, for the caller to commit: what
    is committed stays, and another run goes on from there. Two runs at once make each code once.
    Users who sign up meanwhile may be missed; they get their code when they ask for it.

    :param connection: in READ COMMITTED or on SQLite, since a batch has to see what another run
        committed while this one waited for it.
    :param size: how many users a batch has at most.
    :raises CodeExhausted: where five codes in a row, drawn for one user, belonged to others.
    """
    key = models.user_key
    page = sa.select(key).where(_has_no_code(models)).order_by(key).limit(size)
    passed = page.where(key > sa.bindparam("last", type_=key.type))
    last: t.Any = None
    first: t.Any = None
    attempts = 0
    while True:
        if last is None:
            users = qualified.execute(connection, page).scalars().all()
        else:
            users = qualified.execute(connection, passed, {"last": last}).scalars().all()
        if not users:
            return
        attempts = attempts + 1 if users[0] == first else 1
        first = users[0]
        made, error = _insert(connection, models, users)
        yield made
        if made == len(users):
            last = users[-1]
        elif attempts == codes.ATTEMPTS:
            raise error or CodeExhausted()
        # Otherwise somebody else made a code for one of these users, deleted one, or has a code
        # that was drawn here; the page is read again from where it began.


def _insert(
    connection: sa.Connection, models: Models, users: t.Sequence[t.Any]
) -> tuple[int, sa.exc.IntegrityError | None]:
    table = models.ReferralCode.__table__
    insert = sql.insert(connection.dialect.name, table)
    statement = insert.on_conflict_do_nothing().returning(table.c.user_id)
    rows = [{"user_id": user, "code": codes.generate_referral_code()} for user in users]
    options = {"insertmanyvalues_page_size": len(rows)}
    try:
        with connection.begin_nested():
            return len(
                qualified.execute(connection, statement, rows, execution_options=options).all()
            ), None
    except sa.exc.IntegrityError as error:
        # A user of the page was deleted since it was read.
        return 0, error


def _has_no_code(models: Models) -> sa.ColumnElement[bool]:
    code = models.ReferralCode.__table__
    return ~sa.exists().where(code.c.user_id == models.user_key)
