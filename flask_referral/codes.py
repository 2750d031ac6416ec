"""Station 1: a user's one referral code."""

from __future__ import annotations

import contextlib
import datetime as dt
import typing as t
import uuid

import sqlalchemy as sa
from nanoid import generate

from .db import sql
from .db.models import Models
from .errors import CodeExhausted
from .errors import UnknownUser
from .events import CodeCreated
from .events import Event
from .settings import Settings
from .spelling import ALPHABET
from .spelling import LENGTH
from .spelling import normalize_code

__all__ = ["ALPHABET", "LENGTH", "generate_referral_code", "normalize_code"]

ATTEMPTS = 5


def generate_referral_code() -> str:
    """Draw a code of eight symbols from nanoid's cryptographic random source.

    There are 32**8, about 1.1e12, of them.
    """
    code: str = generate(ALPHABET, LENGTH)
    return code


class Code(t.NamedTuple):
    """A row of ``referral_codes``."""

    id: uuid.UUID
    user_id: t.Any
    code: str
    created_at: dt.datetime


def get_or_create(
    db: sql.Connection,
    models: Models,
    user_id: t.Any,
    *,
    reading: contextlib.AbstractContextManager[None] | None = None,
) -> tuple[Code, bool]:
    """Return the user's one code and whether it was made now. One statement; two for a new code.

    :param reading: what the code is looked for in, as row level security.
    :raises UnknownUser: where the user table has no row with this key.
    :raises CodeExhausted: where five codes in a row belonged to others.
    """
    with reading or contextlib.nullcontext():
        code = find(db, models, user_id)
    return (code, False) if code is not None else create(db, models, user_id)


def find(db: sql.Connection, models: Models, user_id: t.Any) -> Code | None:
    """Return the user's code, or None. One statement."""
    row = _find(db, models, user=user_id).first()
    return None if row is None else Code._make(row)


def create(db: sql.Connection, models: Models, user_id: t.Any) -> tuple[Code, bool]:
    """Insert a code for a user who had none a moment ago, and return the one that then exists.

    No statement of this function fails in READ COMMITTED, so the caller's transaction survives
    whatever happens: a conflict inserts nothing, and so does a user who does not exist, since
    the row is selected from the user table.

    :return: the code, and whether it is the one that was inserted.
    :raises UnknownUser: where the user table has no row with this key.
    :raises CodeExhausted: where five codes in a row belonged to others.
    """
    for _ in range(ATTEMPTS):
        row = _insert(db, models, user=user_id, new=generate_referral_code()).first()
        if row is not None:
            return Code._make(row), True
        # Nothing came back: another request was faster, the code is another user's, or there
        # is no such user. A second tab's row is the answer to the first of these.
        if (code := find(db, models, user_id)) is not None:
            return code, False
        require_user(db, models, user_id)
    raise CodeExhausted()


def normalized(text: str | None, settings: Settings) -> str | None:
    """Return the code in what somebody typed, pasted or clicked; see :func:`normalize_code`."""
    return normalize_code(text, settings.query_param, is_vanity=settings.vanity_codes)


def leads_to(models: Models, name: str = "code") -> sa.ColumnElement[bool]:
    """Whether a row of ``referral_codes`` is what a code leads to: its own, or another of its user.

    :param name: the parameter of the code.
    """
    code, issued = models.ReferralCode.__table__.c, models.ReferralIssuedCode.__table__.c
    given = sql.parameter(name, code.code)
    owner = sa.select(issued.user_id).where(issued.code == given).scalar_subquery()
    return sa.or_(code.code == given, code.user_id == owner)


def shown(models: Models, user: t.Any) -> sa.ScalarSelect[t.Any]:
    """Select the code that a user shares: the one given last; NULL where there is none."""
    code, issued = models.ReferralCode.__table__.c, models.ReferralIssuedCode.__table__.c
    current = (
        sa.select(issued.code)
        .where(issued.user_id == code.user_id, issued.is_current)
        .order_by(issued.issued_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    return (
        sa.select(sa.func.coalesce(current, code.code)).where(code.user_id == user)
    ).scalar_subquery()


def shared(db: sql.Connection, models: Models, user_id: t.Any) -> str | None:
    """Return the code that a user shares, or None. One statement."""
    found: str | None = _shared(db, models, user=user_id).scalar()
    return found


def told(found: tuple[Code, bool]) -> list[Event]:
    """Return what is to be told of a code, if it is new.

    :param found: what :func:`get_or_create` returned.
    """
    code, created = found
    return [CodeCreated(user_id=code.user_id, code=code.code)] if created else []


def require_user(db: sql.Connection, models: Models, user_id: t.Any) -> None:
    """Make sure that a user exists. One statement.

    :raises UnknownUser: where the user table has no row with this key.
    """
    if not _user_exists(db, models, user=user_id).scalar():
        raise UnknownUser(
            f"There is no user {user_id!r} in table {models.user_key.table.fullname!r}; "
            "pass the id of a user that is already stored."
        )


def _columns(models: Models) -> list[sa.Column[t.Any]]:
    return [models.ReferralCode.__table__.c[name] for name in Code._fields]


@sql.statement
def _find(models: Models, dialect: str) -> sa.Executable:
    user_id = models.ReferralCode.__table__.c.user_id
    return sa.select(*_columns(models)).where(user_id == sql.parameter("user", user_id))


@sql.statement
def _shared(models: Models, dialect: str) -> sa.Executable:
    user = sql.parameter("user", models.ReferralCode.__table__.c.user_id)
    return sa.select(shown(models, user))


@sql.statement
def _insert(models: Models, dialect: str) -> sa.Executable:
    code = models.ReferralCode.__table__
    key = models.user_key
    owner = sa.select(key, sql.parameter("new", code.c.code)).where(
        key == sql.parameter("user", key)
    )
    insert: sa.Executable = (
        sql.insert(dialect, code)
        .from_select(["user_id", "code"], owner)
        .on_conflict_do_nothing()
        .returning(*_columns(models))
    )
    return insert


@sql.statement
def _user_exists(models: Models, dialect: str) -> sa.Executable:
    key = models.user_key
    return sa.select(sa.exists(sa.select(key).where(key == sql.parameter("user", key))))
