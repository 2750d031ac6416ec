"""The command group: what its commands share."""

from __future__ import annotations

import functools
import getpass
import json
import os
import typing as t

import click
import sqlalchemy as sa
from alembic.util import CommandError
from flask.cli import AppGroup
from flask.cli import ScriptInfo

from ..db.failures import explain
from ..errors import ReferralError
from ..host.state import current_state
from ..upkeep import acts
from .terminal import printable


class ReferralGroup(AppGroup):
    """Ends every failure with status 1 and one sentence on stderr."""

    def invoke(self, ctx: click.Context) -> t.Any:
        try:
            return super().invoke(ctx)
        except (ReferralError, CommandError) as error:
            raise click.ClickException(printable(str(error))) from error
        except sa.exc.SQLAlchemyError as error:
            # The command's own application context is gone by now.
            with ctx.ensure_object(ScriptInfo).load_app().app_context():
                told = printable(str(explain(error, state().models)))
                raise click.ClickException(told) from error


referral = ReferralGroup("referral", help="Referral codes, migrations and operations.")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def operated(default: str | None = "by an operator") -> t.Callable[[t.Any], t.Any]:
    """Give a command ``by``: who runs it and why, for the record.

    :param default: the reason where none is given; None: one has to be given.
    """

    given: dict[str, t.Any] = {"default": default, "show_default": True}
    if default is None:
        given = {"required": True}

    def decorate(function: t.Any) -> t.Any:
        @click.option("--reason", help="For the record.", **given)
        @click.option(
            "--by",
            "name",
            default=_login_name,
            show_default="who is logged in here",
            help="Who decided it, for the record.",
        )
        @functools.wraps(function)
        def command(*args: t.Any, reason: str, name: str, **options: t.Any) -> t.Any:
            return function(*args, by=acts.operator(name, reason), **options)

        return command

    return decorate


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        # A container may run as a number that has no name.
        return f"uid {os.getuid()}"


#: Returns the current application's state.
state = current_state


def report(as_json: bool, data: t.Any, text: str) -> None:
    """Print ``data`` as JSON or ``text`` for people."""
    click.echo(json.dumps(data, default=str, indent=2) if as_json else printable(text))


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone, unless ``--yes`` was given."""
    if yes:
        return
    try:
        agreed = click.confirm(printable(question), err=True)
    except click.Abort:
        raise click.ClickException(
            "Nothing was changed: nobody answered. Give --yes where nobody can."
        ) from None
    if not agreed:
        raise click.ClickException("Nothing was changed.")
