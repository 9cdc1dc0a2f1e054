"""What this node says itself: its map under its generation, its load, its cluster-wide writes.

A **generation** (counter, boot id) is one life of the node. Seeing a bucket of its own name, signed
with its own key, under a higher counter means that peers hold something newer than its disk knew:
the node re-bases, that is, publishes everything again under that counter plus one. The same counter
under another boot id means that another process runs under this name: the higher boot id stays, the
other stops publishing and says so.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from swim import units
from swim.identity import Identity
from swim.map_events import DuplicateIdentity, Rebased
from swim.own_map import Changes, OwnMap
from swim.state import State
from swim.units import Bucket, Generation, Load, Register, Retirement

T = TypeVar("T")

LOAD_INTERVAL_S: Final = 1.0
"""Least time between two load vectors."""
BULK_BUCKETS: Final = 32
"""Buckets that are signed in one change from which on they are spread over streams (`swim/spreading.py`):
more than a few bursts of gossip carry."""


class StateError(Exception):
    """A write that cannot be made: it is too large, or this process may not publish.

    Args:
        code: the stable name of what is wrong.
        message: what happened, why, and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Publisher:
    """Signs what this node says and puts it into the state.

    Args:
        identity: of this node.
        state: where units go.
        max_value_bytes: bytes that key and value may take together.
    """

    def __init__(self, identity: Identity, state: State, max_value_bytes: int) -> None:
        self.generation: Generation | None = None
        self.learned_counter = 0
        self.is_stopped = False
        self.pending_load: bytes | None = None
        self.load_published_at = float("-inf")
        self._identity = identity
        self._state = state
        self._max_value_bytes = max_value_bytes
        self._map = OwnMap(max_value_bytes, state.limits.max_buckets // 2)
        self._version = 0
        self._load_sequence = 0
        self._duplicates_seen: Generation = (0, b"")
        state.own_bucket = self._saw_own_bucket

    def next_counter(self, counter_on_disk: int) -> int:
        """Return a counter above the disk's and all that peers hold."""
        return max(counter_on_disk, self.learned_counter) + 1

    def start(self, counter_on_disk: int, entropy: Callable[[int], bytes]) -> Generation:
        """Begin to publish under a new generation."""
        self.generation = (self.next_counter(counter_on_disk), entropy(units.BOOT_ID_BYTES))
        self._publish(sorted(self._map.buckets))
        return self.generation

    def put(self, key: str, value: bytes) -> None:
        """Set an entry of the own map."""
        self.put_many({key: value})

    def delete(self, key: str) -> None:
        """Remove an entry of the own map."""
        self.put_many({key: None})

    def put_many(self, changes: Changes) -> None:
        """Set entries of the own map, and remove those whose value is None, all or nothing."""
        self._publish(self._attempt(self._map.change, changes))

    def check(self, changes: Changes) -> None:
        """Raise what `put_many` would raise, and change nothing."""
        self._attempt(self._map.check, changes)

    def set_load(self, vector: bytes, now: float) -> None:
        """Publish a load vector, now or when the last one is a second old."""
        if len(vector) > units.MAX_LOAD_BYTES:
            raise StateError(
                "load_too_large",
                f"a load vector has at most {units.MAX_LOAD_BYTES} bytes, not {len(vector)}: quantise it",
            )
        held = self._state.loads.get(self._identity.name)
        self.pending_load = None if held is not None and held.load.vector == vector else vector
        self.publish_load(now)

    def publish_load(self, now: float) -> None:
        """Publish the load vector that waits, if it may go out by now."""
        if self.pending_load is None or self.generation is None or self.is_stopped:
            return
        if now < self.load_published_at + LOAD_INTERVAL_S:
            return
        self._load_sequence += 1
        self.load_published_at = now
        load = Load(self._identity.credential, self.generation, self._load_sequence, self.pending_load)
        self.pending_load = None
        data = units.encode(load, self._identity)
        digest = units.digest_of(data)
        self._state.hold_load(self._identity.name, load, data, digest)
        self._state.queue.add(digest, data)

    def write(self, key: str, value: bytes | None, wall: float, based_on: int | None) -> int:
        """Sign a register of the cluster map and return its stamp."""
        require_key(key)
        self._state.clock_watch.require_sane()
        if len(key.encode()) + len(value or b"") > self._max_value_bytes:
            raise StateError(
                "register_too_large",
                f"key and value of {key!r} take more than {self._max_value_bytes} bytes: "
                "store the content elsewhere and write a reference to it",
            )
        cluster = self._state.cluster
        if cluster.is_full(key):
            raise StateError(
                "too_many_registers",
                f"the cluster map already has its {cluster.max_registers} keys, deleted ones "
                "included: write one of these again; deleted ones go when a whole roster holds them",
            )
        stamp = cluster.clock.tick(wall)
        base = cluster.stamp(key) if based_on is None else based_on
        register = Register(self._identity.credential, stamp, key, value, min(base, stamp - 1))
        data = units.encode(register, self._identity)
        digest = units.digest_of(data)
        self._state.hold_register(register, data, digest, self._identity.name)
        self._state.queue.add(digest, data)
        return stamp

    def retire(self) -> None:
        """Retire the tombstones that the whole roster holds, if that is this node's task."""
        retired = self._state.cluster.retirable(self._identity.name)
        if not retired or self.is_stopped or self.generation is None:
            return
        retirement = Retirement(
            self._identity.credential,
            max(stamp for _, stamp in retired),
            self._state.cluster.horizon,
            retired,
        )
        data = units.encode(retirement, self._identity)
        digest = units.digest_of(data)
        self._state.move_horizon(retirement, data, digest)
        self._state.queue.add(digest, data)

    def _attempt(self, act: Callable[[Changes], T], changes: Changes) -> T:
        self._require_running()
        for key in changes:
            require_key(key)
        try:
            return act(changes)
        except ValueError as error:
            what = repr(next(iter(changes))) if len(changes) == 1 else f"{len(changes)} entries at once"
            raise StateError(
                "entry_too_large", f"cannot publish {what}: {error}; publish less, or a reference to it"
            ) from error

    def _require_running(self) -> None:
        if self.is_stopped:
            raise StateError(
                "duplicate_identity",
                f"another process publishes as {self._identity.name}: stop it, or give this node "
                "a name and a credential of its own, and start this node again",
            )

    def _publish(self, places: list[tuple[int, int]]) -> None:
        if self.generation is None or self.is_stopped:
            return
        published_ms = min(max(int(self._state.wall * 1000), 0), units.MAX_PUBLISHED_MS)
        in_bulk = len(places) >= BULK_BUCKETS
        for depth, prefix in places:
            self._version += 1
            bucket = Bucket(
                self._identity.credential,
                self.generation,
                self._version,
                depth,
                prefix,
                dict(self._map.buckets[depth, prefix]),
                published_ms,
            )
            data = units.encode(bucket, self._identity)
            digest = units.digest_of(data)
            name = self._identity.name
            self._state.hold_bucket(name, bucket, data, digest, float("inf"))
            if in_bulk:
                self._state.bulk[digest] = self._version
            else:
                self._state.queue.add(digest, data)

    def _saw_own_bucket(self, bucket: Bucket) -> bool:
        """Learn from a bucket that carries this node's own signature; say whether to hold it."""
        counter, boot_id = bucket.generation
        self.learned_counter = max(self.learned_counter, counter)
        if self.generation is None:
            return False
        if self.is_stopped:
            return True
        own_counter, own_boot_id = self.generation
        if counter > own_counter or (bucket.generation == self.generation and bucket.version > self._version):
            self.generation = (self.learned_counter + 1, own_boot_id)
            self._version = 0
            self._state.report(Rebased(self.generation))
            self._publish(sorted(self._map.buckets))
        elif counter == own_counter and boot_id != own_boot_id:
            if bucket.generation > self._duplicates_seen:
                self._duplicates_seen = bucket.generation
                stays = own_boot_id > boot_id
                self._state.report(DuplicateIdentity(boot_id, stays))
                self.is_stopped = not stays
            return self.is_stopped
        return False


def require_key(key: str) -> None:
    """Raise StateError unless `key` can be a key."""
    if not units.is_key(key):
        raise StateError(
            "bad_key",
            f"{key[:40]!r} cannot be a key: use 1 to {units.MAX_KEY_BYTES} bytes of UTF-8",
        )
