// Finds words in the part of a log that the page shows, also while it grows. The text stays as it is: what is found is
// marked by the browser (CSS.highlights), or selected where it has none of these.
"use strict";

import { foldOf, open } from "./fold.js";

const MOST_FOUND = 5000;
const AGAIN_MS = 250;
const log = document.getElementById("log");
const find = document.getElementById("find");
const field = document.getElementById("find-words");
const said = document.getElementById("find-said");
// Each with its range and the number of its line, in their order.
let found = [];
let at = -1;
let later = 0;

function search() {
  const words = field.value;
  found = [];
  if (!words) return;
  const pattern = new RegExp(words.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
  const nodes = [];
  let text = "";
  let line = "";
  const walker = document.createTreeWalker(log, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.nodeType === Node.TEXT_NODE) {
      nodes.push({ node, line, start: text.length });
      text += node.data;
    } else line = node.dataset.n || line;
  }
  let first = 0;
  for (const { 0: match, index } of text.matchAll(pattern)) {
    if (found.length === MOST_FOUND) break;
    while (nodes[first + 1]?.start <= index) first++;
    let last = first;
    while (nodes[last + 1]?.start < index + match.length) last++;
    const range = document.createRange();
    range.setStart(nodes[first].node, index - nodes[first].start);
    range.setEnd(nodes[last].node, index + match.length - nodes[last].start);
    found.push({ range, line: nodes[first].line });
  }
}

// Where it is seen: in a closed fold at its title.
function placeOf({ range }) {
  const fold = foldOf(range.startContainer);
  return (fold && !fold.open ? fold : range).getBoundingClientRect();
}

// The first one that can be seen, or comes after that.
function firstInView() {
  const top = log.getBoundingClientRect().top;
  let [low, high] = [0, found.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (placeOf(found[middle]).bottom > top) high = middle;
    else low = middle + 1;
  }
  return low % found.length;
}

function show(moves) {
  const now = found[at]?.range;
  const most = found.length === MOST_FOUND ? "+" : "";
  const line = found[at]?.line;
  const words = now ? `${at + 1} of ${found.length}${most}${line ? `, line ${line}` : ""}` : field.value ? "Not in the part shown" : "";
  if (said.textContent !== words) said.textContent = words;
  if (CSS.highlights) {
    CSS.highlights.set("found", new Highlight(...found.map((each) => each.range)));
    CSS.highlights.set("found-now", new Highlight(...(now ? [now] : [])));
    CSS.highlights.get("found-now").priority = 1;
  } else if (now && moves) getSelection().setBaseAndExtent(now.startContainer, now.startOffset, now.endContainer, now.endOffset);
  if (!now || !moves) return;
  open(foldOf(now.startContainer));
  log.scrollIntoView({ block: "nearest" });
  const [place, box] = [now.getBoundingClientRect(), log.getBoundingClientRect()];
  log.scrollTop += place.top - box.top - log.clientHeight / 2;
  if (place.left < box.left || place.right > box.right) log.scrollLeft += place.left - box.left - log.clientWidth / 2;
}

function step(by) {
  if (found.length) at = (at + by + found.length) % found.length;
  show(true);
}

field.addEventListener("input", () => {
  search();
  at = found.length ? firstInView() : -1;
  show(true);
});
find.addEventListener("submit", (event) => {
  event.preventDefault();
  step(event.submitter?.value === "back" ? -1 : 1);
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.shiftKey) step(-1);
  else if (event.key === "Escape" && !field.value) log.focus();
  else return;
  event.preventDefault();
});
// What was found last stays that, unless it has gone.
new MutationObserver(() => {
  find.hidden = log.hidden;
  if (!field.value || later) return;
  later = setTimeout(() => {
    later = 0;
    const before = found[at]?.range;
    const [node, offset] = [before?.startContainer, before?.startOffset];
    search();
    at = found.findIndex(({ range }) => range.startContainer === node && range.startOffset === offset);
    if (at < 0 && found.length) at = 0;
    show(false);
  }, AGAIN_MS);
}).observe(log, { childList: true, attributes: true, attributeFilter: ["hidden"] });
find.hidden = log.hidden;
