"""Wallet constraints: the host's wallet takes bonuses and their reversals.

Revision: 0003
Follows: 0002

On PostgreSQL this commits what ran before it, once nothing speaks against it any more: a live
table may be locked for moments only. The printed script, which cannot look at the table, writes
the documented lists.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_referral.schema import frozen

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ROWS = frozen.WalletRows(
    kinds=(("referral_bonus", 1), ("adjustment", -1), ("adjustment", 1)),
    reference_type="referral_conversion",
    own_types=("referral_bonus",),
)
#: What the documentation has hosts allow, by column; for the printed script.
DOCUMENTED = {
    "type": ("deal_payment", "affiliate_commission", "referral_bonus", "withdrawal", "adjustment"),
    "reference_type": ("deal_enrollment", "affiliate_conversion", "referral_conversion", "manual"),
}
NEW = ("referral_bonus", "referral_conversion")
#: Refuses to replace a CHECK that says more than the documented list. It is read as
#: pg_get_constraintdef prints it: without texts, casts, brackets and blanks what is left has to
#: be comparisons of the column, joined by OR; what is more than that is not understood.
RULES = r"""DO $referral$
DECLARE
    rule text := (
        SELECT pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint
        WHERE conrelid = CAST(pg_catalog.to_regclass('{table}') AS oid) AND conname = '{constraint}'
    );
    others text := (
        SELECT pg_catalog.string_agg(DISTINCT texts.one[1], ', ')
        FROM pg_catalog.regexp_matches(rule, '''((?:[^'']|'''')*)''', 'g') AS texts(one)
        WHERE texts.one[1] <> ALL (ARRAY[{documented}])
    );
    form text := pg_catalog.regexp_replace(rule, '''(?:[^'']|'''')*''', '?', 'g');
    problem text;
BEGIN
    form := pg_catalog.regexp_replace(
        form, '::(text|character varying|bpchar)(\(\d+\))?(\[\])?', '', 'g'
    );
    form := pg_catalog.regexp_replace(form, '[() ]', '', 'g');
    IF form !~ '^CHECK{term}(OR{term})*(NOTVALID)?$' THEN
        problem := 'is more than a list of values';
    ELSIF others IS NOT NULL THEN
        problem := 'allows ' || others;
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = 'the CHECK {constraint} of {table} ' || problem
            || ', which this script would drop; {cure}';
    END IF;
END $referral$"""
#: What a rule may say of a column.
TERM = r"{column}(=\?|=ANYARRAY\[\?(,\?)*\]|ISNULL)"
CURE = (
    "run flask referral db upgrade or downgrade on the database itself, which keeps the rules "
    "that are there"
)


def check() -> None:
    wallet = frozen.wallet_table()
    if wallet is not None:
        frozen.check_wallet(op.get_bind(), ROWS, wallet.name, wallet.schema)


def upgrade() -> None:
    wallet = frozen.wallet_table()
    context = op.get_context()
    if wallet is None:
        return
    if context.as_sql:
        _write_lists()
    else:
        frozen.extend_wallet(context, ROWS, wallet.name, wallet.schema)


def downgrade() -> None:
    wallet = frozen.wallet_table()
    context = op.get_context()
    if wallet is None:
        return
    if context.as_sql:
        _write_lists(without=NEW)
    else:
        frozen.restore_wallet(context, ROWS, wallet.name, wallet.schema)


def _write_lists(without: tuple[str, ...] = ()) -> None:
    context = op.get_context()
    table = context.dialect.identifier_preparer.format_table(frozen.wallet_table())
    lists = {
        column: ", ".join(_literal(value) for value in values if value not in without)
        for column, values in DOCUMENTED.items()
    }
    with context.autocommit_block():
        # Before anything is changed: VALIDATE comes too late to keep the rule that was there.
        for column, listed in lists.items():
            _refuse_rules(table, column)
            _refuse_others(table, column, listed)
        for column, listed in lists.items():
            constraint = f"wallet_transactions_{column}_check"
            _gently(
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint},"
                f" ADD CONSTRAINT {constraint} CHECK ({column} IN ({listed})) NOT VALID"
            )
            _gently(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def _refuse_others(table: str, column: str, listed: str) -> None:
    message = f"{table} has rows whose {column} is not one of the documented values; {CURE}"
    op.execute(
        f"DO $referral$ BEGIN IF EXISTS (SELECT FROM {table} WHERE {column} NOT IN ({listed})) THEN"
        f" RAISE EXCEPTION USING MESSAGE = {_literal(message)}; END IF; END $referral$"
    )


def _refuse_rules(table: str, column: str) -> None:
    rules = RULES.format(
        table=table.replace("'", "''"),
        constraint=f"wallet_transactions_{column}_check",
        documented=", ".join(map(_literal, DOCUMENTED[column])),
        term=TERM.format(column=column),
        cure=CURE,
    )
    op.execute(sa.text(rules.replace(":", r"\:")))


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _gently(statement: str) -> None:
    # A script cannot try again, but it does not make everybody wait behind it either.
    for each in ("BEGIN", "SET LOCAL lock_timeout = 5000", statement, "COMMIT"):
        op.execute(each)
