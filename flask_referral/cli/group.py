"""The command group: what its commands share."""

from __future__ import annotations

import json
import typing as t

import click
import sqlalchemy as sa
from alembic.util import CommandError
from flask.cli import AppGroup
from flask.cli import ScriptInfo

from ..db.failures import explain
from ..errors import ReferralError
from ..host.state import current_state
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
