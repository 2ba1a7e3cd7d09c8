"""Shamir's secret sharing: any ``threshold`` of the shares give the secret, fewer give nothing (Shamir 1979).

Over the integers modulo the prime 2^521 − 1. Of a hundred silos' secrets all are reconstructed from the same silos'
shares, so that their coefficients are computed once; with a library that combines them one secret at a time
(pycryptodome), a round would take minutes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence

SECRET_BYTES = 32
PRIME = 2**521 - 1
SHARE_BYTES = 66


def split(secret: bytes, points: Iterable[int], threshold: int) -> dict[int, bytes]:
    """Return {point: share}.

    Args:
        secret: of 32 bytes.
        points: distinct positive integers.
        threshold: number of shares that give the secret.

    Raises:
        ValueError: there are fewer points than the threshold, or one is not positive or there twice.
    """
    points = list(points)
    if len(set(points)) < max(len(points), threshold) or min(points) < 1 or threshold < 1:
        raise ValueError(f"needs at least {threshold} distinct positive points")
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret of {len(secret)} bytes, expected {SECRET_BYTES}")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {point: _value(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def combine(shares: Sequence[Mapping[int, bytes]], points: Sequence[int]) -> list[bytes]:
    """Return secrets from their shares.

    Args:
        shares: of each secret: {point: share}, with at least ``points``.
        points: as many as the threshold.

    Raises:
        ValueError: shares that do not give a secret of 32 bytes: damaged ones, or too few.
    """
    coefficients = {point: _coefficient(point, points) for point in points}
    found = []
    for of in shares:
        total = sum(coefficients[point] * int.from_bytes(of[point], "big") for point in points) % PRIME
        if total >> (8 * SECRET_BYTES):
            raise ValueError("the shares give no secret: one of them is damaged")
        found.append(total.to_bytes(SECRET_BYTES, "big"))
    return found


def _value(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def _coefficient(point: int, points: Sequence[int]) -> int:
    """Return Lagrange's coefficient of a point for the value at 0."""
    numerator = denominator = 1
    for other in points:
        if other != point:
            numerator = numerator * other % PRIME
            denominator = denominator * (other - point) % PRIME
    return numerator * pow(denominator, -1, PRIME) % PRIME
