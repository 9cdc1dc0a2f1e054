"""`caxton demo` does what it shows: every claim is checked from outside, with arithmetic of our own."""

import csv
import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest

SALES = Path(__file__).resolve().parents[2] / "configs" / "demo" / "sales.csv"
CAXTON = [sys.executable, "-m", "node.cli.main"]
LIMIT_S = 90


@pytest.fixture
def place(tmp_path):
    """A home and a directory for temporary files, both empty afterwards."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    yield tmp_path
    left = processes_of(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not list((tmp_path / "home").rglob("*.json")), "the user's list of local nodes was disturbed"


def environment(place):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CAXTON_", "XDG_"))}
    return kept | {"TMPDIR": str(place / "tmp"), "HOME": str(place / "home")}


def demo(place, *arguments, check=True):
    done = subprocess.run(
        [*CAXTON, "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environment(place),
        cwd=place,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def processes_of(place):
    """Processes that were started with a path below ``place``."""
    if not Path("/proc/self/cmdline").exists():
        listed = subprocess.run(["ps", "-axo", "pid=,args="], capture_output=True, text=True, check=True)
        lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
        return [
            int(pid) for pid, *text in lines if text and str(place) in text[0] and "ps -axo" not in text[0]
        ]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(place) in text:
            found.append(int(path.parent.name))
    return found


def computed(text):
    """Totals, averages and the ranking by product, straight from the rows."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    numbers = ("quantity", "unit_price", "revenue")
    totals = {name: sum((Decimal(row[name]) for row in rows), Decimal(0)) for name in numbers}
    by_product, count = defaultdict(Decimal), defaultdict(int)
    for row in rows:
        by_product[row["product"]] += Decimal(row["revenue"])
        count[row["product"]] += 1
    ranking = sorted(by_product, key=lambda name: (-by_product[name], name))
    averages = {name: total / len(rows) for name, total in totals.items()}
    return len(rows), totals, averages, [(name, by_product[name], count[name]) for name in ranking[:5]]


def check_analysis(analysis, text):
    rows, totals, averages, top = computed(text)
    assert analysis["rows"] == rows
    assert {name: Decimal(str(value)) for name, value in analysis["totals"].items()} == totals
    assert analysis["averages"].keys() == averages.keys()
    for name, value in analysis["averages"].items():
        assert abs(Decimal(str(value)) - averages[name]) < Decimal("0.000001")
    items = analysis["top"]["items"]
    assert [(item["name"], Decimal(str(item["value"])), item["rows"]) for item in items] == top


def check_failover(found, nodes):
    """What must hold of every run, whatever the file and the number of nodes."""
    assert found["ok"] is True
    assert found["missing"] == []
    states = {member["name"]: member["state"] for member in found["members"]}
    assert states == {name: "dead" if name == found["victim"] else "alive" for name in nodes}
    sender, (agent, provider) = "node-1", found["routed_to"].split("@")
    assert found["request"]["from"] == f"client@{sender}"
    assert (found["request"]["performative"], found["request"]["capability"]) == ("request", "data-analysis")
    assert (agent, found["reply"]["performative"]) == ("data-analyzer", "inform")
    assert found["reply"]["sender"] == found["routed_to"]
    assert provider == found["victim"] != sender
    assert "DataAnalyzer" not in found["agents"][sender]
    assert sum("DataAnalyzer" in names for names in found["agents"].values()) >= 2
    assert sum("EchoAgent" in names for names in found["agents"].values()) == 1
    assert found["unsettled_at_kill"] >= 10
    assert found["rerouted"] >= 10
    assert (found["lost"], found["unanswered"]) == (0, [])
    assert found["answered"] == found["burst"] == sum(found["answered_by"].values())
    others = sum(count for name, count in found["answered_by"].items() if not name.endswith(f"@{provider}"))
    assert others >= 10
    assert 0 < found["detection_seconds"] < found["elapsed_seconds"] < 60
    assert found["csv_held_by"] == [sender]
    steps = found["steps"]
    assert [step["at_seconds"] for step in steps] == sorted(step["at_seconds"] for step in steps)
    assert all(step["seconds"] >= 0 for step in steps)


def random_sales(seed):
    chance = random.Random(seed)
    products = [f"{kind}, {size}" for kind in ("Rope", "Map", 'Flask "Alp"') for size in "SML"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["date", "product", "quantity", "unit_price", "revenue"])
    for number in range(chance.randrange(700, 900)):
        quantity, price = chance.randrange(1, 40), Decimal(chance.randrange(1, 99_999)) / 1000
        row = [f"2025-{number % 12 + 1:02}-01", chance.choice(products), quantity, price, quantity * price]
        writer.writerow(row)
    return out.getvalue()


def test_people_see_the_answer_and_the_failover(place):
    done = demo(place)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    _, totals, averages, top = computed(SALES.read_text())
    lines = [line.split() for line in done.stdout.splitlines()]
    for name, total in totals.items():
        assert [name, f"{total:,}", f"{averages[name]:,.2f}"] in lines
    for name, value, count in top:
        assert [*name.split(), f"{value:,.2f}", f"{count:,}"] in lines
    assert "data-analyzer@node-2" in done.stdout
    assert "SIGKILL" in done.stdout
    assert ", 0 lost." in done.stdout


def test_any_file_is_analyzed_and_any_number_of_nodes_runs(place):
    text = random_sales(20_260)
    path = place / "orders of 2025.csv"
    path.write_bytes(text.encode())
    done = demo(place, "--json", "--nodes", 4, "--csv", path)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    nodes = ["node-1", "node-2", "node-3", "node-4"]
    assert found["nodes"] == nodes
    check_failover(found, nodes)
    assert "EchoAgent" in found["agents"]["node-4"]
    assert found["request"]["attachment"]["bytes"] == len(text.encode())
    [result] = found["reply"]["content"]["results"]
    check_analysis(result["result"], text)


def test_a_cluster_that_is_kept_answers_the_commands_that_were_printed(place):
    found = json.loads(demo(place, "--json", "--keep").stdout)
    check_failover(found, ["node-1", "node-2", "node-3"])
    kept = found["cluster"]
    check_analysis(found["reply"]["content"]["results"][0]["result"], SALES.read_text())

    holders = [path for path in Path(kept["directory"]).rglob("*") if path.is_file()]
    holders = [path for path in holders if path.read_bytes() == SALES.read_bytes()]
    data_dirs = {node["name"]: Path(node["data_dir"]) for node in kept["nodes"]}
    assert holders == [data_dirs["node-1"] / "sales.csv"]

    def run(command):
        words = shlex.split(command)
        words[: words.index(next(w for w in words if w in ("status", "send", "stop")))] = CAXTON
        return subprocess.run(
            [*words, "--json"], capture_output=True, text=True, timeout=60, env=environment(place), check=True
        ).stdout

    status = json.loads(run(kept["commands"]["status"]))
    assert len([m for m in status["members"] if m["state"] == "alive"]) == 2
    answer = json.loads(run(kept["commands"]["send"]))["reply"]
    check_analysis(answer["content"]["results"][0]["result"], SALES.read_text())
    assert json.loads(run(kept["commands"]["echo"]))["reply"]["content"]["echo"] == {"hello": "world"}
    pids = [node["pid"] for node in kept["nodes"]]
    assert sorted(processes_of(place)) == sorted(pids)
    for command in kept["commands"]["stop"]:
        run(command)
    deadline = time.monotonic() + 10
    while processes_of(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    subprocess.run(shlex.split(kept["commands"]["remove"]), check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(place, number):
    with subprocess.Popen(
        [*CAXTON, "demo"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(place) | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert "Start 3 node processes" in process.stdout.readline()
        assert len(processes_of(place)) == 3
        process.send_signal(number)
        assert process.wait(20) == 130


@pytest.mark.parametrize(("data", "why"), [(b"", "empty"), (b"\xff\xfe\x00", "UTF-8"), (b"a,b\n", "no rows")])
def test_what_is_no_csv_is_refused_before_anything_is_started(place, data, why):
    path = place / "x.csv"
    path.write_bytes(data)
    done = demo(place, "--csv", path, check=False)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr
