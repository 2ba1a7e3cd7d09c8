"use strict";
// Signals of one utterance, started together; the one that is heard is chosen by gain, so that it changes in place.

const FADE_S = 0.008;
const SPECTRUM = { window: 512, hop: 128, range_db: 80 };

class Player {
  constructor(data) {
    this.data = data;
    this.sounds = new Map(data.sounds.map((sound) => [sound.row, sound.signals]));
    this.context = null;
    this.signals = [];
    this.sources = [];
    this.heard = 0;
    this.playing = false;
    this.position = 0; // seconds, where playing starts
    byId("play").addEventListener("click", () => this.toggle());
    byId("position").addEventListener("input", (event) => this.seek((event.target.value / 1000) * this.duration));
    byId("equal").addEventListener("change", () => this.setGains());
    byId("loop").addEventListener("change", () => this.playing && this.start(this.now()));
  }

  get duration() {
    return Math.max(0, ...this.signals.map((signal) => signal.buffer.duration));
  }

  // Decode the signals of row r and show them; plays if `play`.
  async load(r, play) {
    this.stop();
    this.position = 0;
    const found = this.sounds.get(r);
    const load = (this.loading = Symbol(r));
    const rate = found[0].rate;
    if (!this.context || this.context.sampleRate !== rate) {
      if (this.context) this.context.close();
      this.context = new AudioContext({ sampleRate: rate }); // no resampling: the spectrogram ends at half the rate
    }
    if (play) this.context.resume();
    byId("player").hidden = false;
    let signals;
    try {
      signals = await Promise.all(found.map((signal) => this.decode(signal)));
    } catch (error) {
      if (this.loading === load) byId("playing").textContent = `This browser cannot decode Ogg Vorbis (${error.message})`;
      return;
    }
    if (this.loading !== load) return; // another utterance was chosen meanwhile
    this.signals = signals;
    this.heard = Math.min(this.heard, signals.length - 1);
    this.describe(r);
    this.drawSignals();
    this.drawSpectrograms();
    this.show();
    if (play) this.start(0);
  }

  async decode(signal) {
    const bytes = Uint8Array.from(atob(signal.ogg), (letter) => letter.charCodeAt(0));
    const decoded = (await this.context.decodeAudioData(bytes.buffer)).getChannelData(0);
    const buffer = this.context.createBuffer(1, signal.samples, signal.rate); // silence was added behind the sound
    buffer.copyToChannel(decoded.subarray(0, signal.samples), 0);
    return { ...signal, buffer };
  }

  describe(r) {
    const row = this.data.rows[r];
    const about = [row.speaker && `speaker ${row.speaker}`, row.noise, isNumber(row.snr) && `${row.snr} dB SNR`];
    byId("playing").textContent = [row.utt, ...about.filter(Boolean)].join(", ");
    const scores = [["unprocessed", row.unprocessed]];
    this.data.experiments.forEach((experiment, e) => scores.push([experiment.name, row.scores[e]]));
    const text = scores.filter(([, values]) => values).map(([name, values]) => {
      const shown = this.data.measures.map((measure, m) => measure.drawn && isNumber(values[m]) &&
        `${measure.name} ${number(values[m], measure.decimals)}`);
      return `${name}: ${shown.filter(Boolean).join(", ")}`;
    });
    byId("playing-scores").textContent = text.join("; ");
  }

  drawSignals() {
    const buttons = this.signals.map((signal, s) => {
      const attributes = { type: "button", "aria-pressed": "false", onclick: () => this.hear(s) };
      return make("button", attributes, `${s + 1} ${signal.name}`);
    });
    byId("signals").replaceChildren(...buttons);
    this.hear(this.heard);
  }

  hear(s) {
    if (s >= this.signals.length) return;
    this.heard = s;
    [...byId("signals").children].forEach((button, b) => button.setAttribute("aria-pressed", String(b === s)));
    [...byId("spectrograms").children].forEach((figure, f) => figure.classList.toggle("heard", f === s));
    this.setGains();
  }

  setGains() {
    const equal = byId("equal").checked;
    this.sources.forEach(({ gain }, s) => {
      const level = s === this.heard ? (equal ? 10 ** (this.signals[s].gain_db / 20) : 1) : 0;
      gain.gain.setTargetAtTime(level, this.context.currentTime, FADE_S / 3);
    });
  }

  start(position) {
    this.silence();
    const begin = this.context.currentTime + 0.02;
    const loop = byId("loop").checked;
    this.position = position < this.duration ? position : 0;
    this.begin = begin;
    this.sources = this.signals.map((signal) => {
      const source = new AudioBufferSourceNode(this.context, { buffer: signal.buffer, loop, loopEnd: this.duration });
      const gain = new GainNode(this.context, { gain: 0 });
      source.connect(gain).connect(this.context.destination);
      source.start(begin, this.position);
      return { source, gain };
    });
    this.playing = true;
    this.setGains();
    this.show();
    this.follow();
  }

  silence() {
    for (const { source, gain } of this.sources) {
      source.stop();
      gain.disconnect();
    }
    this.sources = [];
  }

  stop() {
    if (this.playing) this.position = this.now();
    this.silence();
    this.playing = false;
    this.show();
  }

  toggle() {
    if (!this.signals.length) return;
    this.context.resume();
    if (this.playing) this.stop();
    else this.start(this.position);
  }

  seek(position) {
    const place = Math.max(0, Math.min(position, this.duration));
    if (this.playing) this.start(place);
    else this.position = place;
    this.show();
  }

  now() {
    if (!this.playing) return this.position;
    const place = this.position + Math.max(0, this.context.currentTime - this.begin);
    return byId("loop").checked && this.duration ? place % this.duration : Math.min(place, this.duration);
  }

  follow() {
    if (!this.playing) return;
    if (!byId("loop").checked && this.now() >= this.duration) {
      this.stop();
      this.position = 0;
    }
    this.show();
    requestAnimationFrame(() => this.follow());
  }

  show() {
    const [place, total] = [this.now(), this.duration];
    byId("play").textContent = this.playing ? "Pause" : "Play";
    byId("play").setAttribute("aria-pressed", String(this.playing));
    byId("position").value = total ? (place / total) * 1000 : 0;
    byId("position").setAttribute("aria-valuetext", `${place.toFixed(1)} of ${total.toFixed(1)} seconds`);
    byId("time").textContent = `${place.toFixed(1)} of ${total.toFixed(1)} s`;
    for (const cursor of document.querySelectorAll("#spectrograms .cursor")) {
      cursor.style.left = `${total ? (place / total) * 100 : 0}%`;
    }
  }

  drawSpectrograms() {
    const levels = this.signals.map((signal) => spectrogram(signal.buffer.getChannelData(0), SPECTRUM));
    const loudest = levels.reduce((most, level) => level.db.reduce((a, b) => Math.max(a, b), most), -Infinity);
    const figures = this.signals.map((signal, s) => {
      const canvas = paint(levels[s], loudest, SPECTRUM.range_db);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `spectrogram, ${signal.name}, ${this.duration.toFixed(1)} seconds`);
      canvas.addEventListener("click", (event) => {
        this.hear(s);
        this.seek((event.offsetX / canvas.clientWidth) * this.duration);
      });
      return make("figure", {}, make("figcaption", {}, signal.name), canvas, make("div", { class: "cursor" }));
    });
    byId("spectrograms").replaceChildren(...figures);
    this.hear(this.heard);
  }
}

// Levels in dB of a signal: {db: Float32Array (frame, bin), frames, bins}.
function spectrogram(wav, { window, hop }) {
  const bins = window / 2 + 1;
  const step = Math.max(hop, Math.ceil(wav.length / 1600)); // no more frames than can be seen
  const frames = Math.max(1, Math.ceil(wav.length / step));
  const db = new Float32Array(frames * bins);
  const shape = Float64Array.from({ length: window }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / window));
  const [real, imaginary] = [new Float64Array(window), new Float64Array(window)];
  for (let frame = 0; frame < frames; frame++) {
    const first = frame * step - window / 2;
    for (let n = 0; n < window; n++) real[n] = shape[n] * (wav[first + n] || 0);
    imaginary.fill(0);
    transform(real, imaginary);
    for (let bin = 0; bin < bins; bin++) {
      db[frame * bins + bin] = 10 * Math.log10(real[bin] ** 2 + imaginary[bin] ** 2 + 1e-12);
    }
  }
  return { db, frames, bins };
}

// The fast Fourier transform in place, for a power of two.
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let span = 2; span <= size; span <<= 1) {
    const half = span >> 1;
    for (let k = 0; k < half; k++) {
      const angle = (-2 * Math.PI * k) / span;
      const [c, s] = [Math.cos(angle), Math.sin(angle)];
      for (let i = k; i < size; i += span) {
        const j = i + half;
        const re = real[j] * c - imaginary[j] * s;
        const im = real[j] * s + imaginary[j] * c;
        real[j] = real[i] - re;
        imaginary[j] = imaginary[i] - im;
        real[i] += re;
        imaginary[i] += im;
      }
    }
  }
}

function paint({ db, frames, bins }, loudest, range) {
  const canvas = make("canvas", { width: frames, height: bins });
  const image = new ImageData(frames, bins);
  for (let frame = 0; frame < frames; frame++) {
    for (let bin = 0; bin < bins; bin++) {
      const level = Math.max(0, Math.min(1, 1 + (db[frame * bins + bin] - loudest) / range));
      image.data.set(colour(level), 4 * ((bins - 1 - bin) * frames + frame));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// From black over purple and orange to light yellow, with steadily increasing lightness.
const COLOURS = [[0, 0, 4], [40, 17, 89], [114, 31, 129], [183, 55, 121], [241, 96, 93], [254, 176, 120], [252, 253, 191]];

function colour(level) {
  const place = level * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  const part = place - low;
  return [...COLOURS[low].map((value, i) => value + part * (COLOURS[low + 1][i] - value)), 255];
}
