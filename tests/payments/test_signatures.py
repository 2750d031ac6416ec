"""A webhook is read only if one of the secrets signed exactly this delivery, now."""

from __future__ import annotations

import base64
import collections
import hashlib
import hmac
import itertools
import random
import string
import typing as t
from datetime import datetime
from datetime import UTC

import pytest
from standardwebhooks import Webhook
from werkzeug.datastructures import Headers

from flask_referral.errors import ConfigurationError
from flask_referral.errors import InvalidSignature
from flask_referral.payments.signatures import verify
from flask_referral.settings import decode_secret
from flask_referral.settings import Settings

NOW = 1_760_000_000
WHOP = "ws_2da9f3c1b8e04d57a6f1c0de9b7a4e53"
STANDARD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHOP_KEY, STANDARD_KEY = decode_secret(WHOP), decode_secret(STANDARD)
BODY = '{"type": "payment.succeeded", "data": {"id": "pay_1", "total": 10.43, "név": "ű"}}'.encode()

Delivery = tuple[bytes, dict[str, t.Any]]


def sign(key: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    signed = event_id.encode("utf-8", "surrogatepass") + b"." + timestamp.encode() + b"." + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def deliver(
    body: bytes = BODY, *, secret: str = WHOP, event_id: str = "msg_1", timestamp: t.Any = NOW
) -> Delivery:
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(decode_secret(secret), event_id, str(timestamp), body),
    }
    return body, headers


def refused(
    delivery: Delivery, *, secrets: t.Sequence[str] = (WHOP,), now: float = NOW
) -> InvalidSignature:
    with pytest.raises(InvalidSignature) as caught:
        verify(*delivery, list(map(decode_secret, secrets)), now=now)
    return caught.value


def oracle(secret: str) -> Webhook:
    """The reference library takes base64 only; Whop's guide passes it the encoded secret."""
    if secret.startswith("whsec_"):
        return Webhook(secret)
    return Webhook(base64.b64encode(secret.encode()).decode())


@pytest.mark.parametrize("secret", [WHOP, STANDARD, "any other text, ünïcode too"])
def test_accepts_10_000_deliveries_that_the_reference_library_signed(secret: str) -> None:
    rng = random.Random(7)
    library, key = oracle(secret), decode_secret(secret)
    junk = ["v1,", "v1", "", "v2,", "v1a,c2ln", "v1,ű", "v1,a,b", sign(b"old", "x", "1", b"")]
    for number in range(10_000):
        body = "".join(rng.choices('{}[]":,.\\ aé€😀\n\x00', k=rng.randrange(60)))
        event_id = "msg_" + "".join(rng.choices(string.ascii_letters + string.digits, k=24))
        timestamp = NOW + rng.randint(-300, 300)
        good = library.sign(event_id, datetime.fromtimestamp(timestamp, UTC), body)
        signatures = rng.choices(junk, k=rng.randrange(4)) + [good] * rng.randint(1, 2)
        rng.shuffle(signatures)
        headers = {
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }
        assert verify(body.encode(), headers, [key], now=NOW) == event_id, (number, headers)


def test_the_body_is_bytes_and_needs_to_be_no_text() -> None:
    body = bytes(range(256))
    assert verify(*deliver(body), [WHOP_KEY], now=NOW) == "msg_1"
    assert verify(*deliver(b""), [WHOP_KEY], now=NOW) == "msg_1"


def test_reads_headers_as_flask_has_them() -> None:
    body, headers = deliver()
    assert verify(
        body, Headers({key.title(): headers[key] for key in headers}), [WHOP_KEY], now=NOW
    )


def test_both_secrets_count_while_one_is_rotated() -> None:
    for secret in (WHOP, STANDARD):
        assert verify(*deliver(secret=secret), [WHOP_KEY, STANDARD_KEY], now=NOW) == "msg_1"
        assert verify(*deliver(secret=secret), [STANDARD_KEY, WHOP_KEY], now=NOW) == "msg_1"
    refused(deliver(secret=WHOP), secrets=[STANDARD])
    refused(deliver(secret=STANDARD), secrets=[WHOP])
    refused(deliver(), secrets=[])


@pytest.mark.parametrize("sent", [NOW, NOW - 10_000])
def test_the_clocks_may_differ_by_300_seconds_and_not_by_one_more(sent: int) -> None:
    delivery = deliver(timestamp=sent)
    for now in (sent - 300, sent - 299, sent, sent + 300, sent - 300.0, sent + 299.999):
        assert verify(*delivery, [WHOP_KEY], now=now) == "msg_1"
    for now in (sent - 301, sent + 301, sent + 300.001, sent - 300.001, 0, float("inf")):
        assert "300 seconds" in str(refused(delivery, now=now))
    refused(delivery, now=float("nan"))


@pytest.mark.parametrize(
    "timestamp",
    # Some of these are this moment, written in another way.
    [
        *(f"+{NOW}", f" {NOW}", f"{NOW}\n", f"{NOW}.7", f"{NOW}e0", "1_760_000_000", "१७६०००००००"),
        *("", " ", "-1", "0x68", "¹", "nan", "9" * 13, "9" * 5000, "0" * 5000, "\x00"),
        *(None, NOW, b"1760000000"),
    ],
)
def test_a_timestamp_is_digits_of_ascii(timestamp: t.Any) -> None:
    # Signed as it is: nothing but its form is wrong.
    body, headers = deliver(timestamp=timestamp)
    headers["webhook-timestamp"] = timestamp
    refused((body, headers))


@pytest.mark.parametrize(
    "event_id",
    ["", "a b", "msg.1", "msg\n", "msg\x00", "msg_ű", "\ud800", "m" * 256, "m" * 10**6, None, 5],
)
def test_an_id_is_short_printable_and_without_a_full_stop(event_id: t.Any) -> None:
    body, headers = deliver(event_id=str(event_id))
    headers["webhook-id"] = event_id
    refused((body, headers))


def test_a_signature_header_is_short() -> None:
    body, headers = deliver()
    good = headers["webhook-signature"]
    headers["webhook-signature"] = " ".join([good] * 20)
    assert verify(body, headers, [WHOP_KEY], now=NOW)
    headers["webhook-signature"] = " ".join([good] * 100)
    refused((body, headers))


def test_what_was_signed_cannot_be_read_in_another_way() -> None:
    _, headers = deliver(b"1760000000.{}", timestamp=NOW - 200_000)
    headers |= {
        "webhook-id": f"msg_1.{headers['webhook-timestamp']}",
        "webhook-timestamp": str(NOW),
    }
    refused((b"{}", headers))


HOSTILE = ["", "\x00", "\n", "\r\n", "ű", "\ud800", "१", "," * 50, " " * 50, "v1,", "v1 ", "="]
HOSTILE += ["-", ".", "0", "1e400", "9" * 400, "x" * 5000, "v1," * 300]


def edited(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    end = rng.choice([at, at, min(at + 1, len(text)), rng.randint(at, len(text))])
    piece = rng.choice([chr(rng.randrange(256)), rng.choice(HOSTILE), text[:at]])
    return text[:at] + piece + text[end:]


def mutations() -> dict[str, t.Callable[[random.Random, bytes, dict[str, t.Any]], Delivery]]:
    """Ways to change a good delivery; each leaves no good signature in it."""
    names = ["webhook-id", "webhook-timestamp", "webhook-signature"]

    def body_edit(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        at = rng.randrange(len(body) + 1)
        piece = rng.randbytes(rng.randrange(3))
        return body[:at] + piece + body[at + rng.randrange(4) :], headers

    def body_bit(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        at = rng.randrange(len(body))
        return body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :], headers

    def header_edit(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        name = rng.choice(names)
        value = edited(rng, headers[name])
        if name == "webhook-signature" and headers[name] in value.split(" "):
            value = ""
        return body, headers | {name: value}

    def header_bit(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        name = rng.choice(names)
        value = headers[name]
        at = rng.randrange(len(value))
        flipped = chr(ord(value[at]) ^ 1 << rng.randrange(8))
        return body, headers | {name: value[:at] + flipped + value[at + 1 :]}

    def header_gone(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        name = rng.choice(names)
        changed = dict(headers)
        changed[rng.choice([f"svix-{name[8:]}", "x-" + name])] = changed.pop(name)
        return body, changed

    def header_odd(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        return body, headers | {rng.choice(names): rng.choice([None, b"v1", 7, *HOSTILE])}

    def headers_swapped(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        one, other = rng.sample(names, 2)
        return body, headers | {one: headers[other], other: headers[one]}

    def time_moved(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        moved = rng.choice([-1, 1]) * rng.randint(1, 400)
        return body, headers | {"webhook-timestamp": str(NOW + moved)}

    def replayed(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        moved = rng.choice([-1, 1]) * rng.randint(301, 10**9)
        return deliver(body, timestamp=NOW + moved)

    def other_secret(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        keys = [b"", WHOP[3:].encode(), WHOP.upper().encode(), rng.randbytes(rng.randint(1, 64))]
        keys += [decode_secret(STANDARD), base64.b64encode(WHOP.encode())]
        signature = sign(rng.choice(keys), "msg_1", str(NOW), body)
        return body, headers | {"webhook-signature": signature}

    def signature_form(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        raw = headers["webhook-signature"].removeprefix("v1,")
        last = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
        # The last character carries two bits that base64 ignores.
        near = last[last.index(raw[-2]) ^ rng.randint(1, 3)]
        forms = [
            *(version + raw for version in ("", "v1", "V1,", "v1a,", "v2,", "v1,,", "v1;", "v1, ")),
            *("v1," + form for form in (raw[:-1], raw[:-2] + near + "=", raw + "=", raw + "\n")),
            *("v1," + form for form in (raw.lower(), raw.swapcase(), raw[:-8], raw[1:])),
            "v1," + base64.b64decode(raw).hex(),
            *(f"x{blank}v1,{raw}" for blank in "\t\n,;\xa0\u2003"),
        ]
        return body, headers | {"webhook-signature": rng.choice(forms)}

    def split_elsewhere(rng: random.Random, body: bytes, headers: dict[str, t.Any]) -> Delivery:
        whole = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        one, other = sorted(rng.sample([at for at, c in enumerate(whole) if c == ord(".")], 2))
        text = whole.decode("latin-1")
        parts = {"webhook-id": text[:one], "webhook-timestamp": text[one + 1 : other]}
        return whole[other + 1 :], headers | parts

    return {function.__name__: function for function in locals().values() if callable(function)}


def test_refuses_100_000_changed_deliveries() -> None:
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    ways = mutations()
    done: collections.Counter[str] = collections.Counter()
    names = itertools.cycle(ways)
    while done.total() < 100_000:
        name = next(names)
        good = deliver(BODY.replace(b"pay_1", b"pay_%d" % rng.randrange(10**6)))
        body, headers = ways[name](rng, good[0], dict(good[1]))
        if (body, headers) == good:
            continue
        done[name] += 1
        what = f"seed {seed}, {name}: {body!r} {headers!r}"
        try:
            verify(body, headers, [WHOP_KEY], now=NOW)
        except InvalidSignature:
            continue
        except Exception as error:
            pytest.fail(f"{error!r} with {what}")
        pytest.fail(f"accepted with {what}")
    print(f"seed {seed}, {dict(done)}")
    assert min(done[name] for name in ways) > 1000


def test_refuses_every_flipped_bit() -> None:
    body, headers = deliver()
    for at in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[at // 8] ^= 1 << at % 8
        refused((bytes(flipped), headers))
    for name, value in headers.items():
        for at in range(len(value) * 8):
            changed = chr(ord(value[at // 8]) ^ 1 << at % 8)
            changed = value[: at // 8] + changed + value[at // 8 + 1 :]
            refused((body, headers | {name: changed}))


@pytest.mark.parametrize("secrets", [(WHOP,), (STANDARD,), (WHOP, STANDARD)])
def test_a_refusal_says_nothing_of_the_secret(secrets: t.Sequence[str]) -> None:
    wrong = deliver(secret="something else")
    old = deliver(timestamp=NOW - 301)
    for delivery in (wrong, old, (BODY, {}), (BODY, wrong[1] | {"webhook-signature": None})):
        error = refused(delivery, secrets=secrets)
        assert error.__cause__ is None
        told = str(error)
        for secret in secrets:
            pieces = (secret, secret[-8:], base64.b64encode(decode_secret(secret)).decode())
            assert not any(piece and piece in told for piece in pieces)
        for secret in (*secrets, "something else"):
            assert sign(decode_secret(secret), "msg_1", str(NOW), BODY)[3:] not in told


def test_a_secret_is_the_key_or_base64_after_whsec() -> None:
    assert decode_secret(WHOP) == WHOP.encode()
    assert decode_secret("d2hhdA==") == b"d2hhdA=="
    assert decode_secret("whsec_d2hhdA==") == b"what"
    assert decode_secret("whsec_d2hhdA") == b"what"


@pytest.mark.parametrize("around", ["{}\n", " {}", "\t{}\r\n"])
def test_blanks_and_line_ends_around_a_secret_are_not_part_of_it(around: str) -> None:
    given = [around.format(WHOP), around.format(STANDARD)]
    settings = Settings.from_config({"REFERRAL_WHOP_WEBHOOK_SECRET": given})
    assert settings.whop_webhook_secret == (WHOP_KEY, STANDARD_KEY)


@pytest.mark.parametrize(
    "secret",
    ["whsec_", "whsec_%%%%", "whsec_d2hhd", "whsec_é", "whsec_MfKQ9r8G KYqr", "whsec_MfKQ-9r8GKYq"],
)
def test_a_secret_that_cannot_be_decoded_stops_the_application(secret: str) -> None:
    for value in (secret, [WHOP, secret]):
        with pytest.raises(ConfigurationError, match=r"^REFERRAL_WHOP_WEBHOOK_SECRET ") as caught:
            Settings.from_config({"REFERRAL_WHOP_WEBHOOK_SECRET": value})
        told = str(caught.value)
        assert WHOP not in told
        assert secret == "whsec_" or secret not in told


def test_good_secrets_are_settings() -> None:
    settings = Settings.from_config({"REFERRAL_WHOP_WEBHOOK_SECRET": [WHOP, STANDARD]})
    assert settings.whop_webhook_secret == (WHOP_KEY, STANDARD_KEY)
    assert WHOP not in repr(settings)
