"""What differs between the dialects and their drivers, and the statements of the hot paths."""

from __future__ import annotations

import collections
import logging
import typing as t

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql.base import PGDialect

if t.TYPE_CHECKING:
    from .models import Models

#: Quotes names as PostgreSQL reads them; those of the drivers double each "%".
IDENTIFIERS = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
SERIALIZATION_FAILURE = "40001"
INSUFFICIENT_PRIVILEGE = "42501"


class Rows(list[t.Any]):
    """The rows of a statement, as named tuples."""

    #: How many rows it changed.
    rowcount: int

    def first(self) -> t.Any:
        """Return the first row, or None."""
        return self[0] if self else None

    def scalar(self) -> t.Any:
        """Return the first column of the first row, or None."""
        return self[0][0] if self else None


class Statement:
    """A statement that is prepared once for each host and dialect, see :func:`statement`."""

    def __init__(self, build: t.Callable[[Models, str], sa.Executable]) -> None:
        self._build = build

    def __call__(self, db: sa.Connection, models: Models, **values: t.Any) -> Rows:
        """Execute it, in one round trip.

        :param values: its bound parameters.
        :raises sqlalchemy.exc.DBAPIError: as SQLAlchemy does.
        """
        key = (self._build, db.dialect)
        prepared = models.statements.get(key)
        if prepared is None:
            built = self._build(models, db.dialect.name)
            prepared = models.statements.setdefault(key, _Prepared(built, db.dialect))
        return t.cast(_Prepared, prepared).execute(db, values)


def statement(build: t.Callable[[Models, str], sa.Executable]) -> Statement:
    """Make a function that builds a statement one that executes it.

    The function gets the host's models and the name of the dialect; what is new in each call are
    bound parameters.
    """
    return Statement(build)


class _Prepared:
    """A statement as a driver takes it: a text, and what converts its values and its results.

    SQLAlchemy makes these anew for each execution: a look-up takes 61 µs of processor time by its
    ``execute()``, 44 by ``exec_driver_sql()`` and 14 by the driver's cursor.
    """

    def __init__(self, statement: t.Any, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        #: What is left to SQLAlchemy: a list makes another text of each length, and a default of
        #: the host's own is asked for each row.
        self._not_plain: t.Any = None
        if any(bind.expanding for bind in compiled.bind_names) or compiled.insert_prefetch:
            self._not_plain = statement
            return
        self._text = str(compiled)
        self._constants = {
            name: bind.value for bind, name in compiled.bind_names.items() if not bind.required
        }
        self._positions: list[str] | None = compiled.positiontup if compiled.positional else None
        self._encoders: dict[str, t.Callable[[t.Any], t.Any]] = {}
        for bind, name in compiled.bind_names.items():
            encode = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if encode is not None:
                self._encoders[name] = encode
        for name in self._constants.keys() & self._encoders.keys():
            if self._constants[name] is not None:
                self._constants[name] = self._encoders[name](self._constants[name])
        columns = list(statement.exported_columns)
        self._decoders = [
            column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns
        ]
        names = [getattr(column, "name", None) for column in columns]
        self._row: t.Any = _row_type(names)

    def execute(self, db: sa.Connection, values: dict[str, t.Any]) -> Rows:
        if self._not_plain is not None:
            result = db.execute(self._not_plain, values)
            rows = Rows(result if result.returns_rows else ())
            rows.rowcount = result.rowcount
            return rows
        parameters: t.Any = self._constants.copy()
        for name, value in values.items():
            encode = self._encoders.get(name)
            parameters[name] = value if encode is None else encode(value)
        if self._positions is not None:
            parameters = tuple(parameters[name] for name in self._positions)
        if not (db.in_transaction() or is_autocommit(db)):
            # As SQLAlchemy does before a connection's first statement.
            db.begin()
        if _is_watched(db):
            result = db.exec_driver_sql(self._text, parameters)
            rows = self._rows(result.all() if result.returns_rows else (), result.rowcount)
            result.close()
            return rows
        cursor: t.Any = None
        try:
            cursor = db.connection.cursor()
            cursor.execute(self._text, parameters)
            return self._rows(cursor.fetchall() if cursor.description else (), cursor.rowcount)
        except t.cast(t.Any, db.dialect.dbapi).Error as error:
            raise _wrapped(db, cursor, error, self._text, parameters) from error
        finally:
            if cursor is not None:
                cursor.close()

    def _rows(self, found: t.Sequence[t.Any], rowcount: int) -> Rows:
        decoders = self._decoders
        rows = Rows(
            self._row._make(
                value if decode is None or value is None else decode(value)
                for decode, value in zip(decoders, row, strict=True)
            )
            for row in found
        )
        rows.rowcount = rowcount
        return rows


def _row_type(names: list[str | None]) -> t.Any:
    # An expression without a label has a name that depends on the statement, or none.
    return collections.namedtuple("Row", [name or "_" for name in names], rename=True)


def _is_watched(db: sa.Connection) -> bool:
    """Whether somebody wants to hear of each statement: a listener, or the log."""
    of_connection: t.Any = db.dispatch
    of_dialect: t.Any = db.dialect.dispatch
    return bool(
        of_connection.before_cursor_execute
        or of_connection.after_cursor_execute
        or of_dialect.handle_error
        or db.engine.logger.isEnabledFor(logging.INFO)
    )


def _wrapped(
    db: sa.Connection, cursor: t.Any, error: t.Any, text: str, parameters: t.Any
) -> BaseException:
    """Return a driver's error as SQLAlchemy raises it, with the same consequences."""
    dialect: t.Any = db.dialect
    is_lost = dialect.is_disconnect(error, db.connection.dbapi_connection, cursor)
    wrapped: BaseException = sa.exc.DBAPIError.instance(
        text,
        parameters,
        error,
        dialect.dbapi.Error,
        hide_parameters=db.engine.hide_parameters,
        connection_invalidated=is_lost,
        dialect=dialect,
    )
    if is_lost:
        db.invalidate(error)
    return wrapped


def insert(dialect: str, table: t.Any) -> t.Any:
    """Return an INSERT, into a table or a mapped class, that knows ON CONFLICT."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def parameter(name: str, column: sa.ColumnElement[t.Any]) -> sa.BindParameter[t.Any]:
    """Return a bound parameter of a column's type."""
    return sa.bindparam(name, type_=column.type)


def word(value: str) -> sa.ColumnElement[str]:
    """Return one of our own words, such as a status, as it stands in the SQL."""
    return sa.literal_column(f"'{value}'", sa.Text())


def words(*values: str) -> list[sa.ColumnElement[str]]:
    """Return some of our own words, for an IN that is the same each time."""
    return [word(value) for value in values]


def sqlstate(error: sa.exc.DBAPIError) -> str | None:
    """Return the five-character SQLSTATE of a database error, for psycopg2 and psycopg 3.

    :param error: the error as SQLAlchemy raised it.
    """
    original = error.orig
    return getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)


def driver(db: sa.Connection) -> t.Any:
    """Return the driver's own connection."""
    return db.connection.dbapi_connection


def is_autocommit(db: sa.Connection) -> bool:
    """Whether the driver runs each statement in a transaction of its own."""
    if db.dialect.name == "sqlite":
        return driver(db).isolation_level is None and not driver(db).in_transaction
    return bool(driver(db).autocommit)


def begin_writing(db: sa.Connection, *, anew: bool = False) -> None:
    """Make an SQLite transaction the one that may write; nothing to do on PostgreSQL.

    Python's driver begins at the first write, and what was read before is of yesterday.

    :param anew: whether a transaction that the host's engine begins by itself is begun again; it
        must not have done anything yet.
    """
    if db.dialect.name != "sqlite":
        return
    if not db.in_transaction():
        # Where the host's engine begins by itself, it does so now.
        db.begin()
    if anew and driver(db).in_transaction:
        db.exec_driver_sql("ROLLBACK")
    if not driver(db).in_transaction:
        db.exec_driver_sql("BEGIN IMMEDIATE")
