// Folds of a log. What comes later of a group is in parts of its own: they are hidden while its fold is closed.
"use strict";

const log = document.getElementById("log");
let last = null;

function spread(fold, part) {
  for (; part?.firstElementChild?.fold === fold; part = part.nextElementSibling) part.firstElementChild.hidden = !fold.open;
}

// The fold in which a text is; none for a title, which can always be seen.
export function foldOf(node) {
  const at = node.parentElement;
  return at.closest("summary") ? null : (at.closest("details") ?? at.closest(".in")?.fold);
}

export function open(fold) {
  if (!fold || fold.open) return;
  fold.open = true;
  spread(fold, fold.parentElement.nextElementSibling);
}

function take(part) {
  const more = part.querySelector(":scope > .in");
  if (more && last) {
    more.fold = last;
    more.hidden = !last.open;
  }
  last = part.querySelector(":scope > details:last-of-type") ?? last;
}

// A part whose title has gone can't be opened any more.
function leave(part) {
  const fold = part.querySelector?.(":scope > details:last-of-type");
  if (!fold) return;
  fold.open = true;
  spread(fold, log.firstElementChild);
}

for (const part of log.children) take(part);
// Browsers open the elements around a line that an address names, but not what belongs to them elsewhere.
addEventListener("hashchange", () => {
  const line = document.getElementById(location.hash.slice(1));
  const fold = log.contains(line) && line && foldOf(line);
  if (!fold || fold.open) return;
  open(fold);
  line.scrollIntoView({ block: "center" });
});
log.addEventListener("toggle", ({ target }) => spread(target, target.parentElement.nextElementSibling), true);
new MutationObserver((changes) => {
  for (const { addedNodes, removedNodes } of changes) {
    addedNodes.forEach(take);
    removedNodes.forEach(leave);
  }
}).observe(log, { childList: true });
