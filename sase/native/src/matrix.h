/* Matrix products, blocked for registers. */
#ifndef SASE_MATRIX_H
#define SASE_MATRIX_H

#include "lanes.h"
#include "network.h"

#ifndef TILE_ROWS
#define TILE_ROWS 4 /* rows whose sums stay in registers: 8 of 4 floats, of the 16 that SSE2 and NEON have */
#endif

typedef struct { /* element (row, depth) at values[row · row_step + depth · step] */
    const float *values;
    int row_step, step;
} left_matrix;

typedef struct { /* element (depth, column) at values[column / PANEL · panel_step + depth · row_step + column % PANEL] */
    const float *values;
    int row_step, panel_step;
} right_matrix;

INLINE void tile(int rows, int depth, const float *x, left_matrix a, const float *w, int w_step, const float *bias,
                 float *y, int y_step, int accumulate)
{
    lanes sums[TILE_ROWS];
    for (int i = 0; i < rows; i++) {
        sums[i] = bias ? load(bias) : spread(0.0f);
        if (accumulate)
            sums[i] = add(sums[i], load(y + i * y_step));
    }
    for (int k = 0; k < depth; k++) {
        lanes weight = load(w + k * w_step);
        for (int i = 0; i < rows; i++)
            sums[i] = multiply_add(spread(x[i * a.row_step + k * a.step]), weight, sums[i]);
    }
    for (int i = 0; i < rows; i++)
        store(y + i * y_step, sums[i]);
}

/* y = a · b + bias, or y + a · b + bias; columns: a multiple of PANEL; y_step: from row to row of y. */
static void multiply(int rows, int columns, int depth, left_matrix a, right_matrix b, const float *bias, float *y,
                     int y_step, int accumulate)
{
    for (int column = 0; column < columns; column += PANEL) {
        const float *w = b.values + column / PANEL * b.panel_step, *shift = bias ? bias + column : 0;
        int row = 0;
        for (; row + TILE_ROWS <= rows; row += TILE_ROWS)
            tile(TILE_ROWS, depth, a.values + row * a.row_step, a, w, b.row_step, shift, y + row * y_step + column,
                 y_step, accumulate);
        for (; row < rows; row++)
            tile(1, depth, a.values + row * a.row_step, a, w, b.row_step, shift, y + row * y_step + column, y_step,
                 accumulate);
    }
}

/* A linear layer on rows of x that are x_step apart (which may overlap: a convolution). */
static void apply(linear layer, int rows, int columns, int depth, const float *x, int x_step, float *y, int accumulate)
{
    left_matrix a = {x, x_step, 1};
    right_matrix b = {layer.weight, PANEL, depth * PANEL};
    multiply(rows, columns, depth, a, b, layer.bias, y, columns, accumulate);
}

/* A linear map of the position: y (rows, columns) = map (rows, depth) · x (depth, columns). */
static void map_positions(const float *map, int rows, int depth, int columns, const float *x, float *y, int accumulate)
{
    left_matrix a = {map, depth, 1};
    right_matrix b = {x, columns, PANEL};
    multiply(rows, columns, depth, a, b, 0, y, columns, accumulate);
}

#endif
