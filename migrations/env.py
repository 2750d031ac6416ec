"""Alembic's environment: the host's database, our tables, our own version table."""

from __future__ import annotations

import contextlib
import functools
import logging.config
import sqlite3
import typing as t
import warnings

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationContext
from flask import current_app
from sqlalchemy import event
from sqlalchemy.pool import SingletonThreadPool
from sqlalchemy.pool import StaticPool

from flask_referral.db.failures import explain
from flask_referral.db.models import VERSION_TABLE
from flask_referral.db.qualified import qualify
from flask_referral.errors import ConfigurationError
from flask_referral.errors import MigrationRefused
from flask_referral.errors import ReferralError

config = context.config
if config.config_file_name is not None:
    logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)

if "referral" not in current_app.extensions:
    raise ConfigurationError(
        "This application does not use flask-referral; call referral.init_app(app, db, "
        "user_model=User) in it before running its migrations."
    )

state = current_app.extensions["referral"].state
metadata: sa.MetaData = state.models.metadata


def include_name(name: str | None, type_: str, parent_names: t.Any) -> bool:
    """Reflect nothing of the host's."""
    if type_ == "schema":
        return name == metadata.schema
    return type_ != "table" or name in state.models.table_names


def include_object(item: t.Any, name: str | None, type_: str, *rest: t.Any) -> bool:
    """Compare nothing of the host's."""
    table = getattr(item, "table", item)
    return table.name in state.models.table_names and table.schema == metadata.schema


def on_revision(ctx: MigrationContext, revision: t.Any, directives: list[t.Any]) -> None:
    """Hand out what autogenerate found; write nothing into the installed package.

    This is called for "flask referral db check", and for a slip: "flask db migrate" with this
    folder.
    """
    if getattr(config.cmd_opts, "autogenerate", False):
        raise MigrationRefused(
            "This folder holds the revisions that flask-referral ships; run flask db migrate with "
            "the application's own migrations folder instead."
        )
    config.attributes.get("differences", []).extend(directives[0].upgrade_ops.as_diffs())


at_base = False


def on_step(step: t.Any, heads: t.Any, **_: t.Any) -> None:
    """Remember a downgrade to base."""
    global at_base
    at_base = not heads and not step.is_upgrade and not step.is_stamp


def run_migrations() -> None:
    """Run them, and after a downgrade to base drop the version table too.

    What is left is then what was there before, and a printed upgrade can make the table. In
    scripts old releases of Alembic drop it themselves, hence IF EXISTS.
    """
    context.run_migrations()
    if at_base:
        preparer = context.get_context().dialect.identifier_preparer
        context.execute(f"DROP TABLE IF EXISTS {preparer.format_table(state.models.version_table)}")


def checked(steps: t.Callable[..., t.Iterable[t.Any]]) -> t.Callable[..., list[t.Any]]:
    """Ask each revision that is to run what speaks against it, before the first one runs.

    One that lets a live table be changed commits what ran before it, so a later refusal would
    leave half of the upgrade or downgrade.
    """

    def checked_steps(heads: t.Any, ctx: MigrationContext) -> list[t.Any]:
        found = list(steps(heads, ctx))
        for step in (step.info for step in found):
            if not step.is_stamp:
                name = "check" if step.is_upgrade else "check_downgrade"
                getattr(step.up_revision.module, name, lambda: None)()
        return found

    return checked_steps


options: dict[str, t.Any] = {
    "target_metadata": metadata,
    "version_table": VERSION_TABLE,
    "version_table_schema": metadata.schema,
    "include_name": include_name,
    "include_object": include_object,
    "include_schemas": metadata.schema is not None,
    "compare_type": True,
    "process_revision_directives": on_revision,
    "on_version_apply": [*config.attributes.get("on_version_apply", []), on_step],
}


def run_offline() -> None:
    """Print PostgreSQL's SQL, whatever database the application is configured with."""
    context.configure(
        dialect_name="postgresql",
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        transaction_per_migration=True,
        **options,
    )
    with context.begin_transaction():
        run_migrations()


def run_online() -> None:
    """Run in one transaction, so that what is refused leaves nothing behind."""
    # The application's own engine may be in AUTOCOMMIT, or in a mode whose snapshot is old.
    level = "SERIALIZABLE" if state.engine.dialect.name == "sqlite" else "READ COMMITTED"
    with state.engine.connect() as connection:
        qualify(connection)
        with transactional_ddl(connection):
            connection.execution_options(isolation_level=level)
            configure = functools.partial(
                context.configure, connection=connection, transactional_ddl=True, **options
            )
            configure()
            # Only now it is known what finds the steps.
            configure(fn=checked(context.get_context().opts["fn"]))
            with context.begin_transaction():
                run_migrations()
        if not isinstance(state.engine.pool, StaticPool | SingletonThreadPool):
            # What was set on it does not go back to the application's pool; the first releases
            # of SQLAlchemy 2.0 reset an engine in AUTOCOMMIT to something else.
            connection.invalidate()


@contextlib.contextmanager
def transactional_ddl(connection: sa.Connection) -> t.Iterator[None]:
    """Make SQLite's DDL part of the transaction.

    Python's driver opens a transaction before the first INSERT only, so a failed upgrade would
    leave half of its tables; it is told to open none, and BEGIN is sent by us.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: t.Any = connection.connection.dbapi_connection
    # From Python 3.12 on an application may choose drivers that are always, or never, inside a
    # transaction; what follows, and SQLAlchemy's AUTOCOMMIT, mean the older way.
    older = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", None)
    autocommit = getattr(driver, "autocommit", older)
    if autocommit != older:
        driver.autocommit = older
        driver.rollback()

    def begin(connection: sa.Connection, cursor: t.Any, statement: str, *rest: t.Any) -> None:
        autocommits = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        # The application may have listeners of its own that say BEGIN.
        if not autocommits and not driver.in_transaction and statement[:5].upper() != "BEGIN":
            driver.isolation_level = None
            driver.execute("BEGIN")

    event.listen(connection, "before_cursor_execute", begin)
    try:
        yield
    finally:
        if driver.in_transaction:
            connection.rollback()
        if autocommit != older:
            driver.autocommit = autocommit


if context.is_offline_mode():
    run_offline()
else:
    try:
        with warnings.catch_warnings():
            # What SQLAlchemy says where it reflects a CHECK that 0005 left NOT VALID.
            warnings.filterwarnings("ignore", "Can't validate argument 'dialect_options'")
            run_online()
    except sa.exc.SQLAlchemyError as error:
        # Flask-Migrate shows a RuntimeError as one sentence, and anything else as a traceback.
        raise ReferralError(explain(error, state.models)) from error
