"""What the templates show of the program: read when a widget asks for it, once in a request.

Templates reach it by one name, ``flask_referral``, which is a global of the application's Jinja
environment, so that a macro has it whether or not it was imported with context.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import typing as t
from pathlib import Path
from urllib.parse import quote
from urllib.parse import urlencode

from flask import Blueprint
from flask import has_request_context
from flask import request
from flask import url_for
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.routing import BuildError

from .. import chart
from .. import referrals as people
from .. import wallet
from .. import words
from ..conversions.rewards import DESCRIPTIONS
from ..errors import ReferralError
from ..errors import UnknownUser
from ..host import identity
from ..host.state import current_state
from ..results import Invitation
from ..results import LeaderboardEntry
from ..results import Stats
from . import reports
from . import sign_ups
from .errors import is_the_hosts

if t.TYPE_CHECKING:
    from ..host.state import State
    from ..settings import Settings

GLOBAL = "flask_referral"
ASSETS = Path(__file__).parents[1] / "static" / "referral"
STYLESHEET, SCRIPT = "referral.css", "referral.js"
#: The periods of the chart, in days.
PERIODS = (30, 90, 365)
_KEPT = "flask_referral.shown"


def create_blueprint() -> Blueprint:
    """Build the blueprint ``referral_templates``, which has no routes."""
    blueprint = Blueprint("referral_templates", __name__, template_folder="../templates")

    def set_up(setup: BlueprintSetupState) -> None:
        setup.app.jinja_env.globals[GLOBAL] = TemplateGlobal()

    blueprint.record_once(set_up)
    return blueprint


def tagged(link: str, source: str) -> str:
    """Return a share link whose visits are counted as of a source."""
    return f"{link}{'&' if '?' in link else '?'}utm_source={source}"


class TemplateGlobal:
    """The words, the settings and this request's figures, for templates."""

    gettext = staticmethod(words.gettext)
    ngettext = staticmethod(words.ngettext)
    number = staticmethod(words.number)
    date = staticmethod(words.date)
    locale = staticmethod(words.locale)
    direction = staticmethod(words.direction)
    tagged = staticmethod(tagged)
    periods = PERIODS

    @property
    def settings(self) -> Settings:
        return current_state().settings

    def money(self, cents: int) -> str:
        return words.money(cents, self.settings.currency)

    def shown(self) -> Shown:
        return shown(current_state())

    def asset(self, name: str) -> str | None:
        """Return the address of the stylesheet or the script; None without ``referral.pages``."""
        return _address("referral_pages.asset", version=version(name), name=name)

    def code_action(self) -> str | None:
        """Return where a code is made; None where ``referral.pages`` is not registered."""
        return _address("referral_pages.change_code")

    def qr(self) -> str | None:
        """Return where the QR code is; None without segno, or without ``referral.pages``."""
        return _address("referral_pages.qr") if has_segno() else None


class Shown:
    """What one request shows of the program to its user."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._stats: dict[int, Stats | None] = {}
        #: Why the code that the user chose was refused.
        self.code_error: str | None = None
        #: Which of the assets the page has already.
        self.linked: set[str] = set()

    @functools.cached_property
    def user_id(self) -> t.Any:
        """The key of who is logged in; None for a visitor.

        A visitor is also whom an error of the host's own says so of, as one about a token that
        expired: a landing page with a widget has to be shown to everybody.
        """
        if not has_request_context():
            return None
        try:
            return identity.current_user_id(self._state)
        except Exception as error:
            if is_the_hosts(error):
                return None
            raise

    @property
    def typed_code(self) -> str:
        """What the user chose for a code, where that was refused."""
        return request.form.get("code", "") if self.code_error else ""

    @functools.cached_property
    def days(self) -> int:
        """The period that was asked for: one of :data:`PERIODS`."""
        text = request.args.get("days", "") if has_request_context() else ""
        return next((days for days in PERIODS if str(days) == text), PERIODS[0])

    def stats(self, days: int | None = None) -> Stats | None:
        """Return the user's statistics; None for a visitor, and where the account is gone."""
        if days is None:
            # The totals are the same in all.
            days = next(iter(self._stats), self.days)
        if days not in self._stats:
            self._stats[days] = self._read_stats(days)
        return self._stats[days]

    def _read_stats(self, days: int) -> Stats | None:
        if self.user_id is None:
            return None
        try:
            return Stats.of(reports.stats(self._state, self.user_id, days))
        except UnknownUser:
            return None

    def chart(self, days: int | None = None) -> chart.Chart | None:
        """Return the chart of a period; None for a visitor."""
        stats = self.stats(days or self.days)
        if stats is None:
            return None
        return chart.draw(stats.daily, is_mirrored=words.direction() == "rtl")

    def referrals(self, limit: int) -> people.Page | None:
        """Return a page of whom the user brought; None for a visitor.

        The page is the one that ``?before=`` names; the first where that names none.
        """
        if self.user_id is None:
            return None
        known = next(filter(None, self._stats.values()), None)
        if known is not None and not known.totals.signups:
            # Read already: there is nobody.
            return people.Page([], [], None)
        before = request.args.get("before")
        try:
            people.checked_cursor(before)
        except ReferralError:
            before = None
        try:
            return reports.referrals(self._state, self.user_id, limit, before)
        except UnknownUser:
            return None

    def wallet(self, limit: int) -> list[wallet.Shown]:
        """Return the program's newest rows in the user's wallet; none for a visitor."""
        if self.user_id is None:
            return []
        rows = reports.wallet_rows(self._state, self.user_id, limit)
        # They are kept in the application's language.
        return [row._replace(description=_retold(row.description)) for row in rows]

    def leaderboard(self, days: int | None, limit: int) -> list[LeaderboardEntry]:
        """Return the best referrers; none for a visitor."""
        return [] if self.user_id is None else reports.leaderboard(self._state, days, limit)

    @functools.cached_property
    def invitation(self) -> Invitation | None:
        """Who invited this visitor."""
        return sign_ups.invitation(self._state)

    def offer(self) -> str:
        """Return the offer in one sentence, as far as the settings tell it."""
        settings = self._state.settings
        if self._state.reward_policy is not None or not settings.bonus_cents:
            return words.gettext("Invite friends, and earn when they become customers.")
        bonus = words.money(settings.bonus_cents, settings.currency)
        told = words.gettext(
            "For each friend who becomes a customer you get %(bonus)s.", bonus=bonus
        )
        if not settings.hold_days:
            return told
        held = words.ngettext(
            "It is yours %(num)s day after the purchase.",
            "It is yours %(num)s days after the purchase.",
            settings.hold_days,
        )
        # Not all languages part sentences by a space, but all of ours that are told apart do.
        return f"{told} {held}"

    def link(self, name: str, once: bool) -> bool:
        """Say whether an asset is to be linked, and remember that it is.

        :param once: not where it was linked before.
        """
        is_wanted = not once or name not in self.linked
        self.linked.add(name)
        return is_wanted

    def share_links(self, link: str, message: str) -> list[tuple[str, str, str]]:
        """Return name, label and address of each place to share a link at.

        Each address carries a link of its own, by whose ``utm_source`` its visits are known.
        """
        text, subject = message.strip(), words.gettext("An invitation for you")

        to = functools.partial(tagged, link)
        mail = f"mailto:?subject={quote(subject)}&body={quote(f'{text} ' + to('email'))}"
        in_text = f"{text} {to('whatsapp')}"
        in_post = {"text": text, "url": to("x")}
        return [
            ("email", words.gettext("E-mail"), mail),
            ("whatsapp", "WhatsApp", f"https://wa.me/?{urlencode({'text': in_text})}"),
            (
                "telegram",
                "Telegram",
                f"https://t.me/share/url?{urlencode({'url': to('telegram'), 'text': text})}",
            ),
            ("x", "X", f"https://x.com/intent/post?{urlencode(in_post)}"),
            (
                "linkedin",
                "LinkedIn",
                "https://www.linkedin.com/sharing/share-offsite/?"
                + urlencode({"url": to("linkedin")}),
            ),
        ]


def shown(state: State) -> Shown:
    """Return this request's :class:`Shown`; a new one where there is no request."""
    if not has_request_context():
        return Shown(state)
    kept: Shown = request.environ.setdefault(_KEPT, Shown(state))
    return kept


@functools.cache
def version(name: str) -> str:
    """Return what changes in an asset's address when the asset does."""
    return hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()[:12]


@functools.cache
def has_segno() -> bool:
    """Whether the extra ``qr`` is installed."""
    return importlib.util.find_spec("segno") is not None


def _address(endpoint: str, **values: t.Any) -> str | None:
    try:
        return url_for(endpoint, **values)
    except (BuildError, RuntimeError):
        # The host did not register referral.pages; or there is no request to build it for.
        return None


def _retold(description: str | None) -> str | None:
    return description and words.retold(description, DESCRIPTIONS)
