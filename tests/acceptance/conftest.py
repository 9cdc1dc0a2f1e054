"""Fixtures of the acceptance tests."""

from contextlib import contextmanager

import pytest

from tests.acceptance.processes import Cluster

CLUSTERS = pytest.StashKey[list[Cluster]]()
"""On the session: the clusters that are running, whose logs belong to a failure."""


def pytest_collection_modifyitems(items):
    for item in items:
        if "/acceptance/" in item.nodeid:
            item.add_marker(pytest.mark.acceptance)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for cluster in item.session.stash.get(CLUSTERS, []):
            report.sections += cluster.log_sections()
    return report


@contextmanager
def running(request, directory):
    """A cluster whose processes end with the block; no node of it may have logged a traceback."""
    cluster = Cluster(directory)
    clusters = request.session.stash.setdefault(CLUSTERS, [])
    clusters.append(cluster)
    try:
        yield cluster
        crashed = cluster.close()
        assert not crashed, f"a traceback is in the log of {crashed}: {cluster.log_sections()}"
    finally:
        cluster.close()
        clusters.remove(cluster)


@pytest.fixture
def cluster(request, tmp_path):
    """A new cluster for one test."""
    with running(request, tmp_path / "cluster") as found:
        yield found


@pytest.fixture
def other_cluster(request, tmp_path):
    """A second cluster, with an authority of its own."""
    with running(request, tmp_path / "other") as found:
        yield found


@pytest.fixture(scope="module")
def shared_cluster(request, tmp_path_factory):
    """A cluster that the tests of one module share and leave as they found it."""
    with running(request, tmp_path_factory.mktemp("shared") / "cluster") as found:
        yield found
