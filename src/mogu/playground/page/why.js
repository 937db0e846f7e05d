// Why the last prompt was scored as it was: what each token added, by layer, in colors, in numbers, and as a file.

import { $, csvCell, download, el, plain, share, signed, visible } from "./dom.js";

const NUMBERED_LAYERS = 4; // with more layers than this, cells are too small for numbers, which the table then has
const STRONGEST = 4;

export function clear() {
  $("why").hidden = true;
  $("why-body").replaceChildren();
}

export function show(why, name) {
  const gate = why.kind === "gate";
  const order = why.by_token.map((value, index) => ({ value, index })).filter(({ index }) => why.user[index]);
  order.sort((a, b) => b.value - a.value);
  $("why").hidden = false;
  $("why-body").replaceChildren(
    sentence(why, name, order),
    tokens(why, order),
    heatMap(why),
    layers(why),
    el("p", { class: "note" }, gate ? GATE_NOTE : ROUTERS_NOTE),
    el("details", {}, el("summary", {}, "The same as a table"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Contributions as a table" }, table(why))),
    el("button", { type: "button", onclick: () => download("why.csv", asCsv(why)) }, "Download CSV"),
  );
}

const GATE_NOTE =
  "Exact: the numbers of all tokens and layers, the constant and the dial add up to the logit. They say what the gate summed up, not what would " +
  "become of the score without a word: a token has read those before it, and the gate looks at tokens by comparing them all.";
const ROUTERS_NOTE =
  "Exact: the share of a layer is α/(α+β), and the score is the mean of the last token's over the layers. Earlier tokens have shares of their own, which the score does not count.";

function sentence(why, name, order) {
  const words = order.slice(0, 3).filter(({ value }) => value > 0.1).map(({ index, value }) => [why.tokens[index], value]);
  const parts = [];
  for (const [token, value] of words) parts.push(parts.length ? ", " : "", el("strong", {}, visible(token).trim()), ` (${why.kind === "gate" ? signed(value) : share(value)})`);
  const total =
    why.kind === "gate"
      ? `${name}: logit ${plain(why.logit)} = tokens ${signed(sum(why.by_token))}, constant ${signed(why.bias)}${why.dial ? `, dial ${signed(why.dial)}` : ""}. Score ${share(why.score)}.`
      : `${name}: score ${share(why.score)}, the mean share of the last token over ${why.layers.length} layers.`;
  const told = parts.length ? [why.kind === "gate" ? " Most came from " : " The highest shares are at ", ...parts, "."] : [];
  return el("p", { class: "lead" }, total, ...told);
}

const sum = values => values.reduce((total, value) => total + value, 0);
const words = why => (why.kind === "gate" ? signed : share);

function tokens(why, order) {
  const strongest = new Set(order.slice(0, STRONGEST).filter(({ value }) => (why.kind === "gate" ? value > 0.3 : value > 0.5)).map(({ index }) => index));
  const most = Math.max(0.5, ...why.by_token.map(Math.abs));
  const chips = why.tokens.map((token, index) => {
    const value = why.by_token[index];
    const title = `${visible(token)}: ${words(why)(value)}`;
    const blank = token.trim() === "";
    const shown = why.user[index] ? [blank ? visible(token) : token.trimStart()] : [el("em", {}, "end of prompt")];
    if (strongest.has(index) || !why.user[index]) shown.push(el("small", {}, words(why)(value)));
    const chip = el("span", { class: `heat ${tone(why, value)}`, title, "--heat": heat(why, value, most) }, ...shown);
    return why.user[index] && !blank ? el("span", {}, token.slice(0, token.length - token.trimStart().length), chip) : chip;
  });
  return el("p", { class: "read", role: "img", "aria-label": "The prompt, its tokens colored by what they added; the table below has the numbers" }, ...chips);
}

/** Gate: positive raises the score. Routers: a share above a half does. */
const tone = (why, value) => ((why.kind === "gate" ? value : value - 0.5) >= 0 ? "raises" : "lowers");
const heat = (why, value, most) => `${Math.round(62 * Math.min(1, why.kind === "gate" ? Math.abs(value) / most : Math.abs(2 * value - 1)))}%`;

function heatMap(why) {
  const numbered = why.layers.length <= NUMBERED_LAYERS;
  const most = Math.max(0.5, ...why.values.flat().map(Math.abs));
  const readout = el("p", { class: "readout quiet" }, "Point at a cell to read it.");
  const head = el("tr", {}, el("th", { scope: "col" }, "layer"), ...why.tokens.map((token, index) => el("th", { scope: "col" }, el("span", {}, why.user[index] ? visible(token).trim() || visible(token) : "end of prompt"))));
  const rows = why.layers.map((layer, row) =>
    el("tr", {}, el("th", { scope: "row" }, String(layer)), ...why.values[row].map((value, index) => {
      const told = `layer ${layer}, ${visible(why.tokens[index])}: ${detail(why, row, index)}`;
      return el("td", { class: `heat ${tone(why, value)}`, title: told, "--heat": heat(why, value, most), onpointerenter: () => (readout.textContent = told) }, numbered ? plain(value, 1) : "");
    })),
  );
  const map = el("table", { class: numbered ? "map" : "map dense" }, el("caption", { class: "sr" }, "Layers by tokens"), el("thead", {}, head), el("tbody", {}, ...rows));
  const legend = el("p", { class: "legend-line quiet" }, el("span", { class: "heat raises swatch", "--heat": "60%" }), "toward refusing ", el("span", { class: "heat lowers swatch", "--heat": "60%" }), "toward answering");
  return el("figure", {}, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Heat map of layers and tokens" }, map), legend, readout);
}

function detail(why, row, index) {
  const value = why.values[row][index];
  if (why.kind === "gate") return signed(value);
  return `share ${share(value)}, α ${share(why.weights.unwill[row][index])}, β ${share(why.weights.glad[row][index])}`;
}

function layers(why) {
  const order = why.layers.map((layer, row) => ({ layer, value: why.by_layer[row] })).sort((a, b) => b.value - a.value);
  const told = order.slice(0, 3).map(({ layer, value }) => `layer ${layer} (${words(why)(value)})`);
  return el("p", {}, why.layers.length > 1 ? `What tipped it most: ${told.join(", ")}.` : `Read at ${told[0]}.`);
}

function table(why) {
  const head = el("tr", {}, ...["token", "part", "all layers", ...why.layers.map(layer => `layer ${layer}`)].map(text => el("th", { scope: "col" }, text)));
  const rows = why.tokens.map((token, index) =>
    el("tr", {}, el("th", { scope: "row" }, visible(token)), el("td", {}, why.user[index] ? "user" : "template"), el("td", {}, words(why)(why.by_token[index])), ...why.values.map(row => el("td", {}, words(why)(row[index])))),
  );
  return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
}

function asCsv(why) {
  const matrices = why.kind === "gate" ? { contribution: why.values } : { share: why.values, ...why.weights };
  const names = Object.entries(matrices).flatMap(([name]) => why.layers.map(layer => `${name}, layer ${layer}`));
  const lines = [["token", "part", "all layers", ...names]];
  why.tokens.forEach((token, index) =>
    lines.push([token, why.user[index] ? "user" : "template", why.by_token[index], ...Object.values(matrices).flatMap(matrix => matrix.map(row => row[index]))]),
  );
  return `${lines.map(line => line.map(csvCell).join(",")).join("\n")}\n`;
}
