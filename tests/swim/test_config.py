"""Parameters that cannot work are refused by name; each says when to change it."""

import math
import re
from dataclasses import fields
from typing import get_type_hints

import pytest

from swim.config import MAX_FRAME_BYTES, MIN_INTERVAL_S, PROFILES, SwimConfig

DURATIONS = [field.name for field in fields(SwimConfig) if field.name.endswith("_s")]
POSITIVE = [
    *("probe_interval_s", "probe_timeout_min_s", "probe_timeout_s", "suspicion_min_s", "lag_warning_s"),
    *("isolation_s", "gossip_interval_s", "eager_gap_s", "repair_stream_after_s", "reconnect_interval_s"),
    *("seed_refresh_s", "reap_after_s", "join_retry_initial_s", "stream_timeout_s"),
]
"""Times that are divided by, or after which something begins anew."""


@pytest.mark.parametrize("name", [*DURATIONS, "probe_verdict_mult", "retransmit_mult"])
@pytest.mark.parametrize("value", [-1.0, -math.inf, math.inf, math.nan])
def test_what_is_no_finite_length_of_time_or_factor_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        SwimConfig(**{name: value})


@pytest.mark.parametrize("name", POSITIVE)
def test_times_that_something_is_divided_by_or_repeated_after_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=r"positive|exceeds|leave|room"):
        SwimConfig(**{name: 0.0})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"label": ""}, "label"),
        ({"label": "x" * 256}, "label"),
        ({"probe_timeout_s": 0.05}, "probe_timeout_min_s"),
        ({"probe_timeout_s": 2.0}, "probe_verdict_mult"),
        ({"probe_verdict_mult": 1.0}, "probe_verdict_mult"),
        ({"suspicion_min_s": 30.0}, "suspicion_min_s"),
        ({"suspicion_min_s": 0.1}, "suspicion_min_s"),
        ({"suspicion_confirmations": 16}, "suspicion_confirmations"),
        ({"indirect_probes": 0}, "indirect_probes"),
        ({"health_max": -1}, "health_max"),
        ({"retransmit_mult": 0.5}, "retransmit_mult"),
        ({"join_retry_initial_s": 60.0}, "join_retry_initial_s"),
        ({"max_meta_bytes": 513}, "max_meta_bytes"),
        ({"max_map_frame_bytes": 1_151}, "max_map_frame_bytes"),
        ({"gossip_interval_s": 0.0}, "intervals"),
        ({"reconnect_interval_s": MIN_INTERVAL_S / 2}, "at least 0.001 s"),
        ({"max_state_bytes": MAX_FRAME_BYTES - 1}, "max_state_bytes"),
        ({"max_streams": 0}, "counts"),
        ({"max_remembered": 0}, "counts"),
        ({"allowed_networks": ("10.0.0.0/33",)}, "allowed_networks"),
        ({"allowed_networks": ("10.0.0.1/8",)}, "allowed_networks"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SwimConfig.profile("lan", **change)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_takes_changes_and_checks_them_with_the_rest(name: str) -> None:
    config = SwimConfig.profile(name, health_max=1)  # type: ignore[arg-type]
    assert config.health_max == 1
    with pytest.raises(ValueError, match="suspicion_min_s exceeds"):
        SwimConfig.profile(name, suspicion_min_s=config.suspicion_max_s + 1)  # type: ignore[arg-type]


def test_every_parameter_says_in_its_unit_what_it_is_and_when_to_change_it() -> None:
    described = dict(
        re.findall(r"^ {8}(\w+): ((?:.|\n {12})+)", SwimConfig.__doc__ or "", flags=re.MULTILINE)
    )
    assert list(described) == [field.name for field in fields(SwimConfig)]
    for name, kind in get_type_hints(SwimConfig).items():
        assert len(re.findall(r"[.;:](?:\s|$)", described[name])) >= 2, f"{name} has no advice"
        assert kind is not float or name.endswith(("_s", "_mult")), f"{name} has no unit"
