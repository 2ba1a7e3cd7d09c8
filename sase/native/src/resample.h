/* A resampler that takes one sample after the other, between rates whose ratio is a fraction of small numbers.
 *
 * Windowed sinc (Kaiser), polyphase: outputs lie on a grid of 1 / up of an input sample, and each position on the grid
 * has a row of taps. Window and length by Kaiser's formulas: Oppenheim and Schafer, Discrete-Time Signal Processing,
 * section 7.5.3.
 */
#ifndef SASE_RESAMPLE_H
#define SASE_RESAMPLE_H

#include "lanes.h"
#include "memory.h"

enum {
    MAX_GRID = 1024,   /* limit of both numbers of the reduced fraction */
    HALF_AT_LOWER = 30 /* half the taps, in samples of the lower rate: a transition of 1.2 kHz at 16 kHz, −70 dB */
};

static const double CUTOFF = 0.925; /* −6 dB, as a fraction of half the lower rate; the stop band starts at 1 */
static const double BETA = 6.76;    /* Kaiser's β for −70 dB */
static const double PI = 3.141592653589793238463;

typedef struct {
    int up, down; /* output rate / input rate, reduced */
    int half;     /* input samples by which the outputs lag */
    int row;      /* of the next output, once it is less than `up` */
    int at;       /* position of the oldest sample in the ring */
    float *taps;  /* [up][2 · half] */
    float *ring;  /* [2][2 · half]: the last samples, twice, so that they are contiguous from `at` on */
} resampler;

static int greatest_divisor(int a, int b) { return b ? greatest_divisor(b, a % b) : a; }

/* Choose the sizes for two rates in Hz; 0 if their ratio is not supported. */
static int choose_sizes(resampler *r, int from, int to)
{
    int divisor = greatest_divisor(from, to), lower = from < to ? from : to;
    r->up = to / divisor, r->down = from / divisor;
    r->half = (int)(((long long)HALF_AT_LOWER * from + lower - 1) / lower);
    r->half = (r->half + 3) / 4 * 4; /* taps in whole lanes */
    return r->up <= MAX_GRID && r->down <= MAX_GRID;
}

static void place_resampler(cursor *c, resampler *r)
{
    r->taps = memory_of(c, r->up, 2 * r->half);
    r->ring = memory_of(c, 2, 2 * r->half);
}

static double sine_of_pi(double x)
{
    double rest = x - 2.0 * (double)(long long)(0.5 * x), term, total; /* in (-2, 2) */
    rest = rest > 1.0 ? rest - 2.0 : rest < -1.0 ? rest + 2.0 : rest;
    rest = rest > 0.5 ? 1.0 - rest : rest < -0.5 ? -1.0 - rest : rest;
    term = total = PI * rest;
    for (int i = 2; i < 20; i += 2) { /* Taylor series: |π rest| ≤ π / 2 */
        term *= -PI * PI * rest * rest / (i * (i + 1));
        total += term;
    }
    return total;
}

/* The modified Bessel function of the first kind and order 0, at 2 √x. */
static double bessel(double x)
{
    double term = 1.0, total = 1.0;
    for (int k = 1; k < 40; k++)
        term *= x / ((double)k * k), total += term;
    return total;
}

/* A low-pass filter's tap at a distance from its centre, in samples; the gain is not normalised. */
static double low_pass_tap(double distance, double half, double cutoff)
{
    double edge = distance / half, x = cutoff * distance;
    if (edge <= -1.0 || edge >= 1.0)
        return 0.0;
    return (x > -1e-9 && x < 1e-9 ? 1.0 : sine_of_pi(x) / (PI * x)) * bessel(0.25 * BETA * BETA * (1.0 - edge * edge));
}

/* A low-pass filter whose centre lies the given number of samples behind its first tap; the taps' sum is 1. */
static void fill_low_pass(float *taps, int count, double centre, double half, double cutoff)
{
    double total = 0.0;
    for (int i = 0; i < count; i++)
        total += low_pass_tap(i - centre, half, cutoff);
    for (int i = 0; i < count; i++)
        taps[i] = (float)(low_pass_tap(i - centre, half, cutoff) / total);
}

static void fill_taps(resampler *r)
{
    double cutoff = r->up < r->down ? CUTOFF * r->up / r->down : CUTOFF;
    for (int row = 0; row < r->up; row++)
        fill_low_pass(r->taps + row * 2 * r->half, 2 * r->half, r->half - 1 + (double)row / r->up, r->half, cutoff);
}

/* Return to the start of a signal: the first output lies on the first sample. */
static void restart(resampler *r)
{
    clear(r->ring, (size_t)(4 * r->half) * sizeof(float));
    r->row = (r->half + 1) * r->up;
    r->at = 0;
}

/* Take the next sample; then `next_row` returns the rows of the outputs that are ready, and at last −1. */
INLINE void push_sample(resampler *r, float x)
{
    r->ring[r->at] = r->ring[r->at + 2 * r->half] = x;
    r->at = r->at + 1 == 2 * r->half ? 0 : r->at + 1;
    r->row -= r->up;
}

INLINE int next_row(resampler *r)
{
    int row = r->row;
    if (row >= r->up)
        return -1;
    r->row += r->down;
    return row;
}

INLINE float output_at(const resampler *r, int row)
{
    const float *x = r->ring + r->at, *taps = r->taps + row * 2 * r->half;
    lanes total = spread(0.0f);
    for (int i = 0; i < 2 * r->half; i += 8)
        total = multiply_add(load(x + i), load(taps + i), total);
    return sum_lanes(total);
}

#endif
