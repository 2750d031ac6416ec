"""Programs that follow links without a person behind them.

What fetches shared links by itself: crawlers, the link previews of messengers and social
networks, feed readers, uptime and page-speed probes. They are known by how such programs name
themselves, rather than by a list of names that is old tomorrow: as "compatible" with Mozilla, by
the address of a page or a person to ask, by what they do. The tests hold this against the public
list crawler-user-agents and against browsers; both name the exceptions. HTTP libraries and
command-line tools are left out: they do not crawl by themselves, and developers try their links
with them. A program that pretends to be a browser is not found here; ``@referral.bot_detector``
is the place for more.
"""

from __future__ import annotations

import functools
import re

# Plain words and patterns that begin with one are looked for fast: every click waits for this.
_WORDS = (
    # What it does.
    *("crawl", "spider", "slurp", "harvest", "archiv", "fetch", "monitor", "uptime", "validat"),
    *("audit", "probe", "pingdom", "synthetic", "lighthouse", "detector", "favicon", "screenshot"),
    *("thumbnail", "indexer", "parser", "resolver", "retriever", "preview", "linkfinder", "lookup"),
    *("onebox", "sitesucker", "optimizer", "webhook", "http:", "https:"),
    # And those that say no more than their name.
    *(
        "facebookexternalhit",
        "facebookcatalog",
        "meta-external",
        "googleother",
        "ptst/",
        "outbrain",
    ),
    *("googleassociation", "github-camo", "hatena", "daumoa", "coccoc", "statuscake", "site24x7"),
    *("gtmetrix", "uptrends", "nodeping", "silktide", "dareboost", "catchpoint", "fastmailua"),
    *("blogtrottr", "gigablast", "funnelback", "productfinder", "zgrab", "nuzzel", "zabbix"),
)
_BEGINNINGS = re.compile(
    # A few old browsers called themselves compatible, too.
    r"mozilla/[45]\.0\+?[ (]{1,2}compatible(?!; ?(?:msie|konqueror|dillo))|mozilla/[0-3]\."
    r"|whatsapp|viber$|bluesky|tumblr/|ning/|(?!mozilla).*search"
)
_PATTERNS = tuple(
    map(
        re.compile,
        (
            # Googlebot, Twitterbot, TelegramBot, GPTBot …; a Cubot is a telephone.
            r"bot(?<!\bcubot)(?![a-z])",
            r"robot(?<=\brobot)",
            r"; ?compatible; (?!msie)",
            # Where to read about it or whom to write to; "com.example" is an Android application,
            # ".NET" a part of old Windows.
            r"www\.(?<=\bwww\.)",
            r"@(?<=[\w.-]@)[\w-]+\.[a-z]",
            r"\.(?<=[a-z0-9]\.)(?:ai|com|de|eu|fr|info|io|me|net|nu|org|ru|uk)(?![\w.])",
            # What it does; people see a checkout, and scan QR codes.
            r"check(?!out)",
            r"scan(?<!qrscan)(?<!qr scan)(?<!codescan)(?<!code scan)(?:ner)?\b",
            r"scrap[ei]",
            r"verif(?:y|ier)",
            r"web ?cop[iy]",
            r"feed(?:(?<=\bfeed)|\b)",
            r"rss(?:(?<=\brss)|\b)",
            r"proxy\b",
            r"agent\b",
            r"-ai\b",
            r"google-(?<=\bgoogle-)",
            r"-google\b",
        ),
    )
)
_HEADLESS = ("headless", "phantomjs", "playwright", "puppeteer", "selenium", "cypress")


def is_bot(user_agent: str) -> bool:
    """Whether a ``User-Agent`` header names a program that follows links by itself."""
    return _is_bot(user_agent[:1024])


# Most visitors have one of a few hundred headers, and a look at one takes as long as a click's
# statement.
@functools.lru_cache(maxsize=1024)
def _is_bot(user_agent: str) -> bool:
    agent = user_agent.lower()
    return (
        any(word in agent for word in _WORDS)
        or _BEGINNINGS.match(agent) is not None
        or any(pattern.search(agent) for pattern in _PATTERNS)
    )


def is_headless(user_agent: str) -> bool:
    """Whether it names a browser without a window: a crawler's, but for a test suite's."""
    agent = user_agent[:1024].lower()
    return any(word in agent for word in _HEADLESS)
