"""The web page in Chromium and Firefox: files, a fake microphone, keyboard, narrow and dark screens, no request."""

import functools
import http.server
import re
import threading
import time

import numpy as np
import pytest
import soundfile
import soxr

from helpers.audio import noise
from helpers.browser import Chromium
from helpers.firefox import Firefox
from helpers.native import Live, signals
from sase.export.core_weights import core_weights
from sase.export.web import export_web

TOLERANCE = 1e-4  # a download has 16 bits
STATUS = "document.querySelector('#status').textContent"
SHOWN = "!document.querySelector('#result').hidden"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    export_web(core_weights("tiny"), path, "tiny")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium.started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def native(core_build, core_weights):
    """``native(wav, rate)`` is what the C core makes of a signal, (time,) or (time, channels)."""

    def enhance(wav, rate):
        channels = [Live(core_build / "_core.so", core_weights["tiny"], rate).enhance(w) for w in np.atleast_2d(wav.T)]
        return np.clip(np.stack(channels, -1).reshape(wav.shape), -1, 1)

    return enhance


def read(path):
    return soundfile.read(path, dtype="float32")


def enhance_file(browser, address, path):
    """Enhance a file on the page; return the result that the page offers for download."""
    browser.open(address)
    browser.choose_file("#file", path)
    browser.wait(f"{SHOWN} || document.querySelector('#status').classList.contains('error')")
    browser.click("#download")
    return read(browser.downloaded(f"{path.stem}_enhanced.wav"))


def test_one_small_file_that_may_ask_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size <= 250_000
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy  # so the default holds: no request
    assert "unsafe-inline" not in policy
    assert "http:" not in text
    assert "https:" not in text
    assert "{{" not in text


@pytest.mark.recipe
@pytest.mark.parametrize(("rate", "channels", "subtype"), [(16000, 1, "PCM_16"), (44100, 2, "PCM_24")])
def test_files_are_enhanced_as_by_the_core(page, browser, native, tmp_path, rate, channels, subtype):
    wav = np.stack([np.roll(0.5 * signals(16000), 5000 * c) for c in range(channels)], -1)
    path = tmp_path / f"a sound {rate}.wav"
    soundfile.write(path, wav, rate, subtype)
    enhanced, out_rate = enhance_file(browser, page.as_uri(), path)
    noisy = read(path)[0]
    assert out_rate == rate
    assert enhanced.shape == noisy.shape
    assert np.abs(enhanced - native(noisy, rate)).max() <= TOLERANCE
    assert np.abs(enhanced - noisy).max() > 0.01
    assert browser.messages == []
    assert set(browser.requests) == {page.as_uri()}


@pytest.mark.recipe
def test_files_in_firefox(page, native, tmp_path):
    soundfile.write(tmp_path / "speech.wav", 0.5 * signals(16000), 48000, "PCM_16")
    with Firefox.started(tmp_path) as firefox:
        enhanced, rate = enhance_file(firefox, page.as_uri(), tmp_path / "speech.wav")
        entries = firefox.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    noisy, _ = read(tmp_path / "speech.wav")
    assert rate == 48000
    assert np.abs(enhanced - native(noisy, 48000)).max() <= TOLERANCE
    assert entries == []


@pytest.mark.recipe
def test_other_formats_and_a_static_server(page, browser, native, tmp_path):
    """An Ogg file is decoded by the browser at 48 kHz; a server is asked for nothing but the page."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=page.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/page.html"
        soundfile.write(tmp_path / "speech.ogg", 0.5 * signals(16000), 48000, format="OGG", subtype="VORBIS")
        enhanced, rate = enhance_file(browser, address, tmp_path / "speech.ogg")
        server.shutdown()
    noisy = read(tmp_path / "speech.ogg")[0]
    assert rate == 48000
    assert len(enhanced) == len(noisy)
    expected = native(noisy, 48000)
    assert np.sum((enhanced - expected) ** 2) < 1e-4 * np.sum(expected**2)  # two decoders
    assert {address for address in browser.requests if address.startswith("http")} == {address}


@pytest.mark.recipe
def test_a_file_that_is_no_sound_is_named(page, browser, tmp_path):
    (tmp_path / "notes.wav").write_text("not a sound")
    browser.open(page.as_uri())
    browser.choose_file("#file", tmp_path / "notes.wav")
    browser.wait("document.querySelector('#status').classList.contains('error')")
    assert browser.evaluate(STATUS) == "notes.wav: this browser cannot decode it"


@pytest.mark.recipe
def test_the_limit_mixes_the_original_in(page, browser, native, tmp_path):
    soundfile.write(tmp_path / "limited.wav", 0.5 * signals(8000), 16000)
    full, _ = enhance_file(browser, page.as_uri(), tmp_path / "limited.wav")
    browser.evaluate("document.querySelector('#limit').value = 20")
    browser.evaluate("document.querySelector('#limit').dispatchEvent(new Event('input', {bubbles: true}))")
    assert browser.evaluate("document.querySelector('#limit-value').textContent") == "20 dB"
    (browser.folder / "limited_enhanced.wav").unlink()
    browser.downloads.clear()
    browser.click("#download")
    limited, _ = read(browser.downloaded("limited_enhanced.wav"))
    noisy, _ = read(tmp_path / "limited.wav")
    assert np.abs(limited - (0.1 * noisy + 0.9 * full)).max() <= TOLERANCE


@pytest.mark.recipe
def test_keyboard_and_screen_reader(page, browser, tmp_path):
    soundfile.write(tmp_path / "long.wav", 0.3 * noise(20 * 16000), 16000)
    browser.open(page.as_uri(), width=360)
    order = []
    for _ in range(4):
        browser.press("Tab")
        order.append(browser.evaluate("document.activeElement.id"))
    assert order == ["file", "record", "monitor", "limit"]
    browser.choose_file("#file", tmp_path / "long.wav")
    browser.wait(SHOWN)
    named = {"button", "checkbox", "slider", "image", "region", "heading"}
    nodes = browser.accessible_nodes()
    assert not [node for node in nodes if node[0] in named and not node[1].strip()]
    roles = [role for role, _ in nodes]
    assert {"banner", "main", "status", "region"} <= set(roles)
    assert ("button", "Choose a file") in nodes
    assert ("slider", "Attenuation limit") in nodes
    browser.evaluate("document.activeElement.blur()")
    pressed = "document.querySelector('#toggle').ariaPressed"
    browser.press("b")
    assert browser.evaluate(pressed) == "true"
    browser.press("b")
    assert browser.evaluate(pressed) == "false"
    browser.press("ArrowRight")
    assert browser.evaluate("document.querySelector('#position').value") == "5"
    browser.press(" ", "Space", " ")
    browser.wait("document.querySelector('#play').textContent === 'Pause'")
    browser.wait("Number(document.querySelector('#position').value) > 5.2")
    browser.press(" ", "Space", " ")
    assert browser.evaluate("document.querySelector('#play').textContent") == "Play"


@pytest.mark.recipe
@pytest.mark.parametrize("dark", [False, True])
def test_narrow_screens(page, browser, tmp_path, dark):
    """Nothing reaches beyond 360 pixels, and texts keep a contrast of 4.5 : 1 in both schemes (WCAG 2, 1.4.3)."""
    soundfile.write(tmp_path / "sound.wav", 0.3 * noise(8000), 16000)
    browser.open(page.as_uri(), width=360, dark=dark)
    browser.choose_file("#file", tmp_path / "sound.wav")
    browser.wait(SHOWN)
    beyond = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 360).length"
    assert browser.evaluate(beyond) == 0
    assert browser.evaluate("document.documentElement.scrollWidth <= 360")
    backgrounds = {"body": "body", ".hint": "section", "h2": "section", "#record": "#record", "footer p": "body"}
    for selector, behind in backgrounds.items():
        colours = [
            browser.evaluate(f"getComputedStyle(document.querySelector('{s}')).{p}")
            for s, p in ((selector, "color"), (behind, "backgroundColor"))
        ]
        light, dim = sorted((luminance(colour) for colour in colours), reverse=True)
        assert (light + 0.05) / (dim + 0.05) >= 4.5, (selector, colours)
    assert (luminance(browser.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1) == dark


def luminance(colour):
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    values = np.array([int(v) for v in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.recipe
def test_ten_seconds_from_the_microphone(page, native, tmp_path):
    """The recording follows the microphone without a gap, and the output is that of the core."""
    played = (0.1 * np.random.default_rng(0).standard_normal(20 * 48000)).clip(-1, 1)
    soundfile.write(tmp_path / "microphone.wav", played, 48000, "PCM_16")
    with Chromium.started(tmp_path, tmp_path / "microphone.wav") as browser:
        browser.open(page.as_uri())
        browser.click("#record")
        browser.wait("document.querySelector('#record').ariaPressed === 'true'")
        time.sleep(10.5)
        browser.click("#record")
        browser.wait(SHOWN)
        assert re.fullmatch(r"\d+\.\d s recorded, 0 gaps", browser.evaluate(STATUS))
        browser.click("#download")
        enhanced, rate = read(browser.downloaded("recording_enhanced.wav"))
        browser.click("#download-original")
        noisy, _ = read(browser.downloaded("recording.wav"))
        assert set(browser.requests) == {page.as_uri()}
        assert browser.messages == []
    assert len(noisy) == len(enhanced) >= 10 * rate
    assert np.abs(enhanced - native(noisy, rate)).max() <= TOLERANCE
    # The fake microphone itself drops or repeats whole buffers of 10 ms on a busy machine; any other gap is the page's.
    played = soxr.resample(np.tile(played, 2), 48000, rate)
    lags = [lag(noisy[at : at + rate // 2], played[at : at + 3 * rate]) for at in range(rate, 10 * rate, rate // 2)]
    assert {(lags[0] - other) % (rate // 100) for other in lags} == {0}


def lag(part, wav):
    """Where a part of a signal lies in it."""
    size = 1 << (len(wav) + len(part)).bit_length()
    return int(np.fft.irfft(np.fft.rfft(wav, size) * np.fft.rfft(part, size).conj(), size).argmax())
