"""Whether row level security binds those whom it should, and only those (PostgreSQL)."""

from __future__ import annotations

import typing as t

import sqlalchemy as sa

from ..db.models import VERSION_TABLE
from ..db.sql import sqlstate
from ..rls.grants import USER_TABLES
from .findings import Check
from .findings import fault
from .findings import Finding
from .findings import ok
from .findings import Patient
from .findings import warning

#: The policies of the shipped revisions, by table.
POLICIES = {
    "referral_codes": ("referral_codes_select_own", "referral_codes_insert_own"),
    "referral_clicks": ("referral_clicks_select_own",),
    "referral_conversions": ("referral_conversions_select_own",),
    "referral_rewards": ("referral_rewards_select_own",),
    "referral_issued_codes": ("referral_issued_codes_select_own",),
    "referral_daily": ("referral_daily_select_own",),
    "referral_daily_sources": ("referral_daily_sources_select_own",),
}
_MAKE_AGAIN = (
    "As the tables' owner, run its statement again; flask referral db upgrade --sql prints it."
)
_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")

_TABLES = sa.text(
    """
    SELECT c.relname AS name, c.oid, n.nspname AS schema,
           pg_catalog.pg_get_userbyid(c.relowner) AS owner,
           c.relrowsecurity AS secured, pg_catalog.row_security_active(c.oid) AS binds_login,
           ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid) AS policies
    FROM pg_catalog.unnest(CAST(:names AS text[])) AS wanted (name)
    JOIN pg_class AS c ON c.oid = CAST(pg_catalog.to_regclass(wanted.name) AS oid)
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    ORDER BY c.relname
    """
)
_ROLE = sa.text(
    """
    SELECT rolsuper, rolbypassrls,
           ARRAY(SELECT owner FROM pg_catalog.unnest(CAST(:owners AS text[])) AS owner
                 WHERE pg_catalog.pg_has_role(rolname, owner, 'MEMBER')) AS owned
    FROM pg_roles WHERE rolname = :role
    """
)
# Policies that show a role every row. polcmd "*" is for all commands, "r" for SELECT.
_WIDE = sa.text(
    """
    SELECT p.polname AS name, p.polrelid AS oid, p.polcmd::text AS command
    FROM pg_policy AS p
    WHERE p.polrelid = ANY(CAST(:oids AS oid[])) AND p.polpermissive
      AND p.polcmd IN ('*', 'r') AND pg_catalog.pg_get_expr(p.polqual, p.polrelid) = 'true'
      AND EXISTS (SELECT 1 FROM pg_catalog.unnest(p.polroles) AS member
                  WHERE member = '0' OR pg_catalog.pg_has_role(:role, member, 'USAGE'))
    """
)
_LACKING = sa.text(
    """
    SELECT c.relname AS name, wanted
    FROM pg_catalog.unnest(CAST(:oids AS oid[])) AS given (oid)
    JOIN pg_class AS c ON c.oid = given.oid
    CROSS JOIN pg_catalog.unnest(CAST(:rights AS text[])) AS wanted
    WHERE NOT pg_catalog.has_schema_privilege(:role, c.relnamespace, 'USAGE')
       OR NOT CASE WHEN :whole THEN pg_catalog.has_table_privilege(:role, c.oid, wanted)
                   ELSE pg_catalog.has_any_column_privilege(:role, c.oid, wanted) END
    """
)


def in_place(patient: Patient) -> t.Iterator[Finding]:
    """Whether the tables are secured and have their policies."""
    if not _on_postgresql(patient):
        if patient.state.settings.rls_role is None:
            yield ok("Row level security does not exist on SQLite.")
        else:
            yield warning(
                "REFERRAL_RLS_ROLE has no effect on SQLite, and acting_as() raises an error.",
                "Remove it from the configuration, or use PostgreSQL.",
            )
        return
    with patient.connect() as connection:
        for table in _tables(patient, connection, patient.state.models.table_names):
            if not table.secured:
                yield fault(
                    f"Row level security is switched off on {table.name}, so its policies bind "
                    "nobody.",
                    f"As the tables' owner, run ALTER TABLE {table.schema}.{table.name} ENABLE "
                    "ROW LEVEL SECURITY.",
                )
            for policy in POLICIES.get(table.name, ()):
                if policy not in table.policies:
                    yield fault(f"The policy {policy} of {table.name} is missing.", _MAKE_AGAIN)


def role(patient: Patient) -> t.Iterator[Finding]:
    """Whether REFERRAL_RLS_ROLE can be taken, and is bound by the policies."""
    name = patient.state.settings.rls_role
    if name is None:
        yield warning(
            "Row level security is not in force for what the application reads: "
            "REFERRAL_RLS_ROLE is not set.",
            "Run flask referral rls grant --user-role ROLE and set REFERRAL_RLS_ROLE to that role.",
        )
        return
    with patient.connect() as connection:
        yield from _role(patient, connection, name)


def _role(patient: Patient, connection: sa.Connection, name: str) -> t.Iterator[Finding]:
    tables = _tables(patient, connection, patient.state.models.table_names)
    owners = sorted({table.owner for table in tables})
    found = connection.execute(_ROLE, {"role": name, "owners": owners}).one_or_none()
    grant = f"Run flask referral rls grant --user-role {name} as the tables' owner."
    if found is None:
        yield fault(
            f"The role {name!r} of REFERRAL_RLS_ROLE does not exist.",
            f"Make it with CREATE ROLE {_quote(connection, name)} NOLOGIN. {grant}",
        )
        return
    above = None
    if found.rolsuper:
        above = "is a superuser"
    elif found.rolbypassrls:
        above = "has BYPASSRLS"
    elif found.owned:
        above = f"has the rights of the tables' owner {found.owned[0]!r}"
    if above is not None:
        yield fault(
            f"The role {name!r} of REFERRAL_RLS_ROLE {above}, so no policy binds it and each user "
            "sees everybody's rows.",
            "Set REFERRAL_RLS_ROLE to an ordinary role, as made by CREATE ROLE referral_user "
            "NOLOGIN, and run flask referral rls grant --user-role referral_user.",
        )
        return
    oids = [table.oid for table in tables]
    for policy in connection.execute(_WIDE, {"oids": oids, "role": name}):
        table = next(table.name for table in tables if table.oid == policy.oid)
        yield fault(
            f"The policy {policy.name} of {table} shows all rows to the role {name!r} of "
            "REFERRAL_RLS_ROLE, so each user sees everybody's.",
            f"Take the policy, or the role that it is for, away from {name!r}.",
        )
    readable = [table.oid for table in tables if table.name in USER_TABLES]
    if _lacks(connection, readable, name, ["SELECT"], whole=False):
        yield fault(
            f"The role {name!r} of REFERRAL_RLS_ROLE may not read the referral tables.", grant
        )
    try:
        take = sa.text("SELECT pg_catalog.set_config('role', :role, true)")
        connection.execute(take, {"role": name})
    except sa.exc.DBAPIError as error:
        # insufficient_privilege, invalid_parameter_value
        if sqlstate(error) not in ("42501", "22023"):
            raise
        yield fault(
            f"The application's login may not take the role {name!r} of REFERRAL_RLS_ROLE.", grant
        )


def login(patient: Patient) -> t.Iterator[Finding]:
    """Whether the application itself sees and writes all rows."""
    with patient.connect() as connection:
        tables = _tables(patient, connection, patient.state.models.table_names)
        version = _tables(patient, connection, [VERSION_TABLE])
        name = connection.scalar(sa.text("SELECT current_user"))
        oids = [table.oid for table in tables]
        wide = connection.execute(_WIDE, {"oids": oids, "role": name}).all()
        open_tables = {policy.oid for policy in wide if policy.command == "*"}
        hidden = [
            table.name for table in tables if table.binds_login and table.oid not in open_tables
        ]
        lacking = [
            *_lacks(connection, oids, name, list(_RIGHTS)),
            *_lacks(connection, [table.oid for table in version], name, ["SELECT"]),
        ]
    if not tables:
        yield ok("There are no referral tables yet that the application's login could work on.")
    cure = (
        f"Run flask referral rls grant --user-role ROLE --service-role {name} as the tables' owner."
    )
    if hidden:
        yield fault(
            f"The application connects as {name!r}, which row level security binds on "
            f"{', '.join(hidden)} without a policy for it: it sees none of the rows and can "
            "write none.",
            cure,
        )
    if lacking:
        yield fault(
            f"The application connects as {name!r}, which has not all the rights that it needs: "
            f"{', '.join(lacking)}.",
            cure,
        )


def _tables(
    patient: Patient, connection: sa.Connection, names: t.Iterable[str]
) -> t.Sequence[t.Any]:
    prefix = f"{_quote(connection, patient.schema)}." if patient.schema else ""
    return connection.execute(_TABLES, {"names": [prefix + name for name in names]}).all()


def _lacks(
    connection: sa.Connection, oids: list[int], role: str, rights: list[str], *, whole: bool = True
) -> dict[str, None]:
    """Return the rights that a role lacks on tables.

    :param whole: whether those on some columns are too little.
    """
    values = {"oids": oids, "role": role, "rights": rights, "whole": whole}
    rows = connection.execute(_LACKING, values)
    return dict.fromkeys(f"{row.wanted} on {row.name}" for row in rows)


def _quote(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)


def _on_postgresql(patient: Patient) -> bool:
    return patient.dialect == "postgresql"


_NEEDS = ("database", "migrations")
CHECKS = (
    Check("row-security", in_place, "The referral tables are under row level security.", _NEEDS),
    Check(
        "row-security-role",
        role,
        "REFERRAL_RLS_ROLE can be taken, and sees each user's own rows only.",
        _NEEDS,
        _on_postgresql,
    ),
    Check(
        "database-login",
        login,
        "The application's login may work on all rows.",
        # Without its rights it cannot even read how far the migrations are.
        ("database",),
        _on_postgresql,
    ),
)
