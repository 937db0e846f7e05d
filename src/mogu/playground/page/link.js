// The connection to the server: wishes go out, events come back, each to the job that it belongs to.

import { $ } from "./dom.js";

const OUTSTAYED = 4000; // the server's code for a place that was given to somebody who waited
const jobs = new Map();
let socket = null;
let last = 0;
let tries = 0;
let greeted = () => {};

export function connect(onWelcome) {
  greeted = onWelcome;
  open();
}

/** Ask for something; `take` gets each event of it. Returns the number of the job. */
export function ask(wish, take) {
  const job = ++last;
  if (socket?.readyState !== WebSocket.OPEN) {
    take({ type: "error", message: "There is no connection to the playground. It may have been stopped; the page tries again by itself." });
    return job;
  }
  jobs.set(job, take);
  socket.send(JSON.stringify({ ...wish, job }));
  return job;
}

/** End whatever is under way. */
export function stop() {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "stop" }));
}

/** Forget a job: what still comes of it is dropped. */
export const forget = job => jobs.delete(job);

export function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

function open() {
  socket = new WebSocket(`ws://${location.host}/live`);
  socket.addEventListener("message", ({ data }) => receive(JSON.parse(data)));
  socket.addEventListener("close", closed);
}

function receive(event) {
  if (event.type === "welcome") {
    tries = 0;
    notice("");
    greeted(event);
  } else if (event.type === "waiting") {
    const ahead = event.ahead === 0 ? "you are next" : `${event.ahead} ${event.ahead === 1 ? "person is" : "people are"} ahead of you`;
    notice(`The playground is full: ${ahead}. This page opens by itself as soon as there is a place.`);
    $("lineup").textContent = "Waiting for a place …";
  } else {
    const take = jobs.get(event.job);
    if (event.type === "done" || event.type === "error") jobs.delete(event.job);
    if (take) take(event);
    else if (event.type === "error" && event.job === null) notice(event.message);
  }
}

function closed({ code }) {
  const cut = [...jobs.values()];
  jobs.clear();
  for (const take of cut) take({ type: "error", message: "The connection to the playground was lost." });
  $("lineup").textContent = "Not connected";
  if (code === OUTSTAYED) {
    notice("Your place went to somebody who waited, for nothing was asked here in a while. What stands on the page stays: press a key or click to go on.");
    for (const event of ["keydown", "pointerdown"]) addEventListener(event, back);
    return;
  }
  notice("There is no connection to the playground. Is `mogu playground` still running? The page tries again by itself.");
  setTimeout(open, Math.min(5000, 500 * 2 ** tries++));
}

function back() {
  for (const event of ["keydown", "pointerdown"]) removeEventListener(event, back);
  notice("");
  open();
}
