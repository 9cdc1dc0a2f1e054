"""The two cores of membership, the protocol and the replicated maps, as a node builds them."""

from __future__ import annotations

from node.cluster.views import encode_meta
from node.config import NodeConfig
from node.environment import Environment
from node.recording.membership import record_member
from node.recording.tape import Recorder
from node.security.identity import NodeCredentials
from node.telemetry.version import Release
from swim.protocol import Swim
from swim.replicated import Replicated


def build_cores(
    environment: Environment,
    config: NodeConfig,
    credentials: NodeCredentials,
    release: Release,
    recorder: Recorder | None,
) -> tuple[Swim, Replicated]:
    """Build membership and the maps, recorded or not; see `Membership` for the arguments."""
    cluster, randomness = config.cluster, environment.randomness
    parameters = cluster.swim_config(credentials.cluster)
    address = (cluster.advertise_host or cluster.bind_host, cluster.bind_port)
    meta = encode_meta(0, release.software)
    map_chance, chance = randomness.stream("maps"), randomness.stream("swim")
    identity, authority, keys = credentials.identity, credentials.authority, credentials.gossip_keys
    if recorder is not None:
        return record_member(
            recorder, parameters, identity, authority,
            address=address, meta=meta, chance=chance, map_chance=map_chance,
            entropy=randomness.token, gossip_keys=keys, versions=release.protocols,
        )  # fmt: skip
    maps = Replicated(identity, authority, rng=map_chance, entropy=randomness.token)
    swim = Swim(
        parameters, identity, authority, address, meta, maps, chance,
        entropy=randomness.token, gossip_keys=keys, versions=release.protocols,
    )  # fmt: skip
    return swim, maps
