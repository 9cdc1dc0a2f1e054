"""Reading a configuration: layers, places, and every problem at once."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.config import NodeConfig, load_config, misspelt_variables, model
from node.config import load as load_module
from node.config.swim_settings import NOT_PARAMETERS
from node.errors import ConfigInvalid, InsecureListener
from node.messaging import settings as messaging
from node.security.authority import NodeSettings, create_cluster, issue_node
from swim.config import SwimConfig
from tests.node.security.environments import seeded


@pytest.fixture(autouse=True)
def _no_system_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load_module, "SYSTEM_CONFIG", tmp_path / "etc" / "config.yaml")


def load(
    tmp_path: Path, text: str | bytes, environ: dict[str, str] | None = None, **options: object
) -> NodeConfig:
    path = tmp_path / "node.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    overrides = {key.replace("__", "."): value for key, value in options.items()}
    return load_config(path, environ={"HOME": str(tmp_path)} | (environ or {}), overrides=overrides)


def problems(tmp_path: Path, text: str | bytes, **rest: Any) -> list[dict[str, Any]]:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path, text, **rest)
    found: list[dict[str, Any]] = caught.value.details["problems"]
    for problem in found:
        assert problem["key"] in str(caught.value)
    return found


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    config = load_config(None, environ={"HOME": str(tmp_path)}, overrides={})
    assert (config.server.host, config.server.port, config.server.dev_mode) == ("127.0.0.1", 8080, False)
    assert (config.cluster.bind_port, config.cluster.link_port) == (7946, 7947)
    assert config.storage.data_dir == tmp_path / ".local/state/caxton"
    assert config.messaging.max_message_bytes == 1024 * 1024
    assert config.runtime.agent_timeout_s == 30.0
    assert not config.security.present


def test_the_longest_life_of_a_message_is_that_of_messaging(tmp_path: Path) -> None:
    assert model.TTL_LIMIT_S == messaging.TTL_LIMIT_S
    assert load(tmp_path, "messaging: {default_ttl: 30d}").messaging.default_ttl_s == messaging.TTL_LIMIT_S
    [problem] = problems(tmp_path, "messaging: {default_ttl: 31d}")
    assert problem["key"] == "messaging.default_ttl"
    assert "2,592,000" in str(problem)


def test_the_limit_of_what_is_kept_of_messages_has_room_for_the_largest(tmp_path: Path) -> None:
    assert load(tmp_path, "messaging: {history_limit: 16MB}").messaging.history_bytes == 16 * 1024**2
    with pytest.raises(ConfigInvalid, match=r"messaging\.history_limit"):
        load(tmp_path, "messaging: {history_limit: 15MB}")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    for text in ("", "\n", "# nothing\n", "---\n", "server:\n"):
        assert load(tmp_path, text).server.port == 8080


def test_files_are_looked_for_in_order(tmp_path: Path) -> None:
    home, system, named = (
        tmp_path / ".config/caxton/config.yaml",
        tmp_path / "etc/config.yaml",
        tmp_path / "n.yaml",
    )
    for path, port in ((system, 1), (home, 2), (named, 3)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"server: {{port: {port}}}")
        environ = {"HOME": str(tmp_path)} | ({"CAXTON_CONFIG": str(named)} if port == 3 else {})
        assert load_config(None, environ=environ, overrides={}).server.port == port


def test_later_layers_win_and_aliases_meet_their_key(tmp_path: Path) -> None:
    text = "server: {port: 1}\nstorage: {data_dir: here}\nmessaging: {max_message_size: 2MB}\n"
    config = load(
        tmp_path,
        text,
        {"CAXTON_SERVER__PORT": "2", "CAXTON_CLUSTER__PEERS": "a:1, b:2", "CAXTON_TOKEN": "ignored"},
        storage__path=tmp_path / "there",
        runtime__agent_timeout_s=5,
    )
    assert config.server.port == 2
    assert config.cluster.seeds == ("a:1", "b:2")
    assert config.storage.data_dir == tmp_path / "there"
    assert config.messaging.max_message_bytes == 2 * 1024**2
    assert config.runtime.agent_timeout_s == 5.0
    assert load(tmp_path, text, {"CAXTON_SERVER__PORT": "2"}, server__port=3).server.port == 3


def test_folders_of_tools_are_lists_of_paths_wherever_they_are_written(tmp_path: Path) -> None:
    found = load(tmp_path, "tools: {files: {read: [a, ~/b, /c/d], write: e}}").tools.files
    assert found.read == (tmp_path / "a", tmp_path / "b", Path("/c/d"))
    assert found.write == (tmp_path / "e",)
    environ = {"CAXTON_TOOLS__FILES__READ": "/x, ~/y"}
    assert load(tmp_path, "", environ=environ).tools.files.read == (Path("/x"), tmp_path / "y")


@pytest.mark.parametrize(
    "section",
    [
        "files: {read: [/a/x, /b/x]}",
        "files: {read: [/a/x], write: [/b/x]}",
        "files: {read: [/]}",
        "files: {read: [3]}",
        "http_client: {allowed_domains: ['https://example.org']}",
        "http_client: {allowed_domains: ['*.']}",
        "http_client: {allowed_networks: [10.0.0.1/8]}",
        "http_client: {max_response: 1GB}",
    ],
)
def test_a_reach_of_tools_that_means_nothing_is_refused(tmp_path: Path, section: str) -> None:
    [problem] = problems(tmp_path, f"tools: {{{section}}}")
    assert problem["key"].startswith("tools.")


def test_paths_are_relative_to_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = "storage: {data_dir: data}\nobservability: {logging: {file: ~/log}}\n"
    config = load(tmp_path, text)
    assert config.storage.data_dir == tmp_path / "data"
    assert config.observability.logging.file == tmp_path / "log"
    assert load(tmp_path, text, storage__path="data").storage.data_dir == tmp_path / "elsewhere/data"


def test_the_environment_is_interpolated_as_values_only(tmp_path: Path) -> None:
    text = 'cluster: {node_name: "${NAME}", profile: "${P:-edge}", seeds: ["${SEED}"]}\n'
    text += "server:\n  port: ${PORT:-9}\n"
    config = load(tmp_path, text, {"NAME": "n1", "SEED": "h:7"})
    assert (config.cluster.node_name, config.cluster.profile, config.server.port) == ("n1", "edge", 9)
    assert config.cluster.seeds == ("h:7",)
    injected = problems(tmp_path, text, environ={"NAME": "n\nserver: {dev_mode: true}", "SEED": "h:7"})
    assert [p["key"] for p in injected] == ["cluster.node_name"]


def test_variables_with_one_underscore_too_few_are_named_with_what_they_would_mean() -> None:
    environ = {"CAXTON_SERVER_PORT": "1", "CAXTON_CLUSTER_NODE_NAME": "a", "CAXTON_STORAGE_PATH": "/x"}
    others = {
        "CAXTON_TOKEN": "t",
        "CAXTON_SERVER__PORT": "1",
        "CAXTON_SERVER_SERVICE_HOST": "h",
        "SERVER_PORT": "1",
    }
    assert misspelt_variables(environ | others) == {
        "CAXTON_CLUSTER_NODE_NAME": "CAXTON_CLUSTER__NODE_NAME",
        "CAXTON_SERVER_PORT": "CAXTON_SERVER__PORT",
        "CAXTON_STORAGE_PATH": "CAXTON_STORAGE__PATH",
    }


def test_a_name_that_cannot_be_certified_is_answered_in_words(tmp_path: Path) -> None:
    for name in ("Ada", "a_b", "-a", "a" * 64, "ü"):
        (found,) = problems(tmp_path, f"cluster: {{node_name: '{name}'}}")
        assert found["key"] == "cluster.node_name"
        assert "1 to 63 of a-z, 0-9 and '-'" in found["what"]


def test_an_unset_variable_is_a_problem_and_a_literal_can_be_written(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "observability: {logging: {file: '${LOGDIR}/x'}}", environ={"LOG_DIR": "y"})
    assert (found["line"], found["key"], found["nearest"]) == (1, "observability.logging.file", "LOG_DIR")
    text = "observability: {tracing: {service_name: '$${x}'}}"
    assert load(tmp_path, text).observability.tracing.service_name == "${x}"
    assert "begins no" in problems(tmp_path, "server: {host: '${'}")[0]["what"]


def test_every_problem_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    text = """\
server:
  prot: 8080
  port: 99999
clusterr: {}
cluster:
  profile: lann
  seeds:
    - good:7946
    - bad
  no_stream_probes: [edge-7, Edge_8]
runtime:
  agent_timeout: soon
  max_agents: 5
  max_agents: 6
tools: 7
llm:
  provider: scripted
"""
    found = {p["key"]: p for p in problems(tmp_path, text, environ={"CAXTON_SERVER__HOTS": "x"})}
    assert {k: (p["line"], p["column"], p["nearest"]) for k, p in found.items()} == {
        "runtime.max_agents": (14, 3, None),
        "cluster.no_stream_probes": (10, 3, None),
        "server.prot": (2, 3, "port"),
        "clusterr": (4, 1, "cluster"),
        "tools": (15, 1, None),
        "server.hots": (None, None, "host"),
        "server.port": (3, 3, None),
        "cluster.profile": (6, 3, "lan"),
        "cluster.seeds": (7, 3, None),
        "runtime.agent_timeout": (12, 3, None),
        "llm": (16, 1, None),
    }
    assert found["server.hots"]["source"] == "environment variable CAXTON_SERVER__HOTS"
    assert found["server.port"]["source"] == str(tmp_path / "node.yaml")


def test_single_parameters_of_membership_stand_on_top_of_the_profile(tmp_path: Path) -> None:
    text = "cluster:\n  profile: edge\n  stream_probes: false\n  swim: {suspicion_min_s: 6, health_max: 2}\n"
    environ = {"CAXTON_CLUSTER__SWIM__SUSPICION_MAX_S": "12s"}
    config = load(tmp_path, text, environ, cluster__swim__health_max=1).cluster
    expected = SwimConfig.profile(
        "edge", suspicion_min_s=6.0, suspicion_max_s=12.0, health_max=1, stream_probes=False, label="mine"
    )
    assert config.swim_config("mine") == expected
    assert load(tmp_path, "cluster: {swim: }").cluster.swim_config("x") == SwimConfig(label="x")


def test_every_parameter_of_membership_can_be_set_or_has_another_place(tmp_path: Path) -> None:
    defaults = SwimConfig()
    names = [field.name for field in fields(SwimConfig)]
    settable = [name for name in names if name not in NOT_PARAMETERS]
    assert set(NOT_PARAMETERS) < set(names)
    values = ", ".join(f"{name}: {getattr(defaults, name)}" for name in settable)
    config = load(tmp_path, f"cluster: {{swim: {{{values}}}}}").cluster
    assert list(config.swim.changes()) == settable
    assert config.swim_config("caxton") == defaults
    for name in NOT_PARAMETERS:
        [problem] = problems(tmp_path, f"cluster: {{swim: {{{name}: 1}}}}")
        assert problem["what"] == "there is no such key"


@pytest.mark.parametrize(
    ("text", "key", "column", "what"),
    [
        ("{suspicion_min: 6}", "swim.suspicion_min", 18, "no such key"),
        ("{suspicion_max_s: 1}", "swim.suspicion_max_s", 18, "suspicion_min_s exceeds suspicion_max_s"),
        ("{health_max: 1, suspicion_min_s: 1m}", "swim.suspicion_min_s", 33, "exceeds"),
        ("{gossip_interval_s: 0, max_streams: 0}", "swim.gossip_interval_s", 18, "must be positive"),
        ("{probe_interval_s: -1}", "swim.probe_interval_s", 18, "at least 0"),
        ("{probe_interval_s: soon}", "swim.probe_interval_s", 18, "duration"),
        ("{retransmit_mult: .nan}", "swim.retransmit_mult", 18, "must be a number"),
        ("{retransmit_mult: yes}", "swim.retransmit_mult", 18, "number"),
        ("{health_max: 1.5}", "swim.health_max", 18, "whole number"),
        ("{lag_warning_s: 0}", "swim.lag_warning_s", 18, "lag_warning_s must be positive"),
        ("{reconnect_interval_s: 0.0001}", "swim.reconnect_interval_s", 18, "at least 0.001 s"),
        ("{max_state_bytes: 1000}", "swim.max_state_bytes", 18, "at least 65536"),
        ("{max_state_bytes: 0}", "swim.max_state_bytes", 18, "at least 1"),
        ("{max_seeds: 1}, seeds: [a:1, b:2]", "swim.max_seeds", 18, "has 2"),
        ("5", "swim", 11, "section"),
    ],
)
def test_a_parameter_that_cannot_be_is_a_problem_at_its_place(
    tmp_path: Path, text: str, key: str, column: int, what: str
) -> None:
    [problem] = problems(tmp_path, f"cluster: {{swim: {text}}}")
    assert (problem["key"], problem["line"], problem["column"]) == (f"cluster.{key}", 1, column)
    assert what in problem["what"]
    if key == "swim.suspicion_min":
        assert problem["nearest"] == "suspicion_min_s"


def test_allowed_networks_are_networks_and_this_node_is_in_one(tmp_path: Path) -> None:
    config = load(tmp_path, "cluster: {allowed_networks: [127.0.0.0/8, '::1/128']}").cluster
    assert config.swim_config("x").allowed_networks == ("127.0.0.0/8", "::1/128")
    assert load(tmp_path, "", cluster__allowed_networks="127.0.0.0/8").cluster.allowed_networks == (
        "127.0.0.0/8",
    )
    for text, what in [
        ("[127.0.0.1/8]", "write '127.0.0.0/8'"),
        ("[10.0.0.0/40]", "CIDR"),
        ("[office]", "CIDR"),
        ("[10.0.0.0/8, 'fd00::/8']", "127.0.0.1, this node's own address"),
        ("[127.0.0.0/8], advertise_host: 10.0.0.5", "10.0.0.5, this node's own address"),
    ]:
        [problem] = problems(tmp_path, f"cluster: {{allowed_networks: {text}}}")
        assert (problem["key"], problem["line"]) == ("cluster.allowed_networks", 1)
        assert what in problem["what"]
    assert load(tmp_path, "cluster: {allowed_networks: [10.0.0.0/8], advertise_host: n1.example}")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("server: [", 1, ""),
        ("server:\n\tport: 1", 2, ""),
        ("- a\n", 1, "sections"),
        ("just text", 1, "sections"),
        ("a: &x 1\nb: *x", 2, "aliases"),
        ("server: {<<: {port: 1}}", 1, "plain text"),
        ("server: {port: !!python/object/apply:os.getpid []}", 1, ""),
        ("server: {host: !!binary aGk=}", 1, "tag"),
        ("server: {? [a] : 1}", 1, "plain text"),
        (b"server:\n  host: \xff\n", 2, "UTF-8"),
        (b"a: \x00", None, "control"),
        ("a: " + "[" * 5000, None, ""),
        ("x" * 300_000, None, "longer"),
        ("server: {port: 1}\n---\nserver: {port: 2}\n", 2, ""),
        ("server: {port: true}", 1, "number"),
        ("server: {port: !!int x}", 1, "tag"),
    ],
)
def test_what_is_no_configuration_gets_a_place(
    tmp_path: Path, text: str | bytes, line: int | None, what: str
) -> None:
    found = problems(tmp_path, text)
    assert found[0]["line"] == line
    assert what in found[0]["what"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    raw=st.one_of(st.binary(max_size=80), st.text(alphabet="server:port{}[]&*!#|>-?,'\" \n${}", max_size=80))
)
def test_any_bytes_are_a_configuration_or_a_clear_error(tmp_path: Path, raw: bytes | str) -> None:
    with contextlib.suppress(ConfigInvalid):
        load(tmp_path, raw)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"none\.yaml.*No such file"):
        load_config(tmp_path / "none.yaml", environ={}, overrides={})
    with pytest.raises(ConfigInvalid, match="directory"):
        load_config(tmp_path, environ={}, overrides={})


@pytest.mark.parametrize(
    ("text", "value"), [("200ms", 0.2), ("1h", 3600), ("1.5m", 90), ("5min", 300), ("7d", 604_800), ("3", 3)]
)
def test_durations_have_units(tmp_path: Path, text: str, value: float) -> None:
    config = load(tmp_path, f"messaging: {{retention: {text}}}")
    assert config.messaging.retention_s == pytest.approx(value)


@pytest.mark.parametrize("text", ["{region: [eu, ch], gpu: 'yes'}", "'gpu=yes, region=eu,region=ch'"])
def test_labels_of_a_node_are_names_with_texts(tmp_path: Path, text: str) -> None:
    labels = load(tmp_path, f"cluster: {{labels: {text}}}").cluster.labels
    assert labels == (("gpu", "yes"), ("region", "ch"), ("region", "eu"))


@pytest.mark.parametrize("text", ["{gpu: yes}", "{gpu: 1}", "[gpu]", "3", "{No Name: x}", "{gpu: ''}", "gpu"])
def test_what_are_no_labels_is_refused(tmp_path: Path, text: str) -> None:
    found = problems(tmp_path, f"cluster: {{labels: {text}}}")[0]
    assert found["key"] == "cluster.labels"
    assert "write names and texts" in found["what"]


@pytest.mark.parametrize("text", ["-1s", "0", "1 year", ".inf", "true", "[1]", "9999999d", "1e400"])
def test_what_is_no_duration_is_refused(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, f"messaging: {{default_ttl: {text}}}")[0]["key"] == "messaging.default_ttl"


@pytest.mark.parametrize(
    ("text", "value"), [("256KB", 262_144), ("1MiB", 1_048_576), ("1000", 1000), ("2mb", 2_097_152)]
)
def test_sizes_have_units(tmp_path: Path, text: str, value: int) -> None:
    assert load(tmp_path, f"messaging: {{max_message_bytes: {text}}}").messaging.max_message_bytes == value


def test_a_listener_beyond_loopback_needs_security_material(tmp_path: Path) -> None:
    for text in ("server: {host: 0.0.0.0}", "cluster: {bind_host: 10.0.0.1}", "cluster: {bind_host: '::'}"):
        with pytest.raises(InsecureListener, match="caxton init"):
            load(tmp_path, text)
    for host in ("127.0.0.2", "::1", "localhost"):
        assert load(tmp_path, f"cluster: {{bind_host: '{host}'}}").cluster.bind_host == host


def test_dev_mode_stays_on_loopback_even_with_security_material(tmp_path: Path) -> None:
    names = ("ca_cert", "node_cert", "node_key", "credential", "gossip_key", "tokens")
    security = "security: {" + ", ".join(f"{name}: x" for name in names) + "}\n"
    assert load(tmp_path, security + "server: {host: 0.0.0.0}").security.ca_cert == tmp_path / "x"
    with pytest.raises(InsecureListener, match="dev_mode"):
        load(tmp_path, security + "server: {host: 0.0.0.0, dev_mode: true}")
    assert load(tmp_path, "server: {dev_mode: true}").server.dev_mode


def test_half_a_bundle_is_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "security:\n  ca_cert: a\n  node_key: b\n")
    assert found["line"] == 1
    assert "node_cert, credential" in found["what"]


def test_the_edge_profile_survives_power_loss_unless_told_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, "").storage.durability == "normal"
    assert load(tmp_path, "cluster: {profile: edge}").storage.durability == "full"
    text = "cluster: {profile: edge}\nstorage: {durability: normal}"
    assert load(tmp_path, text).storage.durability == "normal"


def test_the_node_yaml_of_a_bundle_is_taken_as_it_is(tmp_path: Path) -> None:
    environment, _ = seeded()
    create_cluster(tmp_path, environment=environment)
    settings_ = NodeSettings(bind_host="0.0.0.0", advertise_host="10.0.0.5", seeds=["10.0.0.6:7946"])
    bundle = issue_node(tmp_path, "alpha", environment=environment, settings=settings_)
    config = load_config(bundle.config, environ={}, overrides={})
    assert config.cluster.node_name == "alpha"
    assert config.cluster.seeds == ("10.0.0.6:7946",)
    assert config.storage.data_dir == bundle.directory / "data"
    assert config.security.node_key == bundle.directory / "node.key"
    for path in config.security.files().values():
        assert path is not None
        assert path.is_file()


@pytest.mark.parametrize("key", ["00" * 31, "zz" * 32, "AB" * 32, "-----BEGIN PUBLIC KEY-----"])
def test_a_trusted_key_has_64_hexadecimal_digits(tmp_path: Path, key: str) -> None:
    assert load(
        tmp_path, f"security: {{agents: {{trusted_keys: ['{'00' * 32}']}}}}"
    ).security.agents.trusted_keys
    (found,) = problems(tmp_path, f"security: {{agents: {{trusted_keys: ['{key}']}}}}\n")
    assert found["key"].startswith("security.agents.trusted_keys")
