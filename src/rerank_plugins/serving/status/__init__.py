"""The status page at `/`, and the figures behind it."""
