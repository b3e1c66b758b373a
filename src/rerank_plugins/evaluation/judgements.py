"""Read relevance judgements: TREC qrels and BEIR's TSV."""

from pathlib import Path

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.files import numbered_lines, read_file
from rerank_plugins.inputs import shorten

__all__ = ["Qrels", "read_qrels"]

Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade

_BEIR_HEADER = "query-id"


def read_qrels(path: Path) -> Qrels:
    """Read `qid iteration docid grade` (TREC), or `query-id corpus-id score` with that header (BEIR).

    Args:
        path: The file, plain or gzipped.

    Raises:
        InvalidInputError: If the file or a line cannot be read, or it judges nothing.
    """
    qrels: Qrels = {}
    separator: str | None = None  # any white space
    for number, line in numbered_lines(read_file(path)):
        fields = line.split(separator)
        if fields[0] == _BEIR_HEADER:
            separator = "\t" if "\t" in line else None  # its ids may hold spaces, as names of files do
            continue
        if len(fields) not in {3, 4} or not fields[-1].removeprefix("-").isdecimal():
            msg = (
                f"{path}:{number} must be 'qid iteration docid grade' or 'query-id corpus-id score' with a "
                f"whole number at its end, but got {shorten(line)}"
            )
            raise InvalidInputError(msg)
        qrels.setdefault(fields[0], {})[fields[-2]] = int(fields[-1])
    if not qrels:
        msg = f"{path} must have judgements, but has none"
        raise InvalidInputError(msg)
    return qrels
