"""Data: deterministic loading of clips."""
