/**
 * Deep links: the state lives in the hash of TensorBoard's own address, as `p.gradwatch.<key>=<value>`.
 *
 * That is TensorBoard's own scheme for plugin data; it keeps such parts when it rewrites the hash. Only what differs
 * from the start state is written. Where the parent cannot be reached the frame's own hash serves.
 */

import { INITIAL } from "./store.js";

const PREFIX = "p.gradwatch.";
const TAB = "gradwatch";
const LONGEST = 500; // characters of a value: an address that a chat or a mail cuts off helps nobody

const NUMBERS = new Set(["optimizer", "step", "first", "last", "row_first", "row_last"]);
const SPANS = [["first", "last"], ["row_first", "row_last"]];
const ROWS = new Set(["parameters", "modules"]);

/** The window whose address is shown: TensorBoard's, where it is of the same origin. @returns {Window} */
export function shownWindow() {
  try {
    if (window.parent !== window && window.parent.location.href && window.parent.document.body) return window.parent;
  } catch {
    // Another origin embeds the frame.
  }
  return window;
}

/** @returns {Partial<import("./store.js").State>} what the address says; what makes no sense is left out */
export function readAddress() {
  /** @type {Record<string, unknown>} */
  const known = {};
  for (const [key, value] of parts(shownWindow().location.hash)) {
    const name = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : "";
    if (!Object.hasOwn(INITIAL, name) || value === null) continue;
    if (NUMBERS.has(name)) {
      if (/^\d{1,15}$/.test(value)) known[name] = Number(value);
    } else if (name === "relative") known[name] = value === "1";
    else if (name !== "rows" || ROWS.has(value)) known[name] = value;
  }
  for (const [first, last] of SPANS) {
    if (Number(known[first]) > Number(known[last])) known[first] = known[last] = null;
  }
  return known;
}

/** @param {import("./store.js").State} state */
export function writeAddress(state) {
  const shown = shownWindow();
  const others = parts(shown.location.hash).filter(([key]) => !key.startsWith(PREFIX));
  const tab = others.find(([, value]) => value === null);
  if (tab && tab[0] !== TAB) return; // another tab is in front: its address is not ours
  const initial = new Map(Object.entries(INITIAL));
  /** @type {Part[]} */
  const own = Object.entries(state)
    .filter(([key, value]) => value !== initial.get(key) && value !== null && String(value).length <= LONGEST)
    .map(([key, value]) => [PREFIX + key, value === true ? "1" : String(value)]);
  const url = new URL(shown.location.href);
  /** @type {Part[]} */
  const text = [[TAB, null], ...others.filter(([, value]) => value !== null), ...own];
  url.hash = text.map(([key, value]) => (value === null ? key : `${escaped(key)}=${escaped(value)}`)).join("&");
  if (url.href !== shown.location.href) shown.history.replaceState(shown.history.state, "", url.href);
  seen = JSON.stringify(readAddress());
}

/** What the address said of us when it was last read or written. */
let seen = "";

/** @param {() => void} listener called when somebody enters another address in the same window */
export function onAddress(listener) {
  const shown = shownWindow();
  const heard = () => {
    const now = JSON.stringify(readAddress());
    if (now === seen) return; // TensorBoard has rewritten its own part: what was just chosen must not be undone
    seen = now;
    listener();
  };
  seen = JSON.stringify(readAddress());
  shown.addEventListener("hashchange", heard);
  window.addEventListener("pagehide", () => shown.removeEventListener("hashchange", heard));
}

/** @typedef {[string, string | null]} Part key and value; a null value is a bare word, the tab */

/** @param {string} hash @returns {Part[]} */
function parts(hash) {
  /** @type {Part[]} */
  const found = [];
  for (const part of hash.replace(/^#/, "").split("&")) {
    if (!part) continue;
    const [key, value] = part.split("=", 2);
    try {
      found.push([decodeURIComponent(key), value === undefined ? null : decodeURIComponent(value)]);
    } catch {
      // A broken escape: nothing that we wrote.
    }
  }
  return found;
}

/** @param {string} text lone surrogates have no escape */
function escaped(text) {
  return encodeURIComponent(text.toWellFormed ? text.toWellFormed() : text.replace(/[\ud800-\udfff]/g, ""));
}
