"""Wallets of every shape on SQLite take our rows, and come back byte for byte."""

from __future__ import annotations

import typing as t

import pytest

from .support import check_round_trip
from .support import Database
from .support import Shape

TYPES = "('deposit', 'withdrawal')"
REFERENCES = "('manual', 'order')"

TRIGGER = """
CREATE TRIGGER {prefix}calculate_balance_after AFTER INSERT ON {table}
BEGIN
    -- the balance before, and the new amount
    UPDATE {table} SET balance_after_cents = NEW.amount_cents + coalesce(
        (SELECT balance_after_cents FROM {table}
         WHERE user_id = NEW.user_id AND {key} < NEW.{key} ORDER BY {key} DESC LIMIT 1), 0
    ) WHERE {key} = NEW.{key};
END;
"""


def wallet(
    type_: str = f"TEXT NOT NULL CHECK (type IN {TYPES})",
    reference: str = f"TEXT CHECK (reference_type IN {REFERENCES})",
    *more: str,
    table: str = "wallet_transactions",
    prefix: str = "",
    key: str = "id",
    id_: str = "INTEGER PRIMARY KEY",
    after: str = "",
    tail: str = "",
) -> str:
    """Return the host's DDL, from the CHECKs that differ."""
    rows = [
        f"id {id_}",
        "user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE",
        "amount_cents INTEGER NOT NULL CHECK (amount_cents <> 0)",
        "balance_after_cents INTEGER",
        f"type {type_}",
        f"reference_type {reference}",
        "reference_id TEXT",
        "status TEXT NOT NULL DEFAULT 'completed' CHECK (status IN ('pending', 'completed'))",
        "created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP /* local */",
        *more,
    ]
    body = ",\n\t".join(rows)
    return (
        f"CREATE TABLE {prefix}users (id INTEGER PRIMARY KEY);"
        f"INSERT INTO {prefix}users VALUES (1);"
        f"CREATE TABLE {prefix}{table} (\n\t{body}\n) {tail};"
        f"{after};" + TRIGGER.format(table=table, prefix=prefix, key=key)
    )


DECORATED = """
    CREATE TABLE receipts (id INTEGER PRIMARY KEY, wallet_id INTEGER NOT NULL
        REFERENCES wallet_transactions (id) ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE log (what TEXT);
    CREATE VIEW bonuses AS SELECT * FROM wallet_transactions WHERE type = 'deposit';
    CREATE VIEW broken AS SELECT * FROM gone;
    CREATE INDEX by_type ON wallet_transactions (lower(type)) WHERE amount_cents > 0;
    CREATE UNIQUE INDEX "by id" ON wallet_transactions (id, type COLLATE NOCASE DESC);
    CREATE TRIGGER [audit it] AFTER UPDATE OF type ON Wallet_Transactions WHEN NEW.type <> 'x'
        BEGIN INSERT INTO log VALUES ('wallet_transactions'); END;
    CREATE TRIGGER elsewhere AFTER INSERT ON users
        BEGIN UPDATE wallet_transactions SET status = 'pending' WHERE user_id = NEW.id; END;
    CREATE TRIGGER through_view INSTEAD OF INSERT ON bonuses
        BEGIN INSERT INTO wallet_transactions (user_id, type) VALUES (NEW.user_id, NEW.type); END;
    INSERT INTO wallet_transactions (id, user_id, type, amount_cents, balance_after_cents)
        VALUES (-7, 1, 'deposit', 3, 0);
    INSERT INTO receipts VALUES (1, -7);
    ANALYZE
"""

LEGACY = """
    PRAGMA ignore_check_constraints = ON;
    INSERT INTO wallet_transactions (id, user_id, type, amount_cents, balance_after_cents)
        VALUES (-7, 1, 'legacy', 3, 0);
    PRAGMA ignore_check_constraints = OFF
"""

SHAPES = [
    Shape("no_check", wallet("TEXT", "TEXT"), gaps=0, refused=()),
    Shape("in_list", wallet()),
    Shape(
        "as_sqlalchemy_writes_it",
        wallet(
            "VARCHAR(50) NOT NULL", "VARCHAR(32)",
            f"CONSTRAINT wallet_transactions_type_check CHECK (type IN {TYPES})",
            "CONSTRAINT wallet_transactions_reference_type_check"
            f" CHECK (reference_type IN {REFERENCES})",
            "UNIQUE (id, type)",
        ),
    ),
    Shape("autoincrement", wallet(id_="INTEGER PRIMARY KEY AUTOINCREMENT")),
    Shape(
        "no_integer_key",
        wallet(id_="INT PRIMARY KEY", key="rowid", after="""
            INSERT INTO wallet_transactions (rowid, user_id, type, amount_cents)
                VALUES (40, 1, 'deposit', 5), (42, 1, 'deposit', 5);
            DELETE FROM wallet_transactions WHERE rowid = 40;
            UPDATE wallet_transactions SET balance_after_cents = 0"""),
        key="rowid",
    ),
    Shape(
        "columns_called_rowid",
        wallet("TEXT", f"TEXT CHECK (reference_type IN {REFERENCES})",
               'rowid TEXT DEFAULT \'r\'', "_rowid_ TEXT DEFAULT 's'"),
        gaps=1, refused=(("deposit", "junk", 1),),
    ),
    Shape(
        "without_rowid",
        wallet(tail="WITHOUT ROWID"),
        numbered=True,
    ),
    Shape(
        "strict",
        wallet().replace("TIMESTAMP DEFAULT", "TEXT DEFAULT").replace("\n) ;", "\n) STRICT;"),
    ),
    Shape("collate", wallet(
        "TEXT COLLATE NOCASE CHECK (type IN ('DEPOSIT', 'WITHDRAWAL', 'Referral_Bonus',"
        " 'ADJUSTMENT'))"
    ), gaps=1),
    Shape(
        "several_checks_on_type",
        wallet(
            "TEXT CHECK (type IN ('deposit', 'withdrawal', 'x')) CONSTRAINT b CHECK(type<>'x'\n"
            " AND type NOT LIKE 'referral%' -- ours\n) CHECK (length(type) > 0)", "TEXT",
        ),
        refused=(("x", None, 1), ("junk", None, 1)),
    ),
    Shape(
        "compound",
        wallet(
            "TEXT", "TEXT",
            "CHECK (amount_cents > 0 AND type = 'deposit' OR amount_cents < 0"
            " AND type = 'withdrawal')"
            " CHECK (type IN ('deposit', 'withdrawal') AND reference_type IN ('manual', 'order'))",
        ),
        refused=(
            ("deposit", "manual", -1),
            ("referral_bonus", "manual", 1),
            ("deposit", "referral_conversion", -1),
        ),
    ),
    Shape(
        "accepts_ours_already",
        wallet(
            "TEXT CHECK (type IN ('deposit','withdrawal','referral_bonus','adjustment'))",
            "TEXT CHECK (reference_type <> 'junk')",
        ),
        gaps=0,
    ),
    Shape(
        "all_quotes_and_comments",
        wallet(
            'TEXT CHECK ("type" IN ("deposit", \'withdrawal\', \'it\'\'s ) CHECK (\') /* :) */)',
            "TEXT CHECK -- a ( comment\n ( /* ' */ [reference_type] in ('manual',\"or)der\") )",
            "\"CHECK\" TEXT DEFAULT 'CHECK (type = 1)'",
            "`che``ck` TEXT DEFAULT ('(')",
            '[a "b] TEXT',
            "-- CHECK (type = 'comment')\n\t\"Größe ☃\" TEXT",
            "CONSTRAINT [named \"x] check(WALLET_TRANSACTIONS.TYPE in ('deposit','withdrawal'))",
        ),
        gaps=3,
    ),
    Shape(
        "name_in_quotes",
        wallet(table='"Wallet ""Transactions"" [:x] %s"'),
        table='Wallet "Transactions" [:x] %s',
    ),
    Shape(
        "generated_columns",
        wallet(
            "TEXT", f"TEXT CHECK (reference_type IN {REFERENCES})",
            "kind2 TEXT AS (kind || '!') VIRTUAL",
            "kind TEXT GENERATED ALWAYS AS (upper(type)) STORED",
            "CHECK (kind2 IN ('DEPOSIT!', 'WITHDRAWAL!'))",
        ),
    ),
    Shape("decorated", wallet(after=DECORATED)),
    Shape("legacy_rows", wallet(after=LEGACY)),
    Shape(
        "refers_to_itself",
        wallet(f"TEXT CHECK (type IN {TYPES})", "TEXT",
               "parent_id INTEGER REFERENCES wallet_transactions ON DELETE SET NULL"),
        gaps=1,
    ),
    Shape("attached_database", wallet(prefix="money."), schema="money"),
    Shape(
        "columns_added_later",
        wallet("TEXT", "TEXT", after=f"""
            ALTER TABLE wallet_transactions ADD COLUMN extra TEXT CHECK (type IN {TYPES});
            ALTER TABLE wallet_transactions RENAME COLUMN extra TO more"""),
        gaps=1,
    ),
]  # fmt: skip

MakeDatabase = t.Callable[[Shape], Database]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_round_trip(shape: Shape, sqlite: MakeDatabase) -> None:
    check_round_trip(sqlite(shape))


def test_a_rule_that_only_asks_for_a_reference_is_left_alone(sqlite: MakeDatabase) -> None:
    rule = "CHECK ((reference_type IS NULL) = (reference_id IS NULL))"
    database = sqlite(Shape("reference", wallet("text", "text", rule)))
    assert database.gaps() == []
    before = database.dump()
    database.extend()
    assert database.dump() == before
