"""Clickjacking: the referrer's page in a frame of another site."""

from __future__ import annotations

import pytest
from flask import Response
from flask_talisman import Talisman

from ..conftest import MakeHost
from ..faces import PAGE
from ..hosts import Host

BASE = {"REFERRAL_BASE_URL": "https://shop.example"}
OURS = ("SAMEORIGIN", ["frame-ancestors 'self'"])


def framing(host: Host, method: str = "get", path: str = PAGE) -> tuple[str | None, list[str]]:
    """Return what an answer says of frames: X-Frame-Options, and its policies."""
    host.current_user = host.current_user or host.add_user()
    answer = getattr(host.client(), method)(path)
    assert answer.status_code == 200
    policies = answer.headers.getlist("Content-Security-Policy")
    return answer.headers.get("X-Frame-Options"), policies


def test_no_other_site_frames_the_page(make_sqlite: MakeHost) -> None:
    assert framing(make_sqlite(**BASE)) == OURS


def test_the_hosts_own_pages_are_left_as_they_are(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    host.app.add_url_rule("/own", "own", lambda: "")
    assert framing(host, path="/own") == (None, [])


@pytest.mark.parametrize("is_default", [False, True])
def test_a_policy_of_the_hosts_is_kept_and_ours_is_beside_it(
    make_sqlite: MakeHost, is_default: bool
) -> None:
    host = make_sqlite(**BASE)

    @host.app.after_request
    def own(response: Response) -> Response:
        name, policy = "Content-Security-Policy", "default-src 'self'"
        if is_default:
            response.headers.setdefault(name, policy)
        else:
            response.headers[name] = policy
        return response

    assert framing(host) == ("SAMEORIGIN", ["default-src 'self'", "frame-ancestors 'self'"])


@pytest.mark.parametrize(
    "own",
    [
        {"Content-Security-Policy": "frame-ancestors https://portal.example"},
        # Ours would undo it: browsers go by frame-ancestors where there are both.
        {"X-Frame-Options": "DENY"},
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_what_the_host_says_of_frames_holds(
    make_sqlite: MakeHost, own: dict[str, str], is_late: bool
) -> None:
    host = make_sqlite(**BASE)

    def say(response: Response) -> Response:
        response.headers.update(own)
        return response

    # Flask runs the blueprint's functions before the application's.
    if is_late:
        host.app.after_request(say)
    else:
        host.app.after_request_funcs.setdefault("referral_pages", []).append(say)
    policies = [own[name] for name in own if name == "Content-Security-Policy"]
    assert framing(host) == (own.get("X-Frame-Options"), policies)


def test_talismans_policy_holds(make_sqlite: MakeHost) -> None:
    host = make_sqlite(**BASE)
    policy = {"default-src": "'self'", "frame-ancestors": "https://portal.example"}
    Talisman(host.app, force_https=False, frame_options=None, content_security_policy=policy)
    _, (told,) = framing(host)
    assert "frame-ancestors https://portal.example" in told and "frame-ancestors 'self'" not in told
