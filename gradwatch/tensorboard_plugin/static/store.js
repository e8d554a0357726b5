/** What is chosen on the page, in one place; everything else is drawn from it. */

/**
 * @typedef {object} State
 * @property {string | null} run
 * @property {string | null} compare a second run
 * @property {number} optimizer
 * @property {string | null} incident `GW101@412`: the one that is unfolded; "" for none
 * @property {number | null} step null: follow the newest
 * @property {string | null} layer
 * @property {string} statistic
 * @property {"parameters" | "modules"} rows
 * @property {boolean} relative to each layer's own median
 * @property {number | null} first of the steps in view, inclusive; null: all
 * @property {number | null} last
 * @property {number | null} row_first of the rows in view, inclusive; null: all
 * @property {number | null} row_last
 */

/** @type {State} */
export const INITIAL = Object.freeze({
  run: null,
  compare: null,
  optimizer: 0,
  incident: null,
  step: null,
  layer: null,
  statistic: "grad_norm",
  rows: "parameters",
  relative: false,
  first: null,
  last: null,
  row_first: null,
  row_last: null,
});

export const NO_ZOOM = Object.freeze({ first: null, last: null, row_first: null, row_last: null });

export class Store {
  /** @type {State} */
  #state;
  /** @type {((state: State, changed: Set<string>) => void)[]} */
  #listeners = [];

  /** @param {Partial<State>} known */
  constructor(known) {
    this.#state = { ...INITIAL, ...known };
  }

  /** @returns {Readonly<State>} */
  get state() {
    return this.#state;
  }

  /** @param {(state: State, changed: Set<string>) => void} listener called after every real change */
  subscribe(listener) {
    this.#listeners.push(listener);
  }

  /** @param {Partial<State>} change */
  set(change) {
    const known = new Map(Object.entries(this.#state));
    const changed = new Set(Object.entries(change).filter(([key, value]) => value !== known.get(key)).map(([key]) => key));
    if (!changed.size) return;
    this.#state = { ...this.#state, ...change };
    for (const listener of this.#listeners) listener(this.#state, changed);
  }
}
