/** Looking around on the heat map: what is under the mouse or the cursor, what is picked, where the zoom goes. */

import { listen } from "./gestures.js";
import { flagMarks, markAt, ringMarks, x, y } from "./overlay.js";
import { Tooltip } from "./tooltip.js";
import { zoomed } from "./view.js";
import { stepText, words } from "./words.js";

const FLAGS_ABOVE = 16; // pixels above the cells that still belong to them

/**
 * @typedef {object} Surface what is explored
 * @property {HTMLElement} element
 * @property {() => import("./axes.js").Box} box of the cells
 * @property {() => import("./paint.js").Window} view
 * @property {() => import("./paint.js").Window} all
 * @property {() => import("./grid.js").Grid | null} grid the finest cells of what is in view
 * @property {() => number} stride steps between two recorded ones
 * @property {(row: number) => string} nameOf
 * @property {() => {step: number, severity: string, kind: string, code: string}[]} incidents
 * @property {() => {step: number, row: number} | null} selected
 * @property {(view: import("./paint.js").Window) => void} look
 * @property {() => void} redraw what lies over the cells
 * @property {(picked: {step: number, layer: string | null, incident: number | null}) => void} pick
 * @property {() => void} hint
 */

/** @typedef {{step: number, row: number}} Place */

export class Explorer {
  /** @type {Place | null} by keyboard */ #cursor = null;
  /** @type {import("./overlay.js").Mark | null} */ #hovered = null;
  /** @type {import("./overlay.js").Mark | null} */ #stretched = null;

  /** @param {Surface} surface */
  constructor(surface) {
    this.#surface = surface;
    this.tooltip = new Tooltip(surface.element);
    listen(surface.element, this.#actions());
    surface.element.addEventListener("blur", () => this.forget());
  }

  #surface;

  /** @returns {import("./overlay.js").Mark | null} the cell to outline */
  get outlined() {
    return this.#cursor ? (this.#cellAt(this.#cursor)?.mark ?? null) : this.#hovered;
  }

  /** @returns {import("./overlay.js").Mark | null} the box that is being dragged */
  get stretched() {
    return this.#stretched;
  }

  /** Nothing is under the mouse or the cursor any more. */
  forget() {
    this.#cursor = null;
    this.leave();
  }

  /** The mouse has left, or what is under it has changed. */
  leave() {
    this.#hovered = null;
    this.tooltip.hide();
    this.#surface.element.style.cursor = "default";
    this.#surface.redraw();
  }

  /** @param {number} factor below 1 zooms in, around the cursor, the selection or the middle @param {boolean} rows too */
  zoom(factor, rows) {
    const surface = this.#surface;
    const [view, all] = [surface.view(), surface.all()];
    const middle = { step: (view.s0 + view.s1) / 2, row: (view.r0 + view.r1) / 2 };
    const at = this.#cursor ?? seen(surface.selected(), view) ?? middle;
    surface.look(zoomed(view, all, at, factor, rows ? factor : 1, surface.stride()));
  }

  /** @returns {import("./gestures.js").Actions} */
  #actions() {
    const surface = this.#surface;
    const inside = (/** @type {number} */ px, /** @type {number} */ py) => {
      const { left, top, width, height } = surface.box();
      return px >= left && px <= left + width && py >= top - FLAGS_ABOVE && py <= top + height;
    };
    return {
      isInside: inside,
      hover: (px, py) => {
        this.#cursor = null;
        if (inside(px, py)) this.#tell(this.#at(px, py), px, py);
        else this.leave();
      },
      leave: () => this.leave(),
      pick: (px, py) => {
        this.forget();
        this.#pick(this.#at(px, py), px, py);
      },
      stretch: (dragged) => {
        this.#stretched = dragged && { incident: -1, ...dragged };
        surface.redraw();
      },
      zoomTo: (dragged, along) => this.#zoomTo(dragged, along),
      zoomAt: (px, py, across, down) => {
        surface.look(zoomed(surface.view(), surface.all(), this.#at(px, py), across, down, surface.stride()));
      },
      pan: (dx, dy) => {
        const [box, view] = [surface.box(), surface.view()];
        const steps = (dx / box.width) * (view.s1 - view.s0);
        const rows = (dy / box.height) * (view.r1 - view.r0);
        surface.look({ s0: view.s0 - steps, s1: view.s1 - steps, r0: view.r0 - rows, r1: view.r1 - rows });
      },
      reset: () => surface.look(surface.all()),
      moveCursor: (dx, dy) => this.#moveCursor(dx, dy),
      zoomCursor: (factor) => this.zoom(factor, true),
      pickCursor: () => {
        if (!this.#cursor) return;
        const [box, view] = [surface.box(), surface.view()];
        this.#pick(this.#cursor, x(this.#cursor.step + 0.5, view, box), y(this.#cursor.row + 0.5, view, box));
      },
      hint: surface.hint,
    };
  }

  /** @param {number} px @param {number} py @returns {Place} */
  #at(px, py) {
    const [box, view] = [this.#surface.box(), this.#surface.view()];
    return {
      step: view.s0 + ((px - box.left) / box.width) * (view.s1 - view.s0),
      row: view.r0 + ((py - box.top) / box.height) * (view.r1 - view.r0),
    };
  }

  /** @param {Place} place @returns {{mark: import("./overlay.js").Mark, col: number, line: number, grid: import("./grid.js").Grid} | null} */
  #cellAt({ step, row }) {
    const grid = this.#surface.grid();
    const [col, line] = [grid?.columnAt(step) ?? -1, grid?.rowAt(row) ?? -1];
    if (!grid || col < 0 || line < 0) return null;
    const [box, view] = [this.#surface.box(), this.#surface.view()];
    const across = (/** @type {number} */ edge) => bound(x(edge, view, box), box.left, box.left + box.width);
    const down = (/** @type {number} */ edge) => bound(y(edge, view, box), box.top, box.top + box.height);
    const mark = {
      incident: -1,
      left: across(grid.colEdges[col]), right: across(grid.colEdges[col + 1]),
      top: down(grid.rowEdges[line]), bottom: down(grid.rowEdges[line + 1]),
    };
    return { mark, col, line, grid };
  }

  /** @param {number} px @param {number} py @returns {number | null} the incident whose ring or flag is there */
  #markAt(px, py) {
    const surface = this.#surface;
    const grid = surface.grid();
    if (!grid) return null;
    const [box, view, incidents] = [surface.box(), surface.view(), surface.incidents()];
    const marks = [...ringMarks(grid, view, box), ...flagMarks(incidents, view, box)];
    return markAt(marks.filter(({ incident }) => incident < incidents.length), px, py);
  }

  /** @param {Place} place @param {number} px @param {number} py */
  #tell(place, px, py) {
    const surface = this.#surface;
    const [found, incident] = [this.#cellAt(place), this.#markAt(px, py)];
    this.#hovered = found?.mark ?? null;
    surface.element.style.cursor = incident !== null ? "pointer" : found ? "crosshair" : "default";
    surface.redraw();
    const told = incident === null ? null : surface.incidents()[incident];
    const note = told ? `${words(told.kind)} · step ${stepText(told.step)} · ${told.code}` : "";
    if (found) this.tooltip.show({ ...this.#describe(place, found), note }, px, py, surface.element.clientWidth);
    else this.tooltip.hide();
  }

  /** @param {Place} place @param {{col: number, line: number, grid: import("./grid.js").Grid}} found */
  #describe(place, { grid, col, line }) {
    const rank = grid.rank(line, col);
    return {
      name: this.#surface.nameOf(Math.min(Math.floor(place.row), grid.rowEdges[line + 1] - 1)),
      step: this.#stepOf(place, grid, col),
      rank,
      log: grid.logOf(rank),
      steps: Math.round((grid.stepLast[col] - grid.stepFirst[col]) / this.#surface.stride()) + 1,
      rows: grid.rowEdges[line + 1] - grid.rowEdges[line],
    };
  }

  /** @param {Place} place @param {import("./grid.js").Grid} grid @param {number} col @returns {number} a step that was recorded */
  #stepOf(place, grid, col) {
    const { stepFirst, stepLast } = grid;
    return bound(Math.floor(place.step), stepFirst[col], stepLast[col]);
  }

  /** @param {Place} place @param {number} px @param {number} py */
  #pick(place, px, py) {
    const [incident, found] = [this.#markAt(px, py), this.#cellAt(place)];
    if (incident === null && !found) return;
    const step = found ? this.#stepOf(place, found.grid, found.col) : Math.max(0, Math.floor(place.step));
    this.#surface.pick({ step, layer: found ? this.#surface.nameOf(Math.floor(place.row)) : null, incident });
  }

  /** @param {{left: number, top: number, right: number, bottom: number}} dragged @param {"both" | "steps" | "rows"} along */
  #zoomTo({ left, top, right, bottom }, along) {
    const [from, to, view] = [this.#at(left, top), this.#at(right, bottom), { ...this.#surface.view() }];
    if (along !== "rows") [view.s0, view.s1] = [Math.floor(from.step), Math.ceil(to.step)];
    if (along !== "steps") [view.r0, view.r1] = [Math.floor(from.row), Math.ceil(to.row)];
    this.#surface.look(view);
  }

  /** @param {number} dx @param {number} dy in cells */
  #moveCursor(dx, dy) {
    const surface = this.#surface;
    const grid = surface.grid();
    if (!grid || grid.empty) return;
    const [view, all, stride] = [surface.view(), surface.all(), surface.stride()];
    if (!this.#cursor) {
      const middle = { step: Math.floor((view.s0 + view.s1) / 2), row: Math.floor(view.r0) };
      this.#cursor = seen(surface.selected(), view) ?? middle;
      if (Number.isFinite(dx)) [dx, dy] = [0, 0]; // the first press shows where the cursor is
    }
    const width = Math.max(stride, (grid.colEdges[grid.cols] - grid.colEdges[0]) / grid.cols);
    const height = Math.max(1, grid.rowEdges[1] - grid.rowEdges[0]);
    this.#cursor = {
      step: bound(this.#cursor.step + (dx ? dx * width : 0), all.s0, all.s1 - stride),
      row: bound(Math.floor(this.#cursor.row + dy * height), all.r0, all.r1 - 1),
    };
    this.#keepInView(this.#cursor);
    const [box, now] = [surface.box(), surface.view()];
    this.#tell(this.#cursor, x(this.#cursor.step, now, box), y(this.#cursor.row + 0.5, now, box));
  }

  /** @param {Place} cursor */
  #keepInView({ step, row }) {
    const surface = this.#surface;
    const [view, stride] = [surface.view(), surface.stride()];
    const across = step < view.s0 ? step - view.s0 : Math.max(0, step + stride - view.s1);
    const down = row < view.r0 ? row - view.r0 : Math.max(0, row + 1 - view.r1);
    if (!across && !down) return;
    surface.look({ s0: view.s0 + across, s1: view.s1 + across, r0: view.r0 + down, r1: view.r1 + down });
  }
}

/** @param {Place | null} place @param {import("./paint.js").Window} view @returns {Place | null} null where it is out of view */
function seen(place, view) {
  const inside = place && place.step >= view.s0 && place.step < view.s1 && place.row >= view.r0 && place.row < view.r1;
  return inside ? place : null;
}

/** @param {number} value @param {number} low @param {number} high */
function bound(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
