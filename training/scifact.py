"""Write SciFact's training claims as pairs, to show what adapting is worth on its test claims.

    python training/scifact.py --data DATA --output pairs.jsonl
    python training/evaluate.py --data DATA --sets scifact
    python training/adapt.py --pairs pairs.jsonl --output scifact-model
    python training/evaluate.py --data DATA --sets scifact --model scifact-model

Test claims and their judgements are not read.
"""

from pathlib import Path
from typing import Annotated

import typer

from files import read_rows, write_rows


def main(
    data: Annotated[Path, typer.Option(help="Folder with scifact/.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Where to write the pairs.")] = Path("pairs.jsonl"),
) -> None:
    """Write each training claim with the abstracts it is judged by."""
    corpus = {row["_id"]: row for row in read_rows(data / "scifact/corpus.jsonl.gz")}
    claims = read_rows(data / "scifact/train_claims.jsonl")
    write_rows(
        output,
        (
            {
                "query": claim["claim"],
                "positive": [f"{corpus[d]['title']}. {corpus[d]['text']}" for d in claim["docs"]],
            }
            for claim in claims
        ),
    )


if __name__ == "__main__":
    typer.run(main)
