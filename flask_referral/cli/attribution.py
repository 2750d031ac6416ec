"""``flask referral reattribute``: an operator's correction."""

from __future__ import annotations

import sys

import click
from flask.cli import with_appcontext

from .. import attribution
from .. import clock
from .. import codes
from ..errors import AttributionRefused
from ..host import identity
from .group import json_option
from .group import report
from .group import state
from .group import yes_option


@click.command()
@click.argument("user")
@click.argument("code")
@yes_option
@json_option
@with_appcontext
def reattribute(user: str, code: str, yes: bool, as_json: bool) -> None:
    """Bind USER to another referrer's CODE."""
    current = state()
    user_id = identity.convert_key(current.models.user_key, user)
    normalized = codes.normalized(code, current.settings)
    if normalized is None:
        raise AttributionRefused(f"{code!r} is no referral code; pass it as it was given out.")
    if not yes and sys.stdin.isatty():
        click.confirm(f"Bind user {user_id} to {normalized}?", abort=True, err=True)
    session = current.db.session()
    before, outcome = attribution.reattribute(
        current.models.connection(session), current.models, user_id, normalized, now=clock.now()
    )
    attribution.announce(outcome, session)
    session.commit()
    data = {
        "user": user_id,
        "before": before,
        "code": normalized,
        "click": outcome.click and outcome.click.id,
    }
    report(as_json, data, f"User {user_id}: {before or 'nobody'} before, {normalized} now.")
