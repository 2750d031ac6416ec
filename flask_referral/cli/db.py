"""``flask referral db …``: the shipped migrations."""

from __future__ import annotations

import sys
import typing as t

import click
from flask.cli import AppGroup

from .. import schema
from .group import json_option
from .group import report
from .group import state
from .group import yes_option

db = AppGroup("db", help="Run the shipped migrations.")

sql_option = click.option("--sql", is_flag=True, help="Print a PostgreSQL script instead.")


@db.command()
@click.argument("revision", default="head")
@sql_option
def upgrade(revision: str, sql: bool) -> None:
    """Upgrade to REVISION (default: the newest)."""
    if sql:
        click.echo(schema.upgrade_sql(revision), nl=False)
        return
    schema.upgrade(revision, on_apply=_print_step)
    click.echo(f"The referral schema is at {schema.current(state()) or 'base'}.")


@db.command()
@click.argument("revision", default="-1")
@sql_option
@yes_option
def downgrade(revision: str, sql: bool, yes: bool) -> None:
    """Step back one revision, or to REVISION or "base"."""
    if sql:
        click.echo(schema.downgrade_sql(revision), nl=False)
        return
    if not yes and sys.stdin.isatty():
        click.confirm("A downgrade can drop tables with their rows. Go on?", abort=True)
    schema.downgrade(revision, on_apply=_print_step)
    click.echo(f"The referral schema is at {schema.current(state()) or 'base'}.")


@db.command()
@json_option
def current(as_json: bool) -> None:
    """Show which revision the database is at."""
    now, newest = schema.current(state()), schema.head()
    text = f"{now or 'base'}{' (head)' if now == newest else f', the newest is {newest}'}"
    report(as_json, {"current": now, "head": newest}, text)


@db.command()
@json_option
def history(as_json: bool) -> None:
    """List the shipped revisions, oldest first."""
    revisions = [(script.revision, script.doc) for script in schema.history()]
    data = [{"revision": revision, "description": doc} for revision, doc in revisions]
    report(as_json, data, "\n".join(f"{revision}  {doc}" for revision, doc in revisions))


@db.command()
@json_option
def check(as_json: bool) -> None:
    """Compare the database with the models."""
    schema.check(state())
    report(as_json, {"ok": True}, "The database and the models agree.")


@db.command()
@click.argument("revision", default="head")
def stamp(revision: str) -> None:
    """Record REVISION without running anything."""
    schema.stamp(revision)
    click.echo(f"The referral schema is recorded as {schema.current(state()) or 'base'}.")


@db.command()
def path() -> None:
    """Print the migrations' folder, for "flask db upgrade -d"."""
    click.echo(str(schema.migrations_path()))


def _print_step(*, step: t.Any, **_: t.Any) -> None:
    verb = "Upgrading to" if step.is_upgrade else "Downgrading from"
    revision = step.up_revision
    click.echo(f"{verb} {revision.revision}: {revision.doc}")
