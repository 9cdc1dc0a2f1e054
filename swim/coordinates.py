"""Network coordinates: an estimate of the round trip between any two members, from a few probes of each.

Each member has a point in an 8-dimensional space plus a **height**, the part of its delay that no
position explains (its access link), an **error**, how far it distrusts itself (0 to 1.5), and an
**adjustment**, the mean of what the model gets wrong. After each answered probe a member moves its
point along the line to the peer's, as a spring would, by a share of the difference between the
measured and the estimated round trip; the less it trusts itself beside the peer, the larger the
share. (Vivaldi: Dabek et al., SIGCOMM 2004. Latency filter and gravity: Ledlie et al., NSDI 2007.
Adjustment: Lee et al., Transactions on Networking 18(1), 2010.)

    distance(a, b) = |a.vector - b.vector| + a.height + b.height + a.adjustment + b.adjustment

Points come from strangers. What one update can do is bounded whatever the peer claims: no value
beyond 10 s is accepted; a difference far above the usual one counts the less the larger it is; height
moves no further than position; self-distrust rises by at most a quarter of the way to its top. When
the network itself changes, usual differences grow within some hundred measurements, and are followed.
A peer that lies by little, for long, is not found out; it is one voice among all that are probed.

Sums and roots are written out: `math.dist` and `sum` round differently from one Python to the next.
"""

import math
import struct
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from random import Random
from typing import Final

DIMENSIONS: Final = 8
MAX_VALUE_S: Final = 10.0
"""No position, height, adjustment or round trip beyond this is accepted."""
MAX_ERROR: Final = 1.5
"""The distrust of a member that has measured nothing."""
MIN_HEIGHT_S: Final = 10e-6
"""A height is never zero, or no force could lift it again."""
ERROR_SHARE: Final = 0.25
"""Vivaldi's c_e: most that one measurement weighs in the error."""
FORCE_SHARE: Final = 0.25
"""Vivaldi's c_c: most of a difference that one measurement corrects."""
ADJUSTMENT_WINDOW: Final = 20
"""Differences that the adjustment is the mean of."""
FILTER_SAMPLES: Final = 3
"""Latest round trips of a peer whose median counts: one delayed ack moves nothing."""
FILTER_AGE_S: Final = 3_600.0
"""Older round trips of a peer say nothing about the path of today."""
MAX_FILTERS: Final = 1_024
"""Peers whose latest round trips are kept; the least recently measured one makes room."""
GRAVITY_S: Final = 150.0
"""Ledlie's rho: the greater, the weaker is the pull to the origin that keeps all points from drifting."""
LIMIT_FACTOR: Final = 4.0
"""A difference counts in full up to this many times the usual one."""
MIN_USUAL_S: Final = 0.5e-3
MAX_USUAL_S: Final = 0.1
"""Bounds of the usual difference; it starts at the upper one."""
USUAL_RISE: Final = 1.05
USUAL_FALL: Final = 0.9839
"""Factors per measurement: three falls for a rise make it the third quartile of the differences."""

PACKED_BYTES: Final = 22
_PACKED: Final = struct.Struct(">B10hB")
_MANTISSA: Final = 0x7FFF
_NORMAL: Final = 0x4000
"""The largest value of a packed coordinate is at least this, or a finer unit would have done."""
_FINEST_UNIT_S: Final = 2.0**-30
_MAX_EXPONENT: Final = 19
_ERRORS: Final = tuple(MAX_ERROR * (32 - step) / 32 / 2**halved for halved in range(16) for step in range(16))
"""What an error is rounded to: sixteen steps in each factor of two, the same on every machine."""
_MIN_ERROR: Final = _ERRORS[-1]
_ERRORS_FALLING: Final = tuple(-error for error in _ERRORS)
_MIN_DISTANCE_S: Final = 1e-6
"""Closer points have no direction from one to the other."""
_ORIGIN: Final = (0.0,) * DIMENSIONS

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Where a member is.

    Attributes:
        vector: position, 8 numbers in seconds.
        height: delay of the member's own access link in seconds, never below 10 microseconds.
        error: how far the member distrusts this coordinate, 0 to 1.5, relative.
        adjustment: half of what measured round trips exceed the model's by, in seconds.
    """

    vector: Vector = _ORIGIN
    height: float = MIN_HEIGHT_S
    error: float = MAX_ERROR
    adjustment: float = 0.0

    def is_sound(self) -> bool:
        """Say whether every value is finite and within its bounds."""
        vector = self.vector
        return (
            len(vector) == DIMENSIONS
            and max(vector) <= MAX_VALUE_S
            and min(vector) >= -MAX_VALUE_S
            and sum(vector) <= DIMENSIONS * MAX_VALUE_S  # not so if one is NaN, which max and min may miss
            and 0.0 <= self.height <= MAX_VALUE_S
            and 0.0 <= self.error <= MAX_ERROR
            and -MAX_VALUE_S <= self.adjustment <= MAX_VALUE_S
        )

    def pack(self) -> bytes:
        """Return the coordinate in 22 bytes.

        Position, height and adjustment are 16-bit multiples of one unit, a power of two that the
        largest of them chooses: 15 bits for it, and no less absolute precision for the others. The
        error is rounded to 3 %.

        Raises:
            ValueError: if it is not sound.
        """
        if not self.is_sound():
            raise ValueError("a coordinate with a value that is not finite or out of bounds")
        values = (*self.vector, self.height, self.adjustment)
        largest = max(*values, -min(values))
        exponent = max(0, math.frexp(largest / _FINEST_UNIT_S)[1] - 15)
        per_unit = 1.0 / (_FINEST_UNIT_S * (1 << exponent))
        if round(largest * per_unit) > _MANTISSA:
            exponent += 1
            per_unit *= 0.5
        at = bisect_left(_ERRORS_FALLING, -self.error)
        if at and (at == len(_ERRORS) or _ERRORS[at - 1] - self.error <= self.error - _ERRORS[at]):
            at -= 1
        return _PACKED.pack(exponent, *[round(value * per_unit) for value in values], at)

    @classmethod
    def unpack(cls, data: bytes) -> "Coordinate":
        """Return the coordinate that `pack` wrote.

        Raises:
            ValueError: for every input that `pack` would not have written.
        """
        if len(data) != PACKED_BYTES:
            raise ValueError(f"a packed coordinate has {PACKED_BYTES} bytes, not {len(data)}")
        exponent, *multiples, error = _PACKED.unpack(data)
        largest = max(*multiples, -min(multiples))
        if exponent > _MAX_EXPONENT or largest > _MANTISSA or (exponent and largest < _NORMAL):
            raise ValueError("not the unit in which these values are packed")
        unit = _FINEST_UNIT_S * (1 << exponent)
        if largest * unit > MAX_VALUE_S or multiples[DIMENSIONS] < 0:
            raise ValueError("a coordinate with a value out of bounds")
        values = [multiple * unit for multiple in multiples]
        return cls(tuple(values[:DIMENSIONS]), values[DIMENSIONS], _ERRORS[error], values[DIMENSIONS + 1])


def distance(a: Coordinate, b: Coordinate) -> float:
    """Return the estimated round trip between two members, in seconds."""
    raw = math.sqrt(_squared(a.vector, b.vector)) + a.height + b.height
    adjusted = raw + a.adjustment + b.adjustment
    return adjusted if adjusted > 0.0 else raw


class Vivaldi:
    """The coordinate of this member, kept by what it measures.

    Args:
        rng: for the direction in which two members on one point part.
        max_filters: peers whose latest round trips are kept.
    """

    __slots__ = (
        "_adjustment",
        "_differences",
        "_error",
        "_filters",
        "_height",
        "_max_filters",
        "_next",
        "_own",
        "_rejected_coordinates",
        "_rejected_rtts",
        "_resets",
        "_rng",
        "_updates",
        "_usual_s",
        "_vector",
    )  # fmt: skip

    def __init__(self, rng: Random, *, max_filters: int = MAX_FILTERS) -> None:
        self._rng = rng
        self._max_filters = max_filters
        self._filters: OrderedDict[str, list[tuple[float, float]]] = OrderedDict()
        self._updates = self._resets = self._rejected_rtts = self._rejected_coordinates = 0
        self._start()

    def _start(self) -> None:
        self._vector: Vector = _ORIGIN
        self._height = MIN_HEIGHT_S
        self._error = MAX_ERROR
        self._adjustment = 0.0
        self._differences = [0.0] * ADJUSTMENT_WINDOW
        self._next = 0
        self._usual_s = MAX_USUAL_S
        self._own: Coordinate | None = Coordinate()

    @property
    def own(self) -> Coordinate:
        """Where this member is."""
        if self._own is None:
            self._own = Coordinate(self._vector, self._height, self._error, self._adjustment)
        return self._own

    def update(self, peer: str, coordinate: Coordinate, rtt_s: float, now: float) -> bool:
        """Learn from one answered probe.

        Args:
            peer: who answered.
            coordinate: the peer's, as it came with the answer.
            rtt_s: measured round trip in seconds, above 0 and at most 10.
            now: time in seconds; it must not go back.

        Returns:
            Whether the measurement was used; if not, it is counted.
        """
        if not 0.0 < rtt_s <= MAX_VALUE_S:
            self._rejected_rtts += 1
            return False
        if not coordinate.is_sound():
            self._rejected_coordinates += 1
            return False
        self._updates += 1
        self._own = None
        if not self._move(coordinate, self._filtered(peer, rtt_s, now)):
            self._resets += 1
            self._start()
        return True

    def forget(self, peer: str) -> None:
        """Drop what was measured of a member that is gone."""
        self._filters.pop(peer, None)

    def statistics(self) -> dict[str, int]:
        """Count measurements, what was refused, and peers whose latest round trips are kept."""
        return {
            "coordinate_updates": self._updates,
            "coordinate_resets": self._resets,
            "coordinate_filters": len(self._filters),
            "coordinate_rejected_rtts": self._rejected_rtts,
            "coordinate_rejected_peers": self._rejected_coordinates,
        }

    def _filtered(self, peer: str, rtt_s: float, now: float) -> float:
        """Note a round trip of a peer; return the median of its latest ones."""
        samples = self._filters.get(peer)
        if samples is None:
            self._filters[peer] = [(now, rtt_s)]
            if len(self._filters) > self._max_filters:
                self._filters.popitem(last=False)
            return rtt_s
        self._filters.move_to_end(peer)
        samples.append((now, rtt_s))
        if len(samples) > FILTER_SAMPLES or samples[0][0] < now - FILTER_AGE_S:
            samples[:] = [sample for sample in samples if sample[0] >= now - FILTER_AGE_S][-FILTER_SAMPLES:]
        return sorted([sample[1] for sample in samples])[len(samples) // 2]

    def _move(self, peer: Coordinate, rtt_s: float) -> bool:
        """Follow the force between the peer and us, then gravity; say whether all is within bounds."""
        apart = math.sqrt(_squared(self._vector, peer.vector))
        heights = self._height + peer.height
        raw = apart + heights
        adjusted = raw + self._adjustment + peer.adjustment
        difference = rtt_s - (adjusted if adjusted > 0.0 else raw)
        limit = self._limit(difference)
        trust = self._error / (self._error + peer.error)
        wrong = min(MAX_ERROR, min(limit, abs(difference)) / rtt_s)
        self._error = max(_MIN_ERROR, self._error + ERROR_SHARE * trust * (wrong - self._error))
        force = FORCE_SHARE * trust * _damped(difference, limit)
        if apart > _MIN_DISTANCE_S:
            self._height = max(MIN_HEIGHT_S, self._height + force * min(1.0, heights / apart))
            far = self._shift(peer.vector, force / apart)
        else:
            far = self._shift(self._beside(), force)
        left = rtt_s - abs(apart + force) - self._height - peer.height
        self._differences[self._next] = _damped(left, limit)
        self._next = (self._next + 1) % ADJUSTMENT_WINDOW
        self._adjustment = math.fsum(self._differences) / (2 * ADJUSTMENT_WINDOW)
        return far <= MAX_VALUE_S and self._height <= MAX_VALUE_S  # the adjustment cannot exceed its limit

    def _shift(self, away_from: Vector, share: float) -> float:
        """Move away from a point by a share of the way there, and all back by gravity; return how far out."""
        x0, x1, x2, x3, x4, x5, x6, x7 = self._vector
        y0, y1, y2, y3, y4, y5, y6, y7 = away_from
        x0 += (x0 - y0) * share
        x1 += (x1 - y1) * share
        x2 += (x2 - y2) * share
        x3 += (x3 - y3) * share
        x4 += (x4 - y4) * share
        x5 += (x5 - y5) * share
        x6 += (x6 - y6) * share
        x7 += (x7 - y7) * share
        far = math.sqrt(x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3 + x4 * x4 + x5 * x5 + x6 * x6 + x7 * x7)
        kept = 1.0 - far / (GRAVITY_S * GRAVITY_S)
        self._vector = (
            x0 * kept, x1 * kept, x2 * kept, x3 * kept, x4 * kept, x5 * kept, x6 * kept, x7 * kept
        )  # fmt: skip
        return far

    def _beside(self) -> Vector:
        """Return a point one second away from our own in a random direction."""
        random = self._rng.random
        direction = [random() - 0.5 for _ in range(DIMENSIONS)]
        length = math.sqrt(_squared(tuple(direction), _ORIGIN))
        if length < _MIN_DISTANCE_S:
            direction, length = [1.0] + [0.0] * (DIMENSIONS - 1), 1.0
        return tuple([x - d / length for x, d in zip(self._vector, direction, strict=True)])

    def _limit(self, difference: float) -> float:
        """Return how large a difference may be to count in full, and note this one."""
        usual = self._usual_s
        if difference > usual or -difference > usual:
            self._usual_s = min(MAX_USUAL_S, usual * USUAL_RISE)
        else:
            self._usual_s = max(MIN_USUAL_S, usual * USUAL_FALL)
        return LIMIT_FACTOR * usual


def _damped(difference: float, limit: float) -> float:
    """Return the difference, or less the further it is beyond the limit."""
    if -limit <= difference <= limit:
        return difference
    return limit * limit / difference


def _squared(a: Vector, b: Vector) -> float:
    """Return the square of the Euclidean distance."""
    a0, a1, a2, a3, a4, a5, a6, a7 = a
    b0, b1, b2, b3, b4, b5, b6, b7 = b
    d0, d1, d2, d3 = a0 - b0, a1 - b1, a2 - b2, a3 - b3
    d4, d5, d6, d7 = a4 - b4, a5 - b5, a6 - b6, a7 - b7
    return d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5 + d6 * d6 + d7 * d7
