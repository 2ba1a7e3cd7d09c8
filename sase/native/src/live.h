/* The same for a program with its own sample rate, its own block sizes, and samples that nobody has checked: live use.
 * The signal may have any level: it is scaled before the network, and back behind it (level.h).
 *
 * The network covers the band up to 8 kHz. What a host's signal has above is not cleaned but turned down with the
 * noise: by one gain per hop, which is that of the network in the upper part of its own band.
 */
#ifndef SASE_LIVE_H
#define SASE_LIVE_H

#include "sase.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sase_live sase_live;

/* The bytes of memory that a live stream needs. 0: the weights are refused, or the host's rate, in Hz, is: it is outside
 * 8 to 192 kHz, or its ratio to the network's rate is no fraction of numbers up to 1024. Multiples of 100 Hz are fine.
 */
size_t sase_live_size(const void *weights, size_t num_bytes, int rate);

/* Create a live stream, at the start of a signal, in the given memory. SASE_BAD_RATE: the host's rate is refused. */
sase_status sase_live_init(void *memory, size_t size, const void *weights, size_t num_bytes, int rate, sase_live **live);

/* Return to the start of a signal. */
void sase_live_reset(sase_live *live);

/* Enhance any number of samples; `out` may be `in`. NaN, infinity and magnitudes beyond 1e5 count as zero.
 * limit: the attenuation limit as a factor, 10^(−dB / 20): at least so much of the input remains; 0 for no limit.
 */
void sase_live_process(sase_live *live, const float *in, float *out, size_t count, float limit);

int sase_live_delay(const sase_live *live); /* samples by which the output lags the input */

#ifdef __cplusplus
}
#endif
#endif
