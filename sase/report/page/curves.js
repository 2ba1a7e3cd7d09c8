"use strict";
// Curves of trainings as SVG.

const BOX = { width: 420, height: 220, left: 58, right: 8, top: 8, bottom: 34 };

function hue(s, count) {
  const named = ["#3a86d1", "#e07b28", "#3a9d5d", "#c94c4c", "#8f6cc9", "#9b7350"];
  return count <= named.length ? named[s] : `hsl(${Math.round((360 * s) / count)} 60% 50%)`;
}

function drawChart(chart) {
  const points = chart.series.flatMap((series) => series.points).filter(([, y]) => isNumber(y));
  const figure = make("figure", {}, make("figcaption", {}, `${chart.title}, per ${chart.x}`));
  if (!points.length) {
    figure.append(make("p", { class: "hint" }, "no finite value"));
    return figure;
  }
  const [x, y] = [scale(points.map(([a]) => a), BOX.left, BOX.width - BOX.right, true),
    scale(points.map(([, b]) => b), BOX.height - BOX.bottom, BOX.top, false)];
  const svg = draw("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": describe(chart) });
  for (const value of y.ticks) {
    svg.append(draw("line", { class: "grid", x1: BOX.left, x2: BOX.width - BOX.right, y1: y(value), y2: y(value) }));
    svg.append(draw("text", { x: BOX.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const value of x.ticks) {
    svg.append(draw("text", { x: x(value), y: BOX.height - BOX.bottom + 16, "text-anchor": "middle" }, short(value)));
  }
  svg.append(draw("text", { x: (BOX.left + BOX.width) / 2, y: BOX.height - 4, "text-anchor": "middle" }, chart.x));
  chart.series.forEach((series, s) => {
    const stroke = hue(s, chart.series.length);
    svg.append(draw("path", { class: "curve", stroke, d: path(series.points, x, y) }, draw("title", {}, series.name)));
    for (const [n, [a, b]] of series.points.entries()) {
      const beside = [series.points[n - 1], series.points[n + 1]].some((point) => point && isNumber(point[1]));
      if (!isNumber(b) || (a !== series.best && beside)) continue; // a point alone has no line
      svg.append(draw("circle", { cx: x(a), cy: y(b), r: 4, fill: stroke }, draw("title", {}, `${series.name}: ${short(b)}`)));
    }
  });
  figure.append(svg);
  const names = chart.series.map((series, s) => make("li", {},
    draw("svg", { viewBox: "0 0 14 8", "aria-hidden": "true" },
      draw("rect", { width: 14, height: 8, fill: hue(s, chart.series.length) })),
    series.name + (series.best === null ? "" : ` (best: ${chart.x} ${series.best})`)));
  figure.append(make("ul", { class: "legend" }, ...names));
  return figure;
}

function describe(chart) {
  const lines = chart.series.map((series) => {
    const defined = series.points.filter(([, y]) => isNumber(y));
    if (!defined.length) return `${series.name}: no finite value`;
    const [first, last] = [defined[0], defined[defined.length - 1]];
    return `${series.name}: from ${short(first[1])} at ${chart.x} ${first[0]} to ${short(last[1])} at ${last[0]}`;
  });
  return `${chart.title}. ${lines.join("; ")}`;
}

function path(points, x, y) {
  let pen = "M";
  return points.map(([a, b]) => {
    const step = isNumber(b) ? `${pen}${x(a).toFixed(1)} ${y(b).toFixed(1)}` : "";
    pen = step ? "L" : "M";
    return step;
  }).join("");
}

// A linear map from values to pixels, with its ticks.
function scale(values, from, to, whole) {
  let low = values.reduce((a, b) => Math.min(a, b), Infinity);
  let high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (low === high) [low, high] = whole ? [low - 0.5, high + 0.5] : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
  const map = (value) => from + ((value - low) / (high - low)) * (to - from);
  const raw = (high - low) / 4;
  const unit = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].find((factor) => factor * unit >= raw) * unit;
  if (whole) step = Math.max(1, Math.round(step));
  map.ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n++) map.ticks.push(+(n * step).toPrecision(12));
  return map;
}
