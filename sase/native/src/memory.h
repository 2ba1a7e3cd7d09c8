/* Pieces of memory for streams, one after the other, without a library. */
#ifndef SASE_MEMORY_H
#define SASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "lanes.h"

/* Takes pieces of a buffer one after the other; with a null base it only counts. */
typedef struct {
    uintptr_t base;
    size_t used; /* floats */
} cursor;

INLINE uintptr_t take(cursor *c, int rows, int columns)
{
    uintptr_t piece = c->base ? c->base + c->used * sizeof(float) : 0;
    c->used += (size_t)rows * (size_t)columns;
    return piece;
}

INLINE float *memory_of(cursor *c, int rows, int columns)
{
    c->used = (c->used + 15) / 16 * 16; /* cache lines */
    return (float *)take(c, rows, columns);
}

/* A stream's own structure starts at a multiple of 64 bytes, and so do the floats behind it. */
INLINE uintptr_t aligned(uintptr_t address) { return (address + 63) & ~(uintptr_t)63; }

INLINE void clear(void *memory, size_t num_bytes)
{
    for (volatile unsigned char *at = memory; at < (unsigned char *)memory + num_bytes; at++)
        *at = 0; /* volatile: no call of memset */
}

#endif
