"use strict";
// What each silo of a federation contributed: a table per experiment.

const COLUMNS = [
  ["silo", "silo", 0],
  ["rounds", "rounds taken part in", 0],
  ["rejected", "replies rejected", 0],
  ["failed", "failures", 0],
  ["weight", "mean weight", 3],
  ["examples", "segments", 0],
  ["sent_mb", "sent (MB)", 1],
];

function showFederations(data) {
  const section = byId("federation");
  const federations = data.experiments.filter((experiment) => experiment.federation);
  section.hidden = !federations.length;
  for (const { name, federation } of federations) {
    const { rounds, silos, scores } = federation;
    const titles = [...COLUMNS.map(([, title]) => title), ...scores, "last rejection or failure"];
    const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
    const lines = silos.map((silo) => make("tr", { "data-silo": silo.silo },
      ...COLUMNS.map(([key, , decimals]) => make("td", { class: "number" }, number(silo[key], decimals))),
      ...silo.scores.map((value) => make("td", { class: "number" }, number(value, 3))),
      make("td", {}, silo.reason || MISSING)));
    const about = `${name}: ${rounds} ${rounds === 1 ? "round" : "rounds"}, ${silos.length} silos; scores are those of ` +
      "the last test on the silo's own test set";
    const table = make("table", {}, make("caption", {}, about), make("thead", {}, head), make("tbody", {}, ...lines));
    section.append(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Silos of ${name}` }, table));
  }
}
