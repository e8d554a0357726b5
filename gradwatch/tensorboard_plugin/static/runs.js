/** Which run is shown, and which one it is compared with. */

import { el } from "./dom.js";
import { count, short, stepText } from "./words.js";

const RANK = { error: 0, warning: 1, info: 2 };

/**
 * @typedef {object} Run as the route `runs` tells it
 * @property {string} run
 * @property {"running" | "finished" | "unknown"} state
 * @property {number} last_step
 * @property {number} steps
 * @property {number[]} optimizers
 * @property {string[]} statistics
 * @property {number} incidents
 * @property {"error" | "warning" | "info" | null} worst
 * @property {boolean} has_through_time
 */

/** @param {Run[]} runs @returns {Run | undefined} what to look at first: what is running, then what is worst */
export function foremostRun(runs) {
  const rank = (/** @type {Run} */ run) => (run.state === "running" ? -10 : 0) + (run.worst ? RANK[run.worst] : 3);
  return [...runs].sort((a, b) => rank(a) - rank(b))[0];
}

export class RunSelector {
  /** @param {HTMLElement} host @param {(run: string) => void} pick @param {(run: string | null) => void} compare */
  constructor(host, pick, compare) {
    this.#run = el("select", { attributes: { id: "run" }, on: { change: () => pick(this.#run.value) } });
    this.#compare = el("select", { attributes: { id: "compare" }, on: { change: () => compare(this.#compare.value || null) } });
    this.#second = el("label", { class: "field", attributes: { for: "compare" } }, "compare with", this.#compare);
    host.append(el("label", { class: "field", attributes: { for: "run" } }, "run", this.#run), this.#second);
  }

  #run; #compare; #second;
  #shown = "";

  /** @param {Run[]} runs @param {string | null} run @param {string | null} compare */
  show(runs, run, compare) {
    const shown = JSON.stringify([runs.map((one) => [one.run, one.state, one.incidents]), run, compare]);
    if (shown === this.#shown) return; // an open list must not jump under the mouse
    this.#shown = shown;
    this.#run.replaceChildren(...runs.map((one) => option(one.run, label(one))));
    const others = runs.filter((one) => one.run !== run);
    this.#compare.replaceChildren(option("", "no other run"), ...others.map((one) => option(one.run, label(one))));
    this.#run.value = run ?? "";
    this.#compare.value = compare ?? "";
    this.#second.hidden = !others.length;
  }
}

/** @param {Run} run @returns {string} `sick · 2 incidents · running` */
function label(run) {
  const found = run.incidents ? `${run.worst === "error" ? "✕" : "!"} ${count(run.incidents, "incident")}` : "✓ nothing found";
  return `${short(run.run, 60)} · ${found}${run.state === "running" ? " · running" : ""}`;
}

/** @param {Run} run @returns {string} */
export function stateText(run) {
  const step = `step ${stepText(run.last_step)}`;
  if (run.state === "running") return `running · ${step}`;
  if (run.state === "finished") return `finished · ${count(run.steps, "step")}`;
  return `last seen at ${step}`;
}

/** @param {string} value @param {string} text */
function option(value, text) {
  const element = el("option", { text });
  element.value = value;
  return element;
}
