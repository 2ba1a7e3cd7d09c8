/* sase-denoise: raw mono samples on standard input, enhanced samples on standard output, a hop at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "level.h"
#include "sase.h"

#ifdef SASE_COMPILED_WEIGHTS /* make WEIGHTS=FILE.c */
extern const unsigned int sase_weights[];
extern const unsigned long sase_weights_size;
#endif

static const char USAGE[] =
    "usage: sase-denoise [-f s16le|f32le] [WEIGHTS]\n"
    "Enhance raw mono samples from standard input, at the sample rate of the weights, to standard output.\n"
    "  -f FORMAT  16-bit integers (default) or 32-bit floats in [-1, 1], little-endian\n"
    "  WEIGHTS    file written by 'sase export --to native'; not needed if weights are compiled in\n";

static int fail(const char *subject, const char *what)
{
    fprintf(stderr, "sase-denoise: %s: %s\n", subject, what);
    return 1;
}

/* Return the contents of a file, allocated, or NULL. */
static void *read_file(const char *path, size_t *num_bytes)
{
    FILE *file = fopen(path, "rb");
    unsigned char *contents = NULL;
    size_t room = 0, got;
    *num_bytes = 0;
    if (!file)
        return NULL;
    do {
        unsigned char *larger = realloc(contents, room += 1 << 18);
        if (!larger)
            break;
        contents = larger;
        got = fread(contents + *num_bytes, 1, room - *num_bytes, file);
        *num_bytes += got;
    } while (*num_bytes == room);
    if (ferror(file)) {
        free(contents);
        contents = NULL;
    }
    fclose(file);
    return contents;
}

static void to_floats(const unsigned char *bytes, size_t count, int is_float, float *samples)
{
    if (is_float)
        memcpy(samples, bytes, count * sizeof(float));
    else
        for (size_t i = 0; i < count; i++) {
            int value = bytes[2 * i] | bytes[2 * i + 1] << 8;
            samples[i] = (float)(value < 32768 ? value : value - 65536) / 32768.0f;
        }
}

static void to_bytes(const float *samples, size_t count, int is_float, unsigned char *bytes)
{
    if (is_float)
        memcpy(bytes, samples, count * sizeof(float));
    else
        for (size_t i = 0; i < count; i++) {
            float scaled = samples[i] * 32768.0f;
            int value = scaled >= 32767.0f ? 32767 : scaled <= -32768.0f ? -32768 : (int)(scaled + (scaled < 0 ? -0.5f : 0.5f));
            bytes[2 * i] = (unsigned char)(value & 255);
            bytes[2 * i + 1] = (unsigned char)(value >> 8 & 255);
        }
}

/* Enhance everything; the output is aligned with the input and as long. Returns the exit status.
 * samples: memory for two hops, the delay and one more hop.
 */
static int denoise(sase_stream *stream, int is_float, float *samples)
{
    size_t hop = (size_t)sase_hop(stream), lag = (size_t)sase_delay(stream), size = is_float ? 4 : 2, to_drop = lag;
    float *scales = samples + 2 * hop; /* of the level, for the samples that are in the network */
    unsigned char *bytes = (unsigned char *)(samples + hop);
    level scale;
    size_t missing = 0; /* samples that were read and not yet written */
    int ended = 0, status = 0;
    start_level(&scale, (int)hop, sase_sample_rate(stream));
    for (size_t i = 0; i < lag; i++)
        scales[i] = 1.0f;
    while (!ended || missing) {
        size_t got = ended ? 0 : fread(bytes, 1, hop * size, stdin), dropped, count;
        sase_status result;
        if (got < hop * size && !ended) {
            ended = 1;
            if (ferror(stdin))
                status = fail("standard input", "cannot be read");
            else if (got % size)
                status = fail("standard input", "ends within a sample");
        }
        to_floats(bytes, got / size, is_float, samples);
        for (size_t i = got / size; i < hop; i++)
            samples[i] = 0.0f;
        missing += got / size;
        scale_hop(&scale, (int)hop, samples, samples, scales + lag);
        result = sase_process(stream, samples, samples);
        if (result != SASE_OK)
            return fail("standard input", sase_message(result));
        for (size_t i = 0; i < hop; i++)
            samples[i] /= scales[i];
        memmove(scales, scales + hop, lag * sizeof *scales);
        dropped = to_drop < hop ? to_drop : hop;
        to_drop -= dropped;
        count = hop - dropped < missing ? hop - dropped : missing;
        missing -= count;
        to_bytes(samples + dropped, count, is_float, bytes);
        if (fwrite(bytes, size, count, stdout) != count || fflush(stdout))
            return fail("standard output", "cannot be written");
    }
    return status;
}

int main(int argc, char **argv)
{
    const char *path = NULL;
    const void *weights = NULL;
    void *contents = NULL, *memory = NULL, *buffer = NULL;
    size_t num_bytes = 0, size;
    sase_stream *stream = NULL;
    sase_status result;
    int is_float = 0, status = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--help")) {
            fputs(USAGE, stdout);
            return 0;
        }
        if (!strcmp(argv[i], "-f") && i + 1 < argc && (!strcmp(argv[i + 1], "s16le") || !strcmp(argv[i + 1], "f32le")))
            is_float = !strcmp(argv[++i], "f32le");
        else if (argv[i][0] != '-' && !path)
            path = argv[i];
        else {
            fputs(USAGE, stderr);
            return 2;
        }
    }
#ifdef SASE_COMPILED_WEIGHTS
    weights = sase_weights, num_bytes = sase_weights_size;
#endif
    if (path) {
        weights = contents = read_file(path, &num_bytes);
        if (!contents)
            return fail(path, "cannot be read");
    }
    if (!weights) {
        fputs(USAGE, stderr);
        return 2;
    }
    size = sase_size(weights, num_bytes);
    memory = malloc(size + 1);
    result = memory ? sase_init(memory, size, weights, num_bytes, &stream) : SASE_BAD_MEMORY;
    if (result != SASE_OK)
        fail(path ? path : "compiled-in weights", sase_message(result));
    else if (!(buffer = malloc((size_t)(3 * sase_hop(stream) + sase_delay(stream)) * sizeof(float))))
        fail("memory", "cannot be allocated");
    else
        status = denoise(stream, is_float, buffer);
    free(buffer);
    free(memory);
    free(contents);
    return status;
}
