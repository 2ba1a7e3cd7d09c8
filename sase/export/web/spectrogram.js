// Spectrograms on a canvas.
"use strict";

const FFT_SIZE = 512;
const FLOOR_DB = -75;
const HIGHEST_HZ = 12000;
const COLOURS = [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]]; // magma

/** Transform complex numbers in place (radix 2). */
function transform(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const [c, s] = [Math.cos((2 * Math.PI * k) / size), -Math.sin((2 * Math.PI * k) / size)];
      for (let i = k; i < n; i += size) {
        const j = i + size / 2;
        const [x, y] = [re[j] * c - im[j] * s, re[j] * s + im[j] * c];
        [re[j], im[j]] = [re[i] - x, im[i] - y];
        re[i] += x;
        im[i] += y;
      }
    }
  }
}

function colourOf(db) {
  const place = Math.max(0, Math.min(1, 1 - db / FLOOR_DB)) * (COLOURS.length - 1);
  const low = Math.min(COLOURS.length - 2, Math.floor(place));
  return COLOURS[low].map((value, i) => value + (place - low) * (COLOURS[low + 1][i] - value));
}

/** Draw the magnitude of a signal's spectrum over time: one frame per column of the canvas. */
function drawSpectrogram(canvas, wav, rate) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const bins = Math.min(FFT_SIZE / 2, (HIGHEST_HZ / rate) * FFT_SIZE);
  const window = Float64Array.from({ length: FFT_SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / FFT_SIZE));
  for (let x = 0; x < width; x++) {
    const start = Math.round(((x + 0.5) / width) * wav.length - FFT_SIZE / 2);
    const re = window.map((w, i) => w * (wav[start + i] ?? 0));
    const im = new Float64Array(FFT_SIZE);
    transform(re, im);
    for (let y = 0; y < height; y++) {
      const bin = Math.floor((1 - (y + 0.5) / height) * bins);
      const power = (re[bin] ** 2 + im[bin] ** 2) / (FFT_SIZE / 4) ** 2; // 1 for a sine of full scale
      image.data.set([...colourOf(10 * Math.log10(power + 1e-12)), 255], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}
