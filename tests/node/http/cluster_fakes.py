"""Membership, reduced to what the admin API asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.cluster.forgetting import ForgetRefused
from node.cluster.keyring import GossipKeyNotFound
from node.cluster.revocations import RevocationInvalid
from node.cluster.why import MemberNotFound
from swim.keyring_messages import Verb
from swim.partition import Partition, Side

NODE = "alpha"


@dataclass
class Shown:
    body: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return self.body


class FakeKeys:
    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def _report(self, operation: str) -> Shown:
        member = {"name": "alpha", "ok": True, "error": "", "key_ids": ["00000001"]}
        return Shown({"operation": operation, "key_id": None, "ok": True, "members": [member]})

    async def list(self, *, timeout_s: float) -> Shown:
        self.asked.append(("list", timeout_s))
        return self._report("list")

    async def install(self, *, timeout_s: float) -> Shown:
        self.asked.append(("install", timeout_s))
        return self._report("install")

    async def change(self, verb: Verb, wanted: str, *, timeout_s: float, force: bool = False) -> Shown:
        if wanted == "00000002":
            raise GossipKeyNotFound("no such key", details={"held": ["00000001"]})
        self.asked.append((verb.name.lower(), wanted, timeout_s, force))
        return self._report(verb.name.lower())


class FakeTraffic:
    def __init__(self) -> None:
        self.fired: list[dict[str, Any]] = []

    def fire(self, name: str, payload: str) -> dict[str, Any]:
        self.fired.append({"name": name, "payload": payload, "author": NODE})
        return self.fired[-1]

    async def ask(
        self, name: str, payload: str, *, nodes: Sequence[str] = (), timeout_s: float | None = None
    ) -> dict[str, Any]:
        answers = [{"node": node, "answer": payload} for node in nodes]
        return {"name": name, "finished": timeout_s is None, "answers": answers}

    def recent_events(self) -> list[dict[str, Any]]:
        return self.fired


class FakeForgetting:
    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    async def forget(self, name: str, *, force: bool = False) -> None:
        if name != "gamma":
            raise ForgetRefused(f"{name} is up")
        self.asked.append((name, force))


class FakeRevocations:
    def __init__(self) -> None:
        self.known: list[Shown] = []

    def all(self) -> list[Shown]:
        return self.known

    async def revoke(self, encoded: bytes) -> Shown:
        if encoded != b"signed":
            raise RevocationInvalid("this is no revocation of this cluster")
        self.known.append(Shown({"name": "gamma", "key_id": "0a" * 20, "since": "t", "not_after": "u"}))
        return self.known[-1]


class FakeMembers:
    joined = False

    def __init__(self) -> None:
        self.keys, self.traffic, self.forgetting = FakeKeys(), FakeTraffic(), FakeForgetting()
        self.revocations = FakeRevocations()

    def away(self) -> list[str]:
        return ["gamma"]

    def partition(self) -> Partition:
        return Partition(Side.MAJORITY, 2, 3)

    def why(self, name: str) -> Shown:
        if name != "beta":
            raise MemberNotFound(f"no member {name[:80]!r} is known here", fix="Did you mean 'beta'?")
        finding = {"what": "suspected", "by": "alpha", "detail": "doubted by alpha", "seconds_ago": 1.5}
        return Shown({"name": name, "member": None, "doubted_by": ["alpha"], "findings": [finding]})

    def unreachable(self) -> dict[str, Any]:
        row = {"node": "alpha", "cannot_reach": ["beta"], "count": 1}
        return {"unreachable": [row], "lost_paths": []}

    def recent_events(self) -> list[dict[str, object]]:
        return [{"event": "SeedUnreachable", "seed": "10.0.0.9:7946", "reason": "refused", "attempt": 2}]

    def members(self) -> list[Shown]:
        return [Shown({"name": "alpha", "state": "alive"}), Shown({"name": "beta", "state": "suspect"})]

    def statistics(self) -> dict[str, Any]:
        return {"swim": {"members_alive": 1}, "maps": {"owners": 2}}
