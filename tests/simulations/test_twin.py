"""Real twins of simulations: what a scenario asks for, how links become rules, and what is read and told."""

import pytest
import trio
from click.testing import CliRunner

from simulations.cli import command
from simulations.links import Change, Link, Rule, separate
from simulations.nodes.knowledge import Knowledge, Truth
from simulations.runner import Result
from simulations.scenario import ScenarioError, load
from simulations.twin.clock import RealTimeline
from simulations.twin.conditions import netem_arguments, queueing, ruleset
from simulations.twin.fabric import WatchedLinks
from simulations.twin.machine import NEEDS, TOOLS, Machine, needs, without
from simulations.twin.member import change_config, executions_in
from simulations.twin.session import Impossible, aligned, prepare, rows_of, table, write_rows

ADDRESSES = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
ABLE = Machine()
PLAIN = Machine({"netem": "Specified qdisc kind is unknown."})


def dropped(name: str, links: WatchedLinks) -> list[str]:
    return [line.strip() for line in ruleset(name, ADDRESSES, links).splitlines() if line.endswith(" drop")]


# Links as rules


def test_a_partition_is_dropped_at_both_ends_and_a_cut_one_way_at_one():
    links = WatchedLinks()
    cut = separate([["n1"], ["n2", "n3"]], Change(cut=True))
    links.add(cut)
    assert dropped("n1", links) == ["ip saddr 10.0.0.2 drop", "ip saddr 10.0.0.3 drop"]
    assert dropped("n2", links) == ["ip saddr 10.0.0.1 drop"]
    links.remove(cut)
    assert dropped("n2", links) == []
    links.add(separate([["n1"], ["n2"]], Change(cut=True), one_way=True))
    assert (dropped("n1", links), dropped("n2", links)) == ([], ["ip saddr 10.0.0.1 drop"])


def test_a_firewall_drops_datagrams_alone_and_losses_add_up():
    links = WatchedLinks()
    links.add([Rule(frozenset({"n1"}), frozenset({"n2"}), Change(cut_datagrams=True))])
    links.add([Rule(None, None, Change(loss=0.5)), Rule(None, frozenset({"n2"}), Change(loss=0.5))])
    assert dropped("n2", links) == [
        "ip saddr 10.0.0.1 meta l4proto udp drop",
        "ip saddr 10.0.0.1 numgen random mod 1000000 < 750000 drop",
        "ip saddr 10.0.0.3 numgen random mod 1000000 < 750000 drop",
    ]


def test_links_tell_of_every_change():
    links, told = WatchedLinks(), []
    links.changed = lambda: told.append(links.statistics()["rules"])
    rules = [Rule(None, None, Change(cut=True))]
    links.add(rules)
    links.remove(rules)
    links.add(rules)
    links.clear()
    assert told == [1, 0, 1, 0]


def test_a_narrow_link_has_a_class_and_a_queue_and_others_have_none():
    links = WatchedLinks()
    links.default = Link(delay_s=0.02, jitter_s=0.01)
    links.add([Rule(frozenset({"n1"}), frozenset({"n3"}), Change(capacity_bytes_s=1000, queue_bytes=5000))])
    assert queueing("n2", ADDRESSES, links, netem=False) == ""
    lines = queueing("n1", ADDRESSES, links, netem=False).splitlines()
    assert lines == [
        "qdisc add dev eth0 root handle 1: htb",
        "class add dev eth0 parent 1: classid 1:12 htb rate 8000bit quantum 1514",
        "qdisc add dev eth0 parent 1:12 bfifo limit 5000",
        "filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dst 10.0.0.3/32 flowid 1:12",
    ]
    delayed = queueing("n1", ADDRESSES, links, netem=True)
    assert delayed.count("netem limit 20000 delay 25ms 5ms\n") == 2


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (Link(delay_s=0, jitter_s=0), ""),
        (Link(delay_s=0.04, jitter_s=0), "delay 40ms"),
        (Link(delay_s=0, jitter_s=0, duplicate=0.1, corrupt=0.02), "duplicate 10% corrupt 2%"),
        (Link(delay_s=0, jitter_s=0, reorder=0.25, reorder_s=0.02), "delay 10ms 10ms reorder 75%"),
    ],
)
def test_netem_is_told_what_a_link_does(link, words):
    assert netem_arguments(link) == words


# What is asked for, and what can be done


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("split_brain", ["partition"]),
        ("rolling_restart", []),
        ("power_loss", ["power"]),
        ("slow_disk", ["disk"]),
        ("three_regions", ["delay", "loss", "partition"]),
        ("island_for_a_day", ["jump", "partition", "time"]),
        ("broken_connections", ["partition", "power", "reset"]),
        ("unreliable_models", ["provider"]),
    ],
)
def test_what_a_scenario_asks_for_is_named(name, asked):
    scenario = load(name)
    assert needs(scenario, scenario.plan(1)) == asked


def test_every_need_is_met_by_a_tool_or_by_none():
    assert set(Machine(dict.fromkeys(TOOLS, "missing")).lines()) > set(ABLE.lines()) - set(ABLE.lines())
    assert all(Machine(dict.fromkeys(TOOLS, "missing")).reason(need) for need in NEEDS)
    assert [need for need in NEEDS if not ABLE.reason(need)] == [
        "capacity", "corrupt", "delay", "duplicate", "loss", "partition", "reorder", "reset",
    ]  # fmt: skip


def test_what_cannot_be_done_is_refused_by_name_and_left_out_when_told_so():
    scenario = load("three_regions", ["safety_s=40"])
    with pytest.raises(
        Impossible, match=r"cannot do what the scenario asks: delay\n.*qdisc.*\n.*--without delay"
    ):
        prepare(scenario, 1, [], PLAIN)
    chosen, plan = prepare(scenario, 1, ["delay"], PLAIN)
    assert (chosen.network.between.delay_s, chosen.network.between.loss) == (0.0, 0.01)
    assert plan == scenario.plan(1)
    assert prepare(scenario, 1, [], ABLE) == (scenario, scenario.plan(1))


def test_faults_of_a_kind_are_left_out_and_a_loss_of_power_stays_a_crash():
    chosen, plan = without(["disk"], load("slow_disk"), load("slow_disk").plan(1))
    assert (chosen, plan) == (load("slow_disk"), ())
    scenario = load("power_loss")
    assert prepare(scenario, 1, ["power"], ABLE)[1] == scenario.plan(1)
    with pytest.raises(Impossible, match="power: a machine that goes on keeps"):
        prepare(scenario, 1, [], ABLE)


def test_a_need_that_there_is_not_is_told_with_the_nearest():
    with pytest.raises(ScenarioError, match="--without dsik: there is no such need; the nearest is 'disk'"):
        prepare(load("slow_disk"), 1, ["dsik"], ABLE)
    with pytest.raises(ScenarioError, match="--set safety_s=30"):
        prepare(load("island_for_a_day"), 1, ["time"], ABLE)
    with pytest.raises(ScenarioError, match="only scenarios of whole nodes"):
        prepare(load("crash"), 1, [], ABLE)


def test_no_scenario_is_a_usage_error():
    found = CliRunner().invoke(command, ["twin", "--runs", "0"])
    assert (found.exit_code, "--runs" in found.output) == (2, True)


# Who knows what


def truth(*awake: str, still: tuple[str, ...] = (), cut: tuple[tuple[str, str], ...] = ()) -> Truth:
    return Truth(frozenset(awake), frozenset(still), frozenset(cut))


ALL = {"n1", "n2", "n3"}
WHOLE = dict.fromkeys(sorted(ALL), ALL)


def test_an_end_is_known_when_nobody_who_is_left_holds_it_up():
    knowledge = Knowledge()
    knowledge.look(truth(*ALL), WHOLE, 1.0)
    knowledge.look(truth("n1", "n2"), {"n1": ALL, "n2": ALL}, 2.0)
    knowledge.look(truth("n1", "n2"), {"n1": {"n1", "n2"}, "n2": ALL}, 3.0)
    knowledge.look(truth("n1", "n2"), {"n1": {"n1", "n2"}}, 4.0)  # the other one could not be asked
    assert knowledge.measures() == {}
    knowledge.look(truth("n1", "n2"), {"n1": {"n1", "n2"}, "n2": {"n1", "n2"}}, 5.0)
    knowledge.look(truth(*ALL), WHOLE, 6.0)
    assert knowledge.measures() == {"known_ended_s": 3.0, "known_started_s": 0.0}


def test_a_cut_that_is_over_before_all_know_is_counted():
    knowledge, apart = Knowledge(), (("n1", "n3"), ("n3", "n1"), ("n2", "n3"), ("n3", "n2"))
    knowledge.look(truth(*ALL), WHOLE, 1.0)
    knowledge.look(truth(*ALL, cut=apart), WHOLE, 2.0)
    knowledge.look(truth(*ALL), {**WHOLE, "n1": {"n1", "n2"}}, 3.0)
    knowledge.look(truth(*ALL), WHOLE, 3.5)
    assert knowledge.measures() == {"known_healed_s": 0.5, "unknown_cut": 1}


def test_nobody_need_think_anything_of_a_pair_that_relays_connect_nor_of_whom_one_cannot_answer():
    knowledge = Knowledge()
    knowledge.look(truth(*ALL), WHOLE, 1.0)
    knowledge.look(truth(*ALL, cut=(("n1", "n3"), ("n3", "n1"))), WHOLE, 2.0)  # n2 passes on
    assert knowledge.measures() == {"known_cut_s": 0.0}
    silent = truth(*ALL, cut=(("n3", "n1"), ("n3", "n2")))
    knowledge.look(silent, WHOLE, 3.0)
    assert knowledge.measures() == {"known_cut_s": 0.0}  # n1 and n2 do not hear n3
    knowledge.look(silent, {"n1": {"n1", "n2"}, "n2": {"n1", "n2"}, "n3": {"n3"}}, 4.0)
    assert knowledge.measures() == {"known_cut_s": 1.0}


def test_of_a_process_that_stands_still_one_may_think_what_one_likes():
    knowledge = Knowledge()
    knowledge.look(truth(*ALL), WHOLE, 1.0)
    knowledge.look(truth("n1", "n2", still=("n3",)), {"n1": ALL, "n2": {"n1", "n2"}}, 2.0)
    assert knowledge.measures() == {}
    knowledge.look(truth(*ALL), {**WHOLE, "n2": {"n1", "n2"}}, 3.0)
    knowledge.finish()
    assert knowledge.measures() == {"unknown_resumed": 1}


# What processes leave, and what is told


def test_a_killed_process_leaves_half_a_line_and_half_a_run():
    text = (
        '["began", 1, 5.0, "a", "n2", "c", 7, 1]\n["ended", 1, 5.5, "answered"]\n'
        '["began", 2, 6.0, "b", "n2", "c", 8, 1]\n["ended", 2, 6.'
    )
    first, second = executions_in(text, "n1", 3, lambda seconds: seconds - 1)
    assert (first.id, first.number, first.boot, first.began_s, first.ended_s) == ("a", 7, 3, 4.0, 4.5)
    assert (first.outcome, second.ended_s, second.outcome) == ("answered", None, "")


def test_a_setting_of_the_scenario_goes_into_the_file_of_the_node_which_stays_private(tmp_path):
    file = tmp_path / "node.yaml"
    file.write_text("storage: {data_dir: data}\n", encoding="utf-8")
    change_config(file, {"storage.durability": "full", "cluster.seeds": ["10.0.0.1:7946"]})
    assert "durability: full" in file.read_text(encoding="utf-8")
    assert "data_dir: data" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_table_has_medians_and_names_what_failed(tmp_path):
    rows = []
    for seed, wait_s in ((1, 0.5), (2, 0.7)):
        real = Result("s", seed, measures={"known_cut_s": wait_s, "accepted": 9, "unknown_cut": seed - 1})
        rows += rows_of("s", {"simulated": Result("s", seed, measures={"accepted": 9}), "real": real})
    rows[-1] |= {"code": 128, "failed": "finally_everything_ends"}
    assert table(rows) == [
        ("measure", "simulated", "real"),
        ("accepted", "9", "9"),
        ("all know of a cut (s)", "-", "0.60 (0.50 to 0.70)"),
        ("cuts over before all knew", "0", "0 (0 to 1)"),
        ("properties", "all held", "finally_everything_ends"),
    ]
    assert next(aligned(table(rows))) == "measure                    simulated  real"
    write_rows(tmp_path / "raw.csv", rows)
    assert (tmp_path / "raw.csv").read_text(encoding="utf-8").splitlines()[:2] == [
        "scenario,seed,system,code,failed,seconds,accepted,known_cut_s,unknown_cut",
        "s,1,simulated,0,,0.0,9,,",
    ]


async def test_what_is_planned_for_one_moment_happens_in_the_order_of_its_planning():
    timeline, seen, over = RealTimeline(1), [], trio.Event()
    assert timeline.now() == 0.0
    timeline.begin_at(3.0)
    assert timeline.now() >= 3.0
    timeline.at(4.0, over.set)
    for number in range(3):
        timeline.at(3.0, lambda n=number: seen.append(n))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timeline.run)
        timeline.begin_at(4.0)
        await over.wait()
        nursery.cancel_scope.cancel()
    assert seen == [0, 1, 2]
