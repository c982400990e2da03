"""What every test runs under: one thread unless told otherwise, and programs of others that may be missing."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two that spin for one core are slower than one after the other

from collections.abc import Generator
from contextlib import contextmanager

import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

PROGRAMS = {"ffmpeg", "ffprobe", "sox"}  # tests alone call them; flowgen reads and writes media by itself


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    with _skipping_without_its_program():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    with _skipping_without_its_program():
        return (yield)


@contextmanager
def _skipping_without_its_program() -> Generator[None, None, None]:
    try:
        yield
    except FileNotFoundError as error:
        if error.filename in PROGRAMS:
            pytest.skip(f"{error.filename} is not installed")
        raise
