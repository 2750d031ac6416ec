"""``flask referral reattribute``: an operator's correction."""

from __future__ import annotations

import sys

import click
from flask.cli import with_appcontext

from .. import attribution
from .. import clock
from .. import codes
from .. import outbox
from ..errors import AttributionRefused
from ..host import identity
from ..upkeep import acts
from .group import json_option
from .group import operated
from .group import report
from .group import state
from .group import yes_option


@click.command()
@click.argument("user")
@click.argument("code")
@operated()
@yes_option
@json_option
@with_appcontext
def reattribute(user: str, code: str, by: acts.Operator, yes: bool, as_json: bool) -> None:
    """Bind USER to another referrer's CODE."""
    current = state()
    user_id = identity.convert_key(current.models.user_key, user)
    normalized = codes.normalized(code, current.settings)
    if normalized is None:
        raise AttributionRefused(f"{code!r} is no referral code; pass it as it was given out.")
    if not yes and sys.stdin.isatty():
        click.confirm(f"Bind user {user_id} to {normalized}?", abort=True, err=True)
    session, now = current.db.session(), clock.now()
    connection = current.models.connection(session)
    before, outcome = attribution.reattribute(
        connection, current.models, user_id, normalized, now=now
    )
    acts.record(
        connection,
        current.models,
        by,
        acts.Act.reattribute,
        now=now,
        user_id=user_id,
        reference=normalized,
        before={"code": before},
        after={"code": normalized},
    )
    outbox.announce(
        connection, session, current.models, current.settings, *attribution.told(outcome)
    )
    session.commit()
    data = {
        "user": user_id,
        "before": before,
        "code": normalized,
        "click": outcome.click and outcome.click.id,
    }
    report(as_json, data, f"User {user_id}: {before or 'nobody'} before, {normalized} now.")
