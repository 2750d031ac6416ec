"""What differs between the dialects and their drivers."""

from __future__ import annotations

import sqlalchemy as sa

# https://www.postgresql.org/docs/current/errcodes-appendix.html
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"


def sqlstate(error: sa.exc.DBAPIError) -> str | None:
    """Return the five-character SQLSTATE of a database error, for psycopg2 and psycopg 3.

    :param error: the error as SQLAlchemy raised it.
    """
    original = error.orig
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
