"""Codes: what one is, that it is given once, and which columns users may read and choose.

Revision: 0005
Follows: 0004

The database itself keeps ``referral_issued_codes``, so that whoever inserts into
``referral_codes`` directly (row level security lets users) can take no code that was ever given.
A CHECK that rows of before break is left NOT VALID, which holds for new rows; ``flask referral
doctor`` names them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_referral.schema import frozen

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CODES, CLICKS = "referral_codes", "referral_clicks"
CONVERSIONS, REWARDS = "referral_conversions", "referral_rewards"
ISSUED = "referral_issued_codes"
FUNCTION = "referral_keep_issued_codes"
FORM = "code COLLATE \"C\" OPERATOR(pg_catalog.~) '^[A-Z0-9]{3,32}$'"
#: What every program can hold, PostgreSQL's own years going from 4713 BC to 294276.
FIRST, LAST = "'0001-01-02 00:00:00+00'", "'9999-12-30 00:00:00+00'"
#: table, column
DATES = ((CODES, "created_at"), (CLICKS, "clicked_at"), (CLICKS, "bound_at"))
#: What Supabase's users may read, each of the rows that the policies show: nothing personal of
#: visitors, and not who bought what.
READABLE = {
    CODES: "id, user_id, code, created_at",
    CLICKS: "id, referral_code, referrer_user_id, clicked_at, bound_at",
    CONVERSIONS: "id, referrer_user_id, referral_code, bonus_cents, converted_at",
    REWARDS: "id, conversion_id, user_id, role, number, cents, reversed_cents, shortfall_cents, "
    "status, available_at, credited_at, created_at, campaign, click_id",
    ISSUED: "code, user_id, issued_at, is_current",
}
KEEP = f"""CREATE FUNCTION {{function}}() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = '' AS $referral$
DECLARE
    issued text := pg_catalog.format('%I.{ISSUED}', TG_TABLE_SCHEMA);
    known boolean;
BEGIN
    IF TG_WHEN = 'BEFORE' THEN
        EXECUTE 'SELECT EXISTS (SELECT 1 FROM ' || issued || ' WHERE code = $1)'
        INTO known USING NEW.code;
        RETURN CASE WHEN known THEN NULL ELSE NEW END;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        EXECUTE 'UPDATE ' || issued || ' SET user_id = NULL, is_current = false '
            'WHERE user_id = $1' USING OLD.user_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE 'INSERT INTO ' || issued || ' (code, user_id) VALUES ($1, $2)'
        USING NEW.code, NEW.user_id;
    END IF;
    RETURN NULL;
END $referral$"""
ON_SUPABASE = (
    "pg_catalog.to_regprocedure('auth.uid()') IS NOT NULL AND (SELECT count(*) FROM pg_roles "
    "WHERE rolname IN ('anon', 'authenticated', 'service_role')) = 3"
)
RETIRE = f"UPDATE {ISSUED} SET user_id = NULL, is_current = 0 WHERE user_id = OLD.user_id"
LIST = f"INSERT INTO {ISSUED} (code, user_id) VALUES (NEW.code, NEW.user_id)"
NO_CODE = "NEW.code GLOB '*[^A-Z0-9]*' OR length(NEW.code) NOT BETWEEN 3 AND 32"
#: name, event, WHEN, body
SQLITE_TRIGGERS = (
    (
        "referral_codes_form",
        "BEFORE INSERT",
        NO_CODE,
        "SELECT RAISE(ABORT, 'CHECK constraint failed: referral_codes_code_check')",
    ),
    (
        "referral_codes_form_kept",
        "BEFORE UPDATE OF code",
        NO_CODE,
        "SELECT RAISE(ABORT, 'CHECK constraint failed: referral_codes_code_check')",
    ),
    (
        "referral_codes_issued",
        "BEFORE INSERT",
        f"EXISTS (SELECT 1 FROM {ISSUED} WHERE code = NEW.code)",
        "SELECT RAISE(IGNORE)",
    ),
    ("referral_codes_listed", "AFTER INSERT", None, LIST),
    ("referral_codes_changed", "AFTER UPDATE OF code", None, f"{RETIRE}; {LIST}"),
    ("referral_codes_retired", "AFTER DELETE", None, RETIRE),
)


def upgrade() -> None:
    frozen.patiently(op.get_context(), _upgrade, *_locked())


def check_downgrade() -> None:
    frozen.refuse_references(op.get_bind(), (ISSUED,))


def downgrade() -> None:
    frozen.patiently(op.get_context(), _downgrade, *_locked())


def _locked() -> list[sa.Table]:
    ours = [sa.Table(name, sa.MetaData(), schema=frozen.schema()) for name in (CODES, CLICKS)]
    return [*ours, frozen.user_key().table]


def _upgrade() -> None:
    if ISSUED not in _there():
        _create_issued()
    if _is_postgresql():
        for table, column in DATES:
            _hold(table, column)
        _check(CODES, "code", FORM)
    op.execute(
        f"INSERT INTO {_name(ISSUED)} (code, user_id, issued_at) "
        f"SELECT code, user_id, created_at FROM {_name(CODES)} WHERE true ON CONFLICT DO NOTHING"
    )
    if _is_postgresql():
        _keep()
        op.execute(f"ALTER TABLE {_name(ISSUED)} ENABLE ROW LEVEL SECURITY")
        _policy()
        _do(f"IF {ON_SUPABASE} THEN\n{_rights()}END IF;")
    else:
        for name, event, when, body in SQLITE_TRIGGERS:
            # A trigger lives in the schema of its table, and names tables without one.
            op.execute(
                f"CREATE TRIGGER {_name(name)} {event} ON {CODES} "
                f"{f'WHEN {when} ' if when else ''}BEGIN {body}; END"
            )


def _downgrade() -> None:
    if _is_postgresql():
        for suffix in ("given", "kept"):
            op.execute(f"DROP TRIGGER {CODES}_{suffix} ON {_name(CODES)}")
        op.execute(f"DROP FUNCTION {_name(FUNCTION)}()")
        for table, column in (*DATES, (CODES, "code")):
            op.execute(f"ALTER TABLE {_name(table)} DROP CONSTRAINT {table}_{column}_check")
        _do(f"IF {ON_SUPABASE} THEN\n{_wide_rights()}END IF;")
    else:
        for name, *_ in SQLITE_TRIGGERS:
            op.execute(f"DROP TRIGGER IF EXISTS {_name(name)}")
    op.drop_index(op.f(f"idx_{ISSUED}_user_id"), ISSUED, schema=frozen.schema())
    op.drop_table(ISSUED, schema=frozen.schema())


def _there() -> set[str]:
    """Return the tables that exist: a host's own history or ``create_all()`` makes it as well."""
    if op.get_context().as_sql:
        return set()
    return set(sa.inspect(op.get_bind()).get_table_names(schema=frozen.schema()))


def _create_issued() -> None:
    user_key, schema = frozen.user_key(), frozen.schema()
    now = sa.text("pg_catalog.now()" if _is_postgresql() else "CURRENT_TIMESTAMP")
    op.create_table(
        ISSUED,
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("user_id", user_key.type),
        sa.Column("issued_at", sa.DateTime(timezone=True), server_default=now),
        sa.Column("is_current", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f(f"{ISSUED}_pkey")),
        sa.ForeignKeyConstraint(
            ["user_id"], [user_key], name=op.f(f"{ISSUED}_user_id_fkey"), ondelete="SET NULL"
        ),
        schema=schema,
    )
    op.create_index(op.f(f"idx_{ISSUED}_user_id"), ISSUED, ["user_id"], schema=schema)


def _hold(table: str, column: str) -> None:
    """Move dates that no program can hold to the nearest that it can, and refuse new ones."""
    op.execute(
        sa.text(
            f"UPDATE {_name(table)} SET {column} = greatest({FIRST}, least({column}, {LAST})) "
            f"WHERE {column} < {FIRST} OR {column} > {LAST}".replace(":", r"\:")
        )
    )
    _check(table, column, f"{column} >= {FIRST} AND {column} <= {LAST}")


def _check(table: str, column: str, rule: str) -> None:
    name = f"{table}_{column}_check"
    _do(
        f"ALTER TABLE {_name(table)} ADD CONSTRAINT {name} CHECK ({rule}) NOT VALID;\n"
        f"IF NOT EXISTS (SELECT 1 FROM {_name(table)} WHERE NOT ({rule})) THEN\n"
        f"    ALTER TABLE {_name(table)} VALIDATE CONSTRAINT {name};\n"
        "END IF;"
    )


def _keep() -> None:
    function = _name(FUNCTION)
    op.execute(sa.text(KEEP.format(function=function).replace(":", r"\:")))
    op.execute(f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC")
    for suffix, event in (
        ("given", "BEFORE INSERT"),
        ("kept", "AFTER INSERT OR DELETE OR UPDATE OF code"),
    ):
        op.execute(
            f"CREATE TRIGGER {CODES}_{suffix} {event} ON {_name(CODES)} "
            f"FOR EACH ROW EXECUTE FUNCTION {function}()"
        )


def _policy() -> None:
    """Let users see their own: by the identity that revision 0002 chose for this database."""
    op.execute(
        sa.text(
            "DO $referral$ DECLARE identity text; BEGIN\n"
            "SELECT '(' || pg_catalog.pg_get_expr(polqual, polrelid) || ')' INTO STRICT identity\n"
            f"FROM pg_policy WHERE polrelid = '{_name(CONVERSIONS)}'::regclass::oid\n"
            f"AND polname = '{CONVERSIONS}_select_own';\n"
            f"EXECUTE 'CREATE POLICY {ISSUED}_select_own ON {_name(ISSUED)} FOR SELECT USING ' "
            "|| pg_catalog.replace(identity, 'referrer_user_id', 'user_id');\n"
            "END $referral$".replace(":", r"\:")
        )
    )


def _rights() -> str:
    sql = f"    REVOKE ALL ON {', '.join(map(_name, READABLE))} FROM authenticated;\n"
    for table, columns in READABLE.items():
        sql += f"    GRANT SELECT ({columns}) ON {_name(table)} TO authenticated;\n"
    return (
        f"{sql}    GRANT INSERT (user_id, code) ON {_name(CODES)} TO authenticated;\n"
        f"    REVOKE ALL ON {_name(ISSUED)} FROM anon;\n"
        f"    GRANT SELECT, INSERT, UPDATE, DELETE ON {_name(ISSUED)} TO service_role;\n"
    )


def _wide_rights() -> str:
    tables = ", ".join(_name(table) for table in READABLE if table != ISSUED)
    return (
        f"    REVOKE ALL ON {tables} FROM authenticated;\n"
        f"    GRANT SELECT ON {tables} TO authenticated;\n"
        f"    GRANT INSERT ON {_name(CODES)} TO authenticated;\n"
    )


def _do(body: str) -> None:
    # exec_driver_sql would take "%" for a parameter; op.execute takes ":" for one.
    op.execute(sa.text(f"DO $referral$ BEGIN\n{body}\nEND $referral$".replace(":", r"\:")))


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _name(name: str) -> str:
    schema = frozen.schema()
    quote = op.get_context().dialect.identifier_preparer.quote
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)
