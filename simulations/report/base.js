"use strict";
// What both pages share. Everything that comes from a run is set as text, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function byId(id) {
  return document.getElementById(id);
}

/** An element with attributes; what is given as text becomes text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The same of SVG. */
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A number as people write it: few digits, thousands apart. */
function figure(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const digits = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 100 ? 1 : 3;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** A duration in milliseconds as seconds, or as days, hours and minutes where it is long. */
function span(ms) {
  const s = ms / 1000;
  if (s < 600) return `${s.toLocaleString("en", { maximumFractionDigits: 3 })} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  let left = Math.round(s);
  const said = [];
  for (const [size, unit] of parts) {
    const whole = Math.floor(left / size);
    left -= whole * size;
    if (whole && said.length < 3) said.push(`${whole} ${unit}`);
  }
  return said.join(" ");
}

/** A moment, to the millisecond where that says something. */
function exact(ms) {
  return ms < 600000 ? `${(ms / 1000).toFixed(3)} s` : span(ms);
}

function fact(list, name, value, kind) {
  const dd = make("dd", { class: kind });
  dd.append(value);
  const pair = make("div");
  pair.append(make("dt", {}, name), dd);
  list.append(pair);
}

/** Copy a text; where that is not allowed, select it. */
function copier(button, source) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

/** A round stretch of time not below another, in milliseconds. */
function roundTime(ms) {
  const steps = [60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400].map((s) => s * 1000);
  return ms <= 30000 ? round(ms) : steps.find((step) => step >= ms) || Math.ceil(ms / 86400000) * 86400000;
}

/** A name that may be broken where it has an underscore. */
function breakable(name) {
  return name.split("_").flatMap((part, i) => (i ? ["_", make("wbr"), part] : [part]));
}

/** A round number not below another: 1, 2 or 5 times a power of ten. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value * 0.999);
}
