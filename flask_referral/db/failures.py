"""What a database error means for whoever runs a command."""

from __future__ import annotations

import re
import typing as t

import sqlalchemy as sa

from .models import VERSION_TABLE
from .sql import DEADLOCK_DETECTED
from .sql import LOCK_NOT_AVAILABLE
from .sql import SERIALIZATION_FAILURE
from .sql import sqlstate

if t.TYPE_CHECKING:
    from .models import Models
# PostgreSQL, appendix A: connection exception, invalid authorization, invalid catalog name,
# insufficient resources, operator intervention. A failed connection has no code at all.
_AWAY = ("08", "28", "3D", "53", "57P")
# undefined_table, undefined_column, invalid_schema_name
_UNDEFINED = ("42P01", "42703", "3F000")


class Failure(t.NamedTuple):
    """Two sentences about an error; the second may be missing."""

    message: str
    cure: str | None = None

    def __str__(self) -> str:
        return f"{self.message} {self.cure}" if self.cure else self.message


def is_away(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether no database answers, as opposed to one that refuses a statement."""
    if isinstance(error, sa.exc.TimeoutError):
        return True
    if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
        # Drivers do not agree on what a connection that breaks is.
        return True
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return False
    state = sqlstate(error)
    if state is not None:
        return state.startswith(_AWAY)
    return not _is_sqlite(error) or "unable to open" in str(error.orig)


def is_contended(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether others were in the way, so that the same may work when it is tried again."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if _is_sqlite(error):
        name: str = getattr(error.orig, "sqlite_errorname", "")
        return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    return sqlstate(error) in (SERIALIZATION_FAILURE, DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE)


def explain(error: sa.exc.SQLAlchemyError, models: Models) -> Failure:
    """Say what the database said and, where it is known, what to do."""
    reason = _first_line(error)
    if is_away(error):
        return Failure(
            f"The database did not answer: {reason}.",
            "Check that it runs and that SQLALCHEMY_DATABASE_URI is right.",
        )
    if _is_undefined(error):
        users = models.user_key.table
        ours = any(name in reason for name in (*models.table_names, VERSION_TABLE))
        if not ours and re.search(rf"\b{re.escape(users.name)}\b", reason):
            return Failure(
                f"The user table {users.fullname!r} is not as the application declares it: "
                f"{reason}.",
                "Run the application's own migrations (flask db upgrade) first, then flask "
                "referral db upgrade.",
            )
        return Failure(
            f"The referral tables are not up to date: {reason}.", "Run flask referral db upgrade."
        )
    return Failure(f"The database refused: {reason}.")


def _first_line(error: sa.exc.SQLAlchemyError) -> str:
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(original).__name__


def _is_undefined(error: sa.exc.SQLAlchemyError) -> bool:
    if _is_sqlite(error):
        return bool(re.search(r"no such (table|column)|has no column named", str(error)))
    return isinstance(error, sa.exc.DBAPIError) and sqlstate(error) in _UNDEFINED


def _is_sqlite(error: sa.exc.SQLAlchemyError) -> bool:
    return type(getattr(error, "orig", None)).__module__ == "sqlite3"
