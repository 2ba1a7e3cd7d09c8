// The C core as WebAssembly: one instance with its own memory per stream. Used by the page and by the audio worklet.
"use strict";

const BLOCK = 4096; // samples that are passed at a time

/**
 * Return a stream at the start of a signal.
 *
 * @param {WebAssembly.Module} module
 * @param {Uint8Array} weights
 * @param {number} rate of the signal in Hz
 * @returns {Object} process(samples) returns as many enhanced samples, which lag the input by `delay`
 * @throws {Error} the weights or the rate are refused
 */
function openStream(module, weights, rate) {
  const core = new WebAssembly.Instance(module).exports;
  let end = core.__heap_base.value;
  const reserve = (numBytes) => {
    const start = (end + 15) & ~15;
    end = start + numBytes;
    const missing = end - core.memory.buffer.byteLength;
    if (missing > 0) core.memory.grow(Math.ceil(missing / 65536));
    return start;
  };
  const place = reserve(weights.length);
  new Uint8Array(core.memory.buffer).set(weights, place);
  const size = core.sase_live_size(place, weights.length, rate);
  const state = reserve(size);
  const answer = reserve(4);
  const samples = reserve(4 * BLOCK);
  if (!size || core.sase_live_init(state, size, place, weights.length, rate, answer) !== 0) {
    throw new Error(`a sample rate of ${rate} Hz is not supported`);
  }
  const stream = new DataView(core.memory.buffer).getUint32(answer, true);
  const view = new Float32Array(core.memory.buffer, samples, BLOCK);

  function process(input) {
    const output = new Float32Array(input.length);
    for (let start = 0; start < input.length; start += BLOCK) {
      const part = input.subarray(start, start + BLOCK);
      view.set(part);
      core.sase_live_process(stream, samples, samples, part.length, 0);
      output.set(view.subarray(0, part.length), start);
    }
    return output;
  }
  return { delay: core.sase_live_delay(stream), process };
}
