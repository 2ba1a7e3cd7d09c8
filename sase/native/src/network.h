/* The network's sizes, its weights (pointers into the caller's buffer) and a stream's memory. */
#ifndef SASE_NETWORK_H
#define SASE_NETWORK_H

#include "sase.h"

enum {
    STRIDE = 4,    /* of the first convolution over frequency */
    FIRST = 8,     /* kernel of the first and the last convolution */
    KERNEL = 3,    /* of the residual units, over frequency */
    GATE = 7,      /* kernel of both convolutions of a gate */
    PANEL = 8,     /* columns of a weight matrix that are stored together */
    MAX_UNITS = 8, /* residual units of the encoder */
    MAX_BLOCKS = 8,
    MAX_FEATURES = 256
};

typedef struct {
    int sample_rate, window, hop, fft;
    int channels; /* complex; maps have 2 · channels real ones */
    int units;    /* residual units of the encoder, and of the decoder */
    int features, bands, blocks, gates;
    int freq, coarse; /* fft / 2 positions, and those after the first convolution */
} sizes;

typedef struct { /* depth · columns in panels [columns / PANEL][depth][PANEL], and the bias of each column, or none */
    const float *weight, *bias;
} linear;

typedef struct {
    linear conv;
    const float *slope;                      /* of PReLU */
    const float *gate_frequency, *gate_time; /* [GATE][2] and a bias each */
    float *sum, *count, *frames;             /* state: decayed sum [coarse][2] and count, past frames [GATE - 1][2] */
} unit;

typedef struct {
    linear lstm, project;
    linear time_qkv, time_out; /* attention over time, in the last block */
    const float *time_scale, *time_decay;
    const float *gain; /* attention over bands: [bands][features] */
    linear band_qkv, band_out;
    const float *slope, *shift, *scale; /* of its sigmoids: α, α · c and |β| */
    float *cell, *joined;               /* state: [bands][features]; [bands][input, hidden] */
    float *memory, *normaliser;         /* state: [bands][features][features], [bands][features] */
} block;

typedef void sase_hop_function(sase_stream *, const float *, float *);

struct sase_stream {
    sizes n;
    sase_hop_function *process;
    /* weights */
    const float *power, *gate_decay, *analysis, *synthesis, *to_bands, *from_bands;
    linear to_features, from_features, last;
    unit first, encoder[MAX_UNITS], decoder[MAX_UNITS];
    block blocks[MAX_BLOCKS];
    /* constants */
    float *cosine, *sine; /* [fft]: of 2πk / fft */
    /* state, from here to state_end with that of units and blocks */
    float *state, *state_end;
    float *history, *overlap; /* [window] */
    /* scratch */
    float *fft_a, *fft_b, *frame; /* [fft] */
    float *spec;                  /* [2][freq + 1], real and imaginary parts */
    float *compressed;            /* [2 + freq + 2][2], zeros at both ends */
    float *maps[MAX_UNITS + 1];   /* [1 + coarse + 1][2 · channels]: outputs of the encoder, zeros at both ends */
    float *convolved;             /* [coarse][2 · channels] */
    float *magnitudes;            /* [channels] */
    float *pooled;                /* [3 + coarse + 3][2], zeros at both ends */
    float *banded;                /* [bands][2 · channels] */
    float *features, *hidden;     /* [bands][features] */
    float *wide;                  /* [bands][4 · features] */
    float *query, *key;           /* [bands][features / 2] */
    float *products;              /* [features / 2][features] */
    float *mixed;                 /* [bands][features] */
    float *mask;                  /* [STRIDE · (coarse + 1)][2] */
};

/* Read the sizes of a stream from the header of its weights, which are checked; the rest of the stream is undefined. */
sase_status sase_check_header(const void *weights, size_t num_bytes, sase_stream *stream);

void sase_hop_generic(sase_stream *stream, const float *in, float *out);
void sase_hop_avx2(sase_stream *stream, const float *in, float *out);

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__) && !defined(SASE_NO_DISPATCH)
#define SASE_DISPATCH 1 /* code for AVX2 is compiled too and chosen at run time */
#endif

#endif
