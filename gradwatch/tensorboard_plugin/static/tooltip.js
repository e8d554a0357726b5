/** What the cell under the mouse or the cursor holds: the exact value comes from the server a moment later. */

import { get } from "./api.js";
import { debounced, el, say } from "./dom.js";
import { ABSENT, NONFINITE, ZERO } from "./grid.js";
import { count, number, plain, stepText } from "./words.js";

const PATIENCE = 110; // milliseconds without a move before the server is asked
const KEPT = 500;
const GAP = 14;

/**
 * @typedef {object} Cell
 * @property {string} name of the row
 * @property {number} step
 * @property {number} rank
 * @property {number} log log10 of the value, where it is finite
 * @property {number} steps pooled in this cell
 * @property {number} rows pooled in this cell
 * @property {string} note of an incident here, "" for none
 */

export class Tooltip {
  /** @type {Map<string, any>} */ #known = new Map();
  /** @type {AbortController} */ #asking = new AbortController();
  /** @type {(() => void) & {cancel: () => void}} */ #later;
  /** @type {Cell | null} */ #cell = null;
  /** @type {import("./cells.js").Source | null} */ #source = null;

  /** @param {HTMLElement} host positioned */
  constructor(host) {
    this.#name = el("div", { class: "tooltip-name" });
    this.#step = el("div", { class: "tooltip-step" });
    this.#value = el("div", { class: "tooltip-value" });
    this.#pooled = el("div", { class: "tooltip-note" });
    this.#note = el("div", { class: "tooltip-incident" });
    const parts = [this.#name, this.#step, this.#value, this.#pooled, this.#note];
    this.element = el("div", { class: "tooltip", attributes: { hidden: true, "aria-hidden": "true" } }, ...parts);
    this.spoken = el("div", { class: "offscreen", attributes: { "aria-live": "polite" } });
    host.append(this.element, this.spoken);
    this.#later = debounced(() => this.#ask(), PATIENCE);
  }

  #name; #step; #value; #pooled; #note;

  /** @param {import("./cells.js").Source} source */
  open(source) {
    this.#source = source;
    this.#known.clear();
    this.hide();
  }

  hide() {
    this.#later.cancel();
    this.#asking.abort();
    this.#cell = null;
    this.element.hidden = true;
  }

  /** @param {Cell} cell @param {number} x @param {number} y @param {number} width of the map */
  show(cell, x, y, width) {
    this.#cell = cell;
    say(this.#name, plain(cell.name, 160));
    const known = this.#known.get(this.#key(cell));
    if (known) this.#tell(known);
    else {
      say(this.#step, `step ${stepText(cell.step)}`);
      say(this.#value, this.#guess(cell));
      this.#later();
    }
    say(this.#pooled, pooledText(cell, this.#guess(cell)));
    say(this.#note, cell.note);
    this.element.hidden = false;
    const own = this.element.getBoundingClientRect();
    const left = x + GAP + own.width > width ? x - GAP - own.width : x + GAP;
    this.element.style.left = `${Math.max(4, left)}px`;
    this.element.style.top = `${Math.max(4, y - own.height - GAP > 0 ? y - own.height - GAP : y + GAP)}px`;
  }

  /** @param {Cell} cell @returns {string} as far as the colour tells */
  #guess({ rank, log }) {
    if (rank === ABSENT) return "no value";
    if (rank === ZERO) return "exactly zero";
    if (rank === NONFINITE) return "not finite";
    const value = number(Number((10 ** log).toPrecision(2)));
    return this.#source?.relative ? `about ${value} × its median` : `about ${value}`;
  }

  async #ask() {
    const [cell, source] = [this.#cell, this.#source];
    if (!cell || !source) return;
    this.#asking.abort();
    this.#asking = new AbortController();
    const { run, statistic, optimizer, rows } = source;
    try {
      const parameters = { run, statistic, optimizer, rows, row: cell.name, step: Math.round(cell.step) };
      const found = await get("value", parameters, this.#asking.signal);
      if (this.#known.size > KEPT) this.#known.clear();
      this.#known.set(this.#key(cell), found);
      if (cell === this.#cell) this.#tell(found);
    } catch {
      // The approximate value stays: it is right, too.
    }
  }

  /** @param {{step: number, value: number | string | null}} found */
  #tell(found) {
    const cell = this.#cell;
    if (!cell) return;
    const value = number(found.value);
    say(this.#step, `step ${stepText(found.step)}`);
    const relative = this.#source?.relative && cell.rank > ZERO && cell.rank < NONFINITE && cell.steps * cell.rows === 1;
    say(this.#value, relative ? `${value} · ${this.#guess(cell)}` : value);
    say(this.spoken, `${plain(cell.name, 160)}, step ${found.step}: ${value}${cell.note ? `, ${cell.note}` : ""}`);
  }

  /** @param {Cell} cell */
  #key({ name, step }) {
    return `${Math.round(step)} ${name}`;
  }
}

/** @param {Cell} cell @param {string} value @returns {string} */
function pooledText({ steps, rows }, value) {
  if (steps * rows <= 1) return "";
  const parts = [steps > 1 ? count(steps, "step") : "", rows > 1 ? count(rows, "row") : ""].filter(Boolean);
  return `highest of these ${parts.join(" × ")}: ${value}`;
}
