/* Checks of the C core without Python: make test, and with sanitizers: make sanitize. Usage: check WEIGHTS */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "live.h"
#include "sase.h"

enum { HOPS = 60, MAX_HOP = 2048 };

static int failures = 0;

static void expect(int holds, const char *what)
{
    printf("%s: %s\n", holds ? "ok" : "FAILED", what);
    failures += !holds;
}

typedef struct {
    void *memory;
    sase_stream *stream;
} instance;

static instance start(const void *weights, size_t num_bytes)
{
    instance new = {NULL, NULL};
    size_t size = sase_size(weights, num_bytes);
    new.memory = malloc(size); /* exactly as much: a sanitizer sees any access beyond it */
    if (!new.memory || sase_init(new.memory, size, weights, num_bytes, &new.stream) != SASE_OK) {
        puts("FAILED: the weights are refused");
        exit(1);
    }
    return new;
}

/* Hop number t of a deterministic signal: noise of changing level, a second of silence, a click. */
static void signal_hop(unsigned seed, int t, int hop, float *x)
{
    unsigned state = seed * 2654435761u + (unsigned)t * 40503u + 1u;
    for (int i = 0; i < hop; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = t % 30 > 20 ? 0.0f : ((float)(state >> 8) / 8388608.0f - 1.0f) * (t % 7 ? 0.1f : 0.9f);
    }
    if (t % 30 == 25)
        x[hop / 2] = 1.0f;
}

static void run(sase_stream *stream, unsigned seed, float *y)
{
    int hop = sase_hop(stream);
    float x[MAX_HOP];
    for (int t = 0; t < HOPS; t++) {
        signal_hop(seed, t, hop, x);
        sase_process(stream, x, y + t * hop);
    }
}

static void check_streams(const void *weights, size_t num_bytes)
{
    static float a[HOPS * MAX_HOP], b[HOPS * MAX_HOP], y[HOPS * MAX_HOP], z[HOPS * MAX_HOP], x[MAX_HOP], bad[MAX_HOP];
    instance one = start(weights, num_bytes), two = start(weights, num_bytes);
    int hop = sase_hop(one.stream), finite = 1;
    size_t bytes = sizeof(float) * (size_t)(HOPS * hop);
    run(one.stream, 1, a);
    run(two.stream, 2, b);
    for (int i = 0; i < HOPS * hop; i++)
        finite = finite && isfinite(a[i]);
    expect(finite && memcmp(a, b, bytes), "outputs are finite and depend on the input");
    sase_reset(one.stream);
    run(one.stream, 2, y);
    expect(!memcmp(y, b, bytes), "a reset stream equals a new one");
    sase_reset(one.stream);
    sase_reset(two.stream);
    for (int t = 0; t < HOPS; t++) {
        signal_hop(1, t, hop, x);
        sase_process(one.stream, x, y + t * hop);
        signal_hop(2, t, hop, x);
        memcpy(z + t * hop, x, sizeof(float) * (size_t)hop);
        sase_process(two.stream, z + t * hop, z + t * hop); /* in place */
    }
    expect(!memcmp(y, a, bytes) && !memcmp(z, b, bytes), "interleaved streams equal separate ones, also in place");
    sase_reset(one.stream);
    for (int t = 0; t < HOPS; t++) {
        memset(bad, 0, sizeof bad);
        bad[t % hop] = t % 2 ? NAN : -INFINITY;
        memcpy(y, bad, sizeof(float) * (size_t)hop);
        if (t == 0)
            expect(sase_process(one.stream, bad, y) == SASE_BAD_SAMPLES, "NaN and infinity are refused");
        sase_process(one.stream, bad, y);
        signal_hop(1, t, hop, x);
        sase_process(one.stream, x, z + t * hop);
    }
    expect(!memcmp(z, a, bytes), "refused samples leave the stream unchanged");
    for (int i = 0; i < hop; i++)
        x[i] = i % 2 ? 1.01e12f : -1.01e12f;
    expect(sase_process(one.stream, x, y) == SASE_BAD_SAMPLES, "samples beyond 1e12 are refused");
    for (int i = 0; i < hop; i++)
        x[i] = i % 3 ? 1e12f : -1e12f;
    finite = sase_process(one.stream, x, y) == SASE_OK;
    run(one.stream, 1, y);
    for (int i = 0; i < HOPS * hop; i++)
        finite = finite && isfinite(y[i]);
    expect(finite, "samples up to 1e12 leave outputs finite");
    sase_reset(one.stream);
    memset(x, 0, sizeof x);
    finite = 1;
    for (int t = 0; t < HOPS; t++) {
        sase_process(one.stream, x, y);
        for (int i = 0; i < hop; i++)
            finite = finite && y[i] == 0.0f;
    }
    expect(finite, "silence in, silence out");
    free(one.memory);
    free(two.memory);
}

static void check_refusals(const unsigned char *weights, size_t num_bytes)
{
    unsigned char *copy = malloc(num_bytes + 8);
    size_t size = sase_size(weights, num_bytes);
    void *memory = malloc(size);
    sase_stream *stream = NULL;
    int refused = 1;
    if (!copy || !memory)
        exit(1);
    expect(sase_init(memory, size - 1, weights, num_bytes, &stream) == SASE_BAD_MEMORY, "too little memory is refused");
    expect(sase_init(NULL, size, weights, num_bytes, &stream) == SASE_BAD_MEMORY, "no memory is refused");
    for (size_t at = 0; at < num_bytes; at += at < 80 ? 1 : 997)
        for (int bit = 0; bit < (at < 80 ? 8 : 1); bit++) {
            memcpy(copy, weights, num_bytes);
            copy[at] ^= (unsigned char)(1 << bit);
            refused = refused && sase_init(memory, size, copy, num_bytes, &stream) != SASE_OK;
        }
    expect(refused, "weights with one wrong bit are refused");
    refused = 1;
    for (size_t length = 0; length < num_bytes; length += length < 80 ? 1 : 991) {
        unsigned char *exact = malloc(length + 1);
        memcpy(exact, weights, length);
        refused = refused && sase_init(memory, size, exact, length, &stream) != SASE_OK;
        free(exact);
    }
    memcpy(copy, weights, num_bytes);
    memset(copy + num_bytes, 0, 8);
    refused = refused && sase_init(memory, size, copy, num_bytes + 4, &stream) == SASE_BAD_LENGTH;
    refused = refused && sase_init(memory, size, copy + 1, num_bytes, &stream) == SASE_NOT_WEIGHTS && !stream;
    expect(refused, "weights that are truncated, too long or not aligned are refused");
    free(copy);
    free(memory);
}

static sase_live *start_live(const void *weights, size_t num_bytes, int rate, void **memory)
{
    size_t size = sase_live_size(weights, num_bytes, rate);
    sase_live *live = NULL;
    *memory = malloc(size); /* exactly as much */
    if (!*memory || sase_live_init(*memory, size, weights, num_bytes, rate, &live) != SASE_OK) {
        puts("FAILED: a live stream cannot be created");
        exit(1);
    }
    return live;
}

/* Blocks of 0 to 700 samples, in place, after a reset, against one block. */
static int blocks_equal_the_whole(const void *weights, size_t num_bytes, int rate)
{
    enum { COUNT = 20000 };
    static float x[COUNT], whole[COUNT], y[COUNT];
    void *memory;
    sase_live *live = start_live(weights, num_bytes, rate, &memory);
    int finite = 1, same;
    for (int t = 0; t < COUNT / 100; t++)
        signal_hop(7, t, 100, x + 100 * t);
    sase_live_process(live, x, whole, COUNT, 0.1f);
    sase_live_reset(live);
    memcpy(y, x, sizeof y);
    for (size_t at = 0, block = 0; at < COUNT; at += block, block = (block * 7 + 11) % 701)
        sase_live_process(live, y + at, y + at, block < COUNT - at ? block : COUNT - at, 0.1f);
    same = !memcmp(y, whole, sizeof y);
    sase_live_reset(live);
    memcpy(y, x, sizeof y);
    for (int i = 0; i < COUNT; i += 50)
        y[i] = i % 3 ? NAN : i % 2 ? INFINITY : -3e38f;
    sase_live_process(live, y, y, COUNT, 0.5f);
    sase_live_process(live, x, y + 1, COUNT - 1, 0.0f);
    for (int i = 0; i < COUNT; i++)
        finite = finite && isfinite(y[i]);
    free(memory);
    return same && finite && sase_live_size(weights, num_bytes, rate) > 0;
}

static void check_live(const void *weights, size_t num_bytes)
{
    static const int rates[] = {8000, 11025, 16000, 22050, 44100, 48000, 192000}, refused[] = {0, -1, 7999, 44101, 192001};
    size_t size = sase_live_size(weights, num_bytes, 48000);
    void *memory = malloc(size);
    sase_live *live = NULL;
    int holds = 1;
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        holds = holds && blocks_equal_the_whole(weights, num_bytes, rates[i]);
    expect(holds, "at the rates of hosts, blocks of any size equal one block, and NaN leaves no trace");
    holds = 1;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        holds = holds && !sase_live_size(weights, num_bytes, refused[i])
                && sase_live_init(memory, size, weights, num_bytes, refused[i], &live) == SASE_BAD_RATE;
    expect(holds && !live, "other rates are refused");
    holds = sase_live_init(memory, size - 1, weights, num_bytes, 48000, &live) == SASE_BAD_MEMORY
            && sase_live_init(NULL, size, weights, num_bytes, 48000, &live) == SASE_BAD_MEMORY
            && sase_live_init(memory, size, weights, num_bytes - 4, 48000, &live) == SASE_BAD_LENGTH;
    expect(holds && !live, "a live stream needs memory and whole weights");
    free(memory);
}

int main(int argc, char **argv)
{
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    unsigned char *weights = malloc(1 << 24), *exact;
    size_t num_bytes;
    if (!file || !weights) {
        fputs("usage: check WEIGHTS\n", stderr);
        return 2;
    }
    num_bytes = fread(weights, 1, 1 << 24, file);
    fclose(file);
    exact = malloc(num_bytes + 1);
    memcpy(exact, weights, num_bytes);
    free(weights);
    check_streams(exact, num_bytes);
    check_refusals(exact, num_bytes);
    check_live(exact, num_bytes);
    free(exact);
    return failures != 0;
}
