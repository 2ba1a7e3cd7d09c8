/* Elementary functions in float, about 1e-7 accurate, without branches: loops over them vectorise. NaN stays NaN. */
#ifndef SASE_FUNCTIONS_H
#define SASE_FUNCTIONS_H

#include <stdint.h>

#include "lanes.h"

typedef union {
    float value;
    uint32_t bits;
} float_bits;

INLINE float square_root(float x)
{
#if defined(__GNUC__)
    return __builtin_sqrtf(x); /* one instruction, with -fno-math-errno */
#else
    float sqrtf(float);
    return sqrtf(x);
#endif
}

/* e^x for x clamped to [-87, 87]. */
INLINE float exponential(float x)
{
    float_bits rounded, scale;
    float n, r, y;
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    rounded.value = x * 1.44269504f + 12582912.0f; /* 1.5 · 2^23: the sum's low bits hold the nearest integer */
    n = rounded.value - 12582912.0f;
    r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f; /* ln 2 in two parts: |r| ≤ ln 2 / 2 without rounding */
    y = 1.0f + r * (1.0f + r * (0.5f + r * (1.6666667e-1f + r * (4.1666654e-2f + r * (8.3333950e-3f + r * 1.3888e-3f)))));
    scale.bits = (rounded.bits << 23) + 0x3f800000u;
    return y * scale.value;
}

/* Natural logarithm of a normal positive x. */
INLINE float logarithm(float x)
{
    float_bits number, mantissa;
    uint32_t shifted;
    float n, s, q;
    number.value = x;
    shifted = number.bits - 0x3f3504f3u; /* of sqrt(1/2): the mantissa ends up in [sqrt(1/2), sqrt(2)) */
    n = (float)((int32_t)shifted >> 23);
    mantissa.bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
    s = (mantissa.value - 1.0f) / (mantissa.value + 1.0f);
    q = s * s;
    s = 2.0f * s * (1.0f + q * (0.33333333f + q * (0.2f + q * (0.14285714f + q * 0.11111111f))));
    return n * 0.693359375f + (s - n * 2.12194440e-4f);
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE float tangent(float x) { return 2.0f / (1.0f + exponential(-2.0f * x)) - 1.0f; } /* hyperbolic */

#endif
