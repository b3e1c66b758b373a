"""`python -m rerank_plugins` is the `rerank-plugins` command."""

from rerank_plugins.cli import main

main()
