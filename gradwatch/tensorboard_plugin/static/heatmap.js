/** The heat map: layers in depth order × steps, drawn by hand on two canvases, the cells and what lies over them. */

import { drawBar, drawNames, drawNothing, drawSteps, labelWidth } from "./axes.js";
import { fitCanvas, hatch, picture } from "./canvas.js";
import { Cells } from "./cells.js";
import { INK } from "./colours.js";
import { debounced, el } from "./dom.js";
import { Explorer } from "./explorer.js";
import { drawBox, drawFlags, drawRings, drawSelection, flagMarks, ringMarks } from "./overlay.js";
import { paint } from "./paint.js";
import { rowsOf } from "./rows.js";
import { Scale } from "./scale.js";
import { theme } from "./theme.js";
import { clamped, isAll, whole } from "./view.js";

const ABOVE = 20; // pixels for the flags
const BELOW = 42; // for the steps
const BAR_ROOM = 92;
const SETTLED = 130; // milliseconds without a move before finer cells are asked for
const ROW_HEIGHT = 17;
const FEW_ROWS_HEIGHT = 26;
const FEW_ROWS = 210; // pixels: below that rows may be higher
const MANY_ROWS = 24; // from here on the buttons also zoom the rows
const RINGED_AROUND = 8;

/**
 * @typedef {object} Events
 * @property {(picked: {step: number, layer: string | null, incident: number | null}) => void} pick
 * @property {(range: import("./cells.js").Range | null) => void} zoom null: everything
 * @property {() => void} drawn after the first picture of a source
 * @property {(error: unknown) => void} failed
 * @property {() => void} hint the wheel was turned over a map without the focus
 */

export class HeatMap {
  /** @type {import("./paint.js").Window} */ #all = { s0: 0, s1: 1, r0: 0, r1: 1 };
  /** @type {import("./paint.js").Window | null} null: everything */ #view = null;
  /** @type {{step: number | null, layer: string | null}} */ #selected = { step: null, layer: null };
  /** @type {import("./incidents.js").Incident[]} */ #incidents = [];
  #chosen = -1;
  /** @type {string[] | null} all rows */ #names = null;
  /** @type {Scale | null} */ #scale = null;
  /** @type {Scale | null} of another map, so that colours compare */ #givenScale = null;
  #relative = false;
  #left = 120;
  #fresh = true;
  #following = false;

  /** @param {HTMLElement} host @param {string} label for screen readers @param {Events} events */
  constructor(host, label, events) {
    this.#events = events;
    this.#base = el("canvas", { class: "cells", attributes: { "aria-hidden": "true" } });
    this.#over = el("canvas", { class: "over", attributes: { "aria-hidden": "true" } });
    const attributes = {
      tabindex: 0, role: "application", "aria-roledescription": "heat map", "aria-label": label, "aria-describedby": "map-keys",
    };
    this.element = el("div", { class: "map", attributes }, this.#base, this.#over);
    host.append(this.element);
    this.#cells = new Cells(() => this.#arrived(), events.failed);
    this.#settle = debounced(() => this.#settled(true), SETTLED);
    this.#explorer = new Explorer({
      element: this.element,
      box: () => this.#box(),
      view: () => this.#seen(),
      all: () => this.#all,
      grid: () => this.#finest(),
      stride: () => this.#stride(),
      nameOf: (row) => this.#nameOf(row),
      incidents: () => this.#incidents,
      selected: () => this.#selectedPlace(),
      look: (view) => this.#look(view),
      redraw: () => this.#drawOver(),
      pick: events.pick,
      hint: events.hint,
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  #events; #base; #over; #cells; #settle; #explorer;

  /** @returns {Scale | null} */
  get scale() {
    return this.#scale;
  }

  /** @param {import("./cells.js").Source} source @param {Scale | null} [scale] another map's */
  async open(source, scale = null) {
    this.#fresh = true;
    this.#relative = source.relative;
    this.#givenScale = scale;
    this.#explorer.tooltip.open(source);
    this.element.setAttribute("aria-busy", "true");
    const opened = this.#cells.open(source);
    await Promise.all([opened, this.#view ? this.#cells.refine(whole(this.#view)) : null]);
    this.element.removeAttribute("aria-busy");
  }

  /** New steps. @param {boolean} following whether a zoomed view slides along */
  async refresh(following) {
    this.#following = following;
    await this.#cells.refresh();
    if (this.#view) await this.#cells.refine(whole(this.#seen()));
  }

  /** @param {string[] | null} names all rows in depth order */
  setNames(names) {
    this.#names = names;
    this.draw();
  }

  /** @param {import("./incidents.js").Incident[]} incidents @param {number} chosen -1: none */
  setIncidents(incidents, chosen) {
    this.#incidents = incidents;
    this.#chosen = chosen;
    this.#drawOver();
  }

  /** @param {number | null} step @param {string | null} layer */
  select(step, layer) {
    this.#selected = { step, layer };
    this.draw();
  }

  /** @param {import("./cells.js").Range | null} range */
  setRange(range) {
    const known = this.#view ? whole(this.#view) : null;
    if (JSON.stringify(range) === JSON.stringify(known)) return;
    this.#view = range && { s0: range.first, s1: range.last + 1, r0: range.row_first, r1: range.row_last + 1 };
    if (this.#cells.overview) this.#settled(false);
  }

  /** Bring a place into view, without a change of the zoom. @param {number | null} step @param {string | null} layer */
  reveal(step, layer) {
    if (!this.#view) return;
    const rows = this.#rowsOf(layer);
    const view = { ...this.#view };
    if (step !== null && (step < view.s0 || step >= view.s1)) {
      const half = (view.s1 - view.s0) / 2;
      [view.s0, view.s1] = [step - half, step + half];
    }
    if (rows && (rows.to <= view.r0 || rows.from >= view.r1)) {
      const half = (view.r1 - view.r0) / 2;
      [view.r0, view.r1] = [rows.from - half, rows.from + half];
    }
    this.#look(view);
  }

  /** @param {number} factor below 1 zooms in */
  zoom(factor) {
    this.#explorer.zoom(factor, this.#all.r1 - this.#all.r0 > MANY_ROWS);
  }

  reset() {
    this.#look(this.#all);
  }

  /** Draw everything again. */
  draw() {
    const { overview, detail } = this.#cells;
    const scale = this.#givenScale ?? this.#scale;
    if (!overview || !scale || !this.element.clientWidth) return;
    const [box, view, ratio] = [this.#box(), this.#seen(), window.devicePixelRatio || 1];
    const context = fitCanvas(this.#base, this.element);
    if (!context) return;
    hatch(context, box, theme());
    const image = new ImageData(Math.max(1, Math.round(box.width * ratio)), Math.max(1, Math.round(box.height * ratio)));
    for (const grid of [overview, detail]) if (grid) paint(image, grid, scale.lookup(grid, theme()), view);
    context.drawImage(picture(image), box.left, box.top, box.width, box.height);
    context.strokeStyle = INK[theme()].line;
    context.strokeRect(box.left - 0.5, box.top - 0.5, box.width + 1, box.height + 1);
    drawNames(context, box, view, (row) => this.#nameOf(row), this.#rowsOf(this.#selected.layer), theme());
    if (overview.empty) drawNothing(context, box, overview.nothing, theme());
    else {
      drawSteps(context, box, view, theme());
      drawBar(context, box, box.left + box.width + 16, scale, theme());
    }
    this.#drawOver();
  }

  #drawOver() {
    const grid = this.#finest();
    if (!grid || !this.element.clientWidth) return;
    const context = fitCanvas(this.#over, this.element);
    if (!context) return;
    const [box, view] = [this.#box(), this.#seen()];
    const severities = this.#incidents.map(({ severity }) => severity);
    drawFlags(context, flagMarks(this.#incidents, view, box), severities, this.#chosen, theme());
    context.save();
    context.beginPath();
    context.rect(box.left - RINGED_AROUND, box.top - RINGED_AROUND, box.width + 2 * RINGED_AROUND, box.height + 2 * RINGED_AROUND);
    context.clip();
    const rings = ringMarks(grid, view, box);
    const around = rings.filter(({ incident }) => incident === this.#chosen);
    drawSelection(context, box, view, { step: this.#selected.step, rows: this.#rowsOf(this.#selected.layer) }, around, theme());
    drawRings(context, rings, severities, this.#chosen, theme());
    const { outlined, stretched } = this.#explorer;
    if (outlined) drawBox(context, outlined, theme(), false);
    if (stretched) drawBox(context, stretched, theme(), true);
    context.restore();
  }

  /** New cells are here. */
  #arrived() {
    const { overview } = this.#cells;
    if (!overview) return;
    const before = this.#all.s1;
    this.#all = {
      s0: overview.colEdges[0] ?? 0, s1: overview.colEdges[overview.cols] ?? 1, r0: 0, r1: Math.max(1, overview.numRows),
    };
    this.#scale = new Scale(overview, this.#relative);
    if (this.#names && this.#names.length !== overview.numRows) this.#names = null;
    this.#fit();
    const grown = this.#all.s1 - before;
    if (this.#view && this.#following && grown > 0 && this.#view.s1 >= before - this.#stride()) {
      this.#look({ ...this.#view, s0: this.#view.s0 + grown, s1: this.#view.s1 + grown });
    } else this.draw();
    if (this.#fresh) {
      this.#fresh = false;
      this.#events.drawn();
    }
  }

  /** As high as the rows need, within what the screen has. */
  #fit() {
    const rows = this.#all.r1 - this.#all.r0;
    const most = Math.max(260, Math.min(760, Math.round(window.innerHeight * 0.5)));
    const wanted = Math.max(rows * ROW_HEIGHT, Math.min(FEW_ROWS, rows * FEW_ROWS_HEIGHT));
    this.element.style.height = `${Math.min(most, Math.round(wanted)) + ABOVE + BELOW}px`;
    const context = this.#base.getContext("2d");
    const names = this.#cells.overview?.names ?? [];
    if (context) this.#left = labelWidth(context, names, Math.min(260, this.element.clientWidth * 0.24)) + 16;
  }

  #seen() {
    return this.#view ? clamped(this.#view, this.#all) : this.#all;
  }

  /** @returns {import("./axes.js").Box} */
  #box() {
    const { clientWidth, clientHeight } = this.element;
    const width = Math.max(40, clientWidth - this.#left - BAR_ROOM);
    return { left: this.#left, top: ABOVE, width, height: Math.max(20, clientHeight - ABOVE - BELOW) };
  }

  /** Steps between two recorded ones: some statistics are sampled. */
  #stride() {
    const { overview } = this.#cells;
    return overview && overview.cols ? overview.colEdges[overview.cols] - overview.stepLast[overview.cols - 1] : 1;
  }

  /** @param {import("./paint.js").Window} view */
  #look(view) {
    const wanted = clamped(view, this.#all);
    this.#view = isAll(wanted, this.#all) ? null : wanted;
    this.#explorer.leave();
    this.draw();
    this.#settle();
  }

  /** @param {boolean} tell whether the zoom is news */
  #settled(tell) {
    const range = this.#view ? whole(this.#seen()) : null;
    this.draw();
    this.#cells.refine(range);
    if (tell) this.#events.zoom(range);
  }

  /** The finest cells that there are for all that is in view. */
  #finest() {
    const { overview, detail } = this.#cells;
    if (!detail || detail.empty) return overview;
    const [view, stride] = [this.#seen(), this.#stride()];
    const covers =
      detail.colEdges[0] <= view.s0 + stride &&
      detail.colEdges[detail.cols] >= Math.min(view.s1, this.#all.s1) - stride &&
      detail.rowEdges[0] <= view.r0 + 1 &&
      detail.rowEdges[detail.rows] >= view.r1 - 1;
    return covers ? detail : overview;
  }

  /** @param {number} row @returns {string} */
  #nameOf(row) {
    const grid = this.#finest();
    return this.#names?.[row] ?? grid?.names[grid.rowAt(row)] ?? "";
  }

  /** @param {string | null} layer */
  #rowsOf(layer) {
    const { overview } = this.#cells;
    const names = this.#names ?? (overview && overview.numRows === overview.rows ? overview.names : null);
    return names && rowsOf(names, layer);
  }

  #selectedPlace() {
    const rows = this.#rowsOf(this.#selected.layer);
    const { step } = this.#selected;
    return step === null || !rows ? null : { step, row: rows.from };
  }
}
