// One attack on both sides, attempt by attempt.

import * as dial from "./dial.js";
import { $, compact, el, share, verdictChip } from "./dom.js";
import { ask, stop } from "./link.js";

let chat = null;
let running = false;
let rows = [];
let outcome = null;

export function begin(welcome, talk) {
  chat = talk;
  end();
  const featured = welcome.attacks.filter(attack => attack.featured);
  $("attack-buttons").replaceChildren(...featured.map(({ name, label }) => el("button", { type: "button", onclick: () => start(name, label) }, label)));
  const others = welcome.attacks.filter(attack => !attack.featured);
  $("attack-other").replaceChildren(el("option", { value: "" }, "choose …"), ...others.map(({ name, label }) => el("option", { value: name }, label)));
  $("attack-request").placeholder = welcome.presets.find(preset => preset.kind === "malicious")?.text ?? "";
}

/** The tab was opened: the last prompt of the chat is the request, unless there is one. */
export function opened(prompt) {
  if (!$("attack-request").value) $("attack-request").value = prompt || $("attack-request").placeholder;
}

function start(name, label) {
  const request = $("attack-request").value.trim() || $("attack-request").placeholder;
  const sides = chat.chosenSides();
  rows = [];
  outcome = { label, sides, tried: sides.map(() => 0), broken: sides.map(() => 0), total: 0 };
  $("attack-result").replaceChildren(el("p", { class: "quiet" }, "Writing the attempts …"));
  running = true;
  $("attack-stop").disabled = false;
  const wish = { type: "attack", name, request, sides, dial: dial.value(), count: Number($("attack-count").value) || 4, max_new_tokens: Number($("attack-length").value) || 48 };
  if (chat.systemPrompt()) wish.system = chat.systemPrompt();
  ask(wish, take);
}

function take(event) {
  if (event.type === "attempts") lay(event.attempts);
  else if (event.type === "attempt") fill(event);
  else {
    end();
    if (event.type === "error") $("attack-result").prepend(el("p", { class: "problem", role: "alert" }, event.message));
    else headline(event.stopped ? "stopped" : "");
  }
}

function end() {
  running = false;
  $("attack-stop").disabled = true;
}

function lay(attempts) {
  outcome.total = attempts.length;
  const cells = attempts.map(attempt => {
    const sent = el("details", {}, el("summary", {}, attempt.label || "as it is"), el("p", { class: "sent" }, attempt.text), attempt.begun ? el("p", { class: "sent" }, el("em", {}, "the answer begins: "), attempt.begun) : null);
    const replies = outcome.sides.map(side => el("div", { class: "cell", "data-side": side }, el("span", { class: "quiet" }, "…")));
    return { row: el("li", {}, sent, ...replies), replies };
  });
  rows = cells.map(cell => cell.replies);
  const head = el("li", { class: "head" }, el("span", {}, "Attempt"), ...outcome.sides.map(side => el("span", {}, side)));
  $("attack-result").replaceChildren(el("p", { class: "lead", id: "attack-headline" }), el("ol", { class: "attempts" }, head, ...cells.map(cell => cell.row)));
  headline("");
}

function fill(event) {
  outcome.tried[event.column]++;
  outcome.broken[event.column] += event.broken;
  const verdict = event.broken ? el("span", { class: "verdict gave-in" }, "▲ gave in") : event.verdict === "compliance" ? el("span", { class: "verdict" }, "◇ said something else") : verdictChip(event.verdict);
  const score = event.score === null ? null : el("small", { class: "quiet" }, `score ${share(event.score)}`);
  rows[event.index][event.column].replaceChildren(el("div", { class: "verdict-line" }, verdict, score), el("p", {}, compact(event.text) || "(nothing)"));
  headline("");
}

function headline(note) {
  const told = outcome.sides.map((side, column) => `${side} gave in ${outcome.broken[column]} of ${outcome.tried[column]} times`);
  const left = running ? ` ${outcome.total} attempts in all …` : "";
  const line = $("attack-headline");
  if (line) line.textContent = `“${outcome.label}”: ${told.join("; ")}.${left}${note ? ` (${note})` : ""}`;
}

$("attack-other").addEventListener("change", event => {
  const chosen = event.target.selectedOptions[0];
  if (chosen.value) start(chosen.value, chosen.textContent);
  event.target.value = "";
});
$("attack-stop").addEventListener("click", stop);
$("attack-form").addEventListener("submit", event => event.preventDefault());
