/* Eight floats at a time: vectors of GCC and clang, which they map to what the processor has, or else plain C99. */
#ifndef SASE_LANES_H
#define SASE_LANES_H

#if defined(__GNUC__) && !defined(SASE_NO_VECTORS)

#pragma GCC diagnostic ignored "-Wpsabi" /* these functions are inlined: no calling convention is involved */
#define INLINE static inline __attribute__((always_inline, unused))
typedef float lanes __attribute__((vector_size(32)));
typedef float unaligned_lanes __attribute__((vector_size(32), aligned(4), may_alias));

INLINE lanes load(const float *x) { return *(const unaligned_lanes *)x; }
INLINE void store(float *y, lanes x) { *(unaligned_lanes *)y = x; }
INLINE lanes spread(float x) { return (lanes){x, x, x, x, x, x, x, x}; }
INLINE lanes add(lanes a, lanes b) { return a + b; }
INLINE lanes multiply_add(lanes a, lanes b, lanes c) { return a * b + c; }
INLINE float sum_lanes(lanes x)
{
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

#else

#define INLINE static inline
typedef struct {
    float x[8];
} lanes;

INLINE lanes load(const float *x)
{
    lanes y;
    for (int i = 0; i < 8; i++)
        y.x[i] = x[i];
    return y;
}
INLINE void store(float *y, lanes x)
{
    for (int i = 0; i < 8; i++)
        y[i] = x.x[i];
}
INLINE lanes spread(float x)
{
    lanes y;
    for (int i = 0; i < 8; i++)
        y.x[i] = x;
    return y;
}
INLINE lanes add(lanes a, lanes b)
{
    for (int i = 0; i < 8; i++)
        a.x[i] += b.x[i];
    return a;
}
INLINE lanes multiply_add(lanes a, lanes b, lanes c)
{
    for (int i = 0; i < 8; i++)
        c.x[i] += a.x[i] * b.x[i];
    return c;
}
INLINE float sum_lanes(lanes x)
{
    return ((x.x[0] + x.x[4]) + (x.x[2] + x.x[6])) + ((x.x[1] + x.x[5]) + (x.x[3] + x.x[7]));
}

#endif

/* Σ x and Σ x² of n floats, a multiple of eight. */
INLINE float sum(const float *x, int n)
{
    lanes total = load(x);
    for (int i = 8; i < n; i += 8)
        total = add(total, load(x + i));
    return sum_lanes(total);
}
INLINE float sum_squares(const float *x, int n)
{
    lanes total = spread(0.0f);
    for (int i = 0; i < n; i += 8)
        total = multiply_add(load(x + i), load(x + i), total);
    return sum_lanes(total);
}

#endif
