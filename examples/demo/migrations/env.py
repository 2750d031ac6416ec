"""Flask-Migrate's environment for one database, as ``flask db init`` makes it."""

from __future__ import annotations

import logging
import typing as t
from logging.config import fileConfig

from alembic import context
from flask import current_app

config = context.config
fileConfig(t.cast(str, config.config_file_name), disable_existing_loggers=False)
logger = logging.getLogger("alembic.env")

migrate = current_app.extensions["migrate"]
metadata = migrate.db.metadatas[None]


def skip_empty_revision(context: t.Any, revision: t.Any, directives: t.Any) -> None:
    """Make ``flask db migrate`` write no file where nothing has changed."""
    if getattr(config.cmd_opts, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []
        logger.warning("No changes in schema detected.")


def run_offline() -> None:
    """Print the SQL."""
    url = migrate.db.engine.url.render_as_string(hide_password=False)
    context.configure(url=url, target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run the revisions in one transaction."""
    arguments = {
        "process_revision_directives": skip_empty_revision,
        **migrate.configure_args,
    }
    with migrate.db.engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, **arguments)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
