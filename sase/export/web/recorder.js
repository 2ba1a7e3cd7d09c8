// The microphone, enhanced in an audio worklet.
"use strict";

const START_S = 5; // a browser without an audio output may never start

class Recorder {
  /** Start recording; onLevels is called with both levels in dB a few times per second. */
  static async start(context, { worklet, wasm, weights, limit, monitor }, onLevels) {
    const recorder = new Recorder();
    recorder.device = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 },
    });
    try {
      await Promise.race([context.resume(), new Promise((resolve) => setTimeout(resolve, 1000 * START_S))]);
      if (context.state !== "running") throw new Error("The browser does not start audio; is there an output device?");
      // A data URL, since file:// pages may not load worklets from blob URLs.
      await context.audioWorklet.addModule(`data:text/javascript;charset=utf-8,${encodeURIComponent(worklet)}`);
      recorder.connect(context, { wasm, weights, limit }, onLevels);
      recorder.setMonitor(monitor);
    } catch (error) {
      recorder.release();
      throw error;
    }
    return recorder;
  }

  connect(context, options, onLevels) {
    this.rate = context.sampleRate;
    this.noisy = [];
    this.enhanced = [];
    this.source = new MediaStreamAudioSourceNode(context, { mediaStream: this.device });
    this.node = new AudioWorkletNode(context, "enhance", {
      channelCount: 1,
      channelCountMode: "explicit",
      outputChannelCount: [1],
      processorOptions: options,
    });
    this.speaker = new GainNode(context, { gain: 0 });
    this.node.connect(this.speaker).connect(context.destination);
    this.source.connect(this.node); // last: no sample passes before the way is complete
    this.ended = new Promise((resolve, reject) => {
      this.node.onprocessorerror = () => reject(new Error("the audio worklet failed"));
      this.node.port.onmessage = ({ data }) => {
        if (data.last) return resolve(data);
        this.noisy.push(data.noisy);
        this.enhanced.push(data.enhanced);
        if (this.noisy.length % 32 === 0) onLevels(levelDb(data.noisy), levelDb(data.enhanced));
      };
    });
  }

  setMonitor(on) {
    this.speaker.gain.value = on ? 1 : 0;
  }

  setLimit(limit) {
    this.node.port.postMessage({ limit });
  }

  /** Stop; return both sounds, aligned and equally long, and the number of gaps. */
  async stop() {
    this.node.port.postMessage({ stop: true });
    const { last, delay, gaps } = await this.ended.finally(() => this.release());
    const sound = (wav) => ({ rate: this.rate, channels: [wav] });
    return {
      noisy: sound(joinPieces(this.noisy)),
      enhanced: sound(joinPieces([...this.enhanced, last]).slice(delay)),
      gaps,
    };
  }

  release() {
    this.source?.disconnect();
    this.node?.disconnect();
    for (const track of this.device.getTracks()) track.stop();
  }
}
