"""Runs that can be sampled without any training."""

from tests.untrained import untrained_runs  # noqa: F401
