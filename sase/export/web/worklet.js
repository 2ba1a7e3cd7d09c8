// Enhances a live signal in the audio thread, plays it if asked to, and sends both signals to the page.
// The rate is that of the context, since a browser may refuse a microphone at any other; the core resamples.
"use strict";

const SETTLE_S = 0.1; // after the first sample; until then the browser may leave out blocks

class Enhance extends AudioWorkletProcessor {
  constructor({ processorOptions: { wasm, weights, limit } }) {
    super();
    this.stream = openStream(new WebAssembly.Module(wasm), weights, sampleRate);
    this.noisy = new Float32Array(this.stream.delay + 128); // the input that the output lags
    this.limit = limit;
    this.nextFrame = null;
    this.gaps = 0;
    this.running = true;
    this.port.onmessage = ({ data }) => {
      if ("limit" in data) this.limit = data.limit;
      if (data.stop) this.stop();
    };
  }

  process([input], [output]) {
    if (!this.running) return false;
    if (input.length) this.settled ??= currentFrame + SETTLE_S * sampleRate;
    if (!(currentFrame >= this.settled)) return true;
    const samples = input.length ? input[0] : new Float32Array(output[0].length); // it pauses: there is no channel
    if (this.nextFrame !== null && this.nextFrame !== currentFrame) this.gaps++;
    this.nextFrame = currentFrame + samples.length;
    const enhanced = this.stream.process(samples);
    this.noisy.copyWithin(0, samples.length);
    this.noisy.set(samples, this.noisy.length - samples.length);
    for (let i = 0; i < samples.length; i++) {
      const noisy = this.noisy[this.noisy.length - samples.length - this.stream.delay + i];
      for (const channel of output) channel[i] = enhanced[i] + this.limit * (noisy - enhanced[i]);
    }
    this.port.postMessage({ noisy: samples.slice(), enhanced });
    return true;
  }

  stop() {
    this.running = false;
    const enhanced = this.stream.process(new Float32Array(this.stream.delay));
    this.port.postMessage({ last: enhanced, delay: this.stream.delay, gaps: this.gaps });
  }
}

registerProcessor("enhance", Enhance);
