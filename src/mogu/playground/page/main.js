// Puts the parts of the page together: tabs, and what the server says at the beginning.

import * as attacks from "./attacks.js";
import * as chat from "./chat.js";
import * as dial from "./dial.js";
import { $ } from "./dom.js";
import * as file from "./file.js";
import { connect } from "./link.js";

const tabs = [...document.querySelectorAll('[role="tab"]')];

function show(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab.id === "tab-attacks") attacks.opened(chat.lastPrompt());
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    next.focus();
    show(next);
  });
}

connect(welcome => {
  const names = welcome.sides.filter(side => side.kind !== "plain").map(side => side.name);
  $("lineup").textContent = names.length ? `${names.join(", ")} beside the plain model` : welcome.sides.map(side => side.name).join(", ");
  chat.begin(welcome);
  dial.begin(welcome, chat);
  attacks.begin(welcome, chat);
  file.begin(chat);
});
