"""The page of ``sase report`` in Chromium: sorting, filters and means, playback, what is asked of the network."""

import json
import math

import numpy as np
import pytest

from helpers.browser import Chromium
from helpers.experiments import HOSTILE, made_experiment
from sase.evaluation.scores import Scores, write_scores
from sase.metrics.measures import METRICS
from sase.report.page import write_page

pytestmark = pytest.mark.recipe
NAMES = list(METRICS)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium.started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two experiments of twelve utterances: (page of the first, page of both, what they must show)."""
    folder = tmp_path_factory.mktemp("made")
    (one, first), (two, second) = (made_experiment(folder, name, utts=12, seed=n) for n, name in enumerate("ab"))
    write_page([one], folder / "one.html", log=lambda line: None)
    write_page([one, two], folder / "two.html", log=lambda line: None)
    return folder / "one.html", folder / "two.html", first, second


@pytest.fixture
def page(browser, made):
    """The browser at the page of the first experiment, and what it must show; it makes no error and no request."""
    browser.messages.clear()
    browser.requests.clear()
    browser.open(made[0].as_uri())
    browser.wait("player.signals.length === 3")
    yield browser, made[2]
    assert browser.messages == []
    assert browser.requests == [made[0].as_uri()]


def shown(browser):
    """The utterances of the table, from top to bottom."""
    return browser.evaluate("[...document.querySelectorAll('#table tbody th')].map((cell) => cell.textContent)")


def means(browser):
    """{signal: means of the measures} of the table of means, None for undefined ones."""
    text = browser.evaluate(
        "JSON.stringify([...document.querySelectorAll('#means tbody tr')].map((row) => [row.cells[0].textContent,"
        "[...row.cells].slice(1).map((cell) => cell.dataset.mean)]))"
    )
    return {name: [float(value) if value else None for value in values] for name, values in json.loads(text)}


def set_value(browser, selector, value):
    browser.evaluate(
        f"{{ const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(value)};"
        "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true})); }"
    )


def assert_means(browser, expected, utts, name="a"):
    for signal, table in (("unprocessed", expected.unprocessed), (name, expected.enhanced)):
        columns = np.array([[table[utt][measure] for measure in NAMES] for utt in utts])
        assert means(browser)[signal] == pytest.approx(np.nanmean(columns, axis=0), abs=2e-6)


def test_headings_sort_and_undefined_values_come_last(page):
    browser, expected = page
    assert shown(browser) == list(expected.utts)
    values = {utt: row["STOI"] for utt, row in expected.enhanced.items()}
    defined = sorted((utt for utt in values if not math.isnan(values[utt])), key=values.get)
    undefined = [utt for utt in values if math.isnan(values[utt])]
    assert undefined
    browser.click("#table [data-column='0,1']")
    assert shown(browser) == defined[::-1] + undefined
    assert browser.evaluate("document.activeElement.dataset.column") == "0,1"
    browser.press("Enter", text="\r")  # a heading is a button
    assert shown(browser) == defined + undefined
    assert browser.evaluate("document.querySelector('[data-column=\"0,1\"]').parentNode.ariaSort") == "ascending"
    browser.click("#table [data-column='snr']")
    order = sorted(expected.utts, key=lambda utt: (expected.labels[utt][2], utt))
    assert shown(browser) == order


def test_means_follow_the_filter(page):
    browser, expected = page
    assert_means(browser, expected, expected.utts)
    set_value(browser, "#filter-noise", '"café"')
    cafe = [utt for utt in expected.utts if expected.labels[utt][1] == "café"]
    assert shown(browser) == cafe
    assert_means(browser, expected, cafe)
    assert browser.evaluate("document.querySelector('#count').textContent") == "6 of 12 utterances shown"
    set_value(browser, "#filter-snr", "7.5")
    both = [utt for utt in cafe if expected.labels[utt][2] == 7.5]
    assert shown(browser) == both
    assert_means(browser, expected, both)
    set_value(browser, "#filter-noise", "")
    set_value(browser, "#filter-snr", "")
    set_value(browser, "#find", "P1_00")
    some = [utt for utt in expected.utts if "p1_00" in utt]
    assert shown(browser) == some
    assert_means(browser, expected, some)
    set_value(browser, "#find", "nowhere")
    assert shown(browser) == []
    assert means(browser) == {"unprocessed": [None] * len(NAMES), "a": [None] * len(NAMES)}


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A page of 10,000 utterances: its path, and their names in the order of their STOI."""
    folder = tmp_path_factory.mktemp("long")
    exp, _ = made_experiment(folder, "a", names=[f"u{n:05d}" for n in range(3)])
    labels = {"speaker": {}, "noise": {}, "snr": {}}
    random = np.random.default_rng(5).permutation(10000)
    table = {f"u{n:05d}": {measure: float(random[n]) for measure in METRICS} for n in range(10000)}
    write_scores(exp / "enhanced_tt/scoring", Scores(table, {}, 1.0), labels)
    write_scores(folder / "dump/tt/scoring_unprocessed", Scores(table, {}, 1.0), labels)
    write_page([exp], folder / "long.html", log=lambda line: None)
    return folder / "long.html", sorted(table, key=lambda utt: table[utt]["STOI"])


def test_of_ten_thousand_rows_those_in_sight_are_drawn(browser, long):
    address, by_stoi = long
    browser.messages.clear()
    browser.open(address.as_uri())
    browser.evaluate(
        "window.box = (selector) => document.querySelector(selector).getBoundingClientRect();"
        "window.inSight = () => [...document.querySelectorAll('#table tbody th')].filter((cell) => {"
        "  const { top, bottom } = cell.getBoundingClientRect();"
        "  return top >= box('#table thead th').bottom - 1 && bottom <= box('.tall').bottom + 1;"
        "}).map((cell) => cell.textContent)"
    )

    def scroll_to(share):
        scroll = f"document.querySelector('.tall').scrollTop = {share} * document.querySelector('.tall').scrollHeight"
        browser.evaluate(
            f"new Promise((done) => {{ {scroll}; requestAnimationFrame(() => requestAnimationFrame(done)); }})"
        )
        assert 10 < browser.evaluate("document.querySelectorAll('#table tbody tr').length") < 100
        return browser.evaluate("inSight()")

    names = sorted(by_stoi)
    assert scroll_to(0.0)[:10] == names[:10]
    middle = scroll_to(0.5)
    assert middle == names[(start := names.index(middle[0])) :][: len(middle)]
    assert len(middle) >= 10
    assert abs(start - 5000) < 50
    assert scroll_to(1.0)[-10:] == names[-10:]
    browser.click("#table [data-column='0,1']")
    assert scroll_to(1.0)[-10:] == by_stoi[9::-1]
    assert browser.evaluate("document.querySelector('#table').getAttribute('aria-rowcount')") == "10001"
    assert browser.evaluate("[...document.querySelectorAll('#table tr[data-row]')].pop().ariaRowIndex") == "10001"
    set_value(browser, "#find", "u0999")
    assert shown(browser) == [utt for utt in reversed(by_stoi) if utt.startswith("u0999")]
    width = "document.querySelector('#table th').getBoundingClientRect().width"
    set_value(browser, "#find", "")
    before = browser.evaluate(width)
    scroll_to(0.3)
    assert browser.evaluate(width) == before
    assert browser.messages == []


def test_columns_show_improvements_on_request(page):
    browser, expected = page
    set_value(browser, "#kind", "improvement")
    utt = expected.utts[0]
    gain = expected.enhanced[utt]["PESQ_WB"] - expected.unprocessed[utt]["PESQ_WB"]
    cells = browser.evaluate("[...document.querySelector('#table tbody tr').cells].map((cell) => cell.textContent)")
    assert cells[1:5] == [utt, "p0", "bus", "2.5"]
    assert cells[5] == f"{gain:+.3f}".replace("-", "−")


def test_playback_switches_the_signal_in_place(page):
    browser, _ = page
    gains = "player.sources.map(({gain}) => gain.gain.value)"
    browser.press(" ", "Space", " ")
    browser.wait("player.playing && player.now() > 0.05")
    browser.evaluate("player.seek(0)")
    for key, heard in (("2", 1), ("3", 2), ("1", 0)):
        browser.press(key, f"Digit{key}", key)
        assert browser.evaluate("player.heard") == heard
        pressed = "[...document.querySelectorAll('#signals button')].map((button) => button.ariaPressed)"
        assert browser.evaluate(pressed) == [str(n == heard).lower() for n in range(3)]
        assert browser.evaluate("player.sources.length") == 3
        level = browser.evaluate("10 ** (player.signals[player.heard].gain_db / 20)")
        browser.evaluate("document.querySelector('#loop').checked || document.querySelector('#loop').click()")
        browser.wait(f"{gains}.every((value, n) => Math.abs(value - (n === {heard} ? {level} : 0)) < 1e-3)")
    browser.click("#equal")
    browser.wait(f"Math.abs({gains}[0] - 1) < 1e-3")
    browser.press(" ", "Space", " ")
    assert browser.evaluate("player.playing") is False
    place = browser.evaluate("player.now()")
    assert browser.evaluate("player.now()") == place
    browser.press("n", "KeyN", "n")
    browser.wait("table.current === 1 && player.signals[0].buffer.duration > 0.5")
    browser.click("[aria-label='listen to p0_010']")
    browser.wait("player.playing && document.querySelector('#playing').textContent.startsWith('p0_010')")
    browser.evaluate("player.stop()")


def test_spectrograms_show_the_decoded_sound(page):
    browser, expected = page
    utt = expected.utts[0]
    loudest = browser.evaluate(
        "player.signals.map((signal) => { const s = spectrogram(signal.buffer.getChannelData(0), SPECTRUM);"
        "const middle = s.db.slice(50 * s.bins, 51 * s.bins); return middle.indexOf(Math.max(...middle)); })"
    )
    expected_bin = []
    for kind in ("noisy", "enhanced", "clean"):
        frame = expected.sound[kind][utt][50 * 128 - 256 : 50 * 128 + 256]
        expected_bin.append(int(np.abs(np.fft.rfft(frame * np.hanning(513)[:512])).argmax()))
    assert loudest == expected_bin
    size = browser.evaluate("(() => { const c = document.querySelector('canvas'); return [c.width, c.height]; })()")
    assert size == [math.ceil(8000 / 128), 257]
    used = browser.evaluate(
        "new Set(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 60, 257).data).size"
    )
    assert used > 50


def test_two_experiments_stand_side_by_side(browser, made):
    _, address, first, second = made
    browser.messages.clear()
    browser.open(address.as_uri())
    browser.wait("player.signals.length === 4")
    assert_means(browser, first, first.utts, "a")
    assert_means(browser, second, second.utts, "b")
    names = browser.evaluate("player.signals.map((signal) => signal.name)")
    assert names == ["noisy", "a", "b", "clean"]
    assert "seed" not in (browser.evaluate("document.querySelector('#differences')?.textContent") or "")
    assert browser.evaluate("document.querySelectorAll('#curves path').length") >= 4
    assert browser.messages == []


def test_hostile_names_are_text_and_nothing_runs(browser, tmp_path):
    exp, _ = made_experiment(tmp_path, "x<img src=x onerror=alert(1)>", names=HOSTILE)
    write_page([exp], tmp_path / "page.html", log=lambda line: None)
    browser.messages.clear()
    browser.requests.clear()
    browser.open((tmp_path / "page.html").as_uri())
    browser.wait("player.signals.length === 3")
    assert sorted(shown(browser)) == sorted(HOSTILE)
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.requests == [(tmp_path / "page.html").as_uri()]
    assert browser.messages == []


def test_an_incomplete_experiment_says_what_is_missing(browser, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/history.jsonl").write_text('{"epoch": 1, "dev_SI_SNR": 2.0}\n')
    write_page([tmp_path / "x"], tmp_path / "page.html", log=lambda line: None)
    browser.messages.clear()
    browser.open((tmp_path / "page.html").as_uri())
    assert "nothing is enhanced yet" in browser.evaluate("document.querySelector('#notes').innerText")
    visible = "[...document.querySelectorAll('section')].filter((each) => !each.hidden).map((each) => each.id)"
    assert browser.evaluate(visible) == ["notes", "curves"]
    assert browser.messages == []


def test_a_federation_has_a_table_of_its_silos_and_a_live_page_reloads_itself(browser, tmp_path):
    exp, _ = made_experiment(tmp_path, "x<b>", utts=1, federated=True)
    lines = (exp / "rounds.jsonl").read_text().splitlines()
    entry = {**json.loads(lines[1]), "refused": ["silo 10: <img src=x onerror=alert(1)>"]}
    (exp / "rounds.jsonl").write_text(f"{lines[0]}\n{json.dumps(entry)}\n")
    write_page([exp], tmp_path / "page.html", log=lambda line: None, reload_s=0.2)
    browser.messages.clear()
    browser.open((tmp_path / "page.html").as_uri())
    rows = "[...document.querySelectorAll('#federation tbody tr')].map((row) => row.innerText.split('\\t'))"
    browser.wait("document.querySelectorAll('#federation tbody tr').length === 2")
    reason = "silo 10: <img src=x onerror=alert(1)>"
    assert browser.evaluate(rows) == [
        ["0", "2", "0", "0", "0.625", "–", "2.0", "–"],
        ["10", "1", "1", "0", "0.750", "–", "2.0", reason],
    ]
    (exp / "rounds.jsonl").write_text(f"{lines[0]}\n")
    write_page([exp], tmp_path / "page.html", log=lambda line: None)
    browser.wait("document.querySelector('#federation caption')?.textContent.includes('x<b>: 1 round,')")
    assert browser.messages == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_everything_has_a_name(browser, made, dark):
    browser.open(made[1].as_uri(), width=360, dark=dark)
    browser.wait("player.signals.length === 4")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(15, 20, 25)") == dark
    roles = ("button", "checkbox", "combobox", "searchbox", "slider", "image")
    controls = [(role, name) for role, name in browser.accessible_nodes() if role in roles]
    assert len(controls) > 20
    assert [pair for pair in controls if not pair[1].strip()] == []
