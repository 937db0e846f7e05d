// The conversation with each side. It lives here, in this tab alone; the server keeps none of it.

import * as dial from "./dial.js";
import { $, el, share, verdictChip } from "./dom.js";
import { ask, forget, stop } from "./link.js";
import * as why from "./why.js";

const KEPT = "mogu-playground";
const UNSURE = 0.5; // a token that was less likely than this is shaded, where that is asked for

let sides = new Map();
let columns = []; // {side, turns: [{role, content, tokens, note}], body, select, live}
let running = null; // {job, columns}

export const side = name => sides.get(name);
export const chosenSides = () => columns.map(column => column.side);
export const hardenedColumn = () => columns.findLast(column => sides.get(column.side)?.kind === "hardened");
export const lastPrompt = () => columns[0]?.turns.findLast(turn => turn.role === "user")?.content ?? "";
export const systemPrompt = () => $("system").value.trim();

export function begin(welcome) {
  sides = new Map(welcome.sides.map(side => [side.name, side]));
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  const names = [...sides.keys()];
  const start = names.length > 1 ? names.slice(0, 2) : names;
  const hardened = names.filter(name => sides.get(name).kind === "hardened");
  if (hardened.length > 1) start.splice(0, 2, ...hardened.slice(0, 2));
  const restored = columns.length ? columns : (kept?.columns ?? []);
  columns = start.map((name, index) => {
    const before = restored[index];
    return { side: sides.has(before?.side) ? before.side : name, turns: before?.turns ?? [] };
  });
  if (kept && !$("system").value) $("system").value = kept.system ?? "";
  running = null;
  $("columns").replaceChildren(...columns.map(draw));
  $("presets").replaceChildren(...welcome.presets.map(preset));
  for (const column of columns) render(column);
  buttons();
}

function draw(column, index) {
  const options = [...sides.keys()].map(name => el("option", { value: name, selected: name === column.side }, name));
  column.select = el("select", { "aria-label": `Who answers in column ${index + 1}`, onchange: () => change(column) }, ...options);
  column.body = el("div", { class: "transcript", role: "log", "aria-label": `Conversation in column ${index + 1}`, tabindex: "0" });
  return el("article", { class: "column" }, el("header", {}, column.select, el("span", { class: "badge" })), column.body);
}

function preset({ kind, text }) {
  return el("button", { type: "button", class: `preset ${kind}`, onclick: () => send(text) }, el("small", {}, kind), text);
}

function change(column) {
  column.side = column.select.value;
  const prompt = column.turns.at(-1)?.role === "assistant" ? column.turns.at(-2)?.content : null;
  render(column);
  dial.sidesChanged();
  if (prompt) again(prompt, [column]);
}

export function send(text) {
  const prompt = text.trim();
  if (!prompt || !columns.length) return;
  halt();
  for (const column of columns) column.turns.push({ role: "user", content: prompt });
  $("prompt").value = "";
  answer(columns, {});
}

/** Answer the last prompt anew in some columns. */
function again(prompt, some, options = {}) {
  halt();
  for (const column of some) if (column.turns.at(-1)?.role === "assistant") column.turns.pop();
  answer(some.filter(column => column.turns.at(-1)?.role === "user"), options);
}

export function dialMoved() {
  const some = columns.filter(column => sides.get(column.side)?.kind === "hardened");
  if (some.length && lastPrompt()) again(lastPrompt(), some);
}

function answer(some, { temperature = Number($("temperature").value) || 0 }) {
  if (!some.length) return;
  const asked = some.map(column => ({
    column: columns.indexOf(column),
    side: column.side,
    turns: column.turns.map(({ role, content }) => ({ role, content })),
  }));
  for (const column of some) {
    column.live = { role: "assistant", content: "", tokens: [], note: null, started: performance.now() };
    column.turns.push(column.live);
    render(column);
  }
  const wish = { type: "ask", columns: asked, dial: dial.value(), temperature, max_new_tokens: Number($("length").value) || 160 };
  if (systemPrompt()) wish.system = systemPrompt();
  if (temperature > 0) wish.seed = Math.floor(Math.random() * 2 ** 31);
  running = { job: ask(wish, take), columns: some };
  buttons();
}

function take(event) {
  const column = columns[event.column];
  if (event.type === "why") {
    why.show(event, column.side);
    dial.scored(event, sides.get(column.side));
  } else if (event.type === "token") {
    grow(column, event);
  } else if (event.type === "reply") {
    Object.assign(column.live, { content: event.text, verdict: event.verdict, note: summary(event, column.live) });
    render(column);
  } else {
    end(event.type === "error" ? event.message : null);
  }
}

function summary(event, live) {
  const mean = live.tokens.length ? live.tokens.reduce((sum, token) => sum + token.probability, 0) / live.tokens.length : null;
  const parts = [`${event.tokens} tokens in ${event.seconds.toFixed(1)} s`];
  if (mean !== null) parts.push(`mean probability ${share(mean)}`);
  if (!event.finished) parts.push("cut off");
  return parts.join(" · ");
}

function end(problem) {
  for (const column of running?.columns ?? []) {
    const live = column.live;
    if (live && live.note === null) {
      live.content ||= live.tokens.map(token => token.text).join("");
      live.note = problem ?? "stopped";
      live.failed = problem !== null;
      render(column);
    }
    column.live = null;
  }
  running = null;
  buttons();
}

function halt() {
  if (!running) return;
  forget(running.job);
  stop();
  end(null);
}

function render(column) {
  const badge = column.body.previousSibling.querySelector(".badge");
  const kind = sides.get(column.side)?.kind ?? "";
  badge.textContent = kind;
  badge.className = `badge ${kind}`;
  column.body.replaceChildren(...column.turns.map(turn => bubble(turn, turn === column.live)));
  if (!column.turns.length) column.body.append(el("p", { class: "empty" }, "Nothing said yet."));
  column.body.scrollTop = column.body.scrollHeight;
  keep();
}

function bubble(turn, live) {
  if (turn.role === "user") return el("div", { class: "turn user" }, el("span", { class: "sr" }, "You: "), turn.content);
  const text = el("div", { class: "text" }, ...(turn.tokens?.length ? turn.tokens.map(token) : [turn.content]));
  const foot = el("div", { class: "foot" }, turn.verdict ? verdictChip(turn.verdict) : null, el("span", { class: "note" }, turn.note ?? (live ? "reading the prompt …" : "")));
  return el("div", { class: `turn assistant${turn.failed ? " failed" : ""}`, "aria-busy": live }, el("span", { class: "sr" }, "Reply: "), text, foot);
}

function token({ text, probability }) {
  const unsure = probability < UNSURE;
  return el("span", { class: unsure ? "token unsure" : "token", title: `probability ${share(probability)}`, "--unsure": `${Math.round(100 * (1 - probability))}%` }, text);
}

function grow(column, { text, probability }) {
  const live = column.live;
  if (!live) return;
  live.tokens.push({ text, probability });
  const shown = column.body.lastChild;
  const atEnd = column.body.scrollHeight - column.body.scrollTop - column.body.clientHeight < 40;
  shown.querySelector(".text").append(token({ text, probability }));
  const rate = (1000 * live.tokens.length) / (performance.now() - live.started);
  shown.querySelector(".note").textContent = `token ${live.tokens.length} · probability ${share(probability)} · ${rate.toFixed(0)} tokens/s`;
  if (atEnd) column.body.scrollTop = column.body.scrollHeight;
}

function keep() {
  const slim = columns.map(({ side, turns }) => ({ side, turns: turns.map(({ role, content, verdict, note }) => ({ role, content, verdict, note })) }));
  sessionStorage.setItem(KEPT, JSON.stringify({ columns: slim.map(column => ({ ...column, turns: settled(column.turns) })), system: $("system").value }));
}

/** Without a prompt whose answer a reload would cut off. */
const settled = turns => turns.filter((turn, index) => (turn.role === "user" ? turns[index + 1]?.content : turn.content));

function buttons() {
  const said = columns.some(column => column.turns.length);
  $("stop").disabled = !running;
  $("retry").disabled = $("fresh").disabled = !said;
  $("presets").hidden = said;
}

$("composer").addEventListener("submit", event => {
  event.preventDefault();
  send($("prompt").value);
});
$("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send($("prompt").value);
  }
});
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && running) halt();
});
$("stop").addEventListener("click", halt);
$("retry").addEventListener("click", () => again(lastPrompt(), columns, { temperature: Math.max(0.7, Number($("temperature").value) || 0) }));
$("fresh").addEventListener("click", () => {
  halt();
  for (const column of columns) column.turns = [];
  columns.forEach(render);
  why.clear();
  dial.clearScore();
  buttons();
  $("prompt").focus();
});
$("system").addEventListener("change", keep);
$("probabilities").addEventListener("change", event => document.body.classList.toggle("shaded", event.target.checked));
