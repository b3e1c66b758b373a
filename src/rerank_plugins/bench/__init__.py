"""Strings to scores, measured: workloads, contestants on the same weights, interleaved rounds, reports."""
