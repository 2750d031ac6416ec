"""Wallets of every shape on PostgreSQL take our rows, and come back as they were."""

from __future__ import annotations

import typing as t

import pytest
import sqlalchemy as sa

from .support import check_round_trip
from .support import Database
from .support import Shape

TYPES = "('deposit', 'withdrawal')"
REFERENCES = "('manual', 'order')"

TRIGGERS = """
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.balance_after_cents := coalesce(
        (SELECT balance_after_cents FROM {table}
         WHERE user_id = NEW.user_id ORDER BY id DESC LIMIT 1), 0) + NEW.amount_cents;
    RETURN NEW;
END $$;
CREATE TRIGGER {function} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}();
"""


def wallet(
    type_: str = f"text NOT NULL CHECK (type IN {TYPES})",
    reference: str = f"text CHECK (reference_type IN {REFERENCES})",
    *more: str,
    table: str = "wallet_transactions",
    before: str = "",
    after: str = "",
    tail: str = "",
) -> str:
    """Return the host's DDL, from the CHECKs that differ."""
    rows = [
        "id bigint GENERATED ALWAYS AS IDENTITY",
        "user_id bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE",
        "amount_cents integer NOT NULL CHECK (amount_cents <> 0)",
        "balance_after_cents bigint",
        f"type {type_}",
        f"reference_type {reference}",
        "reference_id uuid",
        "status varchar(20) NOT NULL DEFAULT 'completed' CHECK (status IN ('pending','completed'))",
        "created_at timestamptz DEFAULT now()",
        *more,
    ]
    return (
        "CREATE TABLE users (id bigint PRIMARY KEY); INSERT INTO users VALUES (1);"
        f"{before}; CREATE TABLE {table} ({', '.join(rows)}) {tail};"
        f"{after};" + TRIGGERS.format(function="calculate_balance_after", table=table)
    )


DECORATED = """
    ALTER TABLE wallet_transactions ADD PRIMARY KEY (id);
    CREATE TABLE receipts (id bigint PRIMARY KEY, wallet_id bigint NOT NULL
        REFERENCES wallet_transactions (id) ON DELETE CASCADE);
    CREATE VIEW bonuses AS SELECT * FROM wallet_transactions WHERE type = 'deposit';
    CREATE RULE no_update AS ON UPDATE TO wallet_transactions DO INSTEAD NOTHING;
    CREATE INDEX by_type ON wallet_transactions (lower(type)) WHERE amount_cents > 0;
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER a_audit AFTER INSERT OR UPDATE ON wallet_transactions
        FOR EACH ROW EXECUTE FUNCTION audit();
    CREATE CONSTRAINT TRIGGER z_audit AFTER INSERT ON wallet_transactions
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit();
    ALTER TABLE wallet_transactions DISABLE TRIGGER a_audit;
    ALTER TABLE wallet_transactions ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON wallet_transactions USING (type = 'deposit')
"""

NOT_VALID = """
    INSERT INTO wallet_transactions (user_id, type, reference_type, amount_cents)
        VALUES (1, 'legacy', 'manual', 7);
    ALTER TABLE wallet_transactions ADD CONSTRAINT wallet_transactions_type_check
        CHECK (type IN ('deposit', 'withdrawal')) NOT VALID
"""

SHAPES = [
    Shape("no_check", wallet("text", "text"), gaps=0, refused=()),
    Shape("in_list", wallet()),
    Shape(
        "varchar_in_list",
        wallet(
            f"varchar(50) NOT NULL CHECK (type IN {TYPES})",
            f"varchar(32) CHECK (reference_type IN {REFERENCES})",
        ),
    ),
    Shape(
        "varchar_not_in_and_other_arrays",
        wallet(
            "varchar(50) CHECK (type NOT IN ('junk', 'referral_bonus', '](ARRAY[''x\"'))",
            "varchar(32) CHECK (reference_type = ANY (ARRAY['manual', 'a]b', 'c''d', 'E\\x'])"
            " OR reference_type ~ '^x:%[0-9]+$')",
        ),
    ),
    Shape(
        "any_array",
        wallet("text CHECK (type = ANY (ARRAY['deposit'::text, 'withdrawal']))"),
    ),
    Shape("char", wallet(f"char(20) CHECK (type IN {TYPES})")),
    Shape("only_type", wallet(reference="text"), gaps=1),
    Shape("only_reference", wallet("text"), gaps=1, refused=(("junk", "junk", 1),)),
    Shape(
        "several_checks_on_type",
        wallet(
            "text", "text",
            "CONSTRAINT a CHECK (type IN ('deposit', 'withdrawal', 'x'))",
            "CONSTRAINT b CHECK (type <> 'x' AND type NOT LIKE 'referral%')",
            "CONSTRAINT c CHECK (length(type) > 3 AND type ~ '^[a-z_]+$')",
        ),
        gaps=2,
        refused=(("x", None, 1), ("junk", None, 1)),
    ),
    Shape(
        "compound",
        wallet(
            "text", "text",
            "CHECK (amount_cents > 0 AND type = 'deposit' OR amount_cents < 0"
            " AND type = 'withdrawal')",
            "CHECK (type IN ('deposit', 'withdrawal') AND reference_type IN ('manual', 'order'))",
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
            "text CHECK (type IN ('deposit','withdrawal','referral_bonus','adjustment'))",
            "text CHECK (reference_type <> 'junk')",
        ),
        gaps=0,
    ),
    Shape(
        "with_adjustment_of_its_own",
        wallet("text CHECK (type IN ('deposit', 'withdrawal', 'adjustment'))"),
        accepted=(("deposit", "manual", 1), ("adjustment", "manual", -1)),
    ),
    Shape(
        "other_names_and_comments",
        wallet(
            "text", "text",
            f'CONSTRAINT "Allowed ""kinds""" CHECK (type IN {TYPES})',
            "CONSTRAINT wallet_transactions_reference_type_must_be_one_of_the_documented_ones"
            f" CHECK (reference_type IN {REFERENCES})",
            after="COMMENT ON CONSTRAINT \"Allowed \"\"kinds\"\"\" ON wallet_transactions"
            " IS 'see the wiki: ''it''s \\ complicated'"
        ),
    ),
    Shape(
        "same_prefix_of_long_names",
        wallet(
            "text", "text",
            f"CONSTRAINT wallet_transactions_type_must_be_one_of_the_documented_kinds_1"
            f" CHECK (type IN {TYPES})",
            f"CONSTRAINT wallet_transactions_type_must_be_one_of_the_documented_kinds_2"
            f" CHECK (type IN {TYPES})",
        ),
    ),
    Shape("not_valid", wallet("text", after=NOT_VALID)),
    Shape(
        "enum",
        wallet(
            "kind", "reason",
            before="CREATE TYPE kind AS ENUM ('deposit', 'withdrawal');"
            "CREATE TYPE reason AS ENUM ('manual', 'order')",
        ),
        gaps=3,
        gaps_after=0,
    ),
    Shape(
        "enum_with_check",
        wallet(
            "kind CHECK (type IN ('deposit', 'withdrawal'))", "text",
            before="CREATE TYPE kind AS ENUM ('deposit', 'withdrawal', 'junk')",
        ),
        gaps=2,
        gaps_after=1,
    ),
    Shape(
        "domain",
        wallet(
            "kind", "varchar_reason",
            before=f"CREATE DOMAIN kind AS text CONSTRAINT known CHECK (VALUE IN {TYPES}) NOT NULL;"
            f"CREATE DOMAIN varchar_reason AS varchar(40) CHECK (VALUE IN {REFERENCES})",
        ),
    ),
    Shape(
        "domain_over_domain",
        wallet(
            "kind NOT NULL CHECK (type <> 'junk')", "word",
            before="CREATE DOMAIN word AS text CHECK (length(VALUE) BETWEEN 3 AND 10);"
            f"CREATE DOMAIN kind AS word CHECK (VALUE IN {TYPES});"
            "COMMENT ON CONSTRAINT word_check ON DOMAIN word IS 'short words'",
        ),
    ),
    Shape("decorated", wallet(after=DECORATED)),
    Shape(
        "other_schema",
        wallet(table="money.wallet_transactions", before="CREATE SCHEMA money"),
        schema="money",
    ),
    Shape(
        "upper_case_schema_and_table",
        wallet(table='"My Money"."Wallet""Transactions"', before='CREATE SCHEMA "My Money"'),
        schema="My Money", table='Wallet"Transactions',
    ),
    Shape(
        "functions_and_operators_of_another_schema",
        wallet(
            "text CHECK (app.known(type) AND type OPERATOR(app.===) type)",
            before="CREATE SCHEMA app; CREATE FUNCTION app.known(text) RETURNS boolean IMMUTABLE"
            f" LANGUAGE sql AS $$ SELECT $1 IN {TYPES} $$;"
            "CREATE OPERATOR app.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq);"
            "SET search_path = public, app",
        ),
    ),
    Shape(
        "generated_column",
        wallet(
            "text", f"text CHECK (reference_type IN {REFERENCES})",
            "kind text GENERATED ALWAYS AS (upper(type)) STORED",
            "CHECK (kind IN ('DEPOSIT', 'WITHDRAWAL'))",
        ),
    ),
    Shape("collation", wallet(f'varchar(40) COLLATE "C" CHECK (type IN {TYPES})')),
    Shape(
        "whole_row_check",
        wallet(
            "text", "text",
            "CHECK (type IN ('deposit', 'withdrawal') AND (wallet_transactions.*) IS DISTINCT"
            " FROM NULL)",
        ),
        gaps=1,
    ),
    Shape(
        "partitioned",
        wallet(
            tail="PARTITION BY HASH (user_id)",
            after="".join(
                f"CREATE TABLE part_{n} PARTITION OF wallet_transactions"
                f" FOR VALUES WITH (MODULUS 2, REMAINDER {n});" for n in (0, 1)
            ),
        ),
    ),
    Shape(
        "partition_with_a_check_of_its_own",
        wallet(
            tail="PARTITION BY LIST (user_id)",
            after="CREATE TABLE part_1 PARTITION OF wallet_transactions"
            f" (CONSTRAINT mine CHECK (type IN {TYPES})) FOR VALUES IN (1)",
        ),
        gaps=3,
    ),
    Shape(
        "inherited",
        wallet(
            after="CREATE TABLE old_wallet () INHERITS (wallet_transactions);"
            "ALTER TABLE old_wallet ADD CONSTRAINT own CHECK (type IN ('withdrawal'))",
        ),
        gaps=3,
    ),
    Shape(
        "inherited_and_local",
        wallet(
            "text", "text",
            f"CONSTRAINT kinds CHECK (type IN {TYPES})",
            after=f"CREATE TABLE old_wallet (CONSTRAINT kinds CHECK (type IN {TYPES}))"
            " INHERITS (wallet_transactions)",
        ),
    ),
    Shape(
        "no_inherit",
        wallet(
            "text", "text",
            f"CONSTRAINT kinds CHECK (type IN {TYPES}) NO INHERIT",
            after="CREATE TABLE old_wallet () INHERITS (wallet_transactions)",
        ),
        gaps=1,
    ),
    Shape(
        "not_enforced",
        wallet("text", "text", f"CHECK (type IN {TYPES}) NOT ENFORCED"),
        gaps=0, refused=(),
    ),
]  # fmt: skip

MakeDatabase = t.Callable[[Shape], Database]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_round_trip(shape: Shape, postgresql: MakeDatabase) -> None:
    check_round_trip(postgresql(shape))


OTHER_DRIVER = ("varchar_not_in_and_other_arrays", "compound", "not_valid", "enum", "domain")


@pytest.mark.parametrize("name", OTHER_DRIVER)
def test_round_trip_with_psycopg_3(name: str, postgresql: MakeDatabase) -> None:
    [shape] = [shape for shape in SHAPES if shape.name == name]
    database = postgresql(shape)
    url = database.engine.url.set(drivername="postgresql+psycopg")
    database.engine = sa.create_engine(url, poolclass=sa.NullPool)
    check_round_trip(database)


def test_a_rule_that_only_asks_for_a_reference_is_left_alone(postgresql: MakeDatabase) -> None:
    rule = "CHECK ((reference_type IS NULL) = (reference_id IS NULL))"
    database = postgresql(Shape("reference", wallet("text", "text", rule)))
    assert database.gaps() == []
    before = database.dump()
    database.extend()
    assert database.dump() == before
