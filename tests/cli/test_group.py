"""What all commands share: failures are one sentence on stderr, and a status."""

from __future__ import annotations

import typing as t

import click
import pytest
import sqlalchemy as sa

from flask_referral.cli import referral

from ..conftest import MakeHost
from ..hosts import Host
from ..hosts import make_host

#: What a command's required argument or option is given; "1" is good for the others.
VALUES = {"code": "K7M2PQ9X", "reward": "00000000-0000-4000-8000-000000000000"}
#: These ask no database.
OFFLINE = {("db", "history"), ("db", "path")}


def commands(group: click.Group, *path: str) -> t.Iterator[tuple[str, ...]]:
    """Find every command and give it what it requires."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
            continue
        words = [*path, name]
        for parameter in command.params:
            if parameter.name in ("yes", "all_"):
                words.append(parameter.opts[0])
            elif parameter.required:
                option = parameter.opts if isinstance(parameter, click.Option) else []
                words += [*option[:1], VALUES.get(parameter.name or "", "1")]
        yield tuple(words)


ALL = [command for command in commands(referral) if command[:2] not in OFFLINE]
#: Every command that asks the database, except those that report instead of failing.
COMMANDS = [command for command in ALL if command[0] not in ("doctor", "init")]
#: Those that need the referral tables.
NEED_TABLES = [command for command in COMMANDS if command[0] != "db"]


def one_sentence(text: str) -> str:
    """Return what follows "Error:", which has to be a line of its own and the last one."""
    assert "Traceback" not in text
    line = text.strip().splitlines()[-1]
    assert line.startswith("Error: "), text
    assert line.endswith("."), text
    return line.removeprefix("Error: ")


@pytest.fixture(params=["psycopg2", "psycopg", "sqlite"])
def away(request: pytest.FixtureRequest, tmp_path: t.Any) -> t.Iterator[Host]:
    """Build a host whose database cannot be reached."""
    url = f"sqlite:///{tmp_path}/missing/folder.db"
    if request.param != "sqlite":
        # Nothing listens on port 1.
        url = f"postgresql+{request.param}://nobody:hush-hush@127.0.0.1:1/nothing"
    host = make_host(url, REFERRAL_OUTBOX=True)
    yield host
    with host.app.app_context():
        host.db.engine.dispose()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_database_is_away(away: Host, command: tuple[str, ...]) -> None:
    text = away.failure(*command)
    sentence = one_sentence(text)
    assert "hush-hush" not in text
    if command[0] != "rls" or "sqlite" not in away.app.config["SQLALCHEMY_DATABASE_URI"]:
        assert "did not answer" in sentence
        assert "SQLALCHEMY_DATABASE_URI" in sentence


@pytest.mark.parametrize("command", NEED_TABLES, ids=" ".join)
def test_the_referral_tables_are_missing(
    make_postgresql: MakeHost, command: tuple[str, ...]
) -> None:
    host = make_postgresql(migrate=False, REFERRAL_OUTBOX=True)
    host.create_tables()
    host.add_user()
    assert "flask referral db upgrade" in one_sentence(host.failure(*command))


@pytest.mark.parametrize("command", [("code", "1"), ("backfill",)], ids=" ".join)
def test_the_referral_tables_are_missing_on_sqlite(
    make_sqlite: MakeHost, command: tuple[str, ...]
) -> None:
    host = make_sqlite(migrate=False)
    host.create_tables()
    host.add_user()
    assert "Run flask referral db upgrade." in one_sentence(host.failure(*command))


@pytest.mark.parametrize("command", [("code", "1"), ("backfill",)], ids=" ".join)
def test_a_column_of_a_later_revision_is_missing(make: MakeHost, command: tuple[str, ...]) -> None:
    host = make()
    host.add_user()
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX idx_referral_codes_user_id")
        connection.exec_driver_sql("ALTER TABLE referral_codes RENAME COLUMN user_id TO owner")
    assert "Run flask referral db upgrade." in one_sentence(host.failure(*command))


def test_the_user_table_is_missing(make: MakeHost) -> None:
    text = one_sentence(make(migrate=False).failure("backfill"))
    assert "flask db upgrade" in text


def test_a_statement_that_is_refused(make_postgresql: MakeHost) -> None:
    """The cure of another failure would mislead."""
    host = make_postgresql()
    host.add_user()
    with host.app.app_context(), host.db.engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE referral_codes ADD CONSTRAINT none_today CHECK (code = '')"
        )
    text = one_sentence(host.failure("code", "1"))
    assert text.startswith("The database refused: ")
    assert "none_today" in text
    assert "upgrade" not in text


def test_a_locked_sqlite_file_is_not_away(make_sqlite: MakeHost) -> None:
    host = make_sqlite(SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"timeout": 0}})
    host.add_user()
    with host.app.app_context():
        url = host.db.engine.url
    other = sa.create_engine(url)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        text = one_sentence(host.failure("code", "1"))
    other.dispose()
    assert "locked" in text
    assert "did not answer" not in text


@pytest.mark.parametrize(
    "arguments",
    [("code",), ("code", "1", "2"), ("backfill", "--batch-size", "x"), ("nonsense",)],
    ids=" ".join,
)
def test_usage_errors_end_with_2(make_sqlite: MakeHost, arguments: tuple[str, ...]) -> None:
    assert "Usage:" in make_sqlite(migrate=False).failure(*arguments, status=2)
