"""conftest: what every test run has. It knows no test."""

import logging
import sys
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

from tests import conformance, planted
from tests.conformance import pytest_addoption

# A run of the tests says something of the change, not of the day nor of what else the machine does.
# Other draws each time have --hypothesis-profile=default and scripts/fuzz.
hypothesis.settings.register_profile(
    "same",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("same")

__all__ = ["pytest_addoption", "pytest_configure", "pytest_runtest_call"]


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    conformance.pytest_configure(config)
    config.pluginmanager.register(planted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A test that passed has listed all that its playbooks' sessions did. Where it has set up its
    log (`logs.set_up`), that is not the next one's."""
    # Not imported here: most tests have no playbook, and its oracle takes a second to load.
    playbook = sys.modules.get("tests.playbook")
    if playbook:
        playbook.forget()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
    if playbook:
        playbook.all_over()
