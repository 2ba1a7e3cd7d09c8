// The controls of the page.
"use strict";

const element = (id) => document.getElementById(id);
const assets = loadAssets();
let context = null; // the browser allows one only after the user has acted
let player = null;
let recorder = null;
let sounds = null; // {noisy, enhanced, name}
let busy = false;

async function loadAssets() {
  const [wasm, weights] = await Promise.all(["wasm", "weights"].map((id) => unpack(element(id).textContent)));
  return { wasm, weights, worklet: element("worklet").textContent, module: await WebAssembly.compile(wasm) };
}

/** Return the bytes that are embedded compressed and in base64. */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

function limitFactor() {
  const db = Number(element("limit").value);
  return db >= 100 ? 0 : 10 ** (-db / 20);
}

function audioContext() {
  context ??= new AudioContext();
  return context;
}

/** Run one long action at a time; say what fails. */
async function exclusively(action) {
  if (busy) return;
  busy = true;
  try {
    await action();
  } catch (error) {
    say(error.message || String(error), true);
  } finally {
    busy = false;
    element("progress").hidden = true;
  }
}

async function openFile(file) {
  if (recorder) await stopRecording();
  await exclusively(async () => {
    hideResult();
    say(`Reading ${file.name}`);
    const { module, weights } = await assets;
    const open = (rate) => openStream(module, weights, rate);
    const isSupported = (rate) => {
      try {
        return Boolean(open(rate));
      } catch {
        return false;
      }
    };
    let noisy;
    try {
      noisy = await decodeFile(await file.arrayBuffer(), isSupported);
    } catch {
      throw new Error(`${file.name}: this browser cannot decode it`);
    }
    say(`Enhancing ${file.name}`);
    element("progress").hidden = false;
    const started = performance.now();
    const enhanced = await enhanceSound(noisy, open, (part) => (element("progress").value = part));
    const seconds = noisy.channels[0].length / noisy.rate;
    showResult({ noisy, enhanced, name: file.name.replace(/\.[^.]*$/, "") });
    say(`${file.name}: ${seconds.toFixed(1)} s enhanced in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  });
}

async function startRecording() {
  await exclusively(async () => {
    hideResult();
    if (!navigator.mediaDevices) throw new Error("The microphone is available on https, localhost and file pages only");
    const options = { ...(await assets), limit: limitFactor(), monitor: element("monitor").checked };
    delete options.module;
    recorder = await Recorder.start(audioContext(), options, (before, after) => {
      element("level-before").value = before;
      element("level-after").value = after;
    });
    showRecording(true);
    say(`Recording and enhancing at ${context.sampleRate} Hz`);
  });
}

async function stopRecording() {
  await exclusively(async () => {
    const stopped = recorder;
    recorder = null;
    showRecording(false);
    const { noisy, enhanced, gaps } = await stopped.stop();
    showResult({ noisy, enhanced, name: "recording" });
    say(`${(noisy.channels[0].length / noisy.rate).toFixed(1)} s recorded, ${gaps} gaps`);
  });
}

function showRecording(on) {
  element("record").textContent = on ? "Stop recording" : "Record from the microphone";
  element("record").setAttribute("aria-pressed", String(on));
  element("meters").hidden = !on;
}

function hideResult() {
  player?.pause();
  player = sounds = null;
  element("result").hidden = true;
}

function showResult(result) {
  sounds = result;
  player = new Player(audioContext(), result.noisy, result.enhanced, showPlaying);
  element("position").max = player.duration;
  element("result").hidden = false;
  drawSpectrogram(element("spectrogram-before"), result.noisy.channels[0], result.noisy.rate);
  drawSpectrogram(element("spectrogram-after"), result.enhanced.channels[0], result.enhanced.rate);
  applyMix();
  showPlaying();
}

function applyMix() {
  const before = element("toggle").getAttribute("aria-pressed") === "true";
  player?.mix(before ? 1 : limitFactor(), before ? 0 : 1 - limitFactor());
}

function togglePlaying() {
  if (!player) return;
  if (player.playing) player.pause();
  else player.play();
  showPlaying();
}

function toggleBefore() {
  const pressed = element("toggle").getAttribute("aria-pressed") === "true";
  element("toggle").setAttribute("aria-pressed", String(!pressed));
  applyMix();
}

function showPlaying() {
  if (!player) return;
  element("play").textContent = player.playing ? "Pause" : "Play";
  element("position").value = player.now;
  const seconds = Math.floor(player.now);
  element("time").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  if (player.playing) requestAnimationFrame(showPlaying);
}

function seek(seconds) {
  player?.seek(seconds);
  showPlaying();
}

function download(sound, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(encodeWav(sound));
  link.download = `${sounds.name}${suffix}.wav`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) openFile(target.files[0]);
  target.value = ""; // the same file may be chosen again
});
element("record").addEventListener("click", () => (recorder ? stopRecording() : startRecording()));
element("monitor").addEventListener("change", ({ target }) => recorder?.setMonitor(target.checked));
element("limit").addEventListener("input", ({ target }) => {
  element("limit-value").textContent = target.value === "100" ? "none" : `${target.value} dB`;
  recorder?.setLimit(limitFactor());
  applyMix();
});
element("play").addEventListener("click", togglePlaying);
element("toggle").addEventListener("click", toggleBefore);
element("position").addEventListener("input", ({ target }) => seek(Number(target.value)));
element("download").addEventListener("click", () => {
  download(mixSounds(sounds.noisy, sounds.enhanced, limitFactor()), "_enhanced");
});
element("download-original").addEventListener("click", () => download(sounds.noisy, ""));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", () => document.body.classList.remove("dragging"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", (event) => {
  if (!player || event.ctrlKey || event.altKey || event.metaKey) return;
  const onControl = event.target.closest("button, input, label");
  const actions = { " ": togglePlaying, ArrowLeft: () => seek(player.now - 5), ArrowRight: () => seek(player.now + 5) };
  const action = event.key.toLowerCase() === "b" ? toggleBefore : onControl ? null : actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
