// Plays the original and the enhanced sound together; which of them is heard is a matter of gains, without a gap.
"use strict";

class Player {
  constructor(context, noisy, enhanced, onEnd) {
    this.context = context;
    this.onEnd = onEnd;
    this.duration = noisy.channels[0].length / noisy.rate;
    this.position = 0; // in seconds, of the start or of a pause
    this.started = null; // time of the context
    this.sounds = [noisy, enhanced].map(({ rate, channels }) => {
      const buffer = context.createBuffer(channels.length, channels[0].length, rate);
      channels.forEach((wav, i) => buffer.copyToChannel(wav, i));
      const gain = new GainNode(context, { gain: 0 });
      gain.connect(context.destination);
      return { buffer, gain };
    });
  }

  get playing() {
    return this.started !== null;
  }

  get now() {
    return this.playing ? Math.min(this.duration, this.position + this.context.currentTime - this.started) : this.position;
  }

  /** Set how much of the original and of the enhanced sound is heard. */
  mix(noisy, enhanced) {
    [noisy, enhanced].forEach((gain, i) => {
      this.sounds[i].gain.gain.setTargetAtTime(gain, this.context.currentTime, 0.005);
    });
  }

  play() {
    this.context.resume();
    if (this.position >= this.duration) this.position = 0;
    this.started = this.context.currentTime;
    for (const sound of this.sounds) {
      sound.source = new AudioBufferSourceNode(this.context, { buffer: sound.buffer });
      sound.source.connect(sound.gain);
      sound.source.start(0, this.position);
    }
    this.sounds[0].source.onended = () => {
      this.pause();
      this.onEnd();
    };
  }

  pause() {
    if (!this.playing) return;
    this.position = this.now;
    this.started = null;
    for (const { source } of this.sounds) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
  }

  seek(seconds) {
    const playing = this.playing;
    this.pause();
    this.position = Math.max(0, Math.min(this.duration, seconds));
    if (playing) this.play();
  }
}
