/* Enhances noisy speech, one hop of samples at a time. C99; no allocation, no globals, no libc.
 *
 *     size_t size = sase_size(weights, num_bytes);             0: the weights are refused
 *     sase_stream *stream;
 *     sase_init(memory, size, weights, num_bytes, &stream);    memory: yours, any alignment
 *     while (...)
 *         sase_process(stream, in, out);                       sase_hop() samples each
 *
 * Several streams may share one buffer of weights, which must outlive them. Streams are independent of each other; one
 * stream must not be used by two threads at the same time.
 */
#ifndef SASE_H
#define SASE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sase_stream sase_stream;

typedef enum {
    SASE_OK = 0,
    SASE_NOT_WEIGHTS,  /* no magic number at the start, or a buffer that is not aligned to 4 bytes */
    SASE_BAD_VERSION,  /* of the format, or the byte order of another machine */
    SASE_BAD_SIZES,    /* sizes in the header that this code does not support */
    SASE_BAD_LENGTH,   /* the buffer is shorter or longer than the header says */
    SASE_BAD_CHECKSUM, /* the contents are corrupt */
    SASE_BAD_WEIGHTS,  /* a weight is NaN, infinite or beyond 1e9 */
    SASE_BAD_MEMORY,   /* less than sase_size() */
    SASE_BAD_SAMPLES,  /* a sample is NaN, infinite or beyond 1e12; the stream is unchanged */
    SASE_BAD_RATE      /* a sample rate of live.h that is not supported */
} sase_status;

/* The bytes of memory that a stream needs; 0 if the header of the weights is refused. */
size_t sase_size(const void *weights, size_t num_bytes);

/* Check the weights and create a stream, at the start of a signal, in the given memory. On failure *stream is unset. */
sase_status sase_init(void *memory, size_t size, const void *weights, size_t num_bytes, sase_stream **stream);

/* Return to the start of a signal. */
void sase_reset(sase_stream *stream);

/* Enhance the next hop: sase_hop() samples in and out, in [-1, 1], which may be the same buffer. */
sase_status sase_process(sase_stream *stream, const float *in, float *out);

int sase_sample_rate(const sase_stream *stream); /* in Hz */
int sase_hop(const sase_stream *stream);         /* in samples */
int sase_delay(const sase_stream *stream);       /* samples by which the output lags the input */

/* One line of English about a status. */
const char *sase_message(sase_status status);

#ifdef __cplusplus
}
#endif
#endif
