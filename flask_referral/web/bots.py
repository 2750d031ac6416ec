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

import re

_BOTS = re.compile(
    # Googlebot, Twitterbot, TelegramBot, GPTBot …; a Cubot is a telephone.
    r"(?<!\bcu)bot(?![a-z])|\brobot|crawl|spider|slurp|scrap[ei]|harvest|archiv"
    # A few old browsers called themselves compatible, too.
    r"|^mozilla/[45]\.0\+?[ (]{1,2}compatible(?!; ?(?:msie|konqueror|dillo))"
    r"|; ?compatible; (?!msie)|^mozilla/[0-3]\."
    # Where to read about it or whom to write to; "com.example" is an Android application.
    r"|https?:|\bwww\.|[\w.-]@[\w-]+\.[a-z]"
    r"|[a-z0-9]\.(?:ai|com|de|eu|fr|info|io|me|net|nu|org|ru|uk)(?![\w.])"
    # What it does. People scan QR codes and see a checkout.
    r"|preview|prefetch|fetch|monitor|uptime|check(?!out)|validat|verif(?:y|ier)|audit|probe"
    r"|(?<!qr)(?<!qr )(?<!code)(?<!code )scan(?:ner)?\b|pingdom|synthetic|lighthouse|detector"
    r"|\bfeed|feed\b|\brss|rss\b|favicon|screenshot|thumbnail|indexer|parser|resolver|retriever"
    r"|linkfinder|lookup|onebox|web ?cop[iy]|sitesucker|optimizer|proxy\b|webhook|-?agent\b|-ai\b"
    r"|^(?!mozilla).*search"
    # And those that say no more than their name.
    r"|facebookexternalhit|facebookcatalog|meta-external|^whatsapp|^viber$|^bluesky|^tumblr/|^ning/"
    r"|\bgoogle-|-google\b|googleother|googleassociation|github-camo|hatena|daumoa|coccoc"
    r"|statuscake|site24x7|gtmetrix|ptst/|uptrends|nodeping|silktide|dareboost|catchpoint"
    r"|outbrain|fastmailua|blogtrottr|gigablast|funnelback|productfinder|zgrab|nuzzel|zabbix",
    re.IGNORECASE,
)
_HEADLESS = re.compile(r"headless|phantomjs|playwright|puppeteer|selenium|cypress", re.IGNORECASE)


def is_bot(user_agent: str) -> bool:
    """Whether a ``User-Agent`` header names a program that follows links by itself."""
    return _BOTS.search(user_agent[:1024]) is not None


def is_headless(user_agent: str) -> bool:
    """Whether it names a browser without a window: a crawler's, but for a test suite's."""
    return _HEADLESS.search(user_agent[:1024]) is not None
