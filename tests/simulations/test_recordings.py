"""What a node has recorded happens again, byte for byte; a changed core is found at the first step."""

import random
import shutil
from functools import partial

import pytest
import trio
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from node.message import Message
from node.messaging import receiver, router
from node.messaging.mailboxes import Mailbox
from node.messaging.recording import MAILBOX_VERSION
from node.recording import format as file_format
from node.recording.format import Core, Header, Recording, Step, header_bytes, record_bytes
from node.recording.tape import digest_of
from node.recording.values import pack
from node.samples import sample
from node.vocabulary import Performative, RoutingStrategy
from simulations.cli import command
from simulations.cluster import SimulatedCluster
from simulations.kernel import run
from simulations.recording.replay import replay
from swim.keyring_messages import Verb
from swim.publisher import Publisher
from swim.suspicion import Case

AGENT = sample("agents/echo.md").read_bytes()
ARTIFACTS = {"echo.wat": sample("agents/echo.wat").read_bytes()}
SEED = 5


async def ask(running, number, capability="echo"):
    """Let a client of a node ask whoever offers a capability."""
    identifier = running.environment.new_id()
    message = Message(
        id=identifier,
        reply_with=identifier,
        performative=Performative.REQUEST,
        sender=f"client@{running.name}",
        capability=capability,
        content={"number": number},
        conversation_id=f"c{number // 4}",
        routing_strategy=RoutingStrategy.LOAD_BALANCED,
        timestamp_s=running.environment.clock.wall(),
    )
    await running.node.bus.request(message, timeout_s=40.0)


async def life_of_a_cluster(world, directory, recordings):
    """Three nodes answer, change their key, are parted and meet again; returns what must stay secret."""
    files = {name: recordings and recordings / f"{name}.rec" for name in ("a", "b", "c")}
    async with trio.open_nursery() as nursery:
        cluster = SimulatedCluster(world, directory, nursery)
        await cluster.start("a", record=files["a"])
        for name in ("b", "c"):
            node = await cluster.start(name, "a", record=files[name])
            await node.supervisor.deploy(AGENT, artifacts=ARTIFACTS)
        a = cluster.nodes["a"]
        clock, keys = a.environment.clock, a.node.membership.keys
        while len(a.node.membership.registry.providers("echo")) < 2:
            await clock.sleep(0.1)
        async with trio.open_nursery() as clients:
            for number in range(12):
                clients.start_soon(ask, a, number)
                await clock.sleep(0.05)
            before = a.node.membership.swim.keyring.keys()
            key_id = (await keys.install(timeout_s=3.0)).result.key_id
            await cluster.nodes["b"].node.membership.keys.change(Verb.USE, key_id, timeout_s=3.0)
            await a.node.membership.traffic.ask("ping", "", timeout_s=1.0)
            a.node.membership.traffic.fire("hello", "everybody")
            cluster.network.partition(("a", "b"), ("c",))
            for number in range(12, 20):
                clients.start_soon(ask, a, number)
            await clock.sleep(12.0)
            cluster.network.heal()
            await clock.sleep(4.0)
        swim = a.node.membership.swim
        secrets = {
            "old gossip key": before[0],
            "new gossip key": swim.keyring.keys()[0],
            "key of the node": a.node.credentials.identity._private_key.private_bytes_raw(),
            "key for pairs": swim._pairwise._private_key.private_bytes_raw(),
            **{f"key of a pair, {other.hex()[:8]}": key for other, key in swim._pairwise._keys.items()},
        }
        async with trio.open_nursery() as clients:
            for number in range(20, 23):
                clients.start_soon(partial(ask, cluster.nodes["b"], number, capability="nothing-yet"))
            await clock.sleep(0.5)
            await cluster.crash("b")
            clients.cancel_scope.cancel()
        await cluster.start("b", "a", record=recordings and recordings / "b2.rec")
        await clock.sleep(8.0)
        for name in list(cluster.nodes):
            await cluster.leave(name)
        nursery.cancel_scope.cancel()
    return world.trace.digest(), secrets


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The recordings of a cluster's life, its trace's digest, and its secrets."""
    recordings = tmp_path_factory.mktemp("recordings")

    async def scenario(world):
        return await life_of_a_cluster(world, tmp_path_factory.mktemp("cluster"), recordings)

    digest, secrets = run(scenario, SEED)
    return recordings, digest, secrets


def replayed(path, **options):
    return replay(Recording(path), **options)


def by_name(result):
    return {core.name: core for core in result.cores.values()}


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_every_core_does_the_same_again(recorded, name):
    result = replayed(recorded[0] / f"{name}.rec")
    assert result.same
    assert (result.end, result.broken) == ("the node has ended", "")
    cores = by_name(result)
    assert set(cores) == {"membership", "delivery", "arrivals"} | (
        {"mailbox:echo-agent"} if name != "a" else set()
    )
    assert cores["membership"].inputs > 200
    assert cores["delivery"].inputs > 50
    assert all(core.left == 0 for core in cores.values())


def test_a_restarted_node_does_the_same_again_with_what_was_on_its_disk(recorded):
    path = recorded[0] / "b2.rec"
    assert replayed(path).same
    given = {record.verb: len(record.arguments) for record in records_of(path)}
    assert given["take_up"] > 500, "messages that had not ended"
    assert given["swim.load"] > 500, "words of members"
    assert given["maps.load_units"] > 500, "units of maps"


def test_the_recordings_meet_what_they_are_there_for(recorded):
    verbs = {record.verb for name in "abc" for record in records_of(recorded[0] / f"{name}.rec")}
    assert verbs >= {
        "swim.start", "swim.join", "swim.load", "swim.receive", "swim.handle_timer", "swim.stream_received",
        "swim.leave", "swim.update_meta", "maps.start", "maps.put_many", "maps.set_load", "maps.events",
        "traffic.fire", "traffic.ask", "traffic.collect", "traffic.answer", "keys.start",
        "prepare", "admit", "report", "attend", "give_up", "written", "send", "pump", "link_lost",
        "node_lost", "offer", "take", "done", "judge", "stored", "ended", "watermark", "origin_lost",
    }  # fmt: skip


def records_of(path):
    return [record for record in Recording(path).records() if isinstance(record, Step)]


def test_recording_changes_nothing(recorded, tmp_path):
    async def scenario(world):
        return await life_of_a_cluster(world, tmp_path, None)

    assert run(scenario, SEED)[0] == recorded[1]


def test_no_key_is_in_a_recording(recorded):
    recordings, _, secrets = recorded
    assert len(secrets) >= 6
    assert secrets["old gossip key"] != secrets["new gossip key"]
    for name in "abc":
        content = (recordings / f"{name}.rec").read_bytes()
        assert b"everybody" in content, "what is searched holds what it should"
        for what, key in secrets.items():
            forms = (key, key.hex().encode())
            assert not any(form in content for form in forms), f"{what} is in the recording of {name}"


# ---- planted bugs: a change of production code that the replay finds ------------------------------


def suspicions_are_shorter(patch):
    deadline = Case.deadline
    patch.setattr(Case, "deadline", lambda self, margin_s=0.0: deadline(self, margin_s) - 0.1)


def values_are_cut(patch):
    put_many = Publisher.put_many

    def cut(self, changes):
        put_many(self, {key: value and value[:-1] for key, value in changes.items()})

    patch.setattr(Publisher, "put_many", cut)


def load_counts_twice(patch):
    score = router.score
    patch.setattr(router, "score", lambda provider: score(provider) / (1.0 + provider.load) - 1.0)


def the_last_is_first(patch):
    take = Mailbox.take

    def taken(self):
        self._ready.sort(reverse=True)
        return take(self)

    patch.setattr(Mailbox, "take", taken)


def what_was_handled_is_told_as_failed(patch):
    patch.setitem(receiver.OUTCOMES, receiver.ItemState.SETTLED, "failed")


BUGS = {
    suspicions_are_shorter: "membership",
    values_are_cut: "membership",
    load_counts_twice: "delivery",
    what_was_handled_is_told_as_failed: "arrivals",
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_changed_core_is_found_at_the_first_step_that_differs(recorded, monkeypatch, bug):
    path = next(recorded[0] / f"{name}.rec" for name in ("b", "a") if BUGS[bug] != "delivery" or name == "a")
    steps = records_of(path)
    bug(monkeypatch)
    result = replayed(path)
    cores = by_name(result)
    core = cores.pop(BUGS[bug])
    assert not result.same
    assert all(other.same for other in cores.values()), "the other cores go on"
    assert core.difference is not None
    assert core.left > 0
    at = core.difference.number
    assert steps[at - 1] == core.difference.step
    assert core.difference.found_lines() != core.difference.expected_lines() or core.difference.notes
    monkeypatch.undo()
    assert replayed(path, until=at).same


def test_a_mailbox_that_turned_round_is_found(recorded, monkeypatch, tmp_path):
    path = tmp_path / "m.rec"
    entries = [[number, f"c{number}", "client@a", 5, 0] for number in range(3)]
    steps = [("build", 9), ("refill", [entries, True]), ("take", []), ("take", [])]
    outputs = [
        [["stands", 0, 0, 0, True]],
        [["stands", 3, 0, 0, False]],
        [["returned", [0, 0, 1 - 5 * 64]], ["stands", 2, 1, 0, False]],
        [["returned", [1, 0, 2 - 5 * 64]], ["stands", 1, 2, 0, False]],
    ]
    write(path, [("mailbox:m", MAILBOX_VERSION, steps, outputs)])
    assert replayed(path).same
    the_last_is_first(monkeypatch)
    assert by_name(replayed(path))["mailbox:m"].difference.number == 3


def write(path, cores):
    """A recording of (name, version, (verb, arguments)s, outputs) per core, without draws."""
    parts = [header_bytes(Header("n1", "0.0.1", "3.11.0", "1.2", 0.0))]
    for number, (name, version, steps, outputs) in enumerate(cores):
        parts.append(record_bytes(Core(number, name, version)))
        for (verb, arguments), found in zip(steps, outputs, strict=True):
            packed = pack(found)
            step = Step(number, verb, pack(arguments), (), digest_of(packed), packed)
            parts.append(record_bytes(step))
    path.write_bytes(b"".join(parts))


# ---- the command -----------------------------------------------------------------------------------


def cli(*arguments):
    return CliRunner().invoke(command, ["replay", *map(str, arguments)])


def test_the_command_says_that_all_is_the_same(recorded):
    done = cli(recorded[0] / "b.rec")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "the node has ended" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == [
        "membership",
        "delivery",
        "arrivals",
        "mailbox:echo-agent",
    ]
    assert all(line.endswith("the same") for line in lines[1:])


def test_the_command_shows_the_first_difference_in_words(recorded, monkeypatch):
    suspicions_are_shorter(monkeypatch)
    done = cli(recorded[0] / "a.rec")
    assert done.exit_code == 2, done.output
    assert "differs at step" in done.output
    shown = done.output.partition("outputs, - as recorded, + as found now:")[2]
    assert "- timer at" in shown
    assert "+ timer at" in shown
    assert "mailbox" not in done.output


def test_the_command_shows_a_step(recorded):
    path = recorded[0] / "a.rec"
    steps = records_of(path)
    at = next(n for n, step in enumerate(steps, 1) if step.verb == "swim.receive" and step.outputs)
    done = cli(path, "--show", at)
    assert done.exit_code == 0, done.output
    assert f"step {at} of membership: swim.receive" in done.output
    assert "says Alive(name=" in done.output
    until = cli(path, "--until", at)
    assert until.output.startswith(f"a, {at} inputs; there may be more")
    beyond = cli(path, "--show", len(steps) + 1)
    assert beyond.exit_code != 0
    assert f"there is no step {len(steps) + 1}" in beyond.output


def test_the_command_tells_which_version_recorded_what_differs(tmp_path):
    path = tmp_path / "m.rec"
    write(path, [("mailbox:m", 1, [("build", 9)], [[["stands", 1, 0, True]]])])
    done = cli(path)
    assert done.exit_code == 2
    assert "recorded by Caxton 0.0.1" in done.output
    assert "Python 3.11.0" in done.output


def test_a_core_of_another_version_is_not_misread(tmp_path):
    path = tmp_path / "m.rec"
    write(path, [("mailbox:m", 9, [("build", 9)], [[]]), ("oracle", 1, [("ask", 1)], [[]])])
    done = cli(path)
    assert done.exit_code == 2
    assert "it is of version 9, and this version of Caxton knows 2" in done.output
    assert "does not know it" in done.output


def test_another_file_is_refused_in_words(tmp_path):
    path = tmp_path / "some.file"
    path.write_bytes(b"PK\x03\x04")
    done = cli(path)
    assert done.exit_code == 1
    assert "is no recording" in done.output
    path.write_bytes(file_format.MAGIC + b"\x00\x07")
    assert "a recording of format 7" in cli(path).output
    path.write_text("{}")
    assert "--until and --show are of recordings" in cli(path, "--until", 3).output
    path.write_bytes(header_bytes(Header("n1", "0", "3", "1", 0.0)))
    assert "--trace is of artifacts" in cli(path, "--trace", tmp_path / "t").output


# ---- what was damaged ----------------------------------------------------------------------------


def test_a_recording_that_breaks_off_is_the_same_up_to_there(recorded, tmp_path):
    whole = (recorded[0] / "c.rec").read_bytes()
    chance = random.Random(3)
    path = tmp_path / "cut.rec"
    for size in (len(whole) - 1, *(chance.randrange(200, len(whole)) for _ in range(3))):
        path.write_bytes(whole[:size])
        result = replayed(path)
        assert result.same
        assert "breaks off" in result.broken


arguments = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.binary(max_size=9),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["swim.receive", "swim.load", "prepare", "report", "begin", "build", "offer", "keys.start"]
    ),
    arguments,
    st.lists(st.tuples(st.sampled_from(["now", "wall", "open", "sign"]), st.binary(max_size=3), arguments)),
)
def test_a_step_that_nobody_recorded_is_a_difference_and_no_crash(
    recorded, tmp_path_factory, verb, given_, draws
):
    path = tmp_path_factory.getbasetemp() / "made.rec"
    shutil.copyfile(recorded[0] / "b.rec", path)
    whole = path.read_bytes()
    first = list(Recording(path).records())[:40]
    numbers = {record.number for record in first if isinstance(record, Core)}
    made = [Step(n, verb, pack(given_), tuple(draws), bytes(16), b"") for n in sorted(numbers)]
    path.write_bytes(
        whole[: len(header_bytes(Recording(path).header))] + b"".join(map(record_bytes, [*first, *made]))
    )
    result = replayed(path)
    assert all(core.difference is not None for core in result.cores.values())
    assert cli(path).exit_code == 2
