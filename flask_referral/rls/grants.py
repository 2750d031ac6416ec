"""The rights that row level security asks of the database (PostgreSQL).

A user's role reads the tables under the policies; the application's own login, where that is not
the owner, works on all rows through a policy of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import typing as t

import sqlalchemy as sa

from ..db.models import VERSION_TABLE
from ..db.sql import IDENTIFIERS
from ..db.sql import sqlstate
from ..errors import GrantRefused
from ..schema import ddl_locks

if t.TYPE_CHECKING:
    from ..db.models import Models
#: What users read, each their own rows: the columns that a referrer's page shows. Of visitors
#: nothing personal, and not who bought what.
READABLE = {
    "referral_codes": ("id", "user_id", "code", "created_at"),
    "referral_clicks": (
        *("id", "referral_code", "referrer_user_id", "clicked_at", "bound_at", "source"),
    ),
    "referral_conversions": (
        *("id", "referrer_user_id", "referral_code", "bonus_cents", "converted_at"),
    ),
    "referral_rewards": (
        *("id", "conversion_id", "user_id", "role", "number", "cents", "reversed_cents"),
        *("shortfall_cents", "status", "available_at", "credited_at", "created_at", "campaign"),
        *("source", "click_id"),
    ),
    "referral_issued_codes": ("code", "user_id", "issued_at", "is_current"),
    "referral_daily": ("referrer_user_id", "day", "clicks"),
    "referral_daily_sources": ("referrer_user_id", "day", "source", "clicks"),
}
USER_TABLES = tuple(READABLE)
#: What the application works on; users have nothing on those that are not in USER_TABLES.
SERVICE_TABLES = (
    *USER_TABLES,
    *("referral_events", "referral_disabled", "referral_outbox"),
)
#: On each of SERVICE_TABLES: all rows for the application's login.
SERVICE_POLICY = "referral_service"

_TABLES = sa.text(
    """
    SELECT wanted.name, c.oid, n.nspname AS schema, c.relrowsecurity AS secured,
           pg_catalog.pg_get_userbyid(c.relowner) AS owner,
           pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_ours,
           ARRAY(SELECT CASE WHEN role.oid = '0' THEN 'public'
                             ELSE CAST(pg_catalog.pg_get_userbyid(role.oid) AS text) END
                 FROM pg_policy AS policy, pg_catalog.unnest(policy.polroles) AS role (oid)
                 WHERE policy.polrelid = c.oid AND policy.polname = :policy
                 ORDER BY 1) AS service_roles
    FROM pg_catalog.unnest(CAST(:names AS text[])) WITH ORDINALITY AS wanted (name, position)
    LEFT JOIN pg_class AS c ON c.oid = CAST(pg_catalog.to_regclass(wanted.name) AS oid)
    LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
    ORDER BY wanted.position
    """
)
_ROLE = sa.text("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = :role")
_IS_MEMBER = sa.text("SELECT pg_catalog.pg_has_role(:member, :role, 'MEMBER')")


@dataclasses.dataclass(frozen=True)
class Grants:
    """What :func:`grant` did."""

    user_role: str
    service_role: str | None
    #: The SQL that was executed. What needs no repetition is left out.
    statements: tuple[str, ...]


def grant(
    connection: sa.Connection, models: Models, user_role: str, service_role: str | None = None
) -> Grants:
    """Give two roles what :func:`flask_referral.rls.acting_as` and the application need.

    May be repeated; never commits.

    :param connection: of the tables' owner, in a transaction.
    :param user_role: reads the rows that the policies show; ``REFERRAL_RLS_ROLE``.
    :param service_role: the application's login, where that is not the tables' owner.
    :raises GrantRefused: where this cannot be done or would show users the rows of others.
    """
    if connection.dialect.name != "postgresql":
        raise GrantRefused(
            f"Row level security needs PostgreSQL, and this database is "
            f"{connection.dialect.name!r}; there is nothing to grant."
        )
    return _Granting(connection, models, user_role, service_role).run()


class _Granting:
    def __init__(
        self, connection: sa.Connection, models: Models, user_role: str, service_role: str | None
    ) -> None:
        self.connection = connection
        self.user_role = user_role
        self.service_role = service_role
        self.quote = IDENTIFIERS.quote
        self.statements: list[str] = []
        schema = models.metadata.schema
        prefix = f"{self.quote(schema)}." if schema else ""
        names = [prefix + self.quote(name) for name in (*SERVICE_TABLES, VERSION_TABLE)]
        parameters = {"names": names, "policy": SERVICE_POLICY}
        *self.tables, self.version = connection.execute(_TABLES, parameters).all()
        self.user_tables = names[: len(USER_TABLES)]

    def run(self) -> Grants:
        self.check_tables()
        self.check_roles()
        user = self.quote(self.user_role)
        self.grant_usage(self.user_role)
        # Also what a host granted on whole tables.
        self.execute(f"REVOKE SELECT ON {', '.join(self.user_tables)} FROM {user}")
        for table, columns in zip(self.user_tables, READABLE.values(), strict=True):
            self.execute(f"GRANT SELECT ({', '.join(columns)}) ON {table} TO {user}")
        self.grant_membership(self.login, self.user_role)
        if self.service_role is not None:
            service = self.quote(self.service_role)
            names = ", ".join(table.name for table in self.tables)
            self.grant_usage(self.service_role)
            self.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {names} TO {service}")
            self.execute(f"GRANT SELECT ON {self.version.name} TO {service}")
            self.grant_membership(self.service_role, self.user_role)
            self.open_tables(self.service_role)
        return Grants(self.user_role, self.service_role, tuple(self.statements))

    def check_tables(self) -> None:
        for table in (*self.tables, self.version):
            if table.oid is None:
                raise GrantRefused(
                    f"Table {table.name} does not exist yet; run `flask referral db upgrade` first."
                )
            if not table.is_ours:
                raise GrantRefused(
                    f"Table {table.name} belongs to {table.owner!r}, and this is {self.login!r}; "
                    "run the command with the owner's SQLALCHEMY_DATABASE_URI."
                )
        for table in self.tables:
            if not table.secured:
                raise GrantRefused(
                    f"Table {table.name} is without row level security; run `flask referral db "
                    "upgrade` first, or where somebody switched it off: "
                    f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY;"
                )

    def check_roles(self) -> None:
        user, service = self.user_role, self.service_role
        if user == service:
            raise GrantRefused(
                f"--user-role and --service-role are both {user!r}, and the service role sees all "
                f"rows; make a role for the users: {self.create_role('referral_user')}"
            )
        bypass = self.bypass(user, "--user-role")
        owners = {table.owner for table in (*self.tables, self.version)}
        if bypass is None and any(self.is_member(user, owner) for owner in owners):
            bypass = "the rights of the tables' owner"
        if bypass is not None:
            raise GrantRefused(
                f"--user-role {user!r} has {bypass}, so no policy binds it; name an ordinary "
                f"role, as made by: {self.create_role('referral_user')}"
            )
        services = {role for table in self.tables for role in table.service_roles}
        if "public" in services:
            raise GrantRefused(
                f"The policy {SERVICE_POLICY!r} shows all rows to everybody (PUBLIC); drop it on "
                "each table and repeat the command with --service-role."
            )
        if service is not None:
            self.bypass(service, "--service-role", "LOGIN PASSWORD '...'")
            services.add(service)
        for role in sorted(services):
            if self.is_member(user, role):
                raise GrantRefused(
                    f"--user-role {user!r} is a member of {role!r} and would inherit its policy, "
                    "which shows all rows; take that away first: "
                    f"REVOKE {self.quote(role)} FROM {self.quote(user)};"
                )

    def bypass(self, role: str, option: str, attributes: str = "NOLOGIN") -> str | None:
        """Return the attribute that puts an existing role above all policies, or None."""
        found = self.connection.execute(_ROLE, {"role": role}).one_or_none()
        if found is None:
            raise GrantRefused(
                f"There is no role {role!r} for {option}; make it first: "
                f"{self.create_role(role, attributes)}"
            )
        return "SUPERUSER" if found.rolsuper else "BYPASSRLS" if found.rolbypassrls else None

    def create_role(self, role: str, attributes: str = "NOLOGIN") -> str:
        return f"CREATE ROLE {self.quote(role)} {attributes};"

    def is_member(self, member: str, role: str) -> bool:
        parameters = {"member": member, "role": role}
        return bool(self.connection.execute(_IS_MEMBER, parameters).scalar())

    def grant_usage(self, role: str) -> None:
        schema = self.version.schema
        allowed = sa.text("SELECT pg_catalog.has_schema_privilege(:role, :schema, 'USAGE')")
        parameters = {"role": role, "schema": schema}
        sql = f"GRANT USAGE ON SCHEMA {self.quote(schema)} TO {self.quote(role)}"
        if self.connection.execute(allowed, parameters).scalar():
            return
        self.execute(sql)
        # To somebody who may not, PostgreSQL can answer with a warning only.
        if not self.connection.execute(allowed, parameters).scalar():
            raise _not_allowed(sql)

    def grant_membership(self, member: str, role: str) -> None:
        """Let ``member`` take ``role``, which acting_as() does, without having its rights."""
        # PostgreSQL 16 tells taking a role from inheriting its rights.
        is_new = (self.connection.dialect.server_version_info or ()) >= (16,)
        allowed = sa.text("SELECT pg_catalog.pg_has_role(:member, :role, :how)")
        parameters = {"member": member, "role": role, "how": "SET" if is_new else "MEMBER"}
        if not self.connection.execute(allowed, parameters).scalar():
            options = " WITH INHERIT FALSE, SET TRUE" if is_new else ""
            self.execute(f"GRANT {self.quote(role)} TO {self.quote(member)}{options}")

    def open_tables(self, role: str) -> None:
        """Show all rows to ``role`` and to those that a former run named."""
        for table in self.tables:
            if role in table.service_roles:
                continue
            roles = ", ".join(map(self.quote, sorted({*table.service_roles, role})))
            sql = (
                f"ALTER POLICY {SERVICE_POLICY} ON {table.name} TO {roles}"
                if table.service_roles
                else f"CREATE POLICY {SERVICE_POLICY} ON {table.name} TO {roles} "
                "USING (true) WITH CHECK (true)"
            )
            # It locks the table against readers, too.
            ddl_locks.patiently(
                self.connection,
                functools.partial(self.execute, sql),
                what=f"table {table.name}",
                tables=[table.oid],
            )

    def execute(self, sql: str) -> None:
        try:
            # Role names may hold "%" and ":".
            ddl_locks.raw(self.connection, sql).close()
        except sa.exc.DBAPIError as error:
            if sqlstate(error) == "42501":
                raise _not_allowed(sql) from error
            raise
        self.statements.append(sql)

    @property
    def login(self) -> str:
        # SET ROLE asks what the session's user may, whatever role is taken at the moment.
        login: str = self.connection.scalar(sa.text("SELECT session_user"))
        return login


def _not_allowed(sql: str) -> GrantRefused:
    return GrantRefused(
        f"This login may not do one thing that is needed; run it as a superuser or as the role "
        f"that may, then repeat the command: {sql};"
    )
