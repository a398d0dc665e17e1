"""conftest: what every test run has. It knows no test."""

from tests.conformance import pytest_addoption, pytest_configure

__all__ = ["pytest_addoption", "pytest_configure"]
