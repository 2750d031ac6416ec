"""Whether what has to happen after a conversion, a click or a delivery does happen."""

from __future__ import annotations

import datetime as dt
import typing as t
from urllib.parse import urlsplit

import sqlalchemy as sa

from .. import clock
from ..db import days
from ..db import qualified
from ..db.models import GONE
from ..db.models import RewardRole
from ..db.models import RewardStatus
from ..payments import retries
from ..payments.events import Outcome
from ..payments.known import DELIVERY
from ..payments.retries import Wanted
from ..results import ConversionReason
from ..upkeep import deliverer
from ..upkeep import rollup
from .findings import Check
from .findings import counted
from .findings import EXAMPLES
from .findings import fault
from .findings import Finding
from .findings import ok
from .findings import Patient
from .findings import warning

#: By then an hourly ``mature`` has failed often.
LATE = dt.timedelta(days=2)
#: By then a reviewer has had time.
REVIEW = dt.timedelta(days=7)
#: By then a deliverer that runs has delivered.
UNDELIVERED = dt.timedelta(minutes=30)
#: Deliveries before that are nobody's concern any more.
RECENT = dt.timedelta(days=7)
#: So many clicks that have no sums make a referrer's statistics slow.
MANY_CLICKS = 100_000
#: How many clicks are looked at: more of closed days are too many, whosever they are.
MOST_CLICKS = 1_000_000


def due(patient: Patient) -> t.Iterator[Finding]:
    """Whether pending rewards are credited when they are due."""
    reward = patient.state.models.ReferralReward.__table__.c
    late = _one(
        patient,
        sa.select(
            sa.func.count().label("number"),
            sa.func.sum(reward.cents - reward.reversed_cents).label("cents"),
            sa.func.min(reward.available_at).label("since"),
        ).where(reward.status == RewardStatus.pending, reward.available_at <= clock.now() - LATE),
    )
    if late.number:
        rewards = counted(late.number, "pending reward has been", "pending rewards have been")
        yield warning(
            f"{rewards} due for more than {LATE.days} days, worth {late.cents} cents, the first "
            f"since {_day(late.since)}.",
            "Run flask referral mature, and let cron run it hourly.",
        )


def held(patient: Patient) -> t.Iterator[Finding]:
    """Whether somebody reviews what is held."""
    reward = patient.state.models.ReferralReward.__table__.c
    rows = _all(
        patient,
        sa.select(reward.id, reward.created_at, sa.func.count().over().label("number"))
        .where(reward.status == RewardStatus.held)
        .order_by(reward.created_at, reward.id)
        .limit(EXAMPLES),
    )
    if not rows:
        return
    rewards = counted(rows[0].number, "reward is", "rewards are")
    first = ", the first of them" if rows[0].number > len(rows) else ""
    ids = ", ".join(str(row.id) for row in rows)
    message = f"{rewards} held for a review{first}: {ids}."
    cure = (
        "Credit each with flask referral release REWARD, or give it up with flask referral void "
        "REWARD."
    )
    since = rows[0].created_at
    if since is not None and clock.as_utc(since) <= clock.now() - REVIEW:
        yield warning(f"{message} The oldest has waited since {_day(since)}.", cure)
    else:
        yield ok(f"{message} {cure}")


def shortfalls(patient: Patient) -> t.Iterator[Finding]:
    """Whether all that should have been taken back was there."""
    reward = patient.state.models.ReferralReward.__table__.c
    short = _one(
        patient,
        sa.select(
            sa.func.count().label("number"),
            sa.func.sum(reward.shortfall_cents).label("cents"),
        ).where(reward.shortfall_cents > 0),
    )
    if short.number:
        netted = patient.state.settings.net_shortfall
        yield warning(
            f"{counted(short.number, 'reward was', 'rewards were')} refunded when the wallet had "
            f"too little: {short.cents} cents are missing.",
            (
                "The next credits of these wallets pay them."
                if netted
                else "Nothing takes them later, since REFERRAL_NET_SHORTFALL is False."
            )
            + " Where you settle them with the users yourself, set shortfall_cents of these "
            "referral_rewards to 0.",
        )


def providers(patient: Patient) -> t.Iterator[Finding]:
    """Whether it looks as if one payment was told of twice, under two names."""
    reward = patient.state.models.ReferralReward.__table__.c
    earned = (
        sa.select(
            reward.referred_user_id.label("user"),
            days.date_of(reward.created_at, patient.dialect).label("day"),
            reward.cents,
            reward.provider,
        )
        .where(
            reward.role == RewardRole.referrer,
            reward.status.not_in(GONE),
            reward.cents > 0,
            reward.referred_user_id.is_not(None),
        )
        .subquery()
    ).c
    first, last = sa.func.min(earned.provider), sa.func.max(earned.provider)
    same = (earned.user, earned.day, earned.cents)
    rows = _all(
        patient,
        sa.select(
            *same,
            first.label("first"),
            last.label("last"),
            sa.func.count().over().label("number"),
        )
        .group_by(*same)
        .having(first != last)
        .order_by(earned.day.desc(), earned.user, earned.cents)
        .limit(EXAMPLES),
    )
    if not rows:
        return
    examples = "; ".join(
        f"user {row.user} on {row.day}, {row.cents} cents each by {row.first} and {row.last}"
        for row in rows
    )
    yield warning(
        f"{counted(rows[0].number, 'time', 'times')} a referred user has rewards of two providers "
        f"for one day and sum, as if one payment was told of twice: {examples}.",
        "Where the application calls convert() for payments that a webhook tells of too, pass the "
        "provider's own payment_id and its name as provider. Take what was paid twice back with "
        "flask referral reverse MEMBERSHIP --payment-id ID --provider PROVIDER.",
    )


def sums(patient: Patient) -> t.Iterator[Finding]:
    """Whether closed days have their sums, where that matters."""
    models, dialect = patient.state.models, patient.dialect
    click = models.ReferralClick.__table__.c
    last = sa.select(sa.func.max(models.ReferralDaily.__table__.c.day)).scalar_subquery()
    end = rollup.last_closable(clock.now()) + dt.timedelta(days=1)
    at = days.column(click.clicked_at, dialect)
    # What can be closed and is not, a range of the index on clicked_at. The LIMIT bounds it.
    open_clicks = (
        sa.select(click.referrer_user_id)
        .where(at >= days.after(last, dialect), at < days.begin(end, dialect))
        .limit(MOST_CLICKS)
        .subquery()
    )
    number = sa.func.count()
    worst = _one(
        patient,
        sa.select(
            open_clicks.c.referrer_user_id,
            number.label("clicks"),
            sa.func.sum(number).over().label("all"),
        )
        .group_by(open_clicks.c.referrer_user_id)
        .order_by(number.desc(), open_clicks.c.referrer_user_id)
        .limit(1),
    )
    cure = "Run flask referral rollup, and let cron run it nightly."
    if worst is None:
        return
    if worst.all >= MOST_CLICKS:
        yield warning(f"{MOST_CLICKS:,} or more clicks of past days are not summed up.", cure)
    elif worst.clicks > MANY_CLICKS:
        yield warning(
            f"{worst.clicks:,} clicks of user {worst.referrer_user_id} are of past days and not "
            "summed up, so that user's statistics are slow.",
            cure,
        )


def deliveries(patient: Patient) -> t.Iterator[Finding]:
    """Whether the buyers that webhooks tell of are found."""
    event = patient.state.models.ReferralEvent.__table__.c
    rows = _all(
        patient,
        sa.select(event.provider, event.outcome, sa.func.count().label("number"))
        .where(
            event.kind == DELIVERY,
            event.outcome.in_((Outcome.unknown_user, Outcome.other_company)),
            event.received_at >= clock.now() - RECENT,
        )
        .group_by(event.provider, event.outcome)
        .order_by(event.outcome, event.provider),
    )
    settings, loaders = patient.state.settings, patient.state.loaders
    if not rows and settings.whop_webhook_secret and "whop" not in loaders.users:
        yield ok(
            "Whop's buyers are found by the checkout's metadata alone, since no function is named "
            "with @referral.whop_user_loader; none was missed in the last "
            f"{RECENT.days} days."
        )
    for row in rows:
        if row.outcome == Outcome.unknown_user:
            yield warning(
                f"{counted(row.number, 'purchase', 'purchases')} of the last {RECENT.days} days "
                f"from the webhook {row.provider!r} had no buyer that could be found among the "
                "users, and nobody was credited.",
                _find_buyer(patient, row.provider),
            )
        else:
            yield ok(
                f"{counted(row.number, 'event', 'events')} of the last {RECENT.days} days from the "
                f"webhook {row.provider!r} had no effect, being another company's. If it is yours, "
                "add its id to REFERRAL_WHOP_COMPANY_ID."
            )


def waiting(patient: Patient) -> t.Iterator[Finding]:
    """Whether deliveries wait that may end differently when they are handled once more."""
    with patient.connect() as connection:
        found = retries.counts(connection, patient.state.models, Wanted(is_ready=True))
    if not found:
        return
    counts = ", ".join(f"{number:,} {outcome}" for outcome, number in found.items())
    message = f"Deliveries that paid nothing wait to be handled once more: {counts}."
    cure = (
        "Once what stood in the way is mended (flask referral events show EVENT says what), run "
        "flask referral events retry --all, and let cron run it with --yes."
    )
    if ConversionReason.not_referred in found:
        yield warning(
            f"{message} The buyers of those that are {ConversionReason.not_referred} are referred "
            "by now.",
            cure,
        )
    else:
        yield ok(f"{message} {cure}")


def outbox(patient: Patient) -> t.Iterator[Finding]:
    """Whether somebody delivers what is to be told of, and somebody takes it."""
    settings, handlers = patient.state.settings, patient.state.loaders.handlers
    if not settings.outbox:
        if handlers:
            yield fault(
                "Functions are named with @referral.on, and nothing is kept for them: they are "
                "never called.",
                "Set REFERRAL_OUTBOX = True, and run flask referral deliver --watch.",
            )
        return
    if not handlers and not settings.webhook_urls:
        yield warning(
            "REFERRAL_OUTBOX is on, and nobody is told: there are no functions of @referral.on, "
            "and REFERRAL_WEBHOOK_URLS is empty.",
            "Name one of them, or turn REFERRAL_OUTBOX off: it costs a statement for each event.",
        )
    for url in settings.webhook_urls:
        if url.startswith("http:") and not patient.is_rehearsal:
            yield warning(
                f"What is posted to {urlsplit(url).hostname} can be read on its way.",
                "Use https in REFERRAL_WEBHOOK_URLS.",
            )
    with patient.connect() as connection:
        found = deliverer.waiting(connection, patient.state.models)
    if found.set_aside:
        events = counted(found.set_aside, "event was", "events were")
        yield warning(
            f"{events} given up after {deliverer.MOST_ATTEMPTS} attempts.",
            "Column error of referral_outbox says why; then flask referral deliver --again.",
        )
    if found.since is not None and found.since < clock.now() - UNDELIVERED:
        yield warning(
            f"{counted(found.waiting, 'event waits', 'events wait')} in the outbox, the first "
            f"since {_day(found.since)}.",
            "Keep flask referral deliver --watch running, or let cron run flask referral deliver; "
            "column error of referral_outbox says what receivers answered.",
        )


def _find_buyer(patient: Patient, provider: str) -> str:
    place = {
        "whop": "the checkout's metadata as user_id",
        "stripe": "the checkout's client_reference_id and the subscription's metadata as user_id",
    }.get(provider)
    loader = f"@referral.{provider}_user_loader"
    if place is None:
        loader = f"@referral.user_loader({provider!r})"
    if provider in patient.state.loaders.users:
        cure = f"See why the function of {loader} does not find them."
    elif place is None:
        cure = (
            f"Let the function of @referral.webhook({provider!r}) name the buyer as user: a user "
            f"of yours, or the id of one; or name a function that finds the buyer with {loader}."
        )
    else:
        cure = (
            f"Put the buyer's id into {place}, or name a function that finds the buyer with "
            f"{loader}."
        )
    return f"{cure} Buyers without an account are nobody's referral before they sign up."


def _one(patient: Patient, query: sa.Executable) -> t.Any:
    return next(iter(_all(patient, query)), None)


def _all(patient: Patient, query: sa.Executable) -> t.Sequence[t.Any]:
    with patient.connect() as connection:
        return qualified.execute(connection, query).all()


def _day(moment: dt.datetime) -> dt.date:
    return days.day_of(clock.as_utc(moment))


_NEEDS = ("database", "migrations", "database-login")
CHECKS = (
    Check("due", due, "Pending rewards are credited when they are due.", _NEEDS),
    Check("held", held, "No reward waits for a review.", _NEEDS),
    Check("shortfalls", shortfalls, "Refunds found in the wallets what they took back.", _NEEDS),
    Check("providers", providers, "No payment seems to be told of by two providers.", _NEEDS),
    Check("sums", sums, "Clicks of past days are summed up, or few.", _NEEDS),
    Check("deliveries", deliveries, "Webhooks found the buyers of the last 7 days.", _NEEDS),
    Check("outbox", outbox, "The outbox is off, or empty but for the last minutes.", _NEEDS),
    Check("waiting", waiting, "No delivery waits to be handled once more.", _NEEDS),
)
