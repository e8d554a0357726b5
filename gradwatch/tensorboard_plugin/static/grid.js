/**
 * The pooled cells as the server sends them, and where each lies: steps across, rows (layers in depth order) down.
 *
 * A cell holds a rank, so that the more important of two cells is simply the greater one: nothing < exactly zero <
 * finite values < not finite.
 */

export const ABSENT = 0;
export const ZERO = 1;
export const NONFINITE = 255;

const CODE_ZERO = 251;
const CODE_NONFINITE = 254;
const CODE_LAST = 250; // codes 1 to 250 are log10 of the value, even between low and high

/** @typedef {{row: number, col: number, incident: number}} Ring */

export class Grid {
  /** @param {any} data the answer of the route `heatmap` @param {number | null} [rowLast] the last row that was asked for */
  constructor(data, rowLast = null) {
    /** @type {number} */ this.rows = data.rows;
    /** @type {number} */ this.cols = data.cols;
    /** @type {string[]} first name of each pooled row */ this.names = data.names;
    /** @type {string[]} */ this.namesLast = data.names_last ?? data.names;
    /** @type {number} rows before pooling, of the whole model */ this.numRows = data.num_rows;
    /** @type {number} log10 at the lowest code */ this.low = data.low;
    /** @type {number} */ this.high = data.high;
    /** @type {Ring[]} */ this.rings = data.rings ?? [];
    /** @type {number[]} */ this.stepFirst = data.step_first;
    /** @type {number[]} */ this.stepLast = data.step_last;
    /** @type {string} why there is nothing to draw, "" where there is */ this.nothing = data.empty ?? "";
    /** Edges of the columns in steps, `[cols + 1]`. */ this.colEdges = columnEdges(data.step_first, data.step_last);
    /** Edges of the rows in rows of the model, `[rows + 1]`. */ this.rowEdges = rowEdges(data, rowLast);
    this.ranks = ranks(data.cells, this.rows * this.cols);
  }

  get empty() {
    return this.rows === 0 || this.cols === 0;
  }

  /** @param {number} step @returns {number} the column, -1 outside */
  columnAt(step) {
    return this.empty ? -1 : binAt(this.colEdges, step);
  }

  /** @param {number} row of the model, a fraction is inside of it @returns {number} the pooled row, -1 outside */
  rowAt(row) {
    return this.empty ? -1 : binAt(this.rowEdges, row);
  }

  /** @param {number} row pooled @param {number} col @returns {number} */
  rank(row, col) {
    return this.ranks[row * this.cols + col];
  }

  /** @param {number} rank of a finite value @returns {number} log10 of it */
  logOf(rank) {
    return this.low + ((rank - 2) / (CODE_LAST - 1)) * (this.high - this.low);
  }

  /** @param {number} col @returns {boolean} whether it pools several recorded steps */
  pools(col) {
    return this.stepFirst[col] !== this.stepLast[col];
  }
}

/** @param {string} cells base64 @param {number} size @returns {Uint8Array} */
function ranks(cells, size) {
  const bytes = atob(cells);
  const found = new Uint8Array(size);
  for (let index = 0; index < size; index++) {
    const code = bytes.charCodeAt(index);
    if (code === CODE_NONFINITE) found[index] = NONFINITE;
    else if (code === CODE_ZERO) found[index] = ZERO;
    else if (code >= 1 && code <= CODE_LAST) found[index] = code + 1;
  }
  return found;
}

/** @param {number[]} first @param {number[]} last @returns {Float64Array} a column reaches to the start of the next */
function columnEdges(first, last) {
  const edges = new Float64Array(first.length + 1);
  edges.set(first);
  if (first.length) edges[first.length] = last[last.length - 1] + stride(first, last);
  return edges;
}

/** Steps from one recorded step to the next, as far as the pooled columns tell. */
function stride(/** @type {number[]} */ first, /** @type {number[]} */ last) {
  const gaps = [];
  for (let col = 1; col < first.length; col++) gaps.push(first[col] - last[col - 1]);
  gaps.sort((a, b) => a - b);
  return Math.max(1, gaps[gaps.length >> 1] ?? 1);
}

/** @param {any} data @param {number | null} rowLast @returns {Float64Array} */
function rowEdges(data, rowLast) {
  const edges = new Float64Array(data.rows + 1);
  edges.set(data.row_first);
  const size = data.rows > 1 ? data.row_first[1] - data.row_first[0] : Infinity;
  // The last bin may be smaller: it ends where the answer was asked to end, at the latest with the model.
  const end = Math.min(data.num_rows, (rowLast ?? Infinity) + 1);
  if (data.rows) edges[data.rows] = Math.max(data.row_first[data.rows - 1] + 1, Math.min(end, data.row_first[data.rows - 1] + size));
  return edges;
}

/** @param {Float64Array} edges ascending @param {number} value @returns {number} the bin that holds it, -1 for none */
function binAt(edges, value) {
  let [low, high] = [0, edges.length - 1];
  if (!(value >= edges[0] && value < edges[high])) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= value) low = middle;
    else high = middle;
  }
  return low;
}
