"""Where the migrations are, and running them."""

from __future__ import annotations

import importlib.resources
import io
import typing as t
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from flask import current_app

from ..db.models import VERSION_TABLE
from ..db.models import WALLET_INDEX
from ..errors import ReferralError
from ..errors import SchemaDiffers
from .differences import describe

if t.TYPE_CHECKING:
    from ..host.state import State


def migrations_path() -> Path:
    """Return the folder with ``env.py`` and the revisions."""
    try:
        folder = Path(str(importlib.resources.files("flask_referral.migrations")))
    except ModuleNotFoundError:
        # A checkout that is on the path without being installed.
        folder = Path(__file__).resolve().parents[2] / "migrations"
    return folder


def config(**attributes: t.Any) -> Config:
    """Return an Alembic configuration for the shipped folder; it needs no ini file."""
    alembic = Config(output_buffer=attributes.pop("output_buffer", None))
    # ConfigParser reads "%" as the start of an interpolation.
    alembic.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    alembic.attributes.update(attributes)
    return alembic


def upgrade(revision: str = "head", *, on_apply: t.Callable[..., None] | None = None) -> None:
    """Upgrade the current application's database.

    :param on_apply: Alembic's ``on_version_apply`` callback.
    :raises MigrationRefused: with nothing changed.
    """
    command.upgrade(config(on_version_apply=[on_apply] if on_apply else []), revision)


def downgrade(revision: str = "-1", *, on_apply: t.Callable[..., None] | None = None) -> None:
    """Downgrade by one revision, to ``revision``, or to ``base``.

    :raises MigrationRefused: with nothing changed.
    """
    command.downgrade(config(on_version_apply=[on_apply] if on_apply else []), revision)


def upgrade_sql(revision: str = "head") -> str:
    """Return the upgrade as a PostgreSQL script; asks no database."""
    return _sql(command.upgrade, revision)


def downgrade_sql(revision: str) -> str:
    """Return a downgrade as a PostgreSQL script; asks no database.

    :param revision: ``from:to``; without ``from`` it begins at the newest revision, and ``-1``
        is one step.
    """
    if ":" not in revision:
        steps = history()
        to = steps[-1].down_revision if revision == "-1" else revision
        revision = f"{steps[-1].revision}:{to}"
    return _sql(command.downgrade, revision)


def _sql(run: t.Callable[..., None], revision: str) -> str:
    buffer = io.StringIO()
    run(config(output_buffer=buffer), revision, sql=True)
    return buffer.getvalue()


def stamp(revision: str) -> None:
    """Record a revision without running it."""
    command.stamp(config(), revision)


def check(state: State) -> None:
    """Compare the database with the models.

    :raises SchemaDiffers: where they differ.
    :raises ReferralError: where the database is behind.
    """
    now, newest = current(state), head()
    if now != newest:
        raise ReferralError(
            f"The referral schema is at {now or 'base'} and the newest revision is {newest}; run "
            "flask referral db upgrade."
        )
    found: list[t.Any] = []
    alembic = config(differences=found)
    # It prints that there is nothing to do; that is for the caller to say.
    alembic.stdout = io.StringIO()
    try:
        command.check(alembic)
    except CommandError:
        if not found:
            raise
        raise SchemaDiffers(describe(found)) from None


def include_object(
    item: t.Any, name: str | None, type_: str, reflected: bool, compare_to: t.Any
) -> bool:
    """Leave what our migrations make out of the host's: ``Migrate(include_object=...)``.

    Alembic asks it of everything it would compare (its ``EnvironmentContext.configure``). Whether
    our tables are as they should be, :func:`check` says.
    """
    referral = current_app.extensions.get("referral")
    if referral is None:
        return True
    if type_ == "table":
        metadata = referral.models.metadata
        ours = {VERSION_TABLE, *referral.models.table_names}
        return not (name in ours and item.schema == metadata.schema)
    return not (type_ == "index" and name == WALLET_INDEX)


def head() -> str:
    """Return the newest shipped revision."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    assert revision is not None
    return revision


def history() -> list[Script]:
    """Return the shipped revisions, oldest first."""
    return list(ScriptDirectory.from_config(config()).walk_revisions())[::-1]


def current(state: State) -> str | None:
    """Return the revision that the database is at, or None."""
    schema = state.models.metadata.schema
    with state.engine.connect() as connection:
        if not sa.inspect(connection).has_table(VERSION_TABLE, schema=schema):
            return None
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "version_table_schema": schema}
        )
        return context.get_current_revision()
