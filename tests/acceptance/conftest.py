"""Fixtures of the acceptance tests."""

import pytest

from tests.acceptance.processes import Cluster


def pytest_collection_modifyitems(items):
    for item in items:
        if "/acceptance/" in item.nodeid:
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.close()
