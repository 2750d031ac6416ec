"""What differs between the dialects and their drivers, and the statements of the hot paths."""

from __future__ import annotations

import collections
import contextlib
import functools
import typing as t

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql.base import PGDialect

from . import qualified

if t.TYPE_CHECKING:
    from .models import Models

T = t.TypeVar("T")

#: Quotes names as PostgreSQL reads them; those of the drivers double each "%".
IDENTIFIERS = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK_DETECTED = "40P01"
SERIALIZATION_FAILURE = "40001"
INSUFFICIENT_PRIVILEGE = "42501"

#: What ``hashtextextended(text, bigint)`` takes; a bare 0 is an integer.
NO_SEED: sa.ColumnElement[int] = sa.literal_column("0::bigint")


def python_type(type_: sa.types.TypeEngine[t.Any]) -> type | None:
    """Return what a column's values are in Python; None where its type does not say."""
    try:
        return type_.python_type
    except NotImplementedError:
        return None


class Lent:
    """A pooled connection on which each statement of ours is a transaction of its own.

    It is what those statements need of :class:`sqlalchemy.Connection`, which costs 20 µs of
    processor time to make, as much as a look-up. See :func:`lend`.
    """

    __slots__ = ("_pooled", "dialect", "driver", "engine")

    def __init__(self, engine: sa.Engine, pooled: sa.PoolProxiedConnection) -> None:
        self.engine = engine
        self.dialect = engine.dialect
        #: The driver's own connection.
        self.driver: t.Any = pooled.dbapi_connection
        self._pooled = pooled

    def execute(self, statement: t.Any, values: dict[str, t.Any]) -> sa.CursorResult[t.Any]:
        """Execute what cannot be prepared."""
        return qualified.execute(sa.Connection(self.engine, self._pooled), statement, values)

    def invalidate(self, error: BaseException) -> None:
        """Keep a broken connection from being lent again."""
        self._pooled.invalidate(error)

    def commit(self) -> None:
        """Do nothing: each statement was committed by itself."""

    rollback = commit


#: What the statements of the stations take.
Connection: t.TypeAlias = sa.Connection | Lent


@contextlib.contextmanager
def lend(engine: sa.Engine) -> t.Iterator[Connection]:
    """Lend a connection on which each statement is a transaction of its own.

    psycopg2 and psycopg 3 are told so by an attribute. SQLAlchemy sets and resets the isolation
    level of each connection that it lends, which asks the server: 127 µs of processor time for a
    look-up instead of 42. It is asked where somebody listens to what is executed, and where the
    host has chosen an isolation level.
    """
    if engine.dialect.name == "postgresql" and not _is_watched(engine, sa.Connection):
        try:
            pooled = engine.raw_connection()
        except t.cast(t.Any, engine.dialect.dbapi).Error as error:
            raise _wrapped(engine, error, None, None, is_lost=False) from error
        try:
            driver: t.Any = pooled.dbapi_connection
            if driver.isolation_level is None:
                before, driver.autocommit = driver.autocommit, True
                try:
                    yield Lent(engine, pooled)
                finally:
                    if not driver.closed:
                        driver.autocommit = before
                return
        finally:
            pooled.close()
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


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

    def __call__(self, db: Connection, models: Models, **values: t.Any) -> Rows:
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


def kept(info: dict[t.Any, t.Any], key: t.Hashable, make: t.Callable[[], T]) -> T:
    """Return what was made of a table of the host's on its first use.

    :param info: the table's own ``info``, since two hosts have two tables.
    """
    known: dict[t.Hashable, T] = info.setdefault("flask_referral", {})
    if key not in known:
        known[key] = make()
    return known[key]


class _Prepared:
    """A statement as a driver takes it: a text, and what converts its values and its results.

    SQLAlchemy makes these anew for each execution: a look-up takes 61 µs of processor time by its
    ``execute()``, 44 by ``exec_driver_sql()`` and 14 by the driver's cursor.
    """

    def __init__(self, statement: t.Any, dialect: sa.Dialect) -> None:
        compiled = qualified.compile(statement, dialect)
        #: What is left to SQLAlchemy: a list makes another text of each length, and a default of
        #: the host's own is asked for each row.
        self._not_plain: t.Any = None
        if any(bind.expanding for bind in compiled.bind_names) or compiled.insert_prefetch:
            self._not_plain = statement
            return
        self._text = str(compiled)
        self._positions: list[str] | None = compiled.positiontup if compiled.positional else None
        # What turns values into the driver's, by name; most need nothing.
        self._encoders: dict[str, t.Callable[[t.Any], t.Any]] = {}
        for bind, name in compiled.bind_names.items():
            encode = bind.type.dialect_impl(dialect).bind_processor(dialect)
            if encode is not None:
                self._encoders[name] = encode
        self._constants: dict[str, t.Any] = {}
        for bind, name in compiled.bind_names.items():
            if not bind.required:
                encode = self._encoders.pop(name, None)
                value = bind.value
                self._constants[name] = value if value is None or not encode else encode(value)
        columns = list(statement.exported_columns)
        decoders = [
            column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns
        ]
        # What turns the driver's values into ours, by place; most need nothing.
        self._decoders = [(place, decode) for place, decode in enumerate(decoders) if decode]
        names = [getattr(column, "name", None) for column in columns]
        self._make_row: t.Any = _row_type(names)._make

    def execute(self, db: Connection, values: dict[str, t.Any]) -> Rows:
        if self._not_plain is not None:
            is_lent = isinstance(db, Lent)
            execute = db.execute if is_lent else functools.partial(qualified.execute, db)
            result = execute(self._not_plain, values)
            rows = Rows(result if result.returns_rows else ())
            rows.rowcount = result.rowcount
            return rows
        parameters: t.Any = self._constants | values
        for name, encode in self._encoders.items():
            parameters[name] = encode(parameters[name])
        if self._positions is not None:
            parameters = tuple(parameters[name] for name in self._positions)
        if isinstance(db, Lent):
            return self._run(db, db.driver, parameters)
        if not (db.in_transaction() or is_autocommit(db)):
            # As SQLAlchemy does before a connection's first statement.
            db.begin()
        if not _is_watched(db.engine, db):
            return self._run(db, driver(db), parameters)
        result = db.exec_driver_sql(self._text, parameters)
        rows = self._rows(result.all() if result.returns_rows else (), result.rowcount)
        result.close()
        return rows

    def _run(self, db: Connection, driver: t.Any, parameters: t.Any) -> Rows:
        cursor: t.Any = None
        try:
            cursor = driver.cursor()
            cursor.execute(self._text, parameters)
            return self._rows(cursor.fetchall() if cursor.description else (), cursor.rowcount)
        except t.cast(t.Any, db.dialect.dbapi).Error as error:
            is_lost = db.dialect.is_disconnect(error, driver, cursor)
            if is_lost:
                db.invalidate(error)
            raise _wrapped(db.engine, error, self._text, parameters, is_lost=is_lost) from error
        finally:
            if cursor is not None:
                cursor.close()

    def _rows(self, found: t.Iterable[t.Any], rowcount: int) -> Rows:
        if self._decoders:
            found = map(self._decoded, found)
        rows = Rows(map(self._make_row, found))
        rows.rowcount = rowcount
        return rows

    def _decoded(self, row: t.Iterable[t.Any]) -> list[t.Any]:
        values = list(row)
        for place, decode in self._decoders:
            if values[place] is not None:
                values[place] = decode(values[place])
        return values


def _row_type(names: list[str | None]) -> t.Any:
    # An expression without a label has a name that depends on the statement, or none.
    return collections.namedtuple("Row", [name or "_" for name in names], rename=True)


def _is_watched(engine: t.Any, connection: t.Any) -> bool:
    """Whether somebody wants to hear of each statement: a listener, or the log.

    What SQLAlchemy asks itself before each statement; its public face of that, ``dispatch``, costs
    as much as the look-up of a code.

    :param connection: one, or their class.
    """
    return bool(
        connection._has_events
        or engine._has_events
        or engine.dialect._has_events
        or engine._should_log_info()
    )


def _wrapped(
    engine: sa.Engine, error: t.Any, text: str | None, parameters: t.Any, *, is_lost: bool
) -> BaseException:
    """Return a driver's error as SQLAlchemy raises it."""
    dialect: t.Any = engine.dialect
    wrapped: BaseException = sa.exc.DBAPIError.instance(
        text,
        parameters,
        error,
        dialect.dbapi.Error,
        hide_parameters=engine.hide_parameters,
        connection_invalidated=is_lost,
        dialect=dialect,
    )
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


def is_autocommit(db: Connection) -> bool:
    """Whether the driver runs each statement in a transaction of its own."""
    if isinstance(db, Lent):
        return True
    if db.dialect.name == "sqlite":
        return driver(db).isolation_level is None and not driver(db).in_transaction
    return bool(driver(db).autocommit)


def begin_writing(db: Connection, *, anew: bool = False) -> None:
    """Make an SQLite transaction the one that may write; nothing to do on PostgreSQL.

    Python's driver begins at the first write, and what was read before is of yesterday.

    :param anew: whether a transaction that the host's engine begins by itself is begun again; it
        must not have done anything yet.
    """
    if db.dialect.name != "sqlite" or isinstance(db, Lent):
        return
    if not db.in_transaction():
        # Where the host's engine begins by itself, it does so now.
        db.begin()
    if anew and driver(db).in_transaction:
        db.exec_driver_sql("ROLLBACK")
    if not driver(db).in_transaction:
        db.exec_driver_sql("BEGIN IMMEDIATE")
