"""A cache that no other run has filled; and what the tests of the notebooks leave for the end, a line for each."""
import os
import tempfile
from pathlib import Path

import pytest

from motion_vq.core import write_json

NOTEBOOKS = pytest.StashKey[dict]()  # notebook -> what became of it


def pytest_configure(config):
    config.stash[NOTEBOOKS] = {}
    folder = tempfile.TemporaryDirectory(prefix="motion_vq-cache-")
    os.environ["MOTION_VQ_CACHE"] = folder.name    # for the processes that tests start, too
    config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="session")
def executed(pytestconfig):
    "Where the tests of the notebooks write down what ran."
    return pytestconfig.stash[NOTEBOOKS]


@pytest.fixture(scope="session")
def record():
    "Keep what a test tried and what held, for the report on it: `_runs/robustness/<name>.json`."
    folder = Path(__file__).parents[1]/"_runs"/"robustness"
    return lambda name, **facts: write_json(folder/f"{name}.json", facts)


def pytest_terminal_summary(terminalreporter, config):
    if not (ran := config.stash[NOTEBOOKS]): return
    terminalreporter.section("notebooks executed")
    for name, line in sorted(ran.items()): terminalreporter.write_line(f"{name:36} {line}")
    terminalreporter.write_line(f"{len(ran)} notebooks executed")
