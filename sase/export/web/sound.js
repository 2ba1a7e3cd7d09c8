// Sound in memory: {rate, channels: [Float32Array]}. Decoding by the browser, WAV files, levels.
"use strict";

const USUAL_RATE = 48000;

/** Return the sample rate that a WAV or FLAC file declares; null for other files. */
function declaredRate(buffer) {
  const view = new DataView(buffer);
  const tag = (at) => (at + 4 <= view.byteLength ? String.fromCharCode(...new Uint8Array(buffer, at, 4)) : "");
  if (tag(0) === "fLaC" && view.byteLength >= 22) return (view.getUint32(18) >>> 12) || null;
  if (tag(0) !== "RIFF" || tag(8) !== "WAVE") return null;
  for (let at = 12; at + 16 <= view.byteLength; at += 8 + view.getUint32(at + 4, true)) {
    if (tag(at) === "fmt ") return view.getUint32(at + 12, true);
  }
  return null;
}

/** Decode whatever this browser decodes, at the rate of the file if it declares one that the core supports. */
async function decodeFile(buffer, isSupported) {
  let rate = declaredRate(buffer) ?? USUAL_RATE;
  if (!isSupported(rate)) rate = USUAL_RATE; // decoding resamples to the rate of the context
  const decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(buffer);
  return { rate, channels: Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i)) };
}

/** Enhance a sound in slices, so that the page stays responsive. */
async function enhanceSound(sound, open, onProgress) {
  const channels = [];
  for (const [number, wav] of sound.channels.entries()) {
    const stream = open(sound.rate);
    const enhanced = new Float32Array(wav.length);
    for (let start = 0; start < wav.length + stream.delay; start += sound.rate) {
      const slice = new Float32Array(Math.min(sound.rate, wav.length + stream.delay - start)); // zeros behind the end
      slice.set(wav.subarray(start, start + slice.length));
      const output = stream.process(slice);
      const ahead = Math.max(0, stream.delay - start); // precedes the signal
      enhanced.set(output.subarray(ahead), Math.max(0, start - stream.delay));
      onProgress((number + start / wav.length) / sound.channels.length);
      await new Promise((resolve) => setTimeout(resolve));
    }
    channels.push(enhanced);
  }
  return { rate: sound.rate, channels };
}

/** Return enhanced + limit · (noisy − enhanced). */
function mixSounds(noisy, enhanced, limit) {
  const channels = enhanced.channels.map((wav, c) => wav.map((x, i) => x + limit * (noisy.channels[c][i] - x)));
  return { rate: enhanced.rate, channels };
}

/** Return a WAV file with 16 bits per sample. */
function encodeWav({ rate, channels }) {
  const [count, length] = [channels.length, channels[0].length];
  const view = new DataView(new ArrayBuffer(44 + 2 * count * length));
  const text = (at, characters) => [...characters].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, count, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * count * rate, true);
  view.setUint16(32, 2 * count, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * count * length, true);
  for (let i = 0, at = 44; i < length; i++) {
    for (let c = 0; c < count; c++, at += 2) {
      view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * channels[c][i]))), true);
    }
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** Return the level of samples in dB below full scale, at least −60. */
function levelDb(samples) {
  const energy = samples.reduce((total, x) => total + x * x, 0) / Math.max(1, samples.length);
  return Math.max(-60, 10 * Math.log10(energy + 1e-12));
}

/** Return equally long pieces of one channel as one array. */
function joinPieces(pieces) {
  const joined = new Float32Array(pieces.reduce((total, piece) => total + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined;
}
