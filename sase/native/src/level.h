/* Bring a signal of any level to that of the training, hop by hop, and back: the same as sase/stages/level.py, which says why. */
#ifndef SASE_LEVEL_H
#define SASE_LEVEL_H

#include "functions.h"

static const double TARGET_DB = -24.0, SILENCE_DB = -125.0, TOLERANCE_DB = 8.0; /* as in sase/stages/level.py */
static const double FIRST_S = 0.25, FIRST_DB = 15.0, RISE_S = 0.5, FALL_DB_PER_S = 4.0;
static const double DB_PER_NEPER = 8.685889638065036553; /* 20 / ln 10 */

typedef struct {
    double rise, fall_db, level_db, gain_db;
    int num_first, num_hops; /* over which the first level is measured; that were not silent */
} level;

static void start_level(level *l, int hop, int rate)
{
    double hop_s = (double)hop / rate;
    l->rise = hop_s < RISE_S ? hop_s / RISE_S : 1.0;
    l->fall_db = FALL_DB_PER_S * hop_s;
    l->num_first = (int)(FIRST_S / hop_s + 0.5);
    l->num_first = l->num_first < 1 ? 1 : l->num_first;
    l->num_hops = 0;
    l->level_db = l->gain_db = 0.0;
}

static void update_level(level *l, double power_db)
{
    if (l->num_hops <= l->num_first)
        l->level_db += (power_db + FIRST_DB - l->level_db) / l->num_hops;
    else if (power_db > l->level_db)
        l->level_db += l->rise * (power_db - l->level_db);
    else
        l->level_db = power_db > l->level_db - l->fall_db ? power_db : l->level_db - l->fall_db;
}

/* Scale a hop; `gains` are the factors of its samples, by which the output of the network is to be divided. */
static void scale_hop(level *l, int hop, const float *in, float *out, float *gains)
{
    double energy = 0.0, power_db, before_db = l->gain_db, wanted_db;
    float first, last;
    for (int i = 0; i < hop; i++)
        energy += (double)in[i] * in[i];
    energy /= hop;
    power_db = energy > 1e-30 ? 0.5 * DB_PER_NEPER * logarithm((float)energy) : -300.0;
    if (power_db >= SILENCE_DB) {
        l->num_hops++;
        update_level(l, power_db);
        wanted_db = TARGET_DB - l->level_db;
        if (l->num_hops == 1)
            before_db = l->gain_db = wanted_db;
        l->gain_db = l->gain_db < wanted_db - TOLERANCE_DB ? wanted_db - TOLERANCE_DB : l->gain_db;
        l->gain_db = l->gain_db > wanted_db + TOLERANCE_DB ? wanted_db + TOLERANCE_DB : l->gain_db;
    }
    first = exponential((float)(before_db / DB_PER_NEPER));
    last = exponential((float)(l->gain_db / DB_PER_NEPER));
    for (int i = 0; i < hop; i++) {
        gains[i] = first + (last - first) * ((float)(i + 1) / (float)hop);
        out[i] = in[i] * gains[i];
    }
}

#endif
