"""Station 1, further codes of a user: one that was chosen, or a new one in place of the old.

The generated code in ``referral_codes`` never changes, and is what clicks and conversions refer to.
Every code that was ever given stands in ``referral_issued_codes``, whose key keeps it from being
given twice; the newest of a user is the one that is shown, and all of them lead to the user.
"""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from . import codes
from . import reserved
from .db import sql
from .db.models import Models
from .errors import CodeExhausted
from .errors import CodeNotAllowed
from .errors import CodeTaken
from .events import CodeCreated
from .events import Event
from .settings import Settings
from .spelling import normalize_code
from .words import gettext_noop

#: The host's own idea of what may be chosen: takes the code and the user's key.
CodeChecker = t.Callable[[str, t.Any], bool]


class Given(t.NamedTuple):
    """The code that a user shares from now on."""

    code: str
    #: The user's key, and the codes that are new, the generated one first.
    user_id: t.Any
    new: tuple[str, ...]


def choose(
    db: sql.Connection,
    models: Models,
    settings: Settings,
    user_id: t.Any,
    text: str,
    checker: CodeChecker | None = None,
) -> Given:
    """Make a word the code that a user shares.

    One that the user had before is taken up again. Five statements; one more for a user who had
    no code.

    :param text: as it was typed.
    :raises CodeNotAllowed: for what is no code, and a reserved word.
    :raises CodeTaken: for one that anybody else has, or had.
    :raises UnknownUser: where there is no such user.
    """
    code = normalize_code(text, settings.query_param, is_vanity=True)
    if code is None:
        raise CodeNotAllowed(
            gettext_noop("A code has 3 to 32 letters from A to Z and digits, and nothing else.")
        )
    own, made = _locked(db, models, user_id)
    is_allowed = code == own or not reserved.is_reserved(code, settings.reserved_codes)
    if not is_allowed or (checker is not None and not checker(code, user_id)):
        raise CodeNotAllowed(gettext_noop("This word cannot be a code; choose another one."))
    if code == codes.shared(db, models, user_id):
        return Given(code, user_id, made)
    if not _issue(db, models, code=code, user=user_id).first():
        raise CodeTaken(gettext_noop("Somebody else has this code; choose another one."))
    _retire_others(db, models, code=code, user=user_id)
    return Given(code, user_id, (*made, code))


def rotate(db: sql.Connection, models: Models, user_id: t.Any) -> Given:
    """Give a user a new generated code to share.

    :raises CodeExhausted: where five codes in a row were given before.
    :raises UnknownUser: where there is no such user.
    """
    _, made = _locked(db, models, user_id)
    for _ in range(codes.ATTEMPTS):
        code = codes.generate_referral_code()
        if _issue_new(db, models, code=code, user=user_id).first():
            _retire_others(db, models, code=code, user=user_id)
            return Given(code, user_id, (*made, code))
    raise CodeExhausted()


def told(given: Given) -> list[Event]:
    """Return what is to be told of the codes that are new."""
    return [CodeCreated(user_id=given.user_id, code=code) for code in given.new]


def _locked(db: sql.Connection, models: Models, user_id: t.Any) -> tuple[str, tuple[str, ...]]:
    """Return the user's generated code, locked, and what was made of it now."""
    for _ in range(codes.ATTEMPTS):
        own, is_new = codes.get_or_create(db, models, user_id)
        # Somebody who erased the user meanwhile has taken the code away, and its words with it.
        if _lock(db, models, user=user_id).scalar() == own.code:
            return own.code, (own.code,) if is_new else ()
    raise CodeExhausted()


@sql.statement
def _lock(models: Models, dialect: str) -> sa.Executable:
    """Let one request at a time change a user's codes; visits go on."""
    code = models.ReferralCode.__table__.c
    own = sa.select(code.code).where(code.user_id == sql.parameter("user", code.user_id))
    # SQLite has one writer at a time.
    return own if dialect == "sqlite" else own.with_for_update(key_share=True)


@sql.statement
def _issue(models: Models, dialect: str) -> sa.Executable:
    insert = _inserting(models, dialect)
    issued = models.ReferralIssuedCode.__table__
    user = sql.parameter("user", issued.c.user_id)
    # One's own, of before.
    again = insert.on_conflict_do_update(
        index_elements=[issued.c.code],
        set_={"is_current": sa.true(), "issued_at": insert.excluded.issued_at},
        where=issued.c.user_id == user,
    )
    executable: sa.Executable = again.returning(issued.c.code)
    return executable


@sql.statement
def _issue_new(models: Models, dialect: str) -> sa.Executable:
    issued = models.ReferralIssuedCode.__table__
    insert = _inserting(models, dialect).on_conflict_do_nothing().returning(issued.c.code)
    executable: sa.Executable = insert
    return executable


def _inserting(models: Models, dialect: str) -> t.Any:
    issued = models.ReferralIssuedCode.__table__
    return sql.insert(dialect, issued).values(
        code=sql.parameter("code", issued.c.code),
        user_id=sql.parameter("user", issued.c.user_id),
        is_current=sa.true(),
    )


@sql.statement
def _retire_others(models: Models, dialect: str) -> sa.Executable:
    issued = models.ReferralIssuedCode.__table__
    return (
        sa.update(issued)
        .where(
            issued.c.user_id == sql.parameter("user", issued.c.user_id),
            issued.c.code != sql.parameter("code", issued.c.code),
            issued.c.is_current,
        )
        .values(is_current=sa.false())
    )
