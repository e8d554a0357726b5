/** The figures below the heat map: the chosen layer over time, the chosen step over depth, and back through time. */

import { Figure } from "./figure.js";
import { short, stepText } from "./words.js";

export class Figures {
  /** @param {HTMLElement} host @param {(change: Partial<import("./store.js").State>) => void} change a point was clicked */
  constructor(host, change) {
    this.#line = new Figure(host, "line", ({ x }) => Number.isFinite(x) && change({ step: Math.max(0, Math.round(x)) }));
    this.#profile = new Figure(host, "profile", (point) => {
      const layer = [point.customdata].flat()[0];
      if (typeof layer === "string" && this.#names.includes(layer)) change({ layer });
    });
    this.#through = new Figure(host, "through-time");
    this.#through.element.hidden = true;
  }

  #line; #profile; #through;
  /** @type {string[]} */ #names = [];

  /**
   * @param {Readonly<import("./store.js").State>} state
   * @param {import("./runs.js").Run} run
   * @param {string[]} names all rows in depth order, [] while they are not known
   * @param {boolean} again also where nothing else was chosen: there are new steps
   */
  show(state, run, names, again) {
    this.#names = names;
    const { optimizer, statistic, rows, compare, first, last } = state;
    const layer = state.layer ?? names[0];
    const step = state.step;
    const at = step === null ? "at the newest step" : `at step ${stepText(step)}`;
    if (layer !== undefined) {
      this.#line.show(`${short(layer, 60)} over time`, "line", { run: run.run, layer, statistic, optimizer, first, last, compare }, again);
    }
    this.#profile.show(`over depth, ${at}`, "profile", { run: run.run, optimizer, statistic, rows, step, compare }, again);
    this.#through.element.hidden = !run.has_through_time;
    if (run.has_through_time) this.#through.show(`back through time, ${at}`, "through_time", { run: run.run, step }, again);
  }
}
