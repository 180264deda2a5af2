"""The model's arithmetic: integer loops compiled by numba, the same bits on every CPU.

The model is FISM (Kabbur, Ning, Karypis, KDD 2013) with a user table beside the history, trained online:

    context(u)  = U[u] + (sum of P[h] over the history of u) / sqrt(length of the history)
    score(u, i) = V[i] . context(u) + b[i]

with the logistic loss over one positive and `negatives` sampled items an interaction, one interaction after the
other: the result depends on the order of interactions and on nothing else.

Fixed point: parameters are Q16 (value x 2**16) in int32 at rest, within +-LIMIT; products and sums are int64; every
return to Q16 is a rounding shift (half up). With |parameter| <= LIMIT = 2**24, at most MAX_WINDOW history rows and
128 factors, no intermediate leaves int64: the compiled loops and the plain functions (`.py_func`) agree, and
nothing relies on overflow. There is no float anywhere.

Everything that a kernel reads as a constant stands in this file: numba keys its cache by the file's own stamp only.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

ONE: Final = 1 << 16
"""1.0 in Q16."""
LIMIT: Final = 1 << 24
"""Bound of every parameter at rest (256.0 in Q16)."""
MAX_WINDOW: Final = 256
BLOCK_SHIFT: Final = 6
"""2**BLOCK_SHIFT rows share a digest block."""
BLOCK: Final = 1 << BLOCK_SHIFT
UNKNOWN_SCORE: Final = -(1 << 62)
"""Score of a candidate that the model asked does not know: below every known item."""
SKIP: Final = -(1 << 62) - 1
"""Score of what must not be returned at all."""

# Places in the `rule` array: the learning rule, constant for the life of a machine.
RATE: Final = 0
HISTORY_RATE: Final = 1
BIAS_RATE: Final = 2
DECAY: Final = 3
NEGATIVES: Final = 4
SEED: Final = 5
WINDOW: Final = 6
RULE_SIZE: Final = 7

# Places in the `counters` array: part of the state.
DRAWS: Final = 0
LEARNED: Final = 1
RECORDED: Final = 2
KNOWN: Final = 3
COUNTERS_SIZE: Final = 4


def _sigmoid_table() -> Int64s:
    """sigmoid(x) in Q16 at the centres of 2048 cells of width 1/128 over [-8, 8), by integer arithmetic only.

    exp(-1/128) and exp(-1/256) are summed as Taylor series with 96 fractional bits, then powers by multiplication; the
    error after 1024 steps is below 2**-80, far from any rounding boundary that Q16 could see."""
    bits = 96

    def exp_minus(denominator: int) -> int:
        term = total = 1 << bits
        for n in range(1, 24):
            term = -term // (denominator * n)
            total += term
        return total

    step, power = exp_minus(128), exp_minus(256)
    upper = []
    for _ in range(1024):
        upper.append(((ONE << (2 * bits)) // ((1 << bits) + power) + (1 << (bits - 1))) >> bits)
        power = (power * step) >> bits
    return np.array([ONE - value for value in reversed(upper)] + upper, dtype=np.int64)


SIGMOID: Final = _sigmoid_table()
INVERSE_ROOT: Final = np.array(
    [0] + [(isqrt((1 << 64) // n) + (1 << 15)) >> 16 for n in range(1, MAX_WINDOW + 1)], dtype=np.int64
)
"""1 / sqrt(n) in Q16."""


def entry(signature: str) -> Callable[[Any], Any]:
    """A loop that Python calls: compiled for one signature, loaded from numba's cache when its file is imported. Where no
    folder for the cache can be written, it is compiled at every import."""

    def compiled(function: Any) -> Any:
        try:
            return njit(signature, cache=True, nogil=True)(function)
        except RuntimeError as error:
            if "cache" not in str(error):
                raise
            return njit(signature, nogil=True)(function)

    return compiled


def _part(function: Any) -> Any:
    """A function that the loops call: compiled into them, so with a full cache it costs nothing at start-up."""
    return njit(function)


@_part
def mix(counter: Any, stream: Any) -> Any:
    """Hash a counter (0 .. 2**62) and a stream (0 .. 2**31) to 32 bits: a counter-based generator, so that a draw depends on
    its number alone. Xor-shift and multiply rounds on 32-bit words; one multiplier is written as the negative number of
    the same residue modulo 2**32, so that no product leaves int64."""
    x = (counter ^ (stream * 40503)) & 0xFFFFFFFF
    for high in (stream, counter >> 32):
        x = (x + high) & 0xFFFFFFFF
        x ^= x >> 16
        x = (x * 0x7FEB352D) & 0xFFFFFFFF
        x ^= x >> 15
        x = (x * -0x7B935975) & 0xFFFFFFFF
        x ^= x >> 16
    return x


@_part
def sigmoid(score: Any) -> Any:
    """The logistic function of a Q32 score, in Q16."""
    cell = (score >> 25) + 1024
    if cell < 0:
        cell = 0
    if cell > 2047:
        cell = 2047
    return SIGMOID[cell]


@_part
def clamp(value: Any) -> Any:
    """Saturate to what may stand in a table."""
    return min(max(value, -LIMIT), LIMIT)


@entry("void(int32[:, ::1], int64, int64, int64, int64)")
def initialise(table: Any, start: Any, stop: Any, scale: Any, stream: Any) -> None:
    """Fill rows start .. stop with draws from [-scale, scale) keyed by row and column: independent of when and with
    how many others a row is made."""
    factors = table.shape[1]
    for row in range(start, stop):
        for f in range(factors):
            table[row, f] = ((mix(row * factors + f, stream) * (2 * scale)) >> 32) - scale


@_part
def context_of(
    user: Any, left_out: Any, known: Any, window: Any, U: Any, P: Any, ring: Any, total: Any, context: Any
) -> Any:
    """Write context(u) over the last `window` items of the ring in Q16 to `context`; return how many of them counted:
    `left_out` and items >= `known` do not."""
    factors = context.shape[0]
    for f in range(factors):
        context[f] = 0
    length = 0
    width = ring.shape[1]
    last = total[user] - 1
    for back in range(min(total[user], window)):
        h = ring[user, (last - back) % width]
        if h != left_out and h < known:
            length += 1
            for f in range(factors):
                context[f] += np.int64(P[h, f])
    scale = INVERSE_ROOT[length]
    own = user < U.shape[0]
    for f in range(factors):
        value = (context[f] * scale + 32768) >> 16
        if own:
            value += np.int64(U[user, f])
        context[f] = value
    return length


@entry(
    "void(int64[::1], int64[::1], int64[::1], int64, int32[:, ::1], int32[:, ::1], int32[:, ::1], int32[::1],"
    "int32[:, ::1], int64[::1], int64[::1], uint8[::1], uint8[::1], int64[::1], int64[::1])"
)
def observe(
    users: Any,
    items: Any,
    values: Any,
    learning: Any,
    U: Any,
    V: Any,
    P: Any,
    b: Any,
    ring: Any,
    total: Any,
    popularity: Any,
    dirty_users: Any,
    dirty_items: Any,
    rule: Any,
    counters: Any,
) -> None:
    """Record interactions (slots of users and items, values >= 1) in order and, if `learning`, learn from each: one step of
    gradient descent on the positive and on `rule[NEGATIVES]` items drawn from those known at that interaction."""
    factors = U.shape[1]
    width = ring.shape[1]
    rate = rule[RATE]
    history_rate = rule[HISTORY_RATE]
    bias_rate = rule[BIAS_RATE]
    decay = rule[DECAY]
    window = rule[WINDOW]
    context = np.empty(factors, np.int64)
    gradient = np.empty(factors, np.int64)
    for event in range(users.shape[0]):
        user = users[event]
        item = items[event]
        if item >= counters[KNOWN]:
            counters[KNOWN] = item + 1
        known = counters[KNOWN]
        if learning:
            length = context_of(user, item, known, window, U, P, ring, total, context)
            for f in range(factors):
                gradient[f] = 0
            for sample in range(rule[NEGATIVES] + 1):
                target = item
                label = 65536
                if sample:
                    target = (mix(counters[DRAWS], rule[SEED]) * known) >> 32
                    label = 0
                    counters[DRAWS] += 1
                    if target == item:
                        continue
                score = np.int64(b[target]) << 16
                for f in range(factors):
                    score += np.int64(V[target, f]) * context[f]
                error = label - sigmoid(score)
                step = rate * error
                for f in range(factors):
                    old = np.int64(V[target, f])
                    gradient[f] += error * old
                    V[target, f] = clamp(old + ((step * context[f] - decay * old + 2147483648) >> 32))
                old = np.int64(b[target])
                b[target] = clamp(old + ((bias_rate * error + 32768) >> 16))
                dirty_items[target >> BLOCK_SHIFT] = 1
            for f in range(factors):
                slope = (gradient[f] + 128) >> 8
                old = np.int64(U[user, f])
                U[user, f] = clamp(old + ((rate * slope - (decay >> 8) * old + 8388608) >> 24))
                gradient[f] = slope
            scale = (history_rate * INVERSE_ROOT[length] + 32768) >> 16
            for f in range(factors):
                gradient[f] = (scale * gradient[f] + 8388608) >> 24
            for back in range(min(total[user], window)):
                h = ring[user, (total[user] - 1 - back) % width]
                if h != item:
                    for f in range(factors):
                        P[h, f] = clamp(np.int64(P[h, f]) + gradient[f])
                    dirty_items[h >> BLOCK_SHIFT] = 1
            counters[LEARNED] += 1
        ring[user, total[user] % width] = item
        total[user] += 1
        popularity[item] += values[event]
        counters[RECORDED] += 1
        dirty_users[user >> BLOCK_SHIFT] = 1
        dirty_items[item >> BLOCK_SHIFT] = 1


@_part
def before(score: Any, identity: Any, other_score: Any, other_identity: Any) -> Any:
    """The order of an answer: higher score first, then lower item id."""
    return score > other_score or (score == other_score and identity < other_identity)


@_part
def sink(top_scores: Any, top_identities: Any, filled: Any, score: Any, identity: Any) -> None:
    """Put (score, identity) in place of the heap's root and restore the heap of `filled` elements."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= filled:
            break
        if child + 1 < filled and before(
            top_scores[child], top_identities[child], top_scores[child + 1], top_identities[child + 1]
        ):
            child += 1
        if before(top_scores[child], top_identities[child], score, identity):
            break
        top_scores[hole] = top_scores[child]
        top_identities[hole] = top_identities[child]
        hole = child
    top_scores[hole] = score
    top_identities[hole] = identity


@entry("int64(int64[::1], int64[::1], int64[::1], int64[::1], int64)")
def best(scores: Any, identities: Any, top_scores: Any, top_identities: Any, size: Any) -> Any:
    """Write the first `size` of (score, identity) in the order of `before` to `top_*`, leaving out scores of SKIP; return how
    many. A heap whose root is the worst of the best so far."""
    filled = 0
    for place in range(scores.shape[0]):
        score = scores[place]
        if score == SKIP or (filled == size and score < top_scores[0]):
            continue
        identity = identities[place]
        if filled < size:
            child = filled
            filled += 1
            while child > 0:
                parent = (child - 1) >> 1
                if not before(top_scores[parent], top_identities[parent], score, identity):
                    break
                top_scores[child] = top_scores[parent]
                top_identities[child] = top_identities[parent]
                child = parent
            top_scores[child] = score
            top_identities[child] = identity
        elif before(score, identity, top_scores[0], top_identities[0]):
            sink(top_scores, top_identities, filled, score, identity)
    # Take the worst away again and again: what remains is sorted from the front.
    for last in range(filled - 1, 0, -1):
        score = top_scores[last]
        identity = top_identities[last]
        top_scores[last] = top_scores[0]
        top_identities[last] = top_identities[0]
        sink(top_scores, top_identities, last, score, identity)
    return filled


@entry(
    "void(int64, int64[::1], int64, int64, int32[:, ::1], int32[:, ::1], int32[:, ::1], int32[::1], int32[:, ::1],"
    "int64[::1], int64[::1])"
)
def score(
    user: Any,
    slots: Any,
    known: Any,
    window: Any,
    U: Any,
    V: Any,
    P: Any,
    b: Any,
    ring: Any,
    total: Any,
    scores: Any,
) -> None:
    """Q32 scores of item slots for a user; of the first len(scores) items if `slots` is empty. A slot outside 0 .. known has
    UNKNOWN_SCORE. The tables may be an older version with fewer users and items than `ring` tells of."""
    factors = V.shape[1]
    context = np.empty(factors, np.int64)
    context_of(user, -1, known, window, U, P, ring, total, context)
    narrow = np.empty(factors, np.int32)
    for f in range(factors):
        narrow[f] = context[f]
    every = slots.shape[0] == 0
    for place in range(scores.shape[0]):
        slot = place if every else slots[place]
        if slot < 0 or slot >= known:
            scores[place] = UNKNOWN_SCORE
            continue
        value = np.int64(b[slot]) << 16
        for f in range(factors):
            value += np.int64(V[slot, f]) * np.int64(narrow[f])
        scores[place] = value
