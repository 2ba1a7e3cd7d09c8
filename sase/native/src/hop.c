/* One hop through the network. Compiled as it is, and by hop_avx2.c for processors that have AVX2.
 *
 * Maps are [frequency][2 · channels], the real halves first, so that a convolution over frequency is a matrix product
 * whose rows overlap. Rows of zeros at both ends of a map are its padding.
 */
#ifndef HOP_NAME
#define HOP_NAME sase_hop_generic
#endif

#include "fourier.h"
#include "functions.h"
#include "lanes.h"
#include "matrix.h"
#include "network.h"

static const float NORM_EPS = 1e-5f, RMS_EPS = 1e-8f, MAGNITUDE_EPS = 1e-12f, SUM_EPS = 1e-6f, POWER_EPS = 1e-10f;

/* Elementary functions of n floats, in loops of their own, which compilers vectorise. */
static void sigmoids(float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = sigmoid(x[i]);
}

static void powers(float exponent, float *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = exponential(exponent * logarithm(x[i]));
}

static void analyse(sase_stream *s, const float *in)
{
    int window = s->n.window, hop = s->n.hop, fft = s->n.fft;
    float *frame = s->frame, *re = s->spec, *im = s->spec + s->n.freq + 1;
    for (int i = 0; i < window - hop; i++)
        s->history[i] = s->history[i + hop];
    for (int i = 0; i < hop; i++)
        s->history[window - hop + i] = in[i];
    for (int i = 0; i < window; i++)
        frame[i] = s->history[i] * s->analysis[i];
    for (int i = window; i < fft; i++)
        frame[i] = 0.0f;
    real_transform(fft, s->cosine, s->sine, frame, re, im, s->fft_a, s->fft_b);
}

/* The network's input: the spectrum without DC, its magnitudes compressed. */
static void compress(sase_stream *s)
{
    const float *restrict re = s->spec + 1, *restrict im = s->spec + s->n.freq + 2;
    float *restrict out = s->compressed + FIRST - STRIDE, *restrict scale = s->frame;
    for (int i = 0; i < s->n.freq; i++) {
        float power = re[i] * re[i] + im[i] * im[i] + POWER_EPS;
        scale[i] = power > 1e38f ? 1e38f : power; /* the logarithm is one of finite numbers */
    }
    powers(*s->power, scale, s->n.freq);
    for (int i = 0; i < s->n.freq; i++) {
        out[2 * i] = re[i] * scale[i];
        out[2 * i + 1] = im[i] * scale[i];
    }
}

/* Maximum and mean of |z| over the channels of each position, [coarse][2]. */
static void pool(sase_stream *s, const float *map, float *restrict pooled)
{
    int channels = s->n.channels;
    float *restrict size = s->magnitudes;
    for (int f = 0; f < s->n.coarse; f++) {
        const float *re = map + f * 2 * channels, *im = re + channels;
        float top[4] = {0, 0, 0, 0}, all[4] = {0, 0, 0, 0}; /* four at a time: none waits for the one before */
        for (int c = 0; c < channels; c++)
            size[c] = square_root(re[c] * re[c] + im[c] * im[c] + MAGNITUDE_EPS);
        for (int c = 0; c < channels; c += 4)
            for (int i = 0; i < 4; i++) {
                top[i] = size[c + i] > top[i] ? size[c + i] : top[i];
                all[i] += size[c + i];
            }
        top[0] = top[0] > top[1] ? top[0] : top[1];
        top[2] = top[2] > top[3] ? top[2] : top[3];
        pooled[2 * f] = top[0] > top[2] ? top[0] : top[2];
        pooled[2 * f + 1] = ((all[0] + all[1]) + (all[2] + all[3])) / (float)channels;
    }
}

/* The gate of this frame: a convolution over the averages of the past frames and this one. */
static float gate_of_frame(sase_stream *s, unit *u, const float *pooled)
{
    int past = 2 * (GATE - 1), coarse = s->n.coarse;
    float largest = 0.0f, mean = 0.0f, x = u->gate_time[2 * GATE];
    for (int f = 0; f < coarse; f++) {
        largest += pooled[2 * f];
        mean += pooled[2 * f + 1];
    }
    for (int i = 0; i < past; i++)
        x += u->gate_time[i] * u->frames[i];
    for (int i = 0; i < past - 2; i++)
        u->frames[i] = u->frames[i + 2];
    u->frames[past - 2] = largest / (float)coarse;
    u->frames[past - 1] = mean / (float)coarse;
    return sigmoid(x + u->gate_time[past] * u->frames[past - 2] + u->gate_time[past + 1] * u->frames[past - 1]);
}

/* TF-GA: a gate per frequency, from an exponential average over time, and one per frame, from that over frequency. */
static void gate(sase_stream *s, unit *u, float *map)
{
    int coarse = s->n.coarse, columns = 2 * s->n.channels;
    float *pooled = s->pooled + GATE - 1, decay = *s->gate_decay, frame, share; /* zeros at both ends of s->pooled */
    pool(s, map, pooled);
    frame = gate_of_frame(s, u, pooled);
    *u->count = 1.0f + decay * *u->count;
    share = 1.0f / *u->count;
    for (int i = 0; i < 2 * coarse; i++) {
        u->sum[i] = pooled[i] + decay * u->sum[i];
        pooled[i] = u->sum[i] * share;
    }
    for (int f = 0; f < coarse; f++) {
        float x = u->gate_frequency[2 * GATE], both, *restrict row = map + f * columns;
        for (int i = 0; i < 2 * GATE; i++)
            x += u->gate_frequency[i] * s->pooled[2 * f + i];
        both = frame * sigmoid(x);
        for (int c = 0; c < columns; c++)
            row[c] *= both;
    }
}

/* PReLU and gate of what the unit's convolution has left in map. */
static void activate(sase_stream *s, unit *u, float *restrict map)
{
    int columns = 2 * s->n.channels;
    const float *restrict slope = u->slope;
    for (int f = 0; f < s->n.coarse; f++) {
        float *restrict row = map + f * columns;
        for (int c = 0; c < columns; c++) {
            float positive = row[c] > 0.0f ? row[c] : 0.0f;
            row[c] = positive + slope[c] * (row[c] - positive);
        }
    }
    if (s->n.gates)
        gate(s, u, map);
}

/* y = x + unit(x), or y + x + unit(x): maps without their padding. */
static void residual(sase_stream *s, unit *u, const float *x, float *y, int accumulate)
{
    int columns = 2 * s->n.channels, size = s->n.coarse * columns;
    const float *convolved = s->convolved;
    apply(u->conv, s->n.coarse, columns, KERNEL * columns, x - columns, columns, s->convolved, 0);
    activate(s, u, s->convolved);
    if (accumulate)
        for (int i = 0; i < size; i++)
            y[i] += x[i] + convolved[i];
    else
        for (int i = 0; i < size; i++)
            y[i] = x[i] + convolved[i];
}

/* (x − mean) / deviation of each row; gain and bias are in the weights of the layer that follows. */
static void normalise(int rows, int columns, const float *x, float *y, int y_step)
{
    for (int r = 0; r < rows; r++, x += columns, y += y_step) {
        float mean = sum(x, columns) / (float)columns, scale;
        for (int i = 0; i < columns; i++)
            y[i] = x[i] - mean;
        scale = 1.0f / square_root(sum_squares(y, columns) / (float)columns + NORM_EPS);
        for (int i = 0; i < columns; i++)
            y[i] *= scale;
    }
}

static void recur(sase_stream *s, block *b, float *h)
{
    int width = s->n.features, bands = s->n.bands;
    float *restrict out = s->mixed;
    normalise(bands, width, h, b->joined, 2 * width);
    apply(b->lstm, bands, 4 * width, 2 * width, b->joined, 2 * width, s->wide, 0);
    sigmoids(s->wide, bands * 4 * width); /* tanh x = 2σ(2x) − 1: the factor 2 is in the weights */
    for (int band = 0; band < bands; band++) {
        const float *restrict in = s->wide + band * 4 * width, *restrict forget = in + width;
        const float *restrict candidate = forget + width;
        float *restrict cell = b->cell + band * width;
        for (int i = 0; i < width; i++)
            cell[i] = forget[i] * cell[i] + in[i] * (2.0f * candidate[i] - 1.0f);
    }
    for (int i = 0; i < bands * width; i++)
        out[i] = tangent(b->cell[i]);
    for (int band = 0; band < bands; band++) {
        const float *restrict open = s->wide + (4 * band + 3) * width;
        float *restrict hidden = b->joined + (2 * band + 1) * width, *restrict y = out + band * width;
        for (int i = 0; i < width; i++)
            hidden[i] = y[i] = open[i] * y[i];
    }
    apply(b->project, bands, width, width, out, width, h, 1);
}

/* SA-GOEA: y = Σ λ^(t−s) (φ(q)·φ(k)) v / Σ λ^(t−s) φ(q)·φ(k), out = h · 2σ(Wo y), each band by itself. */
static void attend_over_time(sase_stream *s, block *b, float *restrict h)
{
    int width = s->n.features, bands = s->n.bands;
    float decay = *b->time_decay;
    const float *restrict scale = b->time_scale;
    normalise(bands, width, h, s->hidden, width);
    apply(b->time_qkv, bands, 3 * width, width, s->hidden, width, s->wide, 0);
    for (int band = 0; band < bands; band++) {
        float *restrict query = s->wide + band * 3 * width, *restrict key = query + width;
        const float *restrict value = key + width;
        float *restrict memory = b->memory + band * width * width, *restrict total = b->normaliser + band * width;
        float *restrict y = s->mixed + band * width, weight = 0.0f;
        sigmoids(query, 2 * width); /* and keys */
        for (int i = 0; i < width; i++) {
            key[i] *= scale[i];
            total[i] = key[i] + decay * total[i];
            y[i] = query[i] * total[i];
        }
        weight = 1.0f / (sum(y, width) + SUM_EPS);
        for (int j = 0; j < width; j += PANEL) {
            lanes v = load(value + j), x = spread(0.0f), zero = spread(0.0f), fade = spread(decay);
            for (int i = 0; i < width; i++) {
                float *at = memory + i * width + j;
                lanes m = multiply_add(fade, load(at), multiply_add(spread(key[i]), v, zero));
                store(at, m);
                x = multiply_add(spread(query[i]), m, x);
            }
            store(y + j, multiply_add(spread(weight), x, zero));
        }
    }
    apply(b->time_out, bands, width, width, s->mixed, width, s->hidden, 0);
    sigmoids(s->hidden, bands * width);
    for (int i = 0; i < bands * width; i++)
        h[i] *= 2.0f * s->hidden[i];
}

/* φ(x) = |β| σ(α |x| / √e − α c) of complex x, [bands] rows that are 3 · features apart. */
static void features_of(sase_stream *s, const block *b, const float *projected, float *restrict y)
{
    int width = s->n.features, half = width / 2, bands = s->n.bands;
    float share = 1.0f / (float)half;
    const float *restrict slope = b->slope, *restrict shift = b->shift, *restrict scale = b->scale;
    for (int band = 0; band < bands; band++) {
        const float *restrict re = projected + band * 3 * width, *restrict im = re + half;
        float *restrict row = y + band * half;
        for (int i = 0; i < half; i++)
            row[i] = slope[i] * square_root((re[i] * re[i] + im[i] * im[i] + MAGNITUDE_EPS) * share) - shift[i];
    }
    sigmoids(y, bands * half);
    for (int band = 0; band < bands; band++) {
        float *restrict row = y + band * half;
        for (int i = 0; i < half; i++)
            row[i] *= scale[i];
    }
}

/* u = gain · x / rms, the magnitudes' root mean square over the complex channels of each band. */
static void scale_bands(sase_stream *s, const block *b, const float *h, float *u)
{
    int width = s->n.features;
    for (int band = 0; band < s->n.bands; band++) {
        const float *restrict x = h + band * width, *restrict gain = b->gain + band * width;
        float *restrict row = u + band * width;
        float scale = 1.0f / square_root(2.0f * sum_squares(x, width) / (float)width + RMS_EPS);
        for (int i = 0; i < width; i++)
            row[i] = x[i] * gain[i] * scale;
    }
}

/* y = Σ (φ(q)·φ(k)) v / Σ φ(q)·φ(k) over the bands k, by the sums over k of φ(k) vᵀ and φ(k). */
static void average_values(sase_stream *s, const float *values, float *y)
{
    int width = s->n.features, half = width / 2, bands = s->n.bands;
    left_matrix key = {s->key, 1, half}, query = {s->query, half, 1};
    right_matrix value = {values, 3 * width, PANEL}, products = {s->products, width, PANEL};
    float *restrict total = s->hidden;
    multiply(half, width, bands, key, value, 0, s->products, width, 0);
    multiply(bands, width, half, query, products, 0, y, width, 0);
    for (int i = 0; i < half; i++)
        total[i] = 0.0f;
    for (int band = 0; band < bands; band++)
        for (int i = 0; i < half; i++)
            total[i] += s->key[band * half + i];
    for (int band = 0; band < bands; band++) {
        float weight = 0.0f, *restrict row = y + band * width;
        for (int i = 0; i < half; i++)
            weight += s->query[band * half + i] * total[i];
        weight = 1.0f / (weight + SUM_EPS);
        for (int i = 0; i < width; i++)
            row[i] *= weight;
    }
}

/* SA-GUEA: attention over the bands of a frame; the features are complex channels. out = h · (1 + polar(Wo y)). */
static void attend_over_bands(sase_stream *s, block *b, float *h)
{
    int width = s->n.features, half = width / 2, bands = s->n.bands;
    scale_bands(s, b, h, s->hidden);
    apply(b->band_qkv, bands, 3 * width, width, s->hidden, width, s->wide, 0);
    features_of(s, b, s->wide, s->query);
    features_of(s, b, s->wide + width, s->key);
    average_values(s, s->wide + 2 * width, s->mixed);
    apply(b->band_out, bands, width, width, s->mixed, width, s->hidden, 0);
    for (int band = 0; band < bands; band++) {
        const float *restrict re = s->hidden + band * width, *restrict im = re + half;
        float *restrict z_re = h + band * width, *restrict z_im = z_re + half;
        for (int i = 0; i < half; i++) {
            float size = square_root(re[i] * re[i] + im[i] * im[i] + MAGNITUDE_EPS), bound = tangent(size) / size;
            float m_re = 1.0f + bound * re[i], m_im = bound * im[i], x = z_re[i], y = z_im[i];
            z_re[i] = x * m_re - y * m_im;
            z_im[i] = x * m_im + y * m_re;
        }
    }
}

/* Apply the mask, 1 + m, to the spectrum; DC becomes zero. */
static void mask(sase_stream *s)
{
    const float *restrict m = s->mask + FIRST - STRIDE; /* without the padding of the first convolution, 2 positions */
    float *restrict re = s->spec, *restrict im = s->spec + s->n.freq + 1;
    re[0] = im[0] = 0.0f;
    for (int f = 0; f < s->n.freq; f++) {
        float x = re[f + 1], y = im[f + 1], m_re = 1.0f + m[2 * f], m_im = m[2 * f + 1];
        re[f + 1] = x * m_re - y * m_im;
        im[f + 1] = x * m_im + y * m_re;
    }
}

static void synthesise(sase_stream *s, float *out)
{
    int window = s->n.window, hop = s->n.hop, fft = s->n.fft;
    float *frame = s->frame;
    inverse_transform(fft, s->cosine, s->sine, s->spec, s->spec + s->n.freq + 1, frame, s->fft_a, s->fft_b);
    for (int i = 0; i < window; i++)
        s->overlap[i] += frame[i] * s->synthesis[i];
    for (int i = 0; i < hop; i++)
        out[i] = s->overlap[i];
    for (int i = 0; i < window - hop; i++)
        s->overlap[i] = s->overlap[i + hop];
    for (int i = window - hop; i < window; i++)
        s->overlap[i] = 0.0f;
}

void HOP_NAME(sase_stream *s, const float *in, float *out)
{
    int columns = 2 * s->n.channels, units = s->n.units, coarse = s->n.coarse, bands = s->n.bands;
    int width = s->n.features;
    float *z, *h = s->features;
    analyse(s, in);
    compress(s);
    apply(s->first.conv, coarse, columns, 2 * FIRST, s->compressed, 2 * STRIDE, s->maps[0] + columns, 0);
    activate(s, &s->first, s->maps[0] + columns);
    for (int i = 0; i < units; i++)
        residual(s, &s->encoder[i], s->maps[i] + columns, s->maps[i + 1] + columns, 0);
    z = s->maps[units] + columns;
    map_positions(s->to_bands, bands, coarse, columns, z, s->banded, 0);
    apply(s->to_features, bands, width, columns, s->banded, columns, h, 0);
    for (int i = 0; i < s->n.blocks; i++) {
        recur(s, &s->blocks[i], h);
        if (i == s->n.blocks - 1)
            attend_over_time(s, &s->blocks[i], h);
        attend_over_bands(s, &s->blocks[i], h);
    }
    apply(s->from_features, bands, columns, width, h, width, s->banded, 0);
    map_positions(s->from_bands, coarse, bands, columns, s->banded, z, 1);
    for (int i = 0; i < units; i++) { /* each takes its input from one map and adds its output to the skip before it */
        residual(s, &s->decoder[i], z, s->maps[units - 1 - i] + columns, 1);
        z = s->maps[units - 1 - i] + columns;
    }
    apply(s->last, coarse + 1, 2 * STRIDE, 2 * columns, z - columns, columns, s->mask, 0);
    mask(s);
    synthesise(s, out);
}
