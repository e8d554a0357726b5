/** Where the heat map's cells come from: the whole run pooled, and what is in view in finer cells. */

import { get, overtaken } from "./api.js";
import { Grid } from "./grid.js";

/** @typedef {{run: string, statistic: string, optimizer: number, rows: string, relative: boolean}} Source */
/** @typedef {{first: number, last: number, row_first: number, row_last: number}} Range inclusive */

export class Cells {
  /** @type {Grid | null} */ overview = null;
  /** @type {Grid | null} */ detail = null;
  /** @type {Source | null} */ #source = null;
  #whole = new AbortController();
  #part = new AbortController();

  /** @param {() => void} arrived called after either grid was replaced @param {(error: unknown) => void} failed */
  constructor(arrived, failed) {
    this.#arrived = arrived;
    this.#failed = failed;
  }

  /** @type {() => void} */ #arrived;
  /** @type {(error: unknown) => void} */ #failed;

  /** @param {Source} source another run, statistic, ...; what is shown stays until the new cells are here */
  async open(source) {
    this.#source = source;
    this.#part.abort();
    await this.refresh();
  }

  /** Fetch the whole run again: it may have new steps. */
  async refresh() {
    this.#whole.abort();
    this.#whole = new AbortController();
    const source = this.#source;
    const grid = await this.#fetch(source, null, this.#whole.signal);
    if (!grid) return;
    if (source !== this.#shown) this.detail = null;
    this.#shown = source;
    this.overview = grid;
    this.#arrived();
  }

  /** @type {Source | null} whose cells are shown */ #shown = null;

  /** @param {Range | null} range in view; null where that is everything */
  async refine(range) {
    this.#part.abort();
    if (!range) {
      this.detail = null;
      return;
    }
    this.#part = new AbortController();
    const source = this.#source;
    const grid = await this.#fetch(source, range, this.#part.signal);
    if (!grid || source !== this.#source) return;
    this.detail = grid;
    this.#arrived();
  }

  /** @param {Source | null} source @param {Range | null} range @param {AbortSignal} signal @returns {Promise<Grid | null>} null: overtaken or failed */
  async #fetch(source, range, signal) {
    if (!source) return null;
    try {
      return new Grid(await get("heatmap", { ...source, ...range }, signal), range?.row_last ?? null);
    } catch (error) {
      if (!overtaken(error)) this.#failed(error);
      return null;
    }
  }
}
