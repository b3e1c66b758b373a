"""Ways to write a query as people type it."""

import random
import re

STOP_WORDS = frozenset(
    "a an the is are was were be been do does did of in on at to for from by with and or that this it its "  # noqa: SIM905
    "what which who whom whose when where why how many much can could should would will".split()
)


def vary(query: str, keywords: str | None, rng: random.Random) -> str:
    """Write a query the way people type it: often lower case, no question mark, keywords only."""
    draw = rng.random()
    if draw < 0.25:
        return query
    bare = re.sub(r"[?.]\s*$", "", query).lower()
    if draw < 0.8:
        return bare
    if keywords:
        return keywords.lower()
    kept = [word for word in bare.split() if word not in STOP_WORDS]
    return " ".join(kept) if len(kept) >= 2 else bare
