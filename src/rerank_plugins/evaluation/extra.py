"""The one error for what the extra `eval` brings."""

from rerank_plugins.errors import MissingExtraError

__all__ = ["missing"]


def missing(package: str, error: ImportError) -> MissingExtraError:
    """Return the error to raise when a package of the extra cannot be imported."""
    return MissingExtraError(
        f"rerank_plugins.evaluation needs {package}, which cannot be imported ({error}); "
        'install it with: pip install "rerank-plugins[eval]"'
    )
