"""Station 1: a user's one referral code."""

from __future__ import annotations

import re
import typing as t

import sqlalchemy as sa
from nanoid import generate
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session

from . import signals
from .errors import CodeExhausted
from .errors import UnknownUser

if t.TYPE_CHECKING:
    from .db.models import Models
    from .db.models import ReferralCodeMixin
#: 32 symbols that cannot be mistaken for one another: no 0 and O, no 1 and I.
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
LENGTH = 8
ATTEMPTS = 5

_CODE = re.compile(f"[{ALPHABET}]{{{LENGTH}}}")
_SEPARATORS = re.compile(r"[\s\-\u2010-\u2015]+")
# Long enough for a code with a separator after each symbol; anything longer is no code.
_LONGEST_INPUT = 64


def generate_referral_code() -> str:
    """Draw a code of eight symbols from nanoid's cryptographic random source.

    There are 32**8, about 1.1e12, of them.
    """
    code: str = generate(ALPHABET, LENGTH)
    return code


def normalize_code(text: str | None) -> str | None:
    """Return the code that somebody typed or clicked, as it is stored.

    Spaces and dashes are dropped and letters become upper case.

    :param text: anything from outside.
    :return: eight symbols of :data:`ALPHABET`, or None where the text can be no code.
    """
    if not isinstance(text, str) or len(text) > _LONGEST_INPUT:
        return None
    # Some letters outside ASCII are raised to letters of the alphabet.
    code = _SEPARATORS.sub("", text)
    code = code.upper() if code.isascii() else code
    return code if _CODE.fullmatch(code) else None


def find(db: Session | sa.Connection, models: Models, user_id: t.Any) -> ReferralCodeMixin | None:
    """Return the user's code, or None. One statement."""
    code = models.ReferralCode
    return _first(db, sa.select(code).where(code.user_id == user_id))


def create(db: Session | sa.Connection, models: Models, user_id: t.Any) -> ReferralCodeMixin:
    """Insert a code for a user who had none a moment ago, and return the one that then exists.

    No statement of this function fails in READ COMMITTED, so the caller's transaction survives
    whatever happens: a conflict inserts nothing, and so does a user who does not exist, since
    the row is selected from the user table.

    :raises UnknownUser: where the user table has no row with this key.
    :raises CodeExhausted: where five codes in a row belonged to others.
    """
    for _ in range(ATTEMPTS):
        row = _first(db, _insert(db, models, user_id, generate_referral_code()))
        if row is not None:
            _announce(db, row)
            return row
        # Nothing came back: another request was faster, the code is another user's, or there
        # is no such user. A second tab's row is the answer to the first of these.
        if (row := find(db, models, user_id)) is not None:
            return row
        require_user(db, models, user_id)
    raise CodeExhausted()


def require_user(db: Session | sa.Connection, models: Models, user_id: t.Any) -> None:
    """Make sure that a user exists. One statement.

    :raises UnknownUser: where the user table has no row with this key.
    """
    if not _user_exists(db, models, user_id):
        raise UnknownUser(
            f"There is no user {user_id!r} in table {models.user_key.table.fullname!r}; "
            "pass the id of a user that is already stored."
        )


def _announce(db: Session | sa.Connection, row: ReferralCodeMixin) -> None:
    values = {"user_id": row.user_id, "code": row.code}
    if isinstance(db, Session):
        signals.send_after_commit(db, signals.code_created, **values)
    else:
        # In AUTOCOMMIT.
        signals.send(signals.code_created, **values)


def _first(db: Session | sa.Connection, statement: t.Any) -> ReferralCodeMixin | None:
    # From a session comes the entity, from a connection a row with the same attributes.
    if isinstance(db, Session):
        entity: ReferralCodeMixin | None = db.scalars(statement).first()
        return entity
    return t.cast("ReferralCodeMixin | None", db.execute(statement).first())


def _user_exists(db: Session | sa.Connection, models: Models, user_id: t.Any) -> bool:
    if isinstance(db, Session):
        # Nothing in the statement tells a session with several databases which one is meant.
        db = db.connection({"mapper": sa.inspect(models.ReferralCode)})
    key = models.user_key
    return bool(db.execute(sa.select(sa.exists(sa.select(key).where(key == user_id)))).scalar())


def _insert(db: Session | sa.Connection, models: Models, user_id: t.Any, new_code: str) -> t.Any:
    code = models.ReferralCode
    key = models.user_key
    bind = db.get_bind(code) if isinstance(db, Session) else db
    insert = sqlite.insert if bind.dialect.name == "sqlite" else postgresql.insert
    # The values are part of the statement: a session takes parameters of an INSERT for columns.
    owner = sa.select(key, sa.literal(new_code, sa.Text()).label("code")).where(key == user_id)
    return (
        insert(code)
        .from_select(["user_id", "code"], owner)
        .on_conflict_do_nothing()
        .returning(code)
    )
