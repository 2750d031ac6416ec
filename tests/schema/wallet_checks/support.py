"""What the tests of both databases share: running a migration step, and looking at the result."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext

from flask_referral.schema import wallet_checks
from flask_referral.schema.ddl_locks import raw

BONUS = ("referral_bonus", "referral_conversion", 1000)
REVERSAL = ("adjustment", "referral_conversion", -400)
OURS = (BONUS, REVERSAL)
ROWS = wallet_checks.Rows(
    kinds=(("referral_bonus", 1), ("adjustment", -1), ("adjustment", 1)),
    reference_type="referral_conversion",
    own_types=("referral_bonus",),
)

Row = tuple[str, str | None, int]


@dataclasses.dataclass(frozen=True)
class Shape:
    """A host's wallet: how it is made, which rows it takes, which it must go on refusing."""

    name: str
    ddl: str
    table: str = "wallet_transactions"
    schema: str | None = None
    accepted: tuple[Row, ...] = (("deposit", "manual", 100), ("withdrawal", "manual", -50))
    refused: tuple[Row, ...] = (("junk", "manual", 100),)
    #: How many of the host's rules have to be widened.
    gaps: int = 2
    #: How many of them come back with the downgrade: labels of an enum stay.
    gaps_after: int | None = None
    #: The column that orders the rows.
    key: str = "id"
    #: Whether the application has to number the rows.
    numbered: bool = False

    @property
    def sql(self) -> str:
        names = [name for name in (self.schema, self.table) if name is not None]
        return ".".join('"' + name.replace('"', '""') + '"' for name in names)


@dataclasses.dataclass
class Database:
    """A host's database in one of the shapes."""

    engine: sa.Engine
    shape: Shape
    #: Text of everything in the database, schema and rows.
    dump: t.Callable[[], str]

    def extend(self) -> None:
        migrate(self.engine, wallet_checks.extend, self.shape)

    def restore(self) -> None:
        migrate(self.engine, wallet_checks.restore, self.shape)

    def gaps(self) -> list[wallet_checks.Gap]:
        with self.engine.connect() as connection:
            return wallet_checks.missing_values(
                connection, ROWS, self.shape.table, self.shape.schema
            )

    def insert(self, row: Row) -> int:
        """Store a row as the application does, and return the balance that the trigger gave it."""
        kind, reference, cents = row
        table, key = self.shape.sql, self.shape.key
        number = f"(SELECT coalesce(max({key}), 0) + 1 FROM {table})"
        column, value = (f"{key}, ", f"{number}, ") if self.shape.numbered else ("", "")
        insert = (
            f"INSERT INTO {table} ({column}user_id, type, reference_type, amount_cents)"
            f" VALUES ({value}1, :kind, :reference, :cents)"
        )
        with self.engine.begin() as connection:
            connection.execute(
                sa.text(insert.replace(":x", r"\:x")),
                {"kind": kind, "reference": reference, "cents": cents},
            )
            balance = raw(
                connection, f"SELECT balance_after_cents FROM {table} ORDER BY {key} DESC LIMIT 1"
            ).scalar_one()
            return int(balance)

    def delete(self, rows: t.Iterable[Row]) -> None:
        with self.engine.begin() as connection:
            for kind, reference, cents in rows:
                connection.execute(
                    sa.text(
                        f"DELETE FROM {self.shape.sql} WHERE type = :kind".replace(":x", r"\:x")
                        + " AND reference_type = :reference AND amount_cents = :cents"
                    ),
                    {"kind": kind, "reference": reference, "cents": cents},
                )

    def run(self, sql: str) -> None:
        with self.engine.begin() as connection:
            raw(connection, sql)

    def scalar(self, sql: str) -> t.Any:
        with self.engine.connect() as connection:
            return raw(connection, sql).scalar_one()


def migrate(engine: sa.Engine, step: t.Callable[..., None], shape: Shape) -> None:
    """Run one step of a migration in Alembic's transaction."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
        with context.begin_transaction():
            step(context, ROWS, shape.table, shape.schema)


def pg_dump(bin_path: Path, url: sa.URL) -> str:
    """Return the schema of a PostgreSQL database, as pg_dump writes it."""
    command = [str(bin_path / "pg_dump"), "--schema-only", "-U", "postgres"]
    command += ["-h", str(url.query["host"]), str(url.database)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # These lines carry a random key.
    return re.sub(r"(?m)^\\(un)?restrict .*$", "", done.stdout)


def check_round_trip(database: Database) -> None:
    """The whole promise for one shape: widen, use, widen again, take back."""
    shape = database.shape
    for row in shape.accepted:
        database.insert(row)
    before = database.dump()
    assert len(database.gaps()) == shape.gaps

    database.extend()
    assert database.gaps() == []
    widened = database.dump()
    balance = sum(cents for _, _, cents in shape.accepted)
    for row in (*OURS, *shape.accepted):
        balance += row[2]
        assert database.insert(row) == balance
    check_refused(database, shape.refused)

    database.delete(OURS)
    for _ in shape.accepted:
        table, key = shape.sql, shape.key
        database.run(f"DELETE FROM {table} WHERE {key} = (SELECT max({key}) FROM {table})")
    database.extend()
    assert comparable(database.dump()) == comparable(widened)

    database.restore()
    assert comparable(database.dump()) == comparable(before)
    assert len(database.gaps()) == (shape.gaps if shape.gaps_after is None else shape.gaps_after)
    check_refused(database, shape.refused)
    for row in shape.accepted:
        database.insert(row)
    database.extend()
    database.insert(BONUS)


def check_refused(database: Database, rows: t.Iterable[Row]) -> None:
    for row in rows:
        with pytest.raises(sa.exc.DBAPIError):
            database.insert(row)


def comparable(dump: str) -> str:
    """Drop what may differ: the counter of AUTOINCREMENT, which rows that came and went have moved,
    the labels of an enum, which nobody can drop, and where PostgreSQL puts the casts of a CHECK
    that it read back from its own print."""
    dump = re.sub(r"(?m)^.*\bCHECK \(.*$", _without_casts, dump)
    dump = re.sub(r"(?m)^sqlite_sequence.*$", "", dump)
    return re.sub(r",\n    '(referral_bonus|adjustment|referral_conversion)'(?=[,\n])", "", dump)


def _without_casts(line: re.Match[str]) -> str:
    return re.sub(r"::[a-z_]+( varying)?(\(\d+\))?(\[\])?|[()]", "", line.group())


def sqlite_dump(engine: sa.Engine) -> str:
    """Return the schema of a SQLite database byte for byte, and all of its rows with rowids."""
    lines = []
    with engine.connect() as connection:
        for schema in ("main", *_attached(connection)):
            master = raw(
                connection,
                f"SELECT type, name, tbl_name, sql FROM {schema}.sqlite_master"
                # The order of one table's triggers is the order in which they fire.
                " ORDER BY lower(tbl_name), type, CASE type WHEN 'table' THEN 0 ELSE rowid END",
            ).all()
            for kind, name, table, sql in master:
                lines.append(f"{schema} {kind} {name} {table}: {sql}")
                if kind != "table":
                    continue
                quoted = '"' + name.replace('"', '""') + '"'
                rowid = "" if "WITHOUT ROWID" in sql else "rowid, "
                rows = raw(connection, f"SELECT {rowid}* FROM {schema}.{quoted}").all()
                lines += sorted(f"{name} {tuple(row)!r}" for row in rows)
    return "\n".join(lines)


def _attached(connection: sa.Connection) -> list[str]:
    found = raw(connection, "PRAGMA database_list").all()
    return [row[1] for row in found if row[1] not in ("main", "temp")]
