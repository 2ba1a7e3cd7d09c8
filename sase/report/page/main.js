"use strict";

function showNotes(data) {
  const notes = data.experiments.flatMap((experiment) => experiment.notes.map((note) => `${experiment.name}: ${note}`));
  byId("notes").hidden = !notes.length;
  byId("notes").querySelector("ul").append(...notes.map((note) => make("li", {}, note)));
}

function showConfiguration(data) {
  const section = byId("configuration");
  const configs = data.experiments.flatMap((each) => Object.entries(each.configs).map(([file, text]) => [each.name, file, text]));
  section.hidden = !configs.length;
  if (data.experiments.length > 1) {
    if (data.differences.length) {
      const names = data.experiments.map((experiment) => make("th", { scope: "col" }, experiment.name));
      const lines = data.differences.map(([key, values]) => make("tr", {}, make("th", { scope: "row" }, key),
        ...values.map((value) => make("td", {}, value ?? MISSING))));
      const table = make("table", { id: "differences" }, make("caption", {}, "Settings that differ"),
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "setting"), ...names)), make("tbody", {}, ...lines));
      section.append(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Settings that differ" }, table));
    } else {
      section.append(make("p", {}, "The configurations are the same."));
    }
  }
  for (const [name, file, text] of configs) {
    section.append(make("details", {}, make("summary", {}, `${name}: ${file}`), make("pre", { tabindex: 0 }, text)));
  }
}

function showScores(data) {
  for (const id of ["scores", "utterances", "listen"]) byId(id).hidden = !data.rows.length; // before they are measured
  const player = new Player(data);
  let current = null;
  const select = (r, play) => {
    current = r;
    table.mark(r);
    player.load(r, play);
  };
  const table = new Table(data, select);
  byId("sound-note").textContent = data.sound_note;
  if (table.order.length) select(table.order[0], false);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !player.signals.length) return;
    const target = event.target;
    if (target.matches("input[type=search], select, textarea")) return; // letters are text there
    const step = { n: 1, p: -1 }[event.key];
    const control = target.closest("button, input, summary, .scroll"); // which have a use for these keys themselves
    if (/^[1-9]$/.test(event.key)) player.hear(Number(event.key) - 1);
    else if (step && table.neighbour(current, step) !== null) select(table.neighbour(current, step), player.playing);
    else if (event.key === " " && !control) player.toggle();
    else if (event.key === "ArrowLeft" && !control) player.seek(player.now() - 1);
    else if (event.key === "ArrowRight" && !control) player.seek(player.now() + 1);
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    // After a click with a mouse, space plays and pauses; a button that was reached by keyboard keeps the focus.
    if (event.detail && event.target.closest("#signals button, #table tbody button")) event.target.blur();
  });
  return { player, table };
}

const data = JSON.parse(byId("data").textContent);
const experimentsShown = data.experiments.length === 1 ? "One experiment" : `${data.experiments.length} experiments`;
byId("made").textContent = `${experimentsShown}, as of ${data.made}. Everything is in this file; nothing is loaded or sent.`;
showNotes(data);
const { player, table } = showScores(data);
showFederations(data);
byId("curves").hidden = !data.charts.length;
byId("curves").querySelector(".charts").append(...data.charts.map(drawChart));
showConfiguration(data);
if (data.reload_s) setInterval(() => player.playing || location.reload(), 1000 * data.reload_s);
