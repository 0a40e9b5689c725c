// What all parts share: finding and making elements, opening what is packed, colours of the theme.

const find = (selector, inside = document) => inside.querySelector(selector);
const findAll = (selector, inside = document) => [...inside.querySelectorAll(selector)];

/** An element with properties (those with a dash, and role, as attributes) and children; texts are never HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A labelled choice; `choices` are [value, text]. */
function choice(label, choices, value, onChange) {
  const select = make("select", { "aria-label": label, onchange: () => onChange(select.value) });
  for (const [value, text] of choices) select.append(make("option", { value, textContent: text }));
  select.value = value;
  return make("label", {}, label, select);
}

/** A labelled box to tick. */
function tick(label, checked, onChange) {
  const box = make("input", { type: "checkbox", checked, onchange: () => onChange(box.checked) });
  return make("label", { className: "check" }, box, label);
}

/** The bytes that base64 of gzip holds. */
async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const inflateText = async (text) => new TextDecoder().decode(await inflate(text));

/** The text of a packed element, or null. */
function block(kind, name) {
  return findAll(`script[data-${kind}]`).find((element) => element.dataset[kind] === name)?.textContent ?? null;
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colours = (name) => style(name).split(",").map((colour) => colour.trim());
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [14, 3], [2, 7]];

/** The colour and the dashes of a cell: the baseline in ink; no two of the 36 others before they repeat are alike. */
function look(page, name) {
  if (name === page.baseline) return { colour: style("--ink"), dash: [] };
  const series = colours("--series");
  const i = page.cells.filter((cell) => cell !== page.baseline).indexOf(name);
  return { colour: series[i % series.length], dash: DASHES[Math.floor(i / series.length) % DASHES.length] };
}

/** 256 colours from nothing to everything, as [red, green, blue]. */
function ramp() {
  const stops = colours("--ramp").map((hex) => [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16)));
  return Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((value, k) => Math.round(value + (at - low) * (stops[low + 1][k] - value)));
  });
}

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** Black or white, whichever is read better on a colour. */
const readable = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#111" : "#fff");

/** A number in four digits. */
function digits(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1e5 ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : String(+value.toPrecision(4));
}

/** Calls `act` again whenever the theme changes. */
const onTheme = (act) => document.addEventListener("theme", act);
