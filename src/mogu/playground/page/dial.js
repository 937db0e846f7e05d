// The score of the last prompt, the dial, and the frontier that the dial moves along.

import { $, dialed, el, percent, share, svg } from "./dom.js";
import { ask } from "./link.js";

const WAIT = 350; // milliseconds of rest after which a moved dial asks anew

let chat = null;
let own = 0; // the model's own dial
let known = new Map(); // frontiers by side
let shown = null;
let last = null; // the last score: {event, side}
let timer = 0;

export function begin(_, talk) {
  chat = talk;
  known = new Map();
  sidesChanged();
}

export const value = () => ($("dial").disabled ? null : Number($("dial").value));

export function sidesChanged() {
  const column = chat.hardenedColumn();
  const side = column ? chat.side(column.side) : null;
  $("dial").disabled = !side;
  if (!side) {
    $("frontier").replaceChildren(el("p", { class: "quiet" }, "No hardened model is chosen."));
    return;
  }
  if (shown !== side.name) {
    own = side.dial;
    $("dial").value = own;
    $("dial-own").replaceChildren(el("option", { value: own }));
  }
  shown = side.name;
  moved();
  if (!known.has(side.name)) {
    known.set(side.name, undefined);
    $("frontier").replaceChildren(el("p", { class: "quiet" }, "Measuring what the dial buys …"));
    ask({ type: "frontier", side: side.name }, event => {
      if (event.type === "frontier") known.set(side.name, event.frontier);
      if (event.type === "error") {
        known.delete(side.name);
        $("frontier").replaceChildren(el("p", { class: "problem" }, event.message));
      }
      draw();
    });
  }
  draw();
}

export function clearScore() {
  last = null;
  $("score").replaceChildren(el("p", { class: "quiet" }, "Ask something, and the hardened side says how malicious it finds the prompt."));
}

export function scored(event, side) {
  last = { event, side };
  const above = event.threshold === null ? null : event.score >= event.threshold;
  const verdict = above === null ? "" : above ? "Flagged: the responder that refuses answers." : "Not flagged: the plain model answers, bit for bit.";
  const mark = event.threshold === null ? [] : [el("i", { class: "tick", "--at": `${100 * event.threshold}%`, title: `threshold ${event.threshold.toFixed(2)}` })];
  const meter = el("div", { class: `meter ${above ? "above" : ""}`, role: "meter", "aria-label": "Malicious score", "aria-valuemin": "0", "aria-valuemax": "1", "aria-valuenow": event.score.toFixed(3) }, el("b", { "--at": `${100 * event.score}%` }), ...mark);
  $("score").replaceChildren(
    el("p", { class: "figure" }, share(event.score), el("small", {}, event.threshold === null ? "mean unwill share" : `threshold ${event.threshold.toFixed(2)}`)),
    meter,
    el("p", { class: "quiet" }, verdict || "The two responders are mixed in this proportion."),
  );
}

function moved() {
  const dial = Number($("dial").value);
  $("dial-value").textContent = dialed(dial);
  $("dial").setAttribute("aria-valuetext", `${dialed(dial)}, ${dial > own ? "refuses more" : dial < own ? "answers more" : "the model's own setting"}`);
  $("dial-reset").disabled = dial === own;
  draw();
}

$("dial").addEventListener("input", () => {
  moved();
  clearTimeout(timer);
  timer = setTimeout(() => chat.dialMoved(), WAIT);
});
$("dial-reset").addEventListener("click", () => {
  $("dial").value = own;
  moved();
  chat.dialMoved();
});

const SIZE = { width: 300, height: 216, left: 60, right: 22, top: 12, bottom: 40 };

function draw() {
  const frontier = known.get(shown);
  if (frontier === undefined) return;
  if (frontier === null) {
    $("frontier").replaceChildren(el("p", { class: "quiet" }, "No frontier is known: this model was trained at one dial. `mogu calibrate` measures others."));
    return;
  }
  const { width, height, left, right, top, bottom } = SIZE;
  const x = benign => left + (width - left - right) * benign;
  const y = malicious => height - bottom - (height - top - bottom) * malicious;
  const dial = Number($("dial").value);
  const now = frontier.points.reduce((best, point) => (Math.abs(point.dial - dial) < Math.abs(best.dial - dial) ? point : best));
  const words = `At dial ${dialed(now.dial)}: ${percent(now.malicious_refused)} of ${frontier.malicious} malicious and ${percent(now.benign_refused)} of ${frontier.benign} benign prompts are refused.`;
  const grid = [0, 0.5, 1].flatMap(mark => [
    svg("path", { class: "grid", d: `M${left} ${y(mark)}H${width - right}M${x(mark)} ${top}V${height - bottom}` }),
    svg("text", { x: left - 6, y: y(mark) + 4, class: "end" }, percent(mark)),
    svg("text", { x: x(mark), y: height - bottom + 16 }, percent(mark)),
  ]);
  const path = frontier.points.map(point => `${x(point.benign_refused).toFixed(1)},${y(point.malicious_refused).toFixed(1)}`).join(" ");
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": words },
    ...grid,
    svg("polyline", { points: path, class: "line mogu" }),
    ...(frontier.points.length < 12 ? frontier.points.map(point => svg("circle", { cx: x(point.benign_refused), cy: y(point.malicious_refused), r: 3, class: "dot small mogu" })) : []),
    svg("circle", { cx: x(now.benign_refused), cy: y(now.malicious_refused), r: 6, class: "dot hollow mogu" }),
    svg("text", { x: (left + width - right) / 2, y: height - 6, class: "axis" }, "benign refused"),
    svg("text", { transform: `translate(12 ${(top + height - bottom) / 2}) rotate(-90)`, class: "axis" }, "malicious refused"),
  );
  $("frontier").replaceChildren(el("figure", {}, drawing, el("figcaption", {}, words, " ", el("span", { class: "source" }, `${frontier.source[0].toUpperCase()}${frontier.source.slice(1)}.`))));
}
