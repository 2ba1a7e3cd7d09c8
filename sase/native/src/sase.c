/* Check the weights, lay out a stream's memory, and choose the code for this processor. */
#include "sase.h"

#include <stdint.h>

#include "memory.h"
#include "network.h"

enum { HEADER = 64, VERSION = 1 }; /* bytes; of the format */

static const float MAX_SAMPLE = 1e12f; /* far below what overflows in the spectrum, after which NaN would remain */
static const float MAX_WEIGHT = 1e9f;

static const unsigned char MAGIC[8] = {'S', 'A', 'S', 'E', 'C', 'O', 'R', 'E'};

/* Words of the header, in the byte order of the machine, after the magic number. */
typedef enum {
    WORD_VERSION = 2,
    WORD_CHECKSUM, /* CRC-32 of everything after this word */
    WORD_NUM_FLOATS,
    WORD_SAMPLE_RATE,
    WORD_WINDOW,
    WORD_HOP,
    WORD_FFT,
    WORD_CHANNELS,
    WORD_UNITS,
    WORD_FEATURES,
    WORD_BANDS,
    WORD_BLOCKS,
    WORD_GATES,
    WORD_RESERVED /* 0 */
} header_word;

static uint32_t checksum(const unsigned char *bytes, size_t count)
{
    uint32_t table[16], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 16; i++) {
        table[i] = i;
        for (int bit = 0; bit < 4; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    for (size_t i = 0; i < count; i++) {
        crc = crc >> 4 ^ table[(crc ^ bytes[i]) & 15];
        crc = crc >> 4 ^ table[(crc ^ bytes[i] >> 4) & 15];
    }
    return ~crc;
}

static int within(uint32_t value, uint32_t low, uint32_t high) { return value >= low && value <= high; }

static int sizes_are_supported(const uint32_t *words)
{
    uint32_t fft = words[WORD_FFT], hop = words[WORD_HOP], window = words[WORD_WINDOW];
    return (fft == 32 || fft == 128 || fft == 512 || fft == 2048) && within(window, 2, fft) && within(hop, 1, window / 2)
           && window % hop == 0 && within(words[WORD_SAMPLE_RATE], 1, 1000000)
           && within(words[WORD_CHANNELS], 4, 64) && words[WORD_CHANNELS] % 4 == 0
           && words[WORD_UNITS] <= MAX_UNITS && within(words[WORD_FEATURES], PANEL, MAX_FEATURES)
           && words[WORD_FEATURES] % PANEL == 0 && within(words[WORD_BANDS], 1, fft / 2)
           && within(words[WORD_BLOCKS], 1, MAX_BLOCKS) && words[WORD_GATES] <= 1 && words[WORD_RESERVED] == 0;
}

static sizes read_sizes(const uint32_t *words)
{
    sizes n;
    n.sample_rate = (int)words[WORD_SAMPLE_RATE], n.window = (int)words[WORD_WINDOW], n.hop = (int)words[WORD_HOP];
    n.fft = (int)words[WORD_FFT], n.channels = (int)words[WORD_CHANNELS], n.units = (int)words[WORD_UNITS];
    n.features = (int)words[WORD_FEATURES], n.bands = (int)words[WORD_BANDS], n.blocks = (int)words[WORD_BLOCKS];
    n.gates = (int)words[WORD_GATES];
    n.freq = n.fft / 2, n.coarse = n.freq / STRIDE;
    return n;
}

static const float *weights_of(cursor *c, int rows, int columns) { return (const float *)take(c, rows, columns); }

static linear linear_of(cursor *c, int depth, int columns, int bias)
{
    linear layer = {0, 0};
    layer.weight = weights_of(c, depth, columns);
    if (bias)
        layer.bias = weights_of(c, 1, columns);
    return layer;
}

static void unit_weights(cursor *c, const sizes *n, unit *u, int depth)
{
    u->conv = linear_of(c, depth, 2 * n->channels, 1);
    u->slope = weights_of(c, 1, 2 * n->channels);
    if (n->gates) {
        u->gate_frequency = weights_of(c, 1, 2 * GATE + 1);
        u->gate_time = weights_of(c, 1, 2 * GATE + 1);
    }
}

static void block_weights(cursor *c, const sizes *n, block *b, int last)
{
    int width = n->features;
    b->lstm = linear_of(c, 2 * width, 4 * width, 1);
    b->project = linear_of(c, width, width, 1);
    if (last) {
        b->time_qkv = linear_of(c, width, 3 * width, 1);
        b->time_scale = weights_of(c, 1, width);
        b->time_decay = weights_of(c, 1, 1);
        b->time_out = linear_of(c, width, width, 1);
    }
    b->gain = weights_of(c, n->bands, width);
    b->band_qkv = linear_of(c, width, 3 * width, 0);
    b->slope = weights_of(c, 1, width / 2);
    b->shift = weights_of(c, 1, width / 2);
    b->scale = weights_of(c, 1, width / 2);
    b->band_out = linear_of(c, width, width, 0);
}

/* Every weight in the order of the file: sase/export/native.py writes the same. */
static void place_weights(cursor *c, sase_stream *s)
{
    const sizes *n = &s->n;
    int columns = 2 * n->channels;
    s->power = weights_of(c, 1, 1);
    s->gate_decay = weights_of(c, 1, 1);
    s->analysis = weights_of(c, 1, n->window);
    s->synthesis = weights_of(c, 1, n->window);
    unit_weights(c, n, &s->first, 2 * FIRST);
    for (int i = 0; i < n->units; i++)
        unit_weights(c, n, &s->encoder[i], KERNEL * columns);
    s->to_bands = weights_of(c, n->bands, n->coarse);
    s->to_features = linear_of(c, columns, n->features, 1);
    for (int i = 0; i < n->blocks; i++)
        block_weights(c, n, &s->blocks[i], i == n->blocks - 1);
    s->from_features = linear_of(c, n->features, columns, 1);
    s->from_bands = weights_of(c, n->coarse, n->bands);
    for (int i = 0; i < n->units; i++)
        unit_weights(c, n, &s->decoder[i], KERNEL * columns);
    s->last = linear_of(c, 2 * columns, 2 * STRIDE, 0);
}

static void unit_state(cursor *c, const sizes *n, unit *u)
{
    if (n->gates) {
        u->sum = memory_of(c, n->coarse, 2);
        u->count = memory_of(c, 1, 1);
        u->frames = memory_of(c, GATE - 1, 2);
    }
}

static void place_state(cursor *c, sase_stream *s)
{
    const sizes *n = &s->n;
    s->state = memory_of(c, 0, 0);
    s->history = memory_of(c, 1, n->window);
    s->overlap = memory_of(c, 1, n->window);
    unit_state(c, n, &s->first);
    for (int i = 0; i < n->units; i++) {
        unit_state(c, n, &s->encoder[i]);
        unit_state(c, n, &s->decoder[i]);
    }
    for (int i = 0; i < n->blocks; i++) {
        block *b = &s->blocks[i];
        b->cell = memory_of(c, n->bands, n->features);
        b->joined = memory_of(c, n->bands, 2 * n->features);
        if (i == n->blocks - 1) {
            b->memory = memory_of(c, n->bands * n->features, n->features);
            b->normaliser = memory_of(c, n->bands, n->features);
        }
    }
    s->state_end = memory_of(c, 0, 0);
}

static void place_scratch(cursor *c, sase_stream *s)
{
    const sizes *n = &s->n;
    int columns = 2 * n->channels;
    s->cosine = memory_of(c, 1, n->fft);
    s->sine = memory_of(c, 1, n->fft);
    s->fft_a = memory_of(c, 1, n->fft);
    s->fft_b = memory_of(c, 1, n->fft);
    s->frame = memory_of(c, 1, n->fft);
    s->spec = memory_of(c, 2, n->freq + 1);
    s->compressed = memory_of(c, n->freq + FIRST - STRIDE, 2);
    for (int i = 0; i <= n->units; i++)
        s->maps[i] = memory_of(c, n->coarse + 2, columns);
    s->convolved = memory_of(c, n->coarse, columns);
    s->magnitudes = memory_of(c, 1, n->channels);
    s->pooled = memory_of(c, n->coarse + GATE - 1, 2);
    s->banded = memory_of(c, n->bands, columns);
    s->features = memory_of(c, n->bands, n->features);
    s->hidden = memory_of(c, n->bands, n->features);
    s->wide = memory_of(c, n->bands, 4 * n->features);
    s->query = memory_of(c, n->bands, n->features / 2);
    s->key = memory_of(c, n->bands, n->features / 2);
    s->products = memory_of(c, n->features / 2, n->features);
    s->mixed = memory_of(c, n->bands, n->features);
    s->mask = memory_of(c, STRIDE * (n->coarse + 1), 2);
}

sase_status sase_check_header(const void *weights, size_t num_bytes, sase_stream *s)
{
    const unsigned char *bytes = weights;
    const uint32_t *words = weights;
    cursor count = {0, 0};
    if (!weights || num_bytes < HEADER || (uintptr_t)weights % sizeof(float))
        return SASE_NOT_WEIGHTS;
    for (int i = 0; i < 8; i++)
        if (bytes[i] != MAGIC[i])
            return SASE_NOT_WEIGHTS;
    if (words[WORD_VERSION] != VERSION)
        return SASE_BAD_VERSION;
    if (!sizes_are_supported(words))
        return SASE_BAD_SIZES;
    s->n = read_sizes(words);
    place_weights(&count, s);
    if (words[WORD_NUM_FLOATS] != count.used || num_bytes != HEADER + count.used * sizeof(float))
        return SASE_BAD_LENGTH;
    return SASE_OK;
}

/* Whether all are numbers of at most this magnitude; neither NaN nor infinity is. */
static int all_within(const float *x, size_t count, float limit)
{
    int within_limit = 1;
    for (size_t i = 0; i < count; i++)
        within_limit &= (x[i] >= -limit) & (x[i] <= limit);
    return within_limit;
}

size_t sase_size(const void *weights, size_t num_bytes)
{
    sase_stream stream;
    cursor count = {0, 0};
    if (sase_check_header(weights, num_bytes, &stream) != SASE_OK)
        return 0;
    place_state(&count, &stream);
    place_scratch(&count, &stream);
    return 2 * 64 + sizeof(sase_stream) + (count.used + 16) * sizeof(float);
}

/* cos and sin of 2πk / fft, in double precision from the angle 2π / fft by the theorems of addition. */
static void fill_angles(int fft, float *cosine, float *sine)
{
    double x = 6.283185307179586476925 / fft, c1 = 1.0, s1 = x, even = 1.0, odd = x, c = 1.0, s = 0.0;
    for (int i = 2; i < 20; i += 2) { /* Taylor series: x ≤ 0.2 */
        even *= -x * x / ((i - 1) * i);
        odd *= -x * x / (i * (i + 1));
        c1 += even, s1 += odd;
    }
    for (int k = 0; k < fft; k++) {
        double next = c * c1 - s * s1;
        cosine[k] = (float)c, sine[k] = (float)s;
        s = s * c1 + c * s1, c = next;
    }
}

static sase_hop_function *choose_code(void)
{
#ifdef SASE_DISPATCH
    __builtin_cpu_init(); /* of the compiler: no library */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return sase_hop_avx2;
#endif
    return sase_hop_generic;
}

sase_status sase_init(void *memory, size_t size, const void *weights, size_t num_bytes, sase_stream **stream)
{
    size_t needed = sase_size(weights, num_bytes);
    uintptr_t start = aligned((uintptr_t)memory), floats = aligned(start + sizeof(sase_stream));
    sase_stream *s = (sase_stream *)start;
    cursor place = {0, 0};
    if (needed && (!memory || size < needed))
        return SASE_BAD_MEMORY;
    if (!needed) {
        sase_stream unused;
        return sase_check_header(weights, num_bytes, &unused);
    }
    if (checksum((const unsigned char *)weights + 16, num_bytes - 16) != ((const uint32_t *)weights)[WORD_CHECKSUM])
        return SASE_BAD_CHECKSUM;
    if (!all_within((const float *)weights + HEADER / 4, (num_bytes - HEADER) / 4, MAX_WEIGHT))
        return SASE_BAD_WEIGHTS;
    clear((void *)start, (uintptr_t)memory + needed - start);
    s->n = read_sizes(weights);
    place.base = (uintptr_t)weights + HEADER;
    place_weights(&place, s);
    place.base = floats, place.used = 0;
    place_state(&place, s);
    place_scratch(&place, s);
    fill_angles(s->n.fft, s->cosine, s->sine);
    s->process = choose_code();
    *stream = s;
    return SASE_OK;
}

void sase_reset(sase_stream *s)
{
    clear(s->state, (size_t)(s->state_end - s->state) * sizeof(float));
}

sase_status sase_process(sase_stream *s, const float *in, float *out)
{
    if (!all_within(in, (size_t)s->n.hop, MAX_SAMPLE))
        return SASE_BAD_SAMPLES;
    s->process(s, in, out);
    return SASE_OK;
}

int sase_sample_rate(const sase_stream *s) { return s->n.sample_rate; }
int sase_hop(const sase_stream *s) { return s->n.hop; }
int sase_delay(const sase_stream *s) { return s->n.window - s->n.hop; }

const char *sase_message(sase_status status)
{
    switch (status) {
    case SASE_OK: return "no error";
    case SASE_NOT_WEIGHTS: return "not a file of weights for the C core";
    case SASE_BAD_VERSION: return "weights of another version of the format, or for another byte order";
    case SASE_BAD_SIZES: return "weights of a network that the C core does not support";
    case SASE_BAD_LENGTH: return "weights that are truncated or longer than their header says";
    case SASE_BAD_CHECKSUM: return "weights that are corrupt: the checksum differs";
    case SASE_BAD_WEIGHTS: return "weights that are NaN, infinite or beyond 1e9";
    case SASE_BAD_MEMORY: return "less memory than the network needs";
    case SASE_BAD_SAMPLES: return "samples contain NaN, infinity or magnitudes beyond 1e12";
    case SASE_BAD_RATE: return "a sample rate that the C core does not resample: 8 to 192 kHz, in multiples of 100 Hz";
    }
    return "unknown status";
}
