/**
 * From log10 of a value to a place on the colour ramp.
 *
 * Where a few cells lie far above all others (one spike, a run that blows up) the top of the ramp is theirs alone: the
 * others keep their contrast, and a spike keeps a colour that nothing else has. The colour bar says what lies where.
 */

import { INK, ramp, rgb, sample } from "./colours.js";
import { NONFINITE, ZERO } from "./grid.js";
import { power } from "./words.js";

const RANKS = 256;
const BULK = 0.995; // of the cells
const LOWEST = 0.002; // below this share of the cells the ramp ends
const SPREAD = 1.0; // decades above the bulk from which on the top of the ramp is reserved
const RESERVED = 0.14; // of the ramp
const WIDEST_RATIO = 3; // decades to each side of a median

export class Scale {
  /** @param {import("./grid.js").Grid} grid the whole run: zooming does not change a colour @param {boolean} relative */
  constructor(grid, relative) {
    this.relative = relative;
    const found = quantiles(grid);
    /** Pairs of log10 and place on the ramp, both ascending. @type {[number, number][]} */
    this.knots = relative ? symmetric(grid) : knots(found, grid.high);
  }

  /** @param {number} log @returns {number} 0 to 1 */
  place(log) {
    const { knots: points } = this;
    if (log <= points[0][0]) return 0;
    for (let index = 1; index < points.length; index++) {
      const [[x0, y0], [x1, y1]] = [points[index - 1], points[index]];
      if (log <= x1) return y0 + ((log - x0) / (x1 - x0)) * (y1 - y0);
    }
    return 1;
  }

  /** @param {import("./grid.js").Grid} grid @param {"light" | "dark"} theme @returns {Uint32Array} ABGR of each rank, 0 for nothing */
  lookup(grid, theme) {
    const colours = ramp(this.relative, theme);
    const table = new Uint32Array(RANKS);
    for (let rank = 2; rank < NONFINITE; rank++) table[rank] = packed(sample(colours, this.place(grid.logOf(rank))));
    table[ZERO] = packed(rgb(INK[theme].zero));
    table[NONFINITE] = packed(rgb(INK[theme].nonfinite));
    return table;
  }

  /** @param {number} apart least distance of two labels on the ramp @returns {{place: number, text: string}[]} */
  ticks(apart) {
    const [low, high] = [this.knots[0][0], this.knots[this.knots.length - 1][0]];
    const span = high - low;
    const found = [];
    const values = [];
    if (span < 1.2) for (const unit of [1, 2, 5]) for (let e = Math.floor(low); e <= high; e++) values.push([e, unit]);
    else for (let exponent = Math.ceil(low - 1e-9); exponent <= high + 1e-9; exponent++) values.push([exponent, 1]);
    values.sort((a, b) => a[0] + Math.log10(a[1]) - b[0] - Math.log10(b[1]));
    for (const [exponent, unit] of values) {
      const log = exponent + Math.log10(unit);
      if (log < low - 1e-9 || log > high + 1e-9) continue;
      const text = unit === 1 ? power(exponent) : String(Number((unit * 10 ** exponent).toPrecision(1)));
      found.push({ place: this.place(log), text: this.relative ? ratio(exponent, unit) : text });
    }
    return thinned(found, apart);
  }
}

/** @param {number} exponent @param {number} unit @returns {string} `÷10`, `median`, `×100` */
function ratio(exponent, unit) {
  if (exponent === 0 && unit === 1) return "median";
  if (unit !== 1) return `×${Number((unit * 10 ** exponent).toPrecision(1))}`;
  return exponent > 0 ? `×${power(exponent)}` : `÷${power(-exponent)}`;
}

/** Every n-th tick, so that all have room. @param {{place: number, text: string}[]} ticks @param {number} apart */
function thinned(ticks, apart) {
  const kept = [];
  for (const tick of [...ticks].reverse()) {
    if (!kept.length || kept[kept.length - 1].place - tick.place >= apart) kept.push(tick);
  }
  return kept;
}

/** @param {import("./grid.js").Grid} grid @returns {{low: number, bulk: number} | null} log10; null without a finite value */
function quantiles(grid) {
  const counts = new Float64Array(RANKS);
  for (const rank of grid.ranks) counts[rank] += 1;
  let total = 0;
  for (let rank = 2; rank < NONFINITE; rank++) total += counts[rank];
  if (!total) return null;
  const at = (/** @type {number} */ share) => {
    let seen = 0;
    for (let rank = 2; rank < NONFINITE; rank++) {
      seen += counts[rank];
      if (seen >= share * total) return grid.logOf(rank);
    }
    return grid.high;
  };
  return { low: at(LOWEST), bulk: at(BULK) };
}

/** @param {{low: number, bulk: number} | null} found @param {number} high @returns {[number, number][]} */
function knots(found, high) {
  if (!found) return [[0, 0], [1, 1]];
  const low = Math.min(found.low, high - 0.3); // a run of one value everywhere still has a scale
  if (high - found.bulk < SPREAD || found.bulk - low < 0.1) return [[low, 0], [high, 1]];
  return [[low, 0], [found.bulk, 1 - RESERVED], [high, 1]];
}

/** @param {import("./grid.js").Grid} grid @returns {[number, number][]} */
function symmetric(grid) {
  const reach = Math.min(WIDEST_RATIO, Math.max(0.5, Math.abs(grid.low), Math.abs(grid.high)));
  return [[-reach, 0], [reach, 1]];
}

/** @param {[number, number, number]} colour @returns {number} opaque, as a little-endian pixel */
function packed([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}
