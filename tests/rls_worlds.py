"""Databases in which the application is the tables' owner, is not, or is on Supabase."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import typing as t
import uuid

import sqlalchemy as sa
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from flask_referral import codes
from flask_referral import Referral

from .hosts import Host
from .hosts import key_column
from .hosts import KEYS
from .hosts import make_host
from .supabase import SUPABASE

KINDS = ("owner", "service", "supabase")

#: Three users of each kind of key; the first two have a row in each table of theirs.
IDS: dict[str, tuple[t.Any, t.Any, t.Any]] = {
    "int": (1, 2, 12),
    "uuid": (uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=12)),
    "hex": (uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=12)),
    # The second is as long as the column; a longer claim must not be cut to it.
    "str": ('o\'neil "é" %', "b" * 26, "b"),
}

SUPABASE_ROLES = ("anon", "authenticated", "service_role")

_numbers = itertools.count(1)


@dataclasses.dataclass
class World:
    """A migrated database with two referrers, and an application on it."""

    kind: str
    key: str
    #: The application, on a pool of one connection.
    host: Host
    #: The tables' owner; the application's own engine has another pool.
    owner: sa.Engine
    #: REFERRAL_RLS_ROLE
    role: str
    #: The application's login, a URL without its driver.
    url: sa.URL
    engines: list[sa.Engine] = dataclasses.field(default_factory=list)

    @property
    def ids(self) -> tuple[t.Any, t.Any, t.Any]:
        return IDS[self.key]

    def host_with(self, **config: t.Any) -> Host:
        """Return another application of the same login."""
        driver = config.pop("driver", "psycopg2")
        url = self.url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
        config = {
            "REFERRAL_RLS_ROLE": self.role,
            "REFERRAL_BASE_URL": "https://example.org",
        } | config
        build = supabase_host if self.kind == "supabase" else make_host
        host = build(url, key=self.key, **config)
        with host.app.app_context():
            self.engines.append(host.db.engine)
        return host

    def dispose(self) -> None:
        """Close all connections."""
        for engine in (self.owner, *self.engines):
            engine.dispose()

    def users(self) -> sa.Table:
        table = self.host.referral.user_key.table
        assert isinstance(table, sa.Table)
        return table


def all_worlds() -> list[tuple[str, str]]:
    """Return every kind with every key."""
    return list(itertools.product(KINDS, KEYS))


@contextlib.contextmanager
def make_world(superuser_url: str, kind: str, key: str) -> t.Iterator[World]:
    """Make a database and its roles, and drop them afterwards.

    :param superuser_url: of the server; with psycopg2 as the driver.
    """
    number = next(_numbers)
    database, owner, user, service = (
        f"{name}_{number}" for name in ("rls", "rls_owner", "rls_user", "rls_service")
    )
    url = sa.make_url(superuser_url)
    admin = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    bypass = "BYPASSRLS" if kind == "supabase" else ""
    _execute(admin, f"CREATE ROLE {owner} LOGIN CREATEROLE {bypass}")
    _execute(admin, f"CREATE DATABASE {database} OWNER {owner} STRATEGY wal_log")
    inside = sa.create_engine(
        url.set(database=database), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    owner_url = url.set(database=database, username=owner)
    world: World | None = None
    try:
        if kind == "supabase":
            user = "authenticated"
            make_supabase(inside, key, owner)
            host = supabase_host(owner_url.render_as_string(hide_password=False), key)
        else:
            host = make_host(owner_url.render_as_string(hide_password=False), key=key)
            host.create_tables()
        with host.app.app_context():
            owner_engine = host.db.engine
        host.cli("db", "upgrade")
        login = owner_url
        if kind != "supabase":
            _execute(owner_engine, f"CREATE ROLE {user} NOLOGIN")
        if kind == "owner":
            host.cli("rls", "grant", "--user-role", user)
        if kind == "service":
            login = owner_url.set(username=service)
            _execute(owner_engine, f"CREATE ROLE {service} LOGIN")
            _execute(owner_engine, f"GRANT SELECT ON users TO {service}")
            host.cli("rls", "grant", "--user-role", user, "--service-role", service)
        world = World(kind, key, host, owner_engine, user, login)
        world.host = world.host_with(
            SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0, "pool_timeout": 5}
        )
        fill(world)
        yield world
    finally:
        if world is not None:
            world.dispose()
        _execute(admin, f"DROP DATABASE {database} WITH (FORCE)")
        for role in (service, user, owner):
            if role not in SUPABASE_ROLES:
                _execute(admin, f"DROP ROLE IF EXISTS {role}")
        inside.dispose()
        admin.dispose()


def make_supabase(engine: sa.Engine, key: str, login: str) -> None:
    """Emulate Supabase's roles and its schema ``auth`` in a database.

    :param engine: of a superuser, in AUTOCOMMIT.
    :param key: of ``auth.users``; Supabase itself has UUIDs only.
    :param login: the project's own role, which Supabase calls "postgres".
    """
    type_ = {"int": "bigint", "uuid": "uuid", "str": "text"}[key]
    roles = ", ".join(SUPABASE_ROLES)
    for sql in (
        SUPABASE,
        "DROP TABLE auth.users",
        f"CREATE TABLE auth.users (id {type_} PRIMARY KEY)",
        f"GRANT {roles} TO {login}",
        f"GRANT USAGE ON SCHEMA auth TO {login}",
        f"GRANT ALL ON auth.users TO {login}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {login} IN SCHEMA public "
        f"GRANT ALL ON TABLES TO {roles}",
    ):
        _execute(engine, sql)


def supabase_host(url: str, key: str, **config: t.Any) -> Host:
    """Build a host whose users are ``auth.users``, a table that is not its own."""
    db = SQLAlchemy()
    users = sa.Table("users", sa.MetaData(), key_column(key), schema="auth")
    app = Flask("supabase_host")
    app.config.update(
        {"SQLALCHEMY_DATABASE_URI": url, "SECRET_KEY": "for tests only", "TESTING": True}
    )
    app.config.update(config)
    db.init_app(app)
    Migrate(app, db)
    referral = Referral(app, db, user_model=users)
    host = Host(app, db, users, None, referral)
    referral.identity_loader(lambda: host.current_user)
    return host


def fill(world: World) -> None:
    """Store three users, and what belongs to the first two."""
    models = world.host.referral.models
    code_of = {owner: codes.generate_referral_code() for owner in world.ids[:2]}
    with world.owner.begin() as connection:
        connection.execute(sa.insert(world.users()), [{"id": id_} for id_ in world.ids])
        for owner, code in code_of.items():
            connection.execute(sa.insert(models.ReferralCode).values(user_id=owner, code=code))
            click = sa.insert(models.ReferralClick)
            connection.execute(click.values(referral_code=code, referrer_user_id=owner))
            daily = sa.insert(models.ReferralDaily)
            day = {"referrer_user_id": owner, "day": dt.date.min, "clicks": 1}
            connection.execute(daily.values(day))
            by_source = sa.insert(models.ReferralDailySource)
            connection.execute(by_source.values(**day, source="x", campaign=""))
        # Each of the two was referred by the other.
        for referrer, referred in (world.ids[:2], world.ids[1::-1]):
            id_, click_id = uuid.uuid4(), uuid.uuid4()
            connection.execute(
                sa.insert(models.ReferralClick).values(
                    id=click_id,
                    referral_code=code_of[referrer],
                    referrer_user_id=referrer,
                    referred_user_id=referred,
                )
            )
            connection.execute(
                sa.insert(models.ReferralConversion).values(
                    id=id_,
                    referrer_user_id=referrer,
                    referred_user_id=referred,
                    referral_code=code_of[referrer],
                    whop_membership_id=f"mem_{referrer}",
                    bonus_cents=1000,
                )
            )
            connection.execute(
                sa.insert(models.ReferralReward).values(
                    id=id_,
                    conversion_id=id_,
                    user_id=referrer,
                    referred_user_id=referred,
                    role="referrer",
                    provider="host",
                    payment_id=f"mem_{referrer}",
                    membership_id=f"mem_{referrer}",
                    number=1,
                    cents=1000,
                    status="credited",
                    click_id=click_id,
                )
            )


def _execute(engine: sa.Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
