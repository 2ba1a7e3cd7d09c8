/* A stream at the rate of a host: resamplers and level around the core, the band above the network's, the limit. */
#include "live.h"

#include "functions.h"
#include "level.h"
#include "memory.h"
#include "network.h"
#include "resample.h"

enum { MIN_RATE = 8000, MAX_RATE = 192000, UPPER = 33 /* taps of the filter for the upper part of the network's band */ };

static const float MAX_HOST_SAMPLE = 1e5f;     /* what resamplers and level make of it is below what the core refuses */
static const float LIMIT_STEP = 1.0f / 512.0f; /* a new limit takes effect gradually, without a click */
static const float ENERGY_DECAY = 0.5f;        /* per hop */
static const double UPPER_EDGE = 0.75;         /* of the band: 6 of 8 kHz */

struct sase_live {
    sase_stream *core;
    resampler down, up;
    level level;
    int rate, hop, lag, delay; /* lag: of the core in its samples; delay: of the whole in the host's */
    int filled, to_drop; /* samples of the next hop; samples of the core's output that still precede the signal */
    int now, done;       /* positions in the rings: of the newest sample of the host, and behind the newest enhanced one */
    float limit, gain;   /* in effect now; gain of the band above */
    float noisy_energy, enhanced_energy; /* of the upper part of the network's band */
    float *upper;                        /* [UPPER] */
    /* state */
    float *noisy, *scales;               /* [lag + hop], the newest last: input, and its factors of the level */
    float *enhanced;                     /* [hop] */
    float *noisy_tail, *enhanced_tail;   /* [UPPER − 1 + hop] */
    float *gains;                        /* beside the ring of `up` */
    float *host, *below, *above;         /* [delay + 1] rings: the input, and what is added to `above` times it */
};

static int resamples(const sase_live *s) { return s->up.up != s->up.down; }
static int has_band_above(const sase_live *s) { return s->up.up > s->up.down; }

/* Lay out a stream in memory that starts at c->base; 0 if the weights or the rate are refused. */
static sase_status choose_layout(sase_live *s, const void *weights, size_t num_bytes, int rate)
{
    sase_stream core;
    sase_status status = sase_check_header(weights, num_bytes, &core);
    if (status != SASE_OK)
        return status;
    if (rate < MIN_RATE || rate > MAX_RATE || !choose_sizes(&s->down, rate, core.n.sample_rate)
        || !choose_sizes(&s->up, core.n.sample_rate, rate))
        return SASE_BAD_RATE;
    s->rate = core.n.sample_rate, s->hop = core.n.hop, s->lag = core.n.window - core.n.hop;
    s->delay = s->lag + s->hop - 1;
    if (resamples(s)) /* an output needs `half` samples ahead; the last of them may be the first of a hop */
        s->delay = (s->delay + s->up.half) * s->up.up / s->up.down + s->down.half;
    return SASE_OK;
}

static void place(cursor *c, sase_live *s)
{
    place_resampler(c, &s->down);
    place_resampler(c, &s->up);
    s->upper = memory_of(c, 1, UPPER);
    s->noisy = memory_of(c, 1, s->lag + s->hop);
    s->scales = memory_of(c, 1, s->lag + s->hop);
    s->enhanced = memory_of(c, 1, s->hop);
    s->noisy_tail = memory_of(c, 1, UPPER - 1 + s->hop);
    s->enhanced_tail = memory_of(c, 1, UPPER - 1 + s->hop);
    s->gains = memory_of(c, 2, 2 * s->up.half);
    s->host = memory_of(c, 1, s->delay + 1);
    s->below = memory_of(c, 1, s->delay + 1);
    s->above = memory_of(c, 1, s->delay + 1);
    (void)memory_of(c, 0, 0);
}

size_t sase_live_size(const void *weights, size_t num_bytes, int rate)
{
    sase_live s;
    cursor count = {0, 0};
    if (choose_layout(&s, weights, num_bytes, rate) != SASE_OK)
        return 0;
    place(&count, &s);
    return 2 * 64 + sizeof(sase_live) + count.used * sizeof(float) + sase_size(weights, num_bytes);
}

sase_status sase_live_init(void *memory, size_t size, const void *weights, size_t num_bytes, int rate, sase_live **live)
{
    uintptr_t start = aligned((uintptr_t)memory);
    size_t needed = sase_live_size(weights, num_bytes, rate);
    sase_live refused, *s = needed ? (sase_live *)start : &refused;
    cursor c = {0, 0};
    sase_status status = SASE_BAD_MEMORY;
    if (!needed || (memory && size >= needed))
        status = choose_layout(s, weights, num_bytes, rate);
    if (status != SASE_OK)
        return status;
    c.base = aligned(start + sizeof(sase_live));
    place(&c, s);
    status = sase_init((void *)(c.base + c.used * sizeof(float)), sase_size(weights, num_bytes), weights, num_bytes, &s->core);
    if (status != SASE_OK)
        return status;
    fill_taps(&s->down);
    fill_taps(&s->up);
    fill_low_pass(s->upper, UPPER, UPPER / 2, UPPER / 2 + 1, UPPER_EDGE);
    for (int i = 0; i < UPPER; i++)
        s->upper[i] = (i == UPPER / 2) - s->upper[i]; /* the high-pass filter with the same edge */
    sase_live_reset(s);
    *live = s;
    return SASE_OK;
}

void sase_live_reset(sase_live *s)
{
    sase_reset(s->core);
    restart(&s->down);
    restart(&s->up);
    clear(s->noisy, (size_t)((float *)s->core - s->noisy) * sizeof(float));
    start_level(&s->level, s->hop, s->rate);
    for (int i = 0; i < s->lag; i++)
        s->scales[i] = 1.0f; /* before the signal */
    s->filled = 0, s->to_drop = s->lag;
    s->now = s->delay, s->done = 0;
    s->limit = -1.0f;
    s->gain = s->noisy_energy = s->enhanced_energy = 0.0f;
}

/* Energy of a hop above UPPER_EDGE; `tail` keeps the end of the hop before it. */
static float upper_energy(const sase_live *s, float *tail, const float *samples)
{
    float energy = 0.0f;
    for (int i = 0; i < s->hop; i++)
        tail[UPPER - 1 + i] = samples[i];
    for (int i = 0; i < s->hop; i++) {
        float y = 0.0f;
        for (int k = 0; k < UPPER; k++)
            y += s->upper[k] * tail[i + k];
        energy += y * y;
    }
    for (int i = 0; i < UPPER - 1; i++)
        tail[i] = tail[s->hop + i];
    return energy;
}

/* The network's own gain in the upper part of its band: that of the band above it. */
static float gain_above(sase_live *s)
{
    float noisy = upper_energy(s, s->noisy_tail, s->noisy), enhanced = upper_energy(s, s->enhanced_tail, s->enhanced);
    s->noisy_energy = ENERGY_DECAY * s->noisy_energy + noisy;
    s->enhanced_energy = ENERGY_DECAY * s->enhanced_energy + enhanced;
    if (s->enhanced_energy >= s->noisy_energy)
        return s->noisy_energy > 0.0f ? 1.0f : 0.0f;
    return square_root(s->enhanced_energy / s->noisy_energy);
}

static void write_host(sase_live *s, float below, float above)
{
    s->below[s->done] = below, s->above[s->done] = above;
    s->done = s->done == s->delay ? 0 : s->done + 1;
}

/* Take a sample of the enhanced signal and what is there of the noisy one; `above` is the gain of the band above.
 * The host's signal is up(enhanced) + above · (host − up(noisy)), with one resampler for both.
 */
static void write_enhanced(sase_live *s, float enhanced, float noisy, float above)
{
    const float *gains = s->gains;
    int count = 2 * s->up.half, at = s->up.at, row;
    if (!resamples(s)) {
        write_host(s, enhanced, 0.0f);
        return;
    }
    s->gains[at] = s->gains[at + count] = above;
    push_sample(&s->up, enhanced - above * noisy);
    gains += s->up.at + s->up.half - 1; /* of the two samples around the outputs */
    while ((row = next_row(&s->up)) >= 0)
        write_host(s, output_at(&s->up, row), gains[0] + (gains[1] - gains[0]) * (float)row / (float)s->up.up);
}

/* Take a sample at the network's rate. */
static void write_noisy(sase_live *s, float sample)
{
    float before = s->gain, target = 0.0f;
    s->noisy[s->lag + s->filled++] = sample;
    if (s->filled < s->hop)
        return;
    s->filled = 0;
    scale_hop(&s->level, s->hop, s->noisy + s->lag, s->enhanced, s->scales + s->lag);
    sase_process(s->core, s->enhanced, s->enhanced); /* the samples have been checked */
    for (int i = 0; i < s->hop; i++)
        s->enhanced[i] /= s->scales[i];
    if (has_band_above(s))
        target = gain_above(s);
    for (int i = 0; i < s->hop; i++) {
        s->gain = before + (target - before) * (float)(i + 1) / (float)s->hop;
        if (s->to_drop)
            s->to_drop--;
        else
            write_enhanced(s, s->enhanced[i], s->noisy[i], s->gain);
    }
    for (int i = 0; i < s->lag; i++)
        s->noisy[i] = s->noisy[s->hop + i], s->scales[i] = s->scales[s->hop + i];
}

static void write_sample(sase_live *s, float sample)
{
    int row;
    if (!resamples(s)) {
        write_noisy(s, sample);
        return;
    }
    push_sample(&s->down, sample);
    while ((row = next_row(&s->down)) >= 0)
        write_noisy(s, output_at(&s->down, row));
}

void sase_live_process(sase_live *s, const float *in, float *out, size_t count, float limit)
{
    int oldest;
    if (s->limit < 0.0f)
        s->limit = limit; /* the first one takes effect at once */
    for (size_t i = 0; i < count; i++) {
        float sample = in[i] >= -MAX_HOST_SAMPLE && in[i] <= MAX_HOST_SAMPLE ? in[i] : 0.0f, enhanced;
        s->now = s->now == s->delay ? 0 : s->now + 1;
        s->host[s->now] = sample;
        write_sample(s, sample);
        oldest = s->now == s->delay ? 0 : s->now + 1;
        enhanced = s->below[oldest] + s->above[oldest] * s->host[oldest];
        s->limit += LIMIT_STEP * (limit - s->limit);
        out[i] = enhanced + s->limit * (s->host[oldest] - enhanced);
    }
}

int sase_live_delay(const sase_live *s) { return s->delay; }
