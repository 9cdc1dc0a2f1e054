"""What is stored for all on one node is on the others, whatever is killed meanwhile."""

from tests.acceptance.processes import caxton, eventually

HASH = [("memory.embedding.provider", "hash")]


def digests(nodes):
    """The digests of what nodes hold, those that hold something."""
    told = [node.get("/memory/stats")["replication"] for node in nodes]
    return {each["digest"] for each in told}


def observations(node):
    return node.get("/memory/stats")["observations"]


def test_a_writer_and_a_reader_are_killed_and_everything_acknowledged_is_everywhere(cluster):
    a, b, c = nodes = cluster.start("a", "b", "c", settings=HASH)
    acknowledged = 0
    for number in range(60):
        body = {"entity_name": f"batch {number}", "entity_type": "batch", "memory_scope": "global"}
        facts = [f"fact {each} of batch {number}" for each in range(20)]
        stored = a.post("/memory/entities", body | {"observations": facts}, expect=(201,))
        acknowledged += stored["observations_added"]
        if number == 30:
            b.kill()
            b.start(c, wait=False)
    a.kill()  # with what nobody may have been told yet
    a.start(c)
    b.wait_ready()
    assert acknowledged == 1_200
    eventually(lambda: [observations(node) for node in nodes] == [acknowledged] * 3, within=60)
    eventually(lambda: len(digests(nodes)) == 1, within=30)
    found = b.get("/memory/search", query="fact 7 of batch 59")["results"][0]
    assert found["observations"][0]["source"]["node"] == "a"
    told = caxton("memory", "stats", "--api", c.url, "--token", cluster.token, home=c.home).stdout
    assert "Shared operations: 1260 (logs: 1)" in told
    assert "behind us" in told
