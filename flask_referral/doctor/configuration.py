"""What the application's configuration says; none of this asks the database."""

from __future__ import annotations

import typing as t
from urllib.parse import urlsplit

import jinja2
from jinja2 import nodes

from .. import eligibility
from ..host.identity import is_set_up
from .findings import Check
from .findings import fault
from .findings import Finding
from .findings import ok
from .findings import Patient
from .findings import warning

#: Shorter keys can be guessed: 16 bytes are 128 bits at best.
SHORTEST_KEY = 16
_NEW_KEY = "python -c 'import secrets; print(secrets.token_hex(32))'"
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def identity(patient: Patient) -> t.Iterator[Finding]:
    """Whether somebody says who is logged in."""
    if not is_set_up(patient.state, patient.app):
        yield fault(
            "Nobody says who is logged in: there is neither a function for it nor Flask-Login, so "
            "every route that needs a user answers with an error.",
            "Name a function that returns the current user or None with "
            "@referral.identity_loader, or set up Flask-Login.",
        )


def driver(patient: Patient) -> t.Iterator[Finding]:
    """Whether the next SQLAlchemy finds the driver that this one uses."""
    url = patient.state.engine.url
    if url.drivername == "postgresql":
        yield warning(
            "The database's URL begins with postgresql:// and names no driver: SQLAlchemy 2.0 "
            "takes psycopg2 for it, 2.1 and newer psycopg 3, and without that no application "
            "starts.",
            "Write postgresql+psycopg2:// in SQLALCHEMY_DATABASE_URI, or postgresql+psycopg:// if "
            "psycopg 3 is installed.",
        )


def secret_key(patient: Patient) -> t.Iterator[Finding]:
    """Whether cookies can be signed."""
    key = patient.app.secret_key
    if not key:
        yield fault(
            "SECRET_KEY is not set, so the cookie that remembers a visit cannot be signed.",
            f"Set it to a secret of its own, as made by {_NEW_KEY}.",
        )
    elif len(key) < SHORTEST_KEY and not patient.is_rehearsal:
        yield warning(
            f"SECRET_KEY has {len(key)} characters and can be guessed; whoever knows it forges "
            "visits, and sessions too.",
            f"Set it to a longer one, as made by {_NEW_KEY}.",
        )


def ip_key(patient: Patient) -> t.Iterator[Finding]:
    """Whether what is kept of addresses can be compared, and by nobody turned back into them."""
    key = patient.state.settings.ip_key
    if key is None:
        yield warning(
            "REFERRAL_IP_KEY is not set: clicks are stored without ip_hash. Visitors are told "
            "apart by their addresses all the same, but nobody can see later that many clicks "
            "came from one, or that a proxy's address stands for all.",
            f"Set it to a secret of its own, as made by {_NEW_KEY}.",
        )
    elif len(key) < SHORTEST_KEY:
        yield warning(
            f"REFERRAL_IP_KEY has {len(key)} bytes; whoever guesses it can turn ip_hash back into "
            "addresses.",
            f"Set it to a longer one, as made by {_NEW_KEY}.",
        )


def cookies(patient: Patient) -> t.Iterator[Finding]:
    """Whether browsers keep the cookie, and show it to nobody on the way."""
    settings = patient.state.settings
    base = urlsplit(settings.base_url or "")
    if not settings.cookie_secure and not patient.is_rehearsal:
        yield warning(
            "REFERRAL_COOKIE_SECURE is False outside debug mode, so the cookie travels over plain "
            "HTTP, where it can be read and replaced.",
            "Remove REFERRAL_COOKIE_SECURE from the configuration and serve the site over HTTPS.",
        )
    elif not settings.cookie_secure:
        yield ok("The cookie may travel over plain HTTP, since this is a debug or test session.")
    if settings.cookie_secure and base.scheme == "http" and base.hostname not in _LOCAL_HOSTS:
        yield warning(
            f"Share links begin with {settings.base_url!r}, without HTTPS, and the cookie is "
            "Secure: a browser that is not redirected to HTTPS refuses it, and the visit is lost.",
            "Serve the site over HTTPS and write https:// in REFERRAL_BASE_URL.",
        )
    domain = (settings.cookie_domain or "").lstrip(".").lower()
    if domain and base.hostname and not f".{base.hostname}".endswith(f".{domain}"):
        yield fault(
            f"Browsers refuse the cookie: REFERRAL_COOKIE_DOMAIN is {settings.cookie_domain!r}, "
            f"which {base.hostname!r} of REFERRAL_BASE_URL does not belong to.",
            "Set it to that host or a parent domain of it, or remove it.",
        )


def share_links(patient: Patient) -> t.Iterator[Finding]:
    """Whether share links lead to this site, whatever Host header a request has."""
    config = patient.app.config
    if patient.state.settings.base_url is None and not (
        config.get("SERVER_NAME") or config.get("TRUSTED_HOSTS")
    ):
        yield warning(
            "Nothing says which host share links lead to: REFERRAL_BASE_URL, SERVER_NAME and "
            "TRUSTED_HOSTS are not set, and the Host header of a request can be forged.",
            "Set REFERRAL_BASE_URL to the site's address, as in 'https://example.com'.",
        )


def whop(patient: Patient) -> t.Iterator[Finding]:
    """Whether the webhook's two settings agree."""
    settings = patient.state.settings
    if not settings.whop_webhook_secret and not settings.whop_company_id:
        yield ok("The Whop webhook is off, since REFERRAL_WHOP_WEBHOOK_SECRET is not set.")
    elif not settings.whop_company_id:
        yield warning(
            "REFERRAL_WHOP_COMPANY_ID is not set, so the payments of any company that shares the "
            "webhook's secret count.",
            "Set it to the id of your company, as in 'biz_...'.",
        )
    elif not settings.whop_webhook_secret:
        yield warning(
            "REFERRAL_WHOP_COMPANY_ID is set without REFERRAL_WHOP_WEBHOOK_SECRET, so the webhook "
            "answers 404 and no payment counts.",
            "Set REFERRAL_WHOP_WEBHOOK_SECRET to the secret that Whop shows for the webhook.",
        )


def account_age(patient: Patient) -> t.Iterator[Finding]:
    """Whether old accounts can be told from new ones."""
    name, key = patient.state.settings.user_created_column, patient.state.models.user_key
    if name is None:
        yield warning(
            "REFERRAL_USER_CREATED_COLUMN is None, so accounts of any age can be referred, by "
            "themselves with a second one too.",
            "Name the column of the user table that says when an account was made.",
        )
    elif eligibility.created_column(key, name) is None:
        yield fault(
            f"The user table {key.table.fullname!r} declares no column {name!r} of type DateTime, "
            "so accounts of any age can be referred and their purchases earn a bonus.",
            f"Declare it in the user model, as in sa.Column({name!r}, sa.DateTime(timezone=True)), "
            "or name another in REFERRAL_USER_CREATED_COLUMN; None says that there is none.",
        )


def layout(patient: Patient) -> t.Iterator[Finding]:
    """Whether the referrer's page can be put into the layout that the settings name."""
    name = patient.state.settings.base_template
    if "referral_pages" not in patient.app.blueprints:
        yield ok("The referrer's page is not registered.")
        return
    try:
        has_content = _has_block(patient.app.jinja_env, name, "content")
    except jinja2.TemplateError as error:
        yield fault(
            f"The layout of the referrer's page, {name!r}, cannot be used: {_sentence(error)}.",
            "Correct that template, or REFERRAL_BASE_TEMPLATE.",
        )
        return
    if not has_content:
        yield fault(
            f"The layout of the referrer's page, {name!r}, has no block named 'content', so the "
            "page shows nothing but the layout.",
            "Put {% block content %}{% endblock %} where the page belongs, or name another "
            "template in REFERRAL_BASE_TEMPLATE.",
        )


def _sentence(error: jinja2.TemplateError) -> str:
    if isinstance(error, jinja2.TemplateNotFound):
        return f"there is no template {error.name!r}"
    return str(error.message).rstrip(".")


def _has_block(environment: jinja2.Environment, name: str, block: str) -> bool:
    """Whether a template has a block, or one that it extends; True where that is not known.

    :raises jinja2.TemplateError: where one of them does not exist, or cannot be read.
    """
    assert environment.loader is not None
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        tree = environment.parse(environment.loader.get_source(environment, name)[0], name)
        if any(each.name == block for each in tree.find_all(nodes.Block)):
            return True
        extends = next(tree.find_all(nodes.Extends), None)
        if extends is None:
            return False
        if not isinstance(extends.template, nodes.Const):
            return True
        name = extends.template.value
    return False


CHECKS = (
    Check("identity", identity, "The application says who is logged in."),
    Check("driver", driver, "The database's URL names its driver."),
    Check("secret-key", secret_key, "SECRET_KEY is set, so cookies are signed."),
    Check("ip-key", ip_key, "REFERRAL_IP_KEY is set, so addresses are stored as keyed hashes."),
    Check("cookies", cookies, "The cookie is Secure, HttpOnly and signed."),
    Check("share-links", share_links, "Share links are built for a host that is configured."),
    Check("layout", layout, "The referrer's page has its layout."),
    Check("whop", whop, "The Whop webhook has its secret and its company."),
    Check("account-age", account_age, "The user table says when accounts were made."),
)
