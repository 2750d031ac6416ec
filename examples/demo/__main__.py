"""``python -m examples.demo``: make the database, serve the product, say what to try."""

from __future__ import annotations

import os
import signal
import socket
import sys

import sqlalchemy as sa
from flask import Flask
from werkzeug.serving import make_server

from flask_referral import ReferralError

from . import create_app
from . import database
from . import deploy
from . import past

HOST = "127.0.0.1"

GUIDE = r"""
The demo runs on {url}

  Log in at {url}/login
    {ada} or {bob}, password {password}
    {operator}, with the same password, for the program as a whole
  {url}/account has the referral code, from POST /api/referral/generate
  {url}/wallet  has a balance that the wallet's own trigger computes

  From a link to a bonus:
    1. Log in as {ada}, get the code, and copy the link that the account page shows.
    2. Open the link in a private window. Sign up there, and buy a plan.
    3. {ada}'s wallet has the bonus, once, however often you replay the webhook.
    4. Refund the purchase in the private window: the bonus is taken back.
  What the payment provider does (renew, refund, dispute, replay) is played at {url}/provider/

  {ada} has 60 days of referrals to look at; {bob} has invited nobody yet.

The same in a terminal, with the token that the product's CSRF protection wants:

  jar=$(mktemp)
  token() {{ curl -sb $jar -c $jar {url}/ | sed -n '/csrf-token/s/.*content="\(.*\)".*/\1/p'; }}
  curl -sb $jar -c $jar -o /dev/null {url}/login \
    -d csrf_token="$(token)" -d email={ada} -d password={password}
  curl -sb $jar -X POST -H "X-CSRFToken: $(token)" {url}/api/referral/generate

The data is kept in {folder}
Ctrl-C stops the demo.
"""


def main() -> None:
    """Serve the demo until Ctrl-C or SIGTERM."""
    for number in database.STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        with _listen() as listener:
            _serve(listener)
    except KeyboardInterrupt:
        # It came before the server ran, which takes the interrupt itself.
        pass
    except (database.UnusableDatabase, ReferralError) as error:
        sys.exit(str(error))
    except sa.exc.DBAPIError as error:
        sys.exit(f"The demo's database cannot be used: {str(error.orig).splitlines()[0]}")
    finally:
        # The embedded PostgreSQL stops at exit; a second Ctrl-C must not leave it behind.
        for number in database.STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    print("The demo has stopped; its data is kept.")


def _listen() -> socket.socket:
    # First of all, so that nothing is started in vain.
    port = os.environ.get("PORT") or "5000"
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        sys.exit(f"PORT is {port!r}; it takes a number from 0 (any free port) to 65535.")
    try:
        return socket.create_server((HOST, int(port)))
    except OSError as error:
        sys.exit(
            f"Port {port} of {HOST} cannot be used ({error.strerror}); choose another one, "
            "as in PORT=5001 make demo."
        )


def _serve(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    url = f"http://{HOST}:{port}"
    print("Preparing the database ...", flush=True)
    app = create_app(REFERRAL_BASE_URL=url)
    with app.app_context():
        deploy.upgrade()
        past.live()
        deploy.chores()
    server = make_server(HOST, port, app, threaded=True, fd=listener.fileno())
    print(_guide(app, url), flush=True)
    server.serve_forever()


def _guide(app: Flask, url: str) -> str:
    (ada, _), (bob, _) = deploy.USERS
    return GUIDE.format(
        url=url,
        ada=ada,
        bob=bob,
        operator=deploy.OPERATOR[0],
        password=deploy.PASSWORD,
        folder=app.instance_path,
    )


if __name__ == "__main__":
    main()
