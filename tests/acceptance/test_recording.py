"""What a real node has recorded is replayed by the command, after a stop and after a kill."""

import stat

from tests.acceptance.processes import CONFIGS, caxton, eventually


def replay(node, file, *options, check=True):
    return caxton("simulate", "replay", file, *options, home=node.home, check=check)


def test_nodes_record_and_the_command_replays(cluster):
    a, b = cluster.add("a", "b")
    files = {node.name: node.home / "node.rec" for node in (a, b)}
    for node, seeds in ((a, []), (b, [a])):
        node.start(*seeds, arguments=["--record", files[node.name]])
    cluster.wait_for_each_other(a, b)
    b.deploy(CONFIGS / "agents" / "echo.md")
    cluster.wait_for_providers([a], echo=["b"])
    for number in range(5):
        assert a.request("echo", {"number": number})["reply"]["content"] is not None
    assert a.get("/status")["rooms"]["recording"]["recording"] == 1

    def is_written():
        return b"number" in files["b"].read_bytes()

    eventually(is_written)
    b.kill()
    eventually(lambda: a.members()["b"] == "dead", within=40)
    a.stop()

    for node in (a, b):
        file = files[node.name]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        secret = (node.bundle / "gossip.key").read_text().strip()
        assert secret.encode() not in file.read_bytes()
        said = replay(node, file).stdout.splitlines()
        assert [line.split()[0] for line in said[1:4]] == ["membership", "delivery", "arrivals"], said
        assert all(line.endswith("the same") for line in said[1:]), said
    assert "the node has ended" in replay(a, files["a"], "--until", 100000).stdout
    assert "step 1 of membership: begin" in replay(b, files["b"], "--show", 1).stdout

    again = a.start(wait=False, arguments=["--record", files["a"]])
    assert again.wait_end() == 2, "nothing is overwritten"
    assert "File exists" in a.log_text()


def test_a_limit_that_is_none_is_refused(tmp_path):
    for text, said in (("much", "must be a size"), ("1KB", "too little")):
        done = caxton("start", "--record-limit", text, home=tmp_path, check=False)
        assert done.returncode == 2
        assert said in done.stderr
