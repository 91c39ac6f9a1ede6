// Keeps an open page current: told by the hub that something has changed, it loads the page again and replaces
// the parts marked data-live. Without this script the page works the same, as of when it was loaded.
"use strict";

const RETRY_MS = 2000;
// For what nothing announces, such as when a machine has pulled last.
const LOOK_MS = 30000;

// Times are in the reader's own zone, with UTC beside it on hover.
const LOCAL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const utc = time.title || time.textContent;
    if (time.hasAttribute("data-age")) time.title = `${LOCAL.format(at)} (${utc})`;
    else [time.title, time.textContent] = [utc, LOCAL.format(at)];
  }
}
localise(document);

const link = document.getElementById("link");
let source = null;
let retry = 0;
let busy = false;
let again = false;

function say(words, live) {
  link.classList.toggle("lost", !live);
  if (link.textContent !== words) link.textContent = words;
}

// What has the focus is found again by its key, its address or its id.
function selectorOf(element) {
  for (const name of ["data-key", "href", "id"]) {
    const value = element.getAttribute(name);
    if (value) return `[${name}="${CSS.escape(value)}"]`;
  }
  return null;
}

function replace(before, after) {
  if (before.innerHTML === after.innerHTML) return;
  // A note that somebody writes is not taken away.
  if ([...before.querySelectorAll("textarea")].some((text) => text.value !== text.defaultValue)) return;
  const focused = before.contains(document.activeElement) ? selectorOf(document.activeElement) : null;
  const scrolled = [...before.querySelectorAll("[id]")].map((each) => [each.id, each.scrollTop, each.scrollLeft]);
  before.replaceChildren(...after.childNodes);
  for (const [id, top, left] of scrolled) document.getElementById(id)?.scrollTo(left, top);
  if (focused) before.querySelector(focused)?.focus({ preventScroll: true });
}

async function load() {
  const reply = await fetch(location.href, { redirect: "manual", cache: "no-store" });
  // The session has ended: the same address now leads to the login.
  if (reply.type === "opaqueredirect") return location.reload();
  if (!reply.ok) throw new Error(String(reply.status));
  const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
  localise(fresh);
  for (const before of document.querySelectorAll("[data-live]")) {
    const after = fresh.querySelector(`[data-live="${before.dataset.live}"]`);
    if (after) replace(before, after);
  }
  document.title = fresh.title;
}

async function refresh() {
  // One at a time; what is told meanwhile is looked into afterwards.
  again = busy;
  if (busy) return;
  busy = true;
  try {
    await load();
    if (source) say("Live", true);
  } catch {
    disconnect("Not connected");
  }
  busy = false;
  if (again) refresh();
}

function connect() {
  clearTimeout(retry);
  if (source || document.hidden) return;
  source = new EventSource("/events");
  // Whatever has changed before the stream was there.
  source.onopen = refresh;
  source.onerror = () => disconnect("Not connected");
  source.addEventListener("changed", refresh);
}

function disconnect(words) {
  source?.close();
  source = null;
  clearTimeout(retry);
  if (words) {
    say(words, false);
    retry = setTimeout(connect, RETRY_MS);
  }
}

// A page that nobody looks at holds no connection: browsers have six to a host.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect("") : connect()));
setInterval(() => source && refresh(), LOOK_MS);

// The log of a job, as it grows. What has come long ago goes, so that a long log doesn't fill the memory; the download
// has all of it.
const MOST_SHOWN = 2_000_000;
const section = document.querySelector("[data-log]");
let logSource = null;
let logFrom = section?.dataset.log;
let shown = section?.querySelector("pre").textContent.length;
const sizes = new WeakMap();

function append(html) {
  const pre = section.querySelector("pre");
  section.querySelector("[data-until-log]")?.remove();
  const follows = pre.hidden || pre.scrollHeight - pre.scrollTop - pre.clientHeight < 40;
  pre.hidden = false;
  const part = document.createElement("span");
  // The hub has escaped all text in it.
  part.innerHTML = html;
  pre.append(part);
  sizes.set(part, part.textContent.length);
  shown += sizes.get(part);
  while (pre.childNodes.length > 1 && shown > MOST_SHOWN) {
    shown -= sizes.get(pre.firstChild) ?? pre.firstChild.textContent.length;
    pre.firstChild.remove();
  }
  if (follows) pre.scrollTop = pre.scrollHeight;
}

function followLog() {
  if (!section || logSource || !logFrom || document.hidden) return;
  logSource = new EventSource(logFrom);
  logSource.addEventListener("log", (event) => {
    // Where a new stream continues, after this one was closed.
    logFrom = section.dataset.log.replace(/from=.*/, `from=${event.lastEventId}`);
    append(JSON.parse(event.data));
  });
  logSource.addEventListener("end", () => {
    leaveLog();
    logFrom = null;
  });
}

function leaveLog() {
  logSource?.close();
  logSource = null;
}

if (section) {
  const pre = section.querySelector("pre");
  const wanted = location.hash.startsWith("#L") && document.getElementById(location.hash.slice(1));
  if (wanted) {
    wanted.closest("details")?.setAttribute("open", "");
    wanted.scrollIntoView({ block: "center" });
  } else pre.scrollTop = pre.scrollHeight;
  // The address names the line, for whoever opens it elsewhere.
  pre.addEventListener("click", (event) => {
    const number = event.target.dataset.n;
    if (!number) return;
    // The number of a title opens no fold.
    event.preventDefault();
    const query = new URLSearchParams(location.search);
    query.set("line", number);
    history.replaceState(null, "", `?${query}`);
    location.replace(`#${event.target.id}`);
  });
  followLog();
  document.addEventListener("visibilitychange", () => (document.hidden ? leaveLog() : followLog()));
}

// Keys. Those of a single character can be turned off, as speech input needs it.
const keys = document.getElementById("keys");
const keysOn = document.getElementById("keys-on");
keysOn.checked = localStorage.getItem("keys") !== "off";
keysOn.addEventListener("change", () => localStorage.setItem("keys", keysOn.checked ? "on" : "off"));
const keysOpen = document.getElementById("keys-open");
keysOpen.hidden = false;
keysOpen.addEventListener("click", () => keys.showModal());

function step(table, by) {
  const rows = [...table.querySelectorAll("tbody [data-key]")];
  const at = rows.indexOf(document.activeElement);
  rows[at < 0 ? 0 : at + by]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || keys.open) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const inTable = event.target.closest("[data-rows]");
  const arrow = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const letter = keysOn.checked && { j: 1, k: -1 }[event.key];
  const table = inTable || (letter && document.querySelector("[data-rows]"));
  if (table && (arrow || letter)) step(table, arrow || letter);
  else if (keysOn.checked && event.key === "/" && document.querySelector("[data-search]")) document.querySelector("[data-search]").focus();
  else if (keysOn.checked && event.key === "?") keys.showModal();
  else return;
  event.preventDefault();
});

connect();
