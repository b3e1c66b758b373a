"""The MS MARCO cross-encoder family: ids, aliases, architecture, published figures.

Sources: nDCG@10 on TREC Deep Learning 2019 (reranking the track's official top-1000), MRR@10 on MS
MARCO dev and documents per second on a V100 are the model cards' own. Commits and parameter counts are
those that mteb pins in `mteb/models/model_implementations/rerankers_custom.py`; it has no entry for the
first generation. All have 30,522 word pieces, 512 positions,
one logit, and were trained on MS MARCO, so that those figures are in-domain.
"""

from dataclasses import dataclass

__all__ = ["FAMILY", "FamilyModel", "find"]


@dataclass(frozen=True)
class FamilyModel:
    """One member.

    Attributes:
        id: Hub id, new spelling.
        aliases: Other names in use, without `cross-encoder/`.
        layers: Transformer layers.
        hidden_size: Width.
        heads: Attention heads.
        intermediate_size: Width of the feed-forward layer.
        parameters: Number of weights, head included.
        revision: Pinned commit on the hub; None: `main`, no commit is known to us.
        license: Licence of the weights.
        ndcg10_dl19: Published nDCG@10 on TREC DL 2019, in per cent.
        mrr10_dev: Published MRR@10 on MS MARCO dev, in per cent.
        docs_per_second: Published documents per second on a V100.
        good_for: Which need it fits.
    """

    id: str
    aliases: tuple[str, ...]
    layers: int
    hidden_size: int
    heads: int
    intermediate_size: int
    parameters: int
    revision: str | None
    license: str
    ndcg10_dl19: float
    mrr10_dev: float
    docs_per_second: int
    good_for: str


def _member(name: str, layers: int, *, width: int, **facts: object) -> FamilyModel:
    """Fill in what all members share; old names have a dash in `L-6`."""
    return FamilyModel(
        id=f"cross-encoder/{name}",
        aliases=(name, name.replace(f"-L{layers}", f"-L-{layers}")),
        layers=layers,
        hidden_size=width,
        heads={128: 2, 384: 12}[width],
        intermediate_size=4 * width,
        license="apache-2.0",
        **facts,  # type: ignore[arg-type]
    )


FAMILY = (
    _member(
        "ms-marco-TinyBERT-L2",
        2,
        width=128,
        parameters=4_386_049,
        revision=None,
        ndcg10_dl19=67.43,
        mrr10_dev=30.15,
        docs_per_second=9000,
        good_for="old results that must be reproduced; otherwise take TinyBERT-L2-v2",
    ),
    _member(
        "ms-marco-TinyBERT-L2-v2",
        2,
        width=128,
        parameters=4_386_049,
        revision="81d1926f67cb8eee2c2be17ca9f793c7c3bd20cc",
        ndcg10_dl19=69.84,
        mrr10_dev=32.56,
        docs_per_second=9000,
        good_for="hundreds of candidates on a CPU, the tightest latency",
    ),
    _member(
        "ms-marco-MiniLM-L2-v2",
        2,
        width=384,
        parameters=15_615_745,
        revision="1b5cd67b15209f24824c50370e0397743aa9b787",
        ndcg10_dl19=71.01,
        mrr10_dev=34.85,
        docs_per_second=4100,
        good_for="a CPU with some room: better than TinyBERT, a third of L6's work",
    ),
    _member(
        "ms-marco-MiniLM-L4-v2",
        4,
        width=384,
        parameters=19_164_673,
        revision="777b2f369bc1c2f850df8bd367ed1654bda4497b",
        ndcg10_dl19=73.04,
        mrr10_dev=37.70,
        docs_per_second=2500,
        good_for="most of L6's quality for two thirds of its work",
    ),
    _member(
        "ms-marco-MiniLM-L6-v2",
        6,
        width=384,
        parameters=22_713_601,
        revision="c5ee24cb16019beea0893ab7796b1df96625c6b8",
        ndcg10_dl19=74.30,
        mrr10_dev=39.01,
        docs_per_second=1800,
        good_for="the default: the family's best quality for its cost",
    ),
    _member(
        "ms-marco-MiniLM-L12-v2",
        12,
        width=384,
        parameters=33_360_385,
        revision="7b0235231ca2674cb8ca8f022859a6eba2b1c968",
        ndcg10_dl19=74.31,
        mrr10_dev=39.02,
        docs_per_second=960,
        good_for="twice L6's cost for the same published quality: measure before choosing it",
    ),
)

_BY_NAME = {
    name.lower(): member
    for member in FAMILY
    for alias in member.aliases
    for name in (alias, f"cross-encoder/{alias}")
}


def find(model: str) -> FamilyModel | None:
    """Return the member with this id or alias (any case, with or without `cross-encoder/`)."""
    return _BY_NAME.get(model.lower())
