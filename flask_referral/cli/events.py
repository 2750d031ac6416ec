"""``flask referral events …``: deliveries that paid nothing for now, why, and once more."""

from __future__ import annotations

import collections
import json
import typing as t

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import AppGroup

from .. import clock
from ..clock import as_utc
from ..db import failures
from ..db import qualified
from ..errors import ReferralError
from ..payments import retries
from ..payments.handling import MENDABLE
from ..payments.known import DELIVERY
from ..payments.retries import FAILED
from ..payments.retries import Wanted
from ..upkeep import acts
from ..upkeep import review
from . import batches
from .batches import plural
from .group import confirm
from .group import json_option
from .group import operated
from .group import report
from .group import state
from .group import yes_option
from .terminal import printable
from .terminal import value

#: How many failures are told in full.
_EXAMPLES = 5
events = AppGroup("events", help="Deliveries that paid nothing for now: list, show, retry.")

outcome_option = click.option(
    "--outcome", type=click.Choice(list(map(str, MENDABLE))), help="Those only that ended so."
)
provider_option = click.option("--provider", help="Those only of this provider: whop, ...")


@events.command("list")
@outcome_option
@provider_option
@json_option
def list_(outcome: str | None, provider: str | None, as_json: bool) -> None:
    """List the deliveries that wait to be handled once more, oldest first."""
    models, wanted = state().models, Wanted(outcome, provider)
    with batches.connection() as connection:
        rows = retries.waiting(connection, models, wanted)
        if as_json:
            # One at a time, however many there are.
            click.echo("[", nl=False)
            for number, row in enumerate(rows):
                item = json.dumps(_told(row), default=str, indent=2)
                click.echo(f"{',' if number else ''}\n{item}", nl=False)
            click.echo("\n]")
            return
        for row in rows:
            told = _told(row)
            columns = ("received_at", "provider", "event", "kind", "outcome", "payment")
            click.echo("  ".join(value(told[name] or "-") for name in columns))
        by_outcome = retries.counts(connection, models, wanted)
    if not by_outcome:
        click.echo("No delivery waits.")
        return
    total = plural(sum(by_outcome.values()), "delivery", "deliveries")
    click.echo(f"{total}: {_counted(by_outcome)}. See why with flask referral events show EVENT.")


@events.command()
@click.argument("event")
@provider_option
@json_option
def show(event: str, provider: str | None, as_json: bool) -> None:
    """Show the delivery EVENT (the provider's id of it), and what was kept of it."""
    with batches.connection() as connection:
        row = _find(connection, event, provider)
    kept = row.details or {}
    data = _told(row) | {"waits": row.details is not None, "kept": kept}
    lines = [
        f"{name:<12}  {value(told)}"
        for name, told in _told(row).items()
        if told is not None and name != "outcome"
    ]
    lines += [f"{name:<12}  {json.dumps(item)}" for name, item in kept.items() if item != {}]
    lines.append(f"{'outcome':<12}  {row.outcome}")
    if row.outcome in retries.WHY:
        lines.append(retries.WHY[row.outcome] if kept else f"{row.outcome}: {_gone(row)}")
    report(as_json, data, "\n".join(lines))


@events.command()
@click.argument("named", metavar="[EVENT]...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that wait and may end differently now.")
@outcome_option
@provider_option
@operated()
@yes_option
@json_option
def retry(
    named: tuple[str, ...],
    all_: bool,
    outcome: str | None,
    provider: str | None,
    by: acts.Operator,
    yes: bool,
    as_json: bool,
) -> None:
    """Handle each EVENT (the provider's id of it), or all that wait, once more.

    Each is a transaction of its own and pays once, whatever runs at the same time. A purchase
    whose buyer is still referred by nobody is left out of --all. Run it from cron with --yes.
    What is named is kept as an act of yours.
    """
    if bool(named) is all_:
        raise click.UsageError("Name one EVENT or more, or give --all.")
    if named and outcome:
        raise click.UsageError("--outcome goes with --all.")
    current, session = state(), state().db.session()
    wanted = Wanted(outcome, provider, is_ready=True)

    def connection() -> sa.Connection:
        return current.models.connection(session)

    if named:
        chosen = [_waiting(connection(), event, provider) for event in dict.fromkeys(named)]
        rows: t.Iterable[t.Any] = chosen
        length = len(chosen)
    else:
        length = sum(retries.counts(connection(), current.models, wanted).values())
        if length:
            found = plural(length, "delivery", "deliveries")
            confirm(f"Handle {found} once more? What they earn is credited.", yes)
        rows = retries.waiting(connection, current.models, wanted)
    failed: list[str] = []
    outcomes = collections.Counter(
        batches.run(
            session,
            (_once_more(row, failed, by if named else None) for row in rows),
            label="Retrying",
            length=length,
            size=lambda outcome: 1,
            summary=lambda done: f"handled {plural(len(done), 'delivery', 'deliveries')}",
        )
    )
    left = retries.counts(connection(), current.models, Wanted(outcome, provider))
    session.rollback()
    text = "Nothing waits that may end differently now."
    if outcomes:
        total = plural(sum(outcomes.values()), "delivery", "deliveries")
        text = f"Handled {total} once more: {_counted(outcomes)}."
    if left:
        text += f" Still waiting: {_counted(left)}."
    data = {"outcomes": outcomes, "failed": failed[:_EXAMPLES], "waiting": left}
    report(as_json, data, text)
    if outcomes[FAILED]:
        raise click.ClickException(
            f"{plural(outcomes[FAILED], 'delivery', 'deliveries')} could not be handled and will "
            f"wait for the next retry. The first: {printable(failed[0])}"
        )


def _once_more(row: t.Any, failed: list[str], by: acts.Operator | None) -> str:
    current = state()
    try:
        if by is None:
            return retries.once_more(current, row)
        return review.retry(current, by, row, clock.now())
    except Exception as error:
        current.db.session.rollback()
        if isinstance(error, sa.exc.SQLAlchemyError) and not failures.is_contended(error):
            raise
        # Of a loader, a policy or a wallet; the others are not to wait for it.
        current_app.logger.error(
            "Delivery %s of %s could not be handled once more",
            row.event_id,
            row.provider,
            exc_info=error,
        )
        if len(failed) < _EXAMPLES:
            failed.append(f"{row.event_id} of {row.provider}: {retries.failure(current, error)}")
        return FAILED


def _find(connection: sa.Connection, event_id: str, provider: str | None) -> t.Any:
    event = state().models.ReferralEvent.__table__
    query = sa.select(event).where(event.c.kind == DELIVERY, event.c.event_id == event_id)
    if provider is not None:
        query = query.where(event.c.provider == provider)
    found = qualified.execute(connection, query.order_by(event.c.provider).limit(2)).all()
    if not found:
        of = f" of {provider!r:.80}" if provider is not None else ""
        raise ReferralError(f"No delivery {event_id!r:.80}{of} has come.")
    if len(found) > 1:
        raise ReferralError(
            f"{event_id!r:.80} is a delivery of {found[0].provider} and of {found[1].provider}; "
            "say which with --provider."
        )
    return found[0]


def _waiting(connection: sa.Connection, event_id: str, provider: str | None) -> t.Any:
    row = _find(connection, event_id, provider)
    if row.details is None:
        cure = _gone(row) if row.outcome in retries.WHY else "It was dealt with."
        raise ReferralError(
            f"Delivery {event_id!r:.80} ended in {row.outcome} and does not wait. {cure}"
        )
    return row


def _gone(row: t.Any) -> str:
    return "What it takes to handle it is not kept any more; let the provider send it again."


def _told(row: t.Any) -> dict[str, t.Any]:
    return {
        "provider": row.provider,
        "event": row.event_id,
        "kind": row.type,
        "outcome": row.outcome,
        "payment": row.payment_id,
        "membership": row.membership_id,
        "reference": row.reference,
        "amount_cents": row.amount_cents,
        "total_cents": row.base_cents,
        "user": row.user_id,
        "occurred_at": row.occurred_at and as_utc(row.occurred_at).isoformat(),
        "received_at": as_utc(row.received_at).isoformat(),
    }


def _counted(by_outcome: t.Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(by_outcome.items()))
