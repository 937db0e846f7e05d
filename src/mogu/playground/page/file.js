// A file of prompts put to both sides: a table that grows, and the CSV of it.

import * as dial from "./dial.js";
import { $, compact, download, el, share, verdictChip } from "./dom.js";
import { ask, stop } from "./link.js";

let chat = null;
let csv = "";
let name = "prompts";
let body = null;
let progress = null;

export function begin(talk) {
  chat = talk;
  $("file-stop").disabled = true;
}

async function start(file) {
  if (!file) return;
  name = file.name.replace(/\.\w+$/, "");
  csv = "";
  $("file-save").disabled = true;
  const sides = chat.chosenSides();
  const counts = { asked: 0, total: 0, refused: sides.map(() => 0) };
  progress = el("p", { class: "lead" }, `Reading ${file.name} …`);
  body = el("tbody");
  const head = el("tr", {}, ...["prompt", "score", ...sides].map(text => el("th", { scope: "col" }, text)));
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Prompts and replies" }, el("table", { class: "prompts" }, el("thead", {}, head), body));
  $("file-result").replaceChildren(progress, table);
  $("file-stop").disabled = false;
  const wish = { type: "file", name: file.name, text: await file.text(), sides, dial: dial.value(), max_new_tokens: Number($("file-length").value) || 48 };
  if (chat.systemPrompt()) wish.system = chat.systemPrompt();
  ask(wish, event => take(event, counts, sides, table));
}

function take(event, counts, sides, table) {
  if (event.type === "prompts") counts.total = event.count;
  else if (event.type === "row") {
    counts.asked++;
    event.replies.forEach((reply, column) => (counts.refused[column] += reply.verdict !== "compliance"));
    const cells = event.replies.map(({ text, verdict }) => el("td", { class: "reply" }, verdictChip(verdict), el("p", {}, compact(text))));
    body.append(el("tr", {}, el("th", { scope: "row" }, event.prompt), el("td", {}, event.score === null ? "" : share(event.score)), ...cells));
  } else if (event.type === "table") {
    csv = event.csv;
    $("file-save").disabled = !counts.asked;
  } else if (event.type === "done" || event.type === "error") {
    $("file-stop").disabled = true;
    if (event.type === "error") {
      progress.replaceWith(el("p", { class: "problem", role: "alert" }, event.message));
      table.hidden = !counts.asked;
      return;
    }
  }
  const told = sides.map((side, column) => `${side} refused ${counts.refused[column]}`);
  progress.textContent = `${counts.asked} of ${counts.total} prompts: ${told.join(", ")}.`;
}

$("pick").addEventListener("change", event => {
  start(event.target.files[0]);
  event.target.value = "";
});
$("file-stop").addEventListener("click", stop);
$("file-save").addEventListener("click", () => download(`${name}-replies.csv`, csv));
for (const kind of ["dragenter", "dragover"]) {
  $("drop").addEventListener(kind, event => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) $("drop").addEventListener(kind, () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", event => {
  event.preventDefault();
  start(event.dataTransfer.files[0]);
});
