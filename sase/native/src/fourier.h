/* Real Fourier transforms of length fft = 2 · 4^k, by a complex one of half the length (Stockham, radix 4). */
#ifndef SASE_FOURIER_H
#define SASE_FOURIER_H

#include "lanes.h"
#include "network.h"

/* One pass: n is the length of the transforms left, s their number; cosine and sine of 2πk / fft, k < fft. */
INLINE void pass(int n, int s, int fft, const float *cosine, const float *sine, const float *restrict x_re,
                 const float *restrict x_im, float *restrict y_re, float *restrict y_im)
{
    int quarter = n / 4, step = fft / n;
    for (int p = 0; p < quarter; p++) {
        float c1 = cosine[p * step], s1 = -sine[p * step], c2 = cosine[2 * p * step], s2 = -sine[2 * p * step];
        float c3 = cosine[3 * p * step], s3 = -sine[3 * p * step];
        for (int q = 0; q < s; q++) {
            int from = p * s + q, to = 4 * p * s + q, part = quarter * s;
            float a_re = x_re[from], a_im = x_im[from], b_re = x_re[from + part], b_im = x_im[from + part];
            float c_re = x_re[from + 2 * part], c_im = x_im[from + 2 * part];
            float d_re = x_re[from + 3 * part], d_im = x_im[from + 3 * part];
            float even_re = a_re + c_re, even_im = a_im + c_im, odd_re = a_re - c_re, odd_im = a_im - c_im;
            float pair_re = b_re + d_re, pair_im = b_im + d_im;
            float turn_re = b_im - d_im, turn_im = d_re - b_re; /* −j (b − d) */
            float t_re = odd_re + turn_re, t_im = odd_im + turn_im, u_re = even_re - pair_re, u_im = even_im - pair_im;
            float v_re = odd_re - turn_re, v_im = odd_im - turn_im;
            y_re[to] = even_re + pair_re;
            y_im[to] = even_im + pair_im;
            y_re[to + s] = t_re * c1 - t_im * s1;
            y_im[to + s] = t_re * s1 + t_im * c1;
            y_re[to + 2 * s] = u_re * c2 - u_im * s2;
            y_im[to + 2 * s] = u_re * s2 + u_im * c2;
            y_re[to + 3 * s] = v_re * c3 - v_im * s3;
            y_im[to + 3 * s] = v_re * s3 + v_im * c3;
        }
    }
}

/* Transform in place n complex numbers, x_re and x_im, with scratch of the same size. Swapped parts: the inverse. */
static void transform(int n, int fft, const float *cosine, const float *sine, float *x_re, float *x_im, float *y_re,
                      float *y_im)
{
    float *in_re = x_re, *in_im = x_im, *out_re = y_re, *out_im = y_im;
    int s = 1;
    for (int left = n; left > 1; left /= 4, s *= 4) {
        float *swap_re = in_re, *swap_im = in_im;
        pass(left, s, fft, cosine, sine, in_re, in_im, out_re, out_im);
        in_re = out_re, in_im = out_im, out_re = swap_re, out_im = swap_im;
    }
    if (in_re != x_re)
        for (int i = 0; i < n; i++)
            x_re[i] = in_re[i], x_im[i] = in_im[i];
}

/* Spectrum, fft / 2 + 1 bins, of a frame of fft samples; scratch: fft + 2 floats twice. */
static void real_transform(int fft, const float *cosine, const float *sine, const float *frame, float *re, float *im,
                           float *a, float *b)
{
    int half = fft / 2;
    float *a_im = a + half, *b_im = b + half;
    for (int i = 0; i < half; i++)
        a[i] = frame[2 * i], a_im[i] = frame[2 * i + 1];
    transform(half, fft, cosine, sine, a, a_im, b, b_im);
    re[0] = a[0] + a_im[0], im[0] = 0.0f;
    re[half] = a[0] - a_im[0], im[half] = 0.0f;
    for (int k = 1; k < half; k++) {
        float even_re = 0.5f * (a[k] + a[half - k]), even_im = 0.5f * (a_im[k] - a_im[half - k]);
        float odd_re = 0.5f * (a_im[k] + a_im[half - k]), odd_im = 0.5f * (a[half - k] - a[k]);
        re[k] = even_re + odd_re * cosine[k] + odd_im * sine[k];
        im[k] = even_im + odd_im * cosine[k] - odd_re * sine[k];
    }
}

/* The inverse; the imaginary parts of the first and the last bin are ignored. */
static void inverse_transform(int fft, const float *cosine, const float *sine, const float *re, const float *im,
                              float *frame, float *a, float *b)
{
    int half = fft / 2;
    float *a_im = a + half, *b_im = b + half, scale = 1.0f / (float)fft;
    a[0] = scale * (re[0] + re[half]), a_im[0] = scale * (re[0] - re[half]);
    for (int k = 1; k < half; k++) {
        float even_re = re[k] + re[half - k], even_im = im[k] - im[half - k];
        float odd_re = re[k] - re[half - k], odd_im = im[k] + im[half - k];
        a[k] = scale * (even_re - odd_re * sine[k] - odd_im * cosine[k]);
        a_im[k] = scale * (even_im + odd_re * cosine[k] - odd_im * sine[k]);
    }
    transform(half, fft, cosine, sine, a_im, a, b_im, b);
    for (int i = 0; i < half; i++)
        frame[2 * i] = a[i], frame[2 * i + 1] = a_im[i];
}

#endif
