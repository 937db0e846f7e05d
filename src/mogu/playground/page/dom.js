// Small things that every part of the page uses: elements, numbers in words, downloads. Knows nothing of models.

export const $ = id => document.getElementById(id);

/** An element with attributes and children; `class`, `title`, `on…` and the like; text is always text. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  set(element, attributes);
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
}

/** Whether a number is negative as it is written: what rounds to zero is not. */
const below = (value, digits) => value < 0 && Number(value.toFixed(digits)) !== 0;
export const signed = (value, digits = 2) => `${below(value, digits) ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
export const plain = (value, digits = 2) => `${below(value, digits) ? "−" : ""}${Math.abs(value).toFixed(digits)}`;

/** A dial as it is said: 0, +0.25, −8. */
export const dialed = value => (value === 0 ? "0" : `${value < 0 ? "−" : "+"}${Math.abs(value)}`);

/** A probability so that nearly sure does not read as sure. */
export function share(value) {
  if (value > 0.999 && value < 1) return "> 0.999";
  if (value < 0.001 && value > 0) return "< 0.001";
  return value.toFixed(value > 0.99 || value < 0.01 ? 3 : 2);
}

export const percent = value => `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;

/** A token as it can be seen: a line break or a lone space is not. */
export const visible = token => (token.trim() === "" ? token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "∅" : token);

export const VERDICTS = {
  full_refusal: ["refused", "◼"],
  partial_refusal: ["refused in part", "◧"],
  compliance: ["answered", "◻"],
};

export function verdictChip(verdict) {
  const [words, mark] = VERDICTS[verdict] ?? ["", ""];
  return el("span", { class: `verdict ${verdict}` }, `${mark} ${words}`);
}

/** A reply in a table: without its empty lines. */
export const compact = text => text.replace(/\n\s*\n/g, "\n");

export function download(name, text, type = "text/csv") {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export const csvCell = value => {
  const text = String(value);
  const inert = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\n]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
};
