/** What lies over the cells: rings and flags of the incidents, the selection, the cursor, the box that is dragged. */

import { INK } from "./colours.js";

const RING = 13; // pixels, at least
const SMALL_RING = 8;
const MANY = 120;
const FLAG = 5;
const TWO_LINES = 8; // pixels of a row from which on both its edges are drawn
const REACH = 9; // pixels around a ring or a flag that still mean it

/** @typedef {import("./axes.js").Box} Box */
/** @typedef {{incident: number, left: number, top: number, right: number, bottom: number}} Mark in CSS pixels */

/**
 * The rings of a grid in pixels: rows of one incident that lie next to one another share a ring.
 *
 * @param {import("./grid.js").Grid} grid
 * @param {import("./paint.js").Window} view
 * @param {Box} box
 * @returns {Mark[]}
 */
export function ringMarks(grid, view, box) {
  const sorted = [...grid.rings].sort((a, b) => a.incident - b.incident || a.col - b.col || a.row - b.row);
  /** @type {{incident: number, col: number, top: number, bottom: number}[]} */
  const joined = [];
  for (const { row, col, incident } of sorted) {
    const known = joined[joined.length - 1];
    if (known && known.incident === incident && known.col === col && row <= known.bottom + 1) known.bottom = row;
    else joined.push({ incident, col, top: row, bottom: row });
  }
  const least = joined.length > MANY ? SMALL_RING : RING;
  const marks = [];
  for (const { incident, col, top, bottom } of joined) {
    const [s0, s1] = [grid.colEdges[col], grid.colEdges[col + 1]];
    const [r0, r1] = [grid.rowEdges[top], grid.rowEdges[bottom + 1]];
    if (s1 <= view.s0 || s0 >= view.s1 || r1 <= view.r0 || r0 >= view.r1) continue;
    const [left, right] = widened(x(s0, view, box), x(s1, view, box), least);
    const [high, low] = widened(y(r0, view, box), y(r1, view, box), least);
    marks.push({ incident, left, right, top: high, bottom: low });
  }
  return marks;
}

/**
 * @param {Mark[]} marks
 * @param {number} px
 * @param {number} py
 * @returns {number | null} the incident whose mark is there, the nearest of several
 */
export function markAt(marks, px, py) {
  /** @type {number | null} */
  let best = null;
  let nearest = REACH;
  for (const mark of marks) {
    const dx = Math.max(mark.left - px, 0, px - mark.right);
    const dy = Math.max(mark.top - py, 0, py - mark.bottom);
    const away = Math.hypot(dx, dy) + 1e-3 * Math.hypot(px - (mark.left + mark.right) / 2, py - (mark.top + mark.bottom) / 2);
    if (away < nearest) [best, nearest] = [mark.incident, away];
  }
  return best;
}

/** The flags above the cells, one an incident. @returns {Mark[]} */
export function flagMarks(
  /** @type {{step: number}[]} */ incidents, /** @type {import("./paint.js").Window} */ view, /** @type {Box} */ box,
) {
  /** @type {Mark[]} */
  const marks = [];
  incidents.forEach(({ step }, incident) => {
    if (step < view.s0 || step >= view.s1) return;
    const middle = x(step + 0.5, view, box);
    marks.push({ incident, left: middle - FLAG, right: middle + FLAG, top: box.top - 14, bottom: box.top - 3 });
  });
  return marks;
}

/** @param {CanvasRenderingContext2D} context @param {Mark[]} marks @param {string[]} severities @param {number} chosen @param {"light" | "dark"} theme */
export function drawFlags(context, marks, severities, chosen, theme) {
  const ink = INK[theme];
  const ordered = [...marks].sort((a, b) => Number(a.incident === chosen) - Number(b.incident === chosen));
  for (const { incident, left, right, top, bottom } of ordered) {
    const grow = incident === chosen ? 2 : 0;
    context.beginPath();
    context.moveTo(left - grow, top - grow);
    context.lineTo(right + grow, top - grow);
    context.lineTo((left + right) / 2, bottom);
    context.closePath();
    context.fillStyle = severityInk(ink, severities[incident]);
    context.fill();
    context.strokeStyle = ink.surface;
    context.lineWidth = 1.5;
    context.stroke();
  }
}

/** @param {CanvasRenderingContext2D} context @param {Mark[]} marks @param {string[]} severities @param {number} chosen @param {"light" | "dark"} theme */
export function drawRings(context, marks, severities, chosen, theme) {
  const ink = INK[theme];
  const ordered = [...marks].sort((a, b) => Number(a.incident === chosen) - Number(b.incident === chosen));
  for (const { incident, left, right, top, bottom } of ordered) {
    const own = incident === chosen;
    const grow = own ? 2 : 0;
    const radius = Math.min(right - left, bottom - top) / 2 + grow;
    const trace = () => {
      context.beginPath();
      context.roundRect(left - grow, top - grow, right - left + 2 * grow, bottom - top + 2 * grow, radius);
      context.stroke();
    };
    context.strokeStyle = ink.halo;
    context.lineWidth = own ? 6 : 4.5;
    trace();
    context.strokeStyle = own ? severityInk(ink, severities[incident]) : ink.ring;
    context.lineWidth = own ? 3 : 2;
    trace();
  }
}

/**
 * The chosen step and rows; the lines leave out what is ringed, for that is what somebody wants to see.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Box} box
 * @param {import("./paint.js").Window} view
 * @param {{step: number | null, rows: {from: number, to: number} | null}} selected
 * @param {Mark[]} around the rings of the chosen incident
 * @param {"light" | "dark"} theme
 */
export function drawSelection(context, box, view, selected, around, theme) {
  const ink = INK[theme];
  const bottom = box.top + box.height;
  context.save();
  context.beginPath();
  context.rect(0, 0, box.left + box.width + 2 * RING, bottom + 2 * RING);
  for (const { left, top, right, bottom: low } of around) context.rect(left, top, right - left, low - top);
  context.clip("evenodd");
  if (selected.rows) {
    const [from, to] = [Math.max(view.r0, selected.rows.from), Math.min(view.r1, selected.rows.to)];
    const [high, low] = [y(from, view, box), y(to, view, box)];
    const edges = low - high >= TWO_LINES ? [high, low] : [(high + low) / 2];
    for (const edge of to > from ? edges : []) {
      const at = Math.round(edge) + 0.5;
      dashed(context, ink, [box.left, at, box.left + box.width, at]);
    }
  }
  const { step } = selected;
  const at = step !== null && step >= view.s0 && step < view.s1 ? Math.round(x(step + 0.5, view, box)) + 0.5 : null;
  if (at !== null) dashed(context, ink, [at, box.top, at, bottom]);
  context.restore();
  if (at !== null) pointer(context, ink, at, bottom);
}

/** A cell, or the box that is being dragged. @param {CanvasRenderingContext2D} context @param {Mark} mark @param {"light" | "dark"} theme @param {boolean} filled */
export function drawBox(context, { left, top, right, bottom }, theme, filled) {
  const ink = INK[theme];
  if (filled) {
    context.fillStyle = `${ink.accent}33`;
    context.fillRect(left, top, right - left, bottom - top);
  }
  context.lineWidth = 3;
  context.strokeStyle = ink.halo;
  context.strokeRect(left, top, right - left, bottom - top);
  context.lineWidth = 1.5;
  context.strokeStyle = ink.ring;
  context.strokeRect(left, top, right - left, bottom - top);
}

/** @param {number} step @param {import("./paint.js").Window} view @param {Box} box @returns {number} pixels */
export function x(step, view, box) {
  return box.left + ((step - view.s0) / (view.s1 - view.s0)) * box.width;
}

/** @param {number} row @param {import("./paint.js").Window} view @param {Box} box @returns {number} pixels */
export function y(row, view, box) {
  return box.top + ((row - view.r0) / (view.r1 - view.r0)) * box.height;
}

/** A line that shows on every colour. @param {CanvasRenderingContext2D} context @param {import("./colours.js").Ink} ink @param {number[]} line from x, y to x, y */
function dashed(context, ink, [x0, y0, x1, y1]) {
  const trace = (/** @type {string} */ colour, /** @type {number} */ width, /** @type {number[]} */ dash) => {
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.stroke();
  };
  trace(`${ink.halo}80`, 2, []);
  trace(ink.ring, 1, [5, 4]);
  context.setLineDash([]);
}

/** @param {import("./colours.js").Ink} ink @param {string} severity */
function severityInk(ink, severity) {
  return severity === "error" ? ink.error : severity === "warning" ? ink.warning : ink.info;
}

/** Below the cells, at the chosen step. @param {CanvasRenderingContext2D} context @param {import("./colours.js").Ink} ink @param {number} at @param {number} bottom */
function pointer(context, ink, at, bottom) {
  context.fillStyle = ink.accent;
  context.beginPath();
  context.moveTo(at, bottom + 1);
  context.lineTo(at - FLAG, bottom + 7);
  context.lineTo(at + FLAG, bottom + 7);
  context.fill();
}

/** @returns {[number, number]} at least `least` wide, around the same middle */
function widened(/** @type {number} */ from, /** @type {number} */ to, /** @type {number} */ least) {
  const missing = Math.max(0, least - (to - from)) / 2;
  return [from - missing, to + missing];
}
