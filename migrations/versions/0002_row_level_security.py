"""Row level security (PostgreSQL; nothing to do on SQLite).

Revision: 0002
Follows: 0001

The same SQL runs online and in the printed script: whether the database is a Supabase one is
asked by the SQL itself.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_referral.schema import frozen

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("referral_codes", "referral_clicks", "referral_conversions")
#: policy, table, command, clause, column that holds the identity
POLICIES = (
    ("referral_codes_select_own", "referral_codes", "SELECT", "USING", "user_id"),
    ("referral_codes_insert_own", "referral_codes", "INSERT", "WITH CHECK", "user_id"),
    ("referral_clicks_select_own", "referral_clicks", "SELECT", "USING", "referrer_user_id"),
    (
        "referral_conversions_select_own",
        "referral_conversions",
        "SELECT",
        "USING",
        "referrer_user_id",
    ),
)
ON_SUPABASE = (
    "pg_catalog.to_regprocedure('auth.uid()') IS NOT NULL AND (SELECT count(*) FROM pg_roles "
    "WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3"
)
SUPABASE_IDENTITY = "(SELECT auth.uid())"


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        frozen.patiently(op.get_context(), _secure, *_tables())


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        frozen.patiently(op.get_context(), _open, *_tables())


def _secure() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {_name(table)} ENABLE ROW LEVEL SECURITY")
    key_type = _key_type()
    identity = (
        "(SELECT nullif(nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb "
        f"OPERATOR(pg_catalog.->>) 'sub', '')::{key_type})"
    )
    plain = [_policy(identity, *policy) for policy in POLICIES]
    if key_type == "UUID":
        supabase = [_policy(SUPABASE_IDENTITY, *policy) for policy in POLICIES]
        _do(
            "IF pg_catalog.to_regprocedure('auth.uid()') IS NOT NULL THEN\n"
            + "".join(f"    {sql};\n" for sql in supabase)
            + "ELSE\n"
            + "".join(f"    {sql};\n" for sql in plain)
            + "END IF;"
        )
    else:
        for sql in plain:
            op.execute(sa.text(sql.replace(":", r"\:")))
    _do(_supabase_grants())


def _open() -> None:
    for name, table, *_ in POLICIES:
        op.execute(f"DROP POLICY {name} ON {_name(table)}")
    for table in TABLES:
        op.execute(f"ALTER TABLE {_name(table)} DISABLE ROW LEVEL SECURITY")
    # Without the policies, what Supabase's users were granted would show them every row.
    _do(
        f"IF {ON_SUPABASE} THEN\n"
        f"    REVOKE ALL ON {', '.join(map(_name, TABLES))} FROM authenticated;\n"
        "END IF;"
    )


def _policy(identity: str, name: str, table: str, command: str, clause: str, column: str) -> str:
    return f"CREATE POLICY {name} ON {_name(table)} FOR {command} {clause} ({column} = {identity})"


def _supabase_grants() -> str:
    # Supabase grants everything in "public" to its API roles; policies do not cover TRUNCATE,
    # and the version table has none.
    tables = ", ".join(map(_name, TABLES))
    version = _name("referral_alembic_version")
    return (
        f"IF {ON_SUPABASE} THEN\n"
        f"    REVOKE ALL ON {tables}, {version} FROM anon, authenticated;\n"
        f"    GRANT SELECT ON {tables} TO authenticated;\n"
        f"    GRANT INSERT ON {_name('referral_codes')} TO authenticated;\n"
        f"    GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO service_role;\n"
        "END IF;"
    )


def _do(body: str) -> None:
    # exec_driver_sql would take "%" for a parameter; op.execute takes ":" for one.
    op.execute(sa.text(f"DO $referral$ BEGIN\n{body}\nEND $referral$".replace(":", r"\:")))


def _key_type() -> str:
    key_type = frozen.user_key().type
    ddl = key_type.compile(op.get_context().dialect)
    # Without its length: a cast to varchar(n) cuts a longer claim to what may be another user's
    # id. A bare "char" is one character; bpchar is the type without a limit.
    name = ddl.partition("(")[0].partition(" COLLATE ")[0]
    return "bpchar" if name == "CHAR" else name


def _tables() -> list[sa.Table]:
    return [sa.Table(name, sa.MetaData(), schema=frozen.schema()) for name in TABLES]


def _name(table: str) -> str:
    schema = frozen.schema()
    quote = op.get_context().dialect.identifier_preparer.quote
    return f"{quote(schema)}.{quote(table)}" if schema else quote(table)
