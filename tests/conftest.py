"""What the tests of the notebooks leave for the end: one line for each notebook, and their number."""
import pytest

NOTEBOOKS = pytest.StashKey[dict]()  # notebook -> what became of it


def pytest_configure(config):
    config.stash[NOTEBOOKS] = {}


@pytest.fixture(scope="session")
def executed(pytestconfig):
    "Where the tests of the notebooks write down what ran."
    return pytestconfig.stash[NOTEBOOKS]


def pytest_terminal_summary(terminalreporter, config):
    if not (ran := config.stash[NOTEBOOKS]): return
    terminalreporter.section("notebooks executed")
    for name, line in sorted(ran.items()): terminalreporter.write_line(f"{name:36} {line}")
    terminalreporter.write_line(f"{len(ran)} notebooks executed")
