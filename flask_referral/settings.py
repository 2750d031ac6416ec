"""The settings, read once from ``app.config`` into a frozen object."""

from __future__ import annotations

import base64
import dataclasses
import difflib
import re
import typing as t
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .errors import is_whole_number
from .spelling import normalize_code

PREFIX = "REFERRAL_"

Parser = t.Callable[[t.Any], t.Any]
# Without segments of dots only, which clients resolve before they ask.
_PATH = re.compile(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
# RFC 6265 takes a cookie's name from the token of RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")
_UNENCODABLE = re.compile(r"[\x00\ud800-\udfff]")
# RFC 6454, section 6.2; a name that is not ASCII is sent as its A-label.
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE)
_PORTS = {"http": ":80", "https": ":443"}
# ISO 4217
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_BASE64_SECRET = "whsec_"
#: How some write a secret, and every signature begins.
_VERSIONED = "v1,"
_NO_STRIPE_SECRETS = {
    "sk_": "an API key",
    "rk_": "an API key",
    "pk_": "an API key",
    "we_": "the id of an endpoint",
    "t=": "a signature",
    "v1": "a signature",
}
_INT4_MAX = 2**31 - 1
#: Ten times as much is still a setting of PostgreSQL's.
_LONGEST_LOCK_TIMEOUT = _INT4_MAX // 10
#: What browsers ask of a cookie of such a name, in whatever case it is written: RFC 6265bis,
#: section 4.1.3. HttpOnly and Path=/ every cookie of ours is.
_HOST_PREFIX = "__host-"
_SECURE_PREFIXES = (_HOST_PREFIX, "__secure-", "__http-")


def _integer(low: int, high: int) -> Parser:
    def parse(value: t.Any) -> int:
        if not is_whole_number(value, low, high):
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def _optional(parse: Parser) -> Parser:
    def parse_optional(value: t.Any) -> t.Any:
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"None or {error}") from None

    return parse_optional


def _one_of(*choices: t.Any) -> Parser:
    def parse(value: t.Any) -> t.Any:
        if not any(value is choice or value == choice for choice in choices):
            raise ValueError("one of " + ", ".join(map(repr, choices)))
        return value

    return parse


def _is_text(value: t.Any) -> t.TypeGuard[str]:
    # Undecodable bytes of an environment variable arrive as lone surrogates.
    return isinstance(value, str) and not _UNENCODABLE.search(value)


def _matching(pattern: re.Pattern[str], meaning: str) -> Parser:
    def parse(value: t.Any) -> str:
        if not _is_text(value) or not pattern.fullmatch(value):
            raise ValueError(meaning)
        return value

    return parse


def _boolean(value: t.Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _is_web_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        # The port is checked when it is read.
        is_port = parts.port is None or parts.port > 0
        return parts.scheme in ("http", "https") and bool(parts.hostname) and is_port
    except ValueError:
        return False


def _base_url(value: t.Any) -> str:
    meaning = "an absolute URL such as 'https://example.com', without user, query or fragment"
    if not _is_text(value) or _UNSAFE_IN_URL.search(value) or not _is_web_url(value):
        raise ValueError(meaning)
    if "?" in value or "#" in value or "@" in value:
        raise ValueError(meaning)
    return value.rstrip("/")


def _landing_url(value: t.Any) -> str:
    meaning = "a path such as '/welcome' or an absolute http(s) URL"
    if not _is_text(value) or _UNSAFE_IN_URL.search(value):
        raise ValueError(meaning)
    is_path = value.startswith("/") and not value.startswith("//")
    if not is_path and not _is_web_url(value):
        raise ValueError(meaning)
    return value


def _key(value: t.Any) -> bytes:
    if isinstance(value, bytes) and value:
        return value
    if not _is_text(value) or not value:
        raise ValueError("a non-empty string or bytes, best 32 random characters or more")
    return value.encode()


def _codes(value: t.Any) -> tuple[str, ...]:
    if value == ():
        return ()
    codes = [normalize_code(each, is_vanity=True) for each in _strings(value)]
    known = tuple(code for code in codes if code is not None)
    if len(known) < len(codes):
        raise ValueError("a list of words of 3 to 32 letters from A to Z and digits")
    return known


def _strings(value: t.Any) -> tuple[str, ...]:
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values:
        raise ValueError("None, a string or a list of strings")
    if not all(_is_text(item) and item.strip() for item in values):
        raise ValueError("None, a string or a list of strings, none of them empty")
    return tuple(item.strip() for item in values)


def decode_secret(secret: str) -> bytes:
    """Return the HMAC key of a webhook's secret.

    ``whsec_`` is followed by the key in base64, as Standard Webhooks 1.0 says. Every other secret
    is the key itself: Whop signs with the bytes of its ``ws_…`` secrets as they are. Blanks and
    line ends around it, as a copy or a file brings them, are not part of it.

    :raises ValueError: where a ``whsec_`` secret is not base64, the key is empty, or what is given
        begins as signatures do.
    """
    secret = secret.strip()
    if secret.startswith(_VERSIONED):
        raise ValueError(
            "the secret alone, without 'v1,' in front, which is the version of a signature"
        )
    try:
        if secret.startswith(_BASE64_SECRET):
            encoded = secret.removeprefix(_BASE64_SECRET)
            padding = "=" * (-len(encoded) % 4)
            key = base64.b64decode(encoded + padding, validate=True)
        else:
            key = secret.encode()
    except ValueError:
        key = b""
    if not key:
        raise ValueError("a secret such as 'ws_...', or base64 after 'whsec_'")
    return key


def _origins(value: t.Any) -> tuple[str, ...]:
    meaning = "a string or a list of origins such as 'https://app.example.com', without a path"
    values = (value,) if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise ValueError(meaning)
    for origin in values:
        if not _is_text(origin) or not _ORIGIN.fullmatch(origin) or not _is_web_url(origin):
            raise ValueError(meaning)
    return tuple(map(_serialized, values))


def _serialized(origin: str) -> str:
    """Return an origin as browsers send it, which leave out the scheme's own port."""
    scheme, _, host = origin.lower().partition("://")
    return f"{scheme}://{host.removesuffix(_PORTS[scheme])}"


def _webhook_secrets(value: t.Any) -> tuple[bytes, ...]:
    return tuple(map(decode_secret, _strings(value)))


def _stripe_secrets(value: t.Any) -> tuple[bytes, ...]:
    """Return the keys of Stripe's endpoints, which are the secrets as they are written."""
    meaning = "the signing secret that Stripe shows for the endpoint, as 'whsec_...'"
    secrets = _strings(value)
    for secret in secrets:
        for start, what in _NO_STRIPE_SECRETS.items():
            if secret.startswith(start):
                raise ValueError(f"{meaning} ('{start}...' is {what})")
    return tuple(secret.encode() for secret in secrets)


def _webhook_urls(value: t.Any) -> tuple[str, ...]:
    meaning = "a string or a list of addresses such as 'https://example.com/hooks'"
    urls = _strings(value) if value else ()
    if any(_UNSAFE_IN_URL.search(url) or not _is_web_url(url) for url in urls):
        raise ValueError(meaning)
    return tuple(dict.fromkeys(urls))


def _currency(value: t.Any) -> str:
    if not _is_text(value) or not _CURRENCY.fullmatch(value):
        raise ValueError("the three letters of a currency, as 'usd'")
    return value.lower()


_prefix = _matching(_PATH, "a path that starts with '/' and does not end with one, as '/referral'")
_positive = _integer(1, _INT4_MAX)


def _setting(default: t.Any, parse: Parser, *, secret: bool = False) -> t.Any:
    return dataclasses.field(default=default, repr=not secret, metadata={"parse": parse})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One application's settings; each field is the key ``REFERRAL_<FIELD>``.

    Changes to ``app.config`` after ``init_app`` are not seen.
    """

    #: Where the JSON API is mounted.
    url_prefix: str = _setting("/api/referral", _prefix)
    #: Where share links are mounted.
    link_prefix: str = _setting("/r", _prefix)
    #: Where the referrer's page is mounted.
    page_prefix: str = _setting("/referral", _prefix)
    #: The template that the referrer's page extends; see README for its blocks.
    base_template: str = _setting(
        "referral/base.html", _matching(re.compile(r".+"), "a template's name")
    )
    #: Whether the referrer's page shows the leaderboard.
    leaderboard: bool = _setting(False, _boolean)
    #: Whether users may choose a code of their own.
    vanity_codes: bool = _setting(False, _boolean)
    #: Words that nobody may choose, besides the shipped ones.
    reserved_codes: tuple[str, ...] = _setting((), _codes)
    #: The origin of share links. ``None``: they are built from a trusted host only.
    base_url: str | None = _setting(None, _optional(_base_url))
    #: Where a share link leads.
    landing_url: str = _setting("/", _landing_url)
    #: The query parameter that carries a code on any page.
    query_param: str = _setting(
        "ref", _matching(re.compile(r"[A-Za-z0-9_.-]+"), "letters, digits, '_', '.' and '-'")
    )
    cookie_name: str = _setting(
        "virtuna_referral", _matching(_TOKEN, "a cookie name without spaces or separators")
    )
    #: Seconds; also the attribution window, which the server enforces.
    cookie_max_age: int = _setting(2_592_000, _positive)
    cookie_domain: str | None = _setting(
        None, _optional(_matching(re.compile(r"\.?[A-Za-z0-9.-]+"), "a domain"))
    )
    #: ``None`` in the class, True outside debug mode once read from an application.
    cookie_secure: bool | None = _setting(None, _optional(_boolean))
    cookie_samesite: str | None = _setting("Lax", _one_of("Lax", "Strict", "None", None))
    #: Other origins whose pages may ask for a code with a browser's cookies.
    trusted_origins: tuple[str, ...] = _setting((), _origins)
    #: Which of several clicks counts.
    touch: str = _setting("last", _one_of("last", "first"))
    #: The default bonus of a conversion, in cents.
    bonus_cents: int = _setting(1000, _integer(0, _INT4_MAX))
    #: The wallet's currency, three lower-case letters; amounts in cents are of it.
    currency: str = _setting("usd", _currency)
    #: How many further payments of a referred user may earn; None for all.
    renewals: int | None = _setting(0, _optional(_integer(0, _INT4_MAX)))
    #: A smaller payment, in cents of the wallet's currency, earns nothing.
    min_payment_cents: int = _setting(1, _integer(0, _INT4_MAX))
    #: Whether what a refund did not find in a wallet is taken out of its next credits.
    net_shortfall: bool = _setting(True, _boolean)
    #: Days before a reward is credited; 0 credits at once.
    hold_days: int = _setting(0, _integer(0, 3650))
    #: Seconds in which one visitor and code make one click.
    dedupe_seconds: int = _setting(86_400, _positive)
    #: The most rows of one address (IPv6: /64), code and window, whatever the visitors' agents.
    clicks_per_address: int = _setting(64, _positive)
    #: Milliseconds that a visit waits for each lock of somebody else's before its page is served
    #: without it (PostgreSQL); a webhook waits ten times as long, then it answers 503.
    lock_timeout_ms: int = _setting(250, _integer(1, _LONGEST_LOCK_TIMEOUT))
    #: Whether the commit of a click waits for the disk ("full") or not ("async", PostgreSQL).
    click_durability: str = _setting("full", _one_of("full", "async"))
    #: The name of the host's bind, a replica, that statistics are read from.
    read_bind: str | None = _setting(
        None, _optional(_matching(re.compile(r".+"), "a name of SQLALCHEMY_BINDS"))
    )
    #: Bind the visit when the host inserts its user row.
    auto_attribute: bool = _setting(False, _boolean)
    #: The column of the user table that holds when the account was made.
    user_created_column: str | None = _setting(
        "created_at", _optional(_matching(re.compile(r".+"), "a column's name"))
    )
    #: More conversions than this per referrer and day (UTC) are held for review, and so is what
    #: more sign-ups than this per referrer and day earn.
    velocity_limit: int | None = _setting(None, _optional(_integer(0, _INT4_MAX)))
    #: The key of the hashed addresses. Without it ``ip_hash`` stays NULL.
    ip_key: bytes | None = _setting(None, _optional(_key), secret=True)
    #: The PostgreSQL role of ``acting_as``; turns row level security on for our own reads.
    rls_role: str | None = _setting(
        None, _optional(_matching(re.compile(r"[^\x00]{1,63}"), "the name of a PostgreSQL role"))
    )
    #: The keys that sign Whop's webhooks; several while one is rotated.
    whop_webhook_secret: tuple[bytes, ...] = _setting((), _webhook_secrets, secret=True)
    #: The companies whose Whop events count.
    whop_company_id: tuple[str, ...] = _setting((), _strings)
    #: The keys that sign Stripe's webhooks; several while one is rolled, or for several endpoints.
    stripe_webhook_secret: tuple[bytes, ...] = _setting((), _stripe_secrets, secret=True)

    #: Keep what signals tell of for ``flask referral deliver``.
    outbox: bool = _setting(False, _boolean)
    #: Where the outbox is posted to; the address may hold a secret.
    webhook_urls: tuple[str, ...] = _setting((), _webhook_urls, secret=True)
    #: The keys that sign what is posted, each of them; several while one is rotated.
    webhook_secret: tuple[bytes, ...] = _setting((), _webhook_secrets, secret=True)

    @classmethod
    def from_config(cls, config: t.Mapping[str, t.Any], *, debug: bool = False) -> Settings:
        """Read and check every ``REFERRAL_*`` key.

        :param config: the application's ``config``.
        :param debug: whether cookies may travel over plain HTTP by default.
        :raises ConfigurationError: for an unknown key or a value that the key cannot take.
        """
        fields = {field.name.upper(): field for field in dataclasses.fields(cls)}
        values: dict[str, t.Any] = {}
        for key in (key for key in config if key.startswith(PREFIX)):
            name = key.removeprefix(PREFIX)
            field = fields.get(name)
            if field is None:
                close = difflib.get_close_matches(name, fields, 1)
                hint = f"did you mean {PREFIX}{close[0]}?" if close else "remove it."
                raise ConfigurationError(f"{key} is not a setting of flask-referral; {hint}")
            try:
                values[field.name] = field.metadata["parse"](config[key])
            except ValueError as error:
                # A secret's value has no place in a log.
                given = repr(config[key]) if field.repr else "the value given"
                raise ConfigurationError(f"{key} takes {error}, not {given}.") from None
        settings = cls(**values)
        if settings.cookie_secure is None:
            is_secure = not debug or settings._cookie_is(_SECURE_PREFIXES)
            settings = dataclasses.replace(settings, cookie_secure=is_secure)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        prefixes = (self.url_prefix, self.link_prefix, self.page_prefix)
        if len(set(prefixes)) < len(prefixes):
            raise ConfigurationError(
                "REFERRAL_URL_PREFIX, REFERRAL_LINK_PREFIX and REFERRAL_PAGE_PREFIX must differ."
            )
        if self._cookie_is(_HOST_PREFIX) and self.cookie_domain is not None:
            raise ConfigurationError(
                f"REFERRAL_COOKIE_NAME = {self.cookie_name!r} is for one host alone, and browsers "
                "refuse such a cookie with a Domain: remove REFERRAL_COOKIE_DOMAIN, or name the "
                "cookie '__Secure-...'."
            )
        if self._cookie_is(_SECURE_PREFIXES) and not self.cookie_secure:
            raise ConfigurationError(
                f"REFERRAL_COOKIE_NAME = {self.cookie_name!r} needs REFERRAL_COOKIE_SECURE = True; "
                "browsers refuse the cookie otherwise."
            )
        if self.cookie_samesite == "None" and not self.cookie_secure:
            raise ConfigurationError(
                "REFERRAL_COOKIE_SAMESITE = 'None' needs REFERRAL_COOKIE_SECURE = True; "
                "browsers refuse the cookie otherwise."
            )

        if self.webhook_urls and not self.webhook_secret:
            raise ConfigurationError(
                "REFERRAL_WEBHOOK_URLS needs REFERRAL_WEBHOOK_SECRET, 'whsec_' and 32 random bytes "
                "in base64: receivers tell by the signature that it is you."
            )
        if self.webhook_urls and not self.outbox:
            raise ConfigurationError(
                "REFERRAL_WEBHOOK_URLS needs REFERRAL_OUTBOX = True, which keeps what is to be "
                "posted."
            )

    def _cookie_is(self, prefixes: str | tuple[str, ...]) -> bool:
        return self.cookie_name.lower().startswith(prefixes)
