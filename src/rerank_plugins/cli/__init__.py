"""The `rerank-plugins` command. Heavy imports wait until a command needs them."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; errors of ours become one line on stderr and an exit status.

    Status 2: bad input. 3: the model or a package is missing or unusable. 4: scoring failed.
    """
    from rerank_plugins.cli.app import app
    from rerank_plugins.errors import InvalidInputError, RerankError, ScoringError

    try:
        app()
    except RerankError as error:
        sys.stderr.write(f"rerank-plugins: {error}\n")
        if isinstance(error, InvalidInputError):
            sys.exit(2)
        sys.exit(4 if isinstance(error, ScoringError) else 3)
    except BrokenPipeError:
        # The reader, `head` for example, has what it wanted.
        sys.stderr.close()
        sys.exit(0)
