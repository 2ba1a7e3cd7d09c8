"use strict";
// The table of utterances, its filters, and the means of what is shown.

const LABELS = { set: "set", speaker: "speaker", noise: "noise", snr: "SNR (dB)" };
const inOrder = new Intl.Collator().compare; // of text; localeCompare takes many times as long
const KINDS = { enhanced: "enhanced", improvement: "improvement", unprocessed: "unprocessed" };

class Table {
  // data: of the page; select(row) is called with the number of a row to listen to.
  constructor(data, select) {
    this.data = data;
    this.select = select;
    this.audible = new Set(data.sounds.map((sound) => sound.row));
    this.labels = Object.keys(LABELS).filter((kind) => {
      const values = new Set(data.rows.map((row) => row[kind]).filter((value) => value !== null));
      return kind === "set" ? values.size > 1 : values.size > 0;
    });
    const several = data.experiments.length > 1;
    this.chosen = new Set(data.measures.keys());
    if (several) data.measures.forEach((measure, m) => measure.drawn || this.chosen.delete(m));
    this.sorting = { column: "utt", descending: false };
    this.current = null;
    this.rows = new Rows(byId("table"), (r) => this.drawRow(r));
    this.makeFilters();
    this.update();
  }

  makeFilters() {
    const form = byId("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    const update = () => this.update();
    form.append(make("label", {}, "name contains", make("input", { type: "search", id: "find", oninput: update })));
    for (const kind of this.labels) {
      const values = [...new Set(this.data.rows.map((row) => row[kind]))].filter((value) => value !== null);
      values.sort((a, b) => (isNumber(a) && isNumber(b) ? a - b : inOrder(String(a), String(b))));
      const options = values.map((value) => make("option", { value: JSON.stringify(value) }, String(value)));
      const all = make("option", { value: "" }, "all");
      const attributes = { id: "filter-" + kind, onchange: update };
      form.append(make("label", {}, LABELS[kind], make("select", attributes, all, ...options)));
    }
    const kinds = Object.entries(KINDS).map(([value, text]) => make("option", { value }, text));
    form.append(make("label", {}, "columns show", make("select", { id: "kind", onchange: update }, ...kinds)));
    if (this.audible.size) {
      const box = make("input", { type: "checkbox", id: "audible", onchange: update });
      form.append(make("label", { class: "check" }, box, "only those with sound"));
    }
    const boxes = this.data.measures.map((measure, m) => {
      const toggle = (event) => (event.target.checked ? this.chosen.add(m) : this.chosen.delete(m), update());
      const box = make("input", { type: "checkbox", checked: this.chosen.has(m), onchange: toggle });
      return make("label", { class: "check" }, box, measure.name);
    });
    if (boxes.length) form.append(make("fieldset", {}, make("legend", {}, "measures"), ...boxes));
  }

  // The value of a row in a column of scores: of experiment e and measure m, as chosen in the form.
  value(row, e, m) {
    const before = row.unprocessed && row.unprocessed[m];
    const after = row.scores[e] && row.scores[e][m];
    const kind = byId("kind").value;
    if (kind === "unprocessed") return before;
    if (kind === "enhanced") return after;
    return isNumber(before) && isNumber(after) ? after - before : null;
  }

  shown() {
    const text = byId("find").value.toLowerCase();
    const only = this.labels.map((kind) => [kind, byId("filter-" + kind).value]).filter(([, value]) => value);
    const audible = this.audible.size && byId("audible").checked;
    const numbers = [...this.data.rows.keys()].filter((r) => {
      const row = this.data.rows[r];
      if (audible && !this.audible.has(r)) return false;
      return row.utt.toLowerCase().includes(text) && only.every(([kind, value]) => JSON.stringify(row[kind]) === value);
    });
    return this.sorted(numbers);
  }

  sorted(numbers) {
    const { column, descending } = this.sorting;
    const key = (r) => (Array.isArray(column) ? this.value(this.data.rows[r], ...column) : this.data.rows[r][column]);
    const keys = new Map(numbers.map((r) => [r, key(r)]));
    return numbers.sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      if (a === b) return one - other;
      if (a === null || a === undefined) return 1; // what is undefined comes last, however it is sorted
      if (b === null || b === undefined) return -1;
      const order = isNumber(a) && isNumber(b) ? a - b : inOrder(String(a), String(b));
      return descending ? -order : order || one - other;
    });
  }

  // Columns of scores: [experiment, measure]; the unprocessed scores are the same for all experiments.
  columns() {
    const once = byId("kind").value === "unprocessed";
    const experiments = [...this.data.experiments.keys()].slice(0, once ? 1 : undefined);
    return [...this.chosen].sort((a, b) => a - b).flatMap((m) => experiments.map((e) => [e, m]));
  }

  update() {
    const rows = this.shown();
    byId("count").textContent = `${rows.length} of ${this.data.rows.length} utterances shown`;
    this.drawMeans(rows);
    this.drawHead();
    this.rows.show(rows);
    this.order = rows.filter((r) => this.audible.has(r));
  }

  drawMeans(rows) {
    const measures = this.data.measures;
    const head = make("tr", {}, make("th", { scope: "col" }, "signal"));
    measures.forEach((measure) => head.append(make("th", { scope: "col", class: "number" }, measure.name)));
    byId("means").tHead.replaceChildren(head);
    const signals = [["unprocessed", (row) => row.unprocessed]];
    this.data.experiments.forEach((experiment, e) => signals.push([experiment.name, (row) => row.scores[e]]));
    const lines = signals.map(([name, scores]) => {
      const line = make("tr", {}, make("th", { scope: "row" }, name));
      measures.forEach((measure, m) => {
        const values = rows.map((r) => scores(this.data.rows[r])).map((found) => (found ? found[m] : null));
        const defined = values.filter(isNumber).length;
        const text = number(mean(values), measure.decimals) + (defined < rows.length && defined ? ` (${defined})` : "");
        line.append(make("td", { class: "number", "data-mean": mean(values) ?? "" }, text));
      });
      return line;
    });
    byId("means").tBodies[0].replaceChildren(...lines);
  }

  drawHead() {
    const head = make("tr");
    if (this.audible.size) head.append(make("th", { scope: "col" }, "sound"));
    for (const [column, text] of [["utt", "utterance"], ...this.labels.map((kind) => [kind, LABELS[kind]])]) {
      head.append(this.heading(text, column, ""));
      if (this.data.rows.length > ALL) head.lastChild.style.minWidth = `calc(${this.longest(column)}ch + 16px)`;
    }
    const kind = byId("kind").value;
    for (const [e, m] of this.columns()) {
      const whose = kind === "unprocessed" ? "unprocessed" : this.data.experiments[e].name;
      head.append(this.heading(this.data.measures[m].name, [e, m], this.data.experiments.length > 1 ? whose : ""));
    }
    byId("table").tHead.replaceChildren(head);
  }

  // The characters of the longest text of a column, which may not be drawn: columns keep their width in any place.
  longest(column) {
    return this.data.rows.reduce((most, row) => Math.max(most, String(row[column] ?? "").length), 0);
  }

  heading(text, column, whose) {
    const mine = String(this.sorting.column) === String(column);
    const direction = mine ? (this.sorting.descending ? "descending" : "ascending") : "none";
    const sort = () => {
      const descending = mine ? !this.sorting.descending : Array.isArray(column);
      this.sorting = { column, descending };
      this.update();
      byId("table").tHead.querySelector(`[data-column="${column}"]`).focus();
    };
    const mark = mine ? (this.sorting.descending ? " ▼" : " ▲") : "";
    const button = make("button", { type: "button", onclick: sort, "data-column": String(column) }, text + mark);
    const attributes = { scope: "col", "aria-sort": direction, class: Array.isArray(column) ? "number" : "" };
    return make("th", attributes, button, ...(whose ? [make("small", { title: whose }, whose)] : []));
  }

  drawRow(r) {
    const row = this.data.rows[r];
    const line = make("tr", { "data-row": r, class: r === this.current ? "current" : null });
    if (this.audible.size) {
      const attributes = { type: "button", onclick: () => this.select(r, true), "aria-label": "listen to " + row.utt };
      line.append(make("td", {}, ...(this.audible.has(r) ? [make("button", attributes, "▶")] : [])));
    }
    line.append(make("th", { scope: "row" }, row.utt));
    for (const kind of this.labels) {
      const value = row[kind];
      line.append(make("td", { class: isNumber(value) ? "number" : "" }, value === null ? MISSING : String(value)));
    }
    const signed = byId("kind").value === "improvement";
    for (const [e, m] of this.columns()) {
      const text = number(this.value(row, e, m), this.data.measures[m].decimals, signed);
      line.append(make("td", { class: "number", title: row.failed[e] }, text));
    }
    return line;
  }

  mark(r) {
    this.current = r;
    for (const line of document.querySelectorAll("#table tr.current")) line.classList.remove("current");
    this.rows.of(r)?.classList.add("current");
  }

  // The number of the utterance with sound that is `step` after row r among those shown; null if there is none.
  neighbour(r, step) {
    const place = this.order.indexOf(r);
    return this.order[place < 0 ? 0 : place + step] ?? null;
  }
}
