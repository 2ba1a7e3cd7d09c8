"use strict";
// Elements are made from text nodes and attributes alone: no name of an utterance or experiment is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";
const MISSING = "–";

function byId(id) {
  return document.getElementById(id);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function number(value, decimals, sign = false) {
  if (!isNumber(value)) return MISSING;
  const text = value.toFixed(decimals).replace("-", "−");
  return sign && value > 0 ? "+" + text : text;
}

// A few significant digits, for axes and curves.
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return (size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(4))).replace("-", "−");
}

function mean(values) {
  const defined = values.filter(isNumber);
  return defined.length ? defined.reduce((sum, value) => sum + value, 0) / defined.length : null;
}
