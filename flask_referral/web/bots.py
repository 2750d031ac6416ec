"""Programs that follow links without a person behind them.

A short list for what actually fetches shared links: crawlers, the link previews of messengers
and social networks, uptime and page-speed probes. Each name was taken from its operator's
documentation of the ``User-Agent`` header. HTTP libraries and command-line tools are left out:
they do not crawl by themselves, and developers try their links with them. A program that
pretends to be a browser is not found here; ``@referral.bot_detector`` is the place for more.
"""

from __future__ import annotations

import re

_BOTS = re.compile(
    # Googlebot, bingbot, Applebot, Twitterbot, Slackbot, TelegramBot, Discordbot, LinkedInBot,
    # GPTBot, UptimeRobot …; a Cubot is a telephone.
    r"(?<!\bcu)bot\b|crawl|spider|slurp"
    r"|facebookexternalhit|facebookcatalog|meta-external|^whatsapp/"
    r"|skypeuripreview|microsoftpreview|bingpreview|embedly|iframely|vkshare|mastodon/"
    r"|google-(?:read-aloud|inspectiontool|pagerenderer|extended)|mediapartners-google"
    r"|feedfetcher|chrome-lighthouse|headlesschrome|pingdom|statuscake|site24x7",
    re.IGNORECASE,
)


def is_bot(user_agent: str) -> bool:
    """Whether a ``User-Agent`` header names a program of the list above."""
    return _BOTS.search(user_agent[:1024]) is not None
