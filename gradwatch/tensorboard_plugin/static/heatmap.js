/** The heat map: layers in depth order × steps, drawn by hand on two canvases. */

import { drawBar, drawNames, drawSteps, labelWidth } from "./axes.js";
import { Cells } from "./cells.js";
import { INK } from "./colours.js";
import { debounced, el } from "./dom.js";
import { listen } from "./gestures.js";
import { drawBox, drawFlags, drawRings, drawSelection, flagMarks, markAt, ringMarks, x, y } from "./overlay.js";
import { paint } from "./paint.js";
import { Scale } from "./scale.js";
import { theme } from "./theme.js";
import { Tooltip } from "./tooltip.js";
import { clamped, isAll, whole, zoomed } from "./view.js";
import { words } from "./words.js";

const ABOVE = 20;
const BELOW = 42;
const BAR_ROOM = 96;
const SETTLED = 130; // milliseconds without a move before finer cells are asked for
const ROW_HEIGHT = 17;
const HATCH = 6;
const MANY_ROWS = 24; // from here on + and - also zoom the rows

/**
 * @typedef {object} Events
 * @property {(picked: {step: number, layer: string, incident: number | null}) => void} pick
 * @property {(range: import("./cells.js").Range | null) => void} zoom null: everything
 * @property {() => void} drawn after the first picture of a source
 * @property {(error: unknown) => void} failed
 * @property {() => void} hint
 */

export class HeatMap {
  /** @type {import("./paint.js").Window} */ #all = { s0: 0, s1: 1, r0: 0, r1: 1 };
  /** @type {import("./paint.js").Window | null} null: everything */ #view = null;
  /** @type {{step: number | null, layer: string | null}} */ #selected = { step: null, layer: null };
  /** @type {{step: number, row: number} | null} by keyboard */ #cursor = null;
  /** @type {import("./overlay.js").Mark | null} */ #hovered = null;
  /** @type {import("./overlay.js").Mark | null} */ #stretched = null;
  /** @type {{step: number, severity: string, kind: string, code: string}[]} */ #incidents = [];
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
    this.#base = el("canvas", { attributes: { "aria-hidden": "true" } });
    this.#over = el("canvas", { attributes: { "aria-hidden": "true" } });
    this.element = el(
      "div",
      {
        class: "map",
        attributes: {
          tabindex: 0, role: "application", "aria-roledescription": "heat map", "aria-label": label,
          "aria-describedby": "map-keys",
        },
        on: { blur: () => this.#dropCursor() },
      },
      this.#base,
      this.#over,
    );
    host.append(this.element);
    this.#tooltip = new Tooltip(this.element);
    this.#cells = new Cells(() => this.#arrived(), events.failed);
    this.#settle = debounced(() => this.#settled(), SETTLED);
    listen(this.element, this.#actions());
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  #events; #base; #over; #tooltip; #cells; #settle;

  /** @returns {Scale | null} */
  get scale() {
    return this.#scale;
  }

  /** @returns {number} the newest step that is drawn, -1 before */
  get newest() {
    const last = this.#cells.overview?.stepLast ?? [];
    return last.length ? last[last.length - 1] : -1;
  }

  /** @param {import("./cells.js").Source} source @param {Scale | null} [scale] another map's */
  async open(source, scale = null) {
    this.#fresh = true;
    this.#relative = source.relative;
    this.#givenScale = scale;
    this.#names = null;
    this.#tooltip.open(source);
    this.element.setAttribute("aria-busy", "true");
    await Promise.all([this.#cells.open(source), this.#view ? this.#cells.refine(whole(this.#view)) : null]);
  }

  /** New steps. @param {boolean} following whether a zoomed view slides along */
  async refresh(following) {
    this.#following = following;
    await this.#cells.refresh();
  }

  /** @param {string[] | null} names all rows in depth order */
  setNames(names) {
    this.#names = names;
    this.draw();
  }

  /** @param {{step: number, severity: string, kind: string, code: string}[]} incidents @param {number} chosen -1: none */
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
    const view = this.#seen();
    const at = this.#cursor ?? this.#selectedPlace() ?? { step: (view.s0 + view.s1) / 2, row: (view.r0 + view.r1) / 2 };
    const down = this.#all.r1 - this.#all.r0 > MANY_ROWS ? factor : 1;
    this.#look(zoomed(view, this.#all, at, factor, down, this.#stride()));
  }

  reset() {
    this.#look(this.#all);
  }

  /** Draw everything again. */
  draw() {
    const { overview, detail } = this.#cells;
    if (!overview || !this.element.clientWidth) return;
    const box = this.#box();
    const context = fitCanvas(this.#base, this.element);
    const view = this.#seen();
    const scale = this.#givenScale ?? this.#scale;
    if (!context || !scale) return;
    this.#hatch(context, box);
    const ratio = window.devicePixelRatio || 1;
    const image = new ImageData(Math.max(1, Math.round(box.width * ratio)), Math.max(1, Math.round(box.height * ratio)));
    for (const grid of [overview, detail]) if (grid) paint(image, grid, scale.lookup(grid, theme()), view);
    context.drawImage(picture(image), box.left, box.top, box.width, box.height);
    context.strokeStyle = INK[theme()].line;
    context.strokeRect(box.left - 0.5, box.top - 0.5, box.width + 1, box.height + 1);
    drawNames(context, box, view, (row) => this.#nameOf(row), this.#rowsOf(this.#selected.layer), theme());
    drawSteps(context, box, view, theme());
    drawBar(context, box, box.left + box.width + 16, scale, theme());
    this.#drawOver();
  }

  #arrived() {
    const { overview } = this.#cells;
    if (!overview) return;
    const before = this.#all;
    this.#all = {
      s0: overview.colEdges[0] ?? 0, s1: overview.colEdges[overview.cols] ?? 1, r0: 0, r1: Math.max(1, overview.numRows),
    };
    this.#scale = new Scale(overview, this.#relative);
    if (this.#view && this.#following && this.#view.s1 >= before.s1 - this.#stride()) this.#slide(this.#all.s1 - before.s1);
    this.#fit();
    this.draw();
    this.element.removeAttribute("aria-busy");
    if (this.#fresh) {
      this.#fresh = false;
      this.#events.drawn();
    }
  }

  /** @param {number} by steps */
  #slide(by) {
    if (!this.#view || by <= 0) return;
    this.#look({ ...this.#view, s0: this.#view.s0 + by, s1: this.#view.s1 + by });
  }

  /** As high as the rows need, within what the screen has. */
  #fit() {
    const rows = this.#all.r1 - this.#all.r0;
    const most = Math.max(260, Math.min(760, Math.round(window.innerHeight * 0.5)));
    const height = Math.max(150, Math.min(most, Math.round(rows * ROW_HEIGHT))) + ABOVE + BELOW;
    this.element.style.height = `${height}px`;
    const context = this.#base.getContext("2d");
    const names = this.#cells.overview?.names ?? [];
    const most_left = Math.min(250, this.element.clientWidth * 0.22);
    if (context) this.#left = labelWidth(context, names, most_left) + 16;
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

  #stride() {
    const overview = this.#cells.overview;
    if (!overview || overview.cols < 1) return 1;
    return Math.max(1, (overview.colEdges[overview.cols] - overview.stepLast[overview.cols - 1]));
  }

  /** @param {import("./paint.js").Window} view */
  #look(view) {
    const wanted = clamped(view, this.#all);
    this.#view = isAll(wanted, this.#all) ? null : wanted;
    this.#tooltip.hide();
    this.#hovered = null;
    this.draw();
    this.#settle();
  }

  /** @param {boolean} [tell] */
  #settled(tell = true) {
    const range = this.#view ? whole(this.#seen()) : null;
    this.draw();
    this.#cells.refine(range);
    if (tell) this.#events.zoom(range);
  }

  /** @returns {import("./grid.js").Grid | null} the finest cells that there are for what is in view */
  #finest() {
    const { overview, detail } = this.#cells;
    const view = this.#seen();
    const fits = detail && !detail.empty && detail.colEdges[0] <= Math.max(view.s0, detail.stepFirst[0]) &&
      detail.rowEdges[0] <= view.r0 + 1 && detail.rowEdges[detail.rows] >= view.r1 - 1 &&
      detail.colEdges[detail.cols] >= Math.min(view.s1, this.#all.s1) - this.#stride() && detail.colEdges[0] <= view.s0 + this.#stride();
    return fits ? detail : overview;
  }

  /** @param {number} row @returns {string} */
  #nameOf(row) {
    const grid = this.#finest();
    return this.#names?.[row] ?? grid?.names[grid.rowAt(row)] ?? "";
  }

  /** Rows that are, hold or belong to `layer`. @param {string | null} layer @returns {{from: number, to: number} | null} */
  #rowsOf(layer) {
    if (layer === null) return null;
    const names = this.#names ?? (this.#cells.overview?.numRows === this.#cells.overview?.rows ? this.#cells.overview?.names : null);
    if (!names) return null;
    const exact = names.indexOf(layer);
    if (exact >= 0) return { from: exact, to: exact + 1 };
    const first = names.findIndex((name) => name.startsWith(`${layer}.`));
    if (first >= 0) {
      let to = first;
      while (to < names.length && names[to].startsWith(`${layer}.`)) to++;
      return { from: first, to };
    }
    const holder = names.indexOf(layer.slice(0, Math.max(0, layer.lastIndexOf("."))));
    return holder >= 0 ? { from: holder, to: holder + 1 } : null;
  }

  #selectedPlace() {
    const rows = this.#rowsOf(this.#selected.layer);
    const { step } = this.#selected;
    return step === null || !rows ? null : { step, row: rows.from };
  }

  /** @param {number} px @param {number} py @returns {{step: number, row: number}} */
  #at(px, py) {
    const [box, view] = [this.#box(), this.#seen()];
    return {
      step: view.s0 + ((px - box.left) / box.width) * (view.s1 - view.s0),
      row: view.r0 + ((py - box.top) / box.height) * (view.r1 - view.r0),
    };
  }

  /** @param {{step: number, row: number}} place @returns {{mark: import("./overlay.js").Mark, col: number, line: number, grid: import("./grid.js").Grid} | null} */
  #cellAt({ step, row }) {
    const grid = this.#finest();
    const [col, line] = [grid?.columnAt(step) ?? -1, grid?.rowAt(row) ?? -1];
    if (!grid || col < 0 || line < 0) return null;
    const [box, view] = [this.#box(), this.#seen()];
    const bound = (/** @type {number} */ value, /** @type {number} */ low, /** @type {number} */ size) => Math.min(low + size, Math.max(low, value));
    const mark = {
      incident: -1,
      left: bound(x(grid.colEdges[col], view, box), box.left, box.width),
      right: bound(x(grid.colEdges[col + 1], view, box), box.left, box.width),
      top: bound(y(grid.rowEdges[line], view, box), box.top, box.height),
      bottom: bound(y(grid.rowEdges[line + 1], view, box), box.top, box.height),
    };
    return { mark, col, line, grid };
  }

  /** @param {{step: number, row: number}} place @param {number} px @param {number} py */
  #tell(place, px, py) {
    const found = this.#cellAt(place);
    const incident = this.#markAt(px, py);
    this.#hovered = found?.mark ?? null;
    this.element.style.cursor = incident !== null ? "pointer" : found ? "crosshair" : "default";
    this.#drawOver();
    if (!found) {
      this.#tooltip.hide();
      return;
    }
    const { grid, col, line } = found;
    const told = incident === null ? null : this.#incidents[incident];
    const steps = Math.max(1, Math.round((grid.stepLast[col] - grid.stepFirst[col]) / this.#stride()) + 1);
    const row = Math.min(Math.floor(place.row), grid.rowEdges[line + 1] - 1);
    const rank = grid.rank(line, col);
    this.#tooltip.show(
      {
        name: this.#names?.[row] ?? grid.names[line],
        step: grid.pools(col) ? Math.floor(place.step) : grid.stepFirst[col],
        rank, log: grid.logOf(rank), steps: grid.pools(col) ? steps : 1,
        rows: grid.rowEdges[line + 1] - grid.rowEdges[line],
        note: told ? `${words(told.kind)} · step ${told.step} · ${told.code}` : "",
      },
      px, py, this.element.clientWidth,
    );
  }

  /** @param {number} px @param {number} py @returns {number | null} */
  #markAt(px, py) {
    const grid = this.#finest();
    if (!grid) return null;
    const [box, view] = [this.#box(), this.#seen()];
    const marks = [...ringMarks(grid, view, box), ...flagMarks(this.#incidents, view, box)];
    return markAt(marks.filter((mark) => mark.incident < this.#incidents.length), px, py);
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
    context.rect(box.left - 8, box.top - 8, box.width + 16, box.height + 16);
    context.clip();
    drawSelection(context, box, view, { step: this.#selected.step, rows: this.#rowsOf(this.#selected.layer) }, theme());
    drawRings(context, ringMarks(grid, view, box), severities, this.#chosen, theme());
    const cell = this.#cursor ? this.#cellAt(this.#cursor)?.mark : this.#hovered;
    if (cell) drawBox(context, cell, theme(), false);
    if (this.#stretched) drawBox(context, this.#stretched, theme(), true);
    context.restore();
  }

  /** @param {CanvasRenderingContext2D} context @param {import("./axes.js").Box} box what has no value shows through */
  #hatch(context, box) {
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.width, box.height);
    context.clip();
    context.strokeStyle = INK[theme()].hatch;
    context.lineWidth = 1;
    context.beginPath();
    for (let at = -box.height; at < box.width; at += HATCH) {
      context.moveTo(box.left + at, box.top + box.height);
      context.lineTo(box.left + at + box.height, box.top);
    }
    context.stroke();
    context.restore();
  }

  #dropCursor() {
    this.#cursor = null;
    this.#tooltip.hide();
    this.#drawOver();
  }

  /** @param {number} px @param {number} py */
  #pick(px, py) {
    this.#dropCursor();
    const incident = this.#markAt(px, py);
    const found = this.#cellAt(this.#at(px, py));
    if (incident === null && !found) return;
    const place = this.#at(px, py);
    this.#events.pick({ ...this.#choice(place, found), incident });
  }

  /** @param {{step: number, row: number}} place @param {ReturnType<HeatMap["#cellAt"]>} found @returns {{step: number, layer: string}} */
  #choice(place, found) {
    if (!found) return { step: Math.max(0, Math.floor(place.step)), layer: this.#selected.layer ?? "" };
    const { grid, col } = found;
    const step = grid.pools(col) ? Math.floor(place.step) : grid.stepFirst[col];
    return { step, layer: this.#nameOf(Math.floor(place.row)) };
  }

  /** @param {number} dx @param {number} dy */
  #moveCursor(dx, dy) {
    const grid = this.#finest();
    if (!grid || grid.empty) return;
    const view = this.#seen();
    if (!this.#cursor) {
      const start = this.#selectedPlace() ?? { step: (view.s0 + view.s1) / 2, row: view.r0 };
      this.#cursor = start;
      if (Number.isFinite(dx)) [dx, dy] = [0, 0];
    }
    const from = this.#cursor;
    const width = Math.max(this.#stride(), (grid.colEdges[grid.cols] - grid.colEdges[0]) / grid.cols);
    const height = Math.max(1, (grid.rowEdges[grid.rows] - grid.rowEdges[0]) / grid.rows);
    const step = Math.min(this.#all.s1 - this.#stride(), Math.max(this.#all.s0, from.step + dx * width));
    const row = Math.min(this.#all.r1 - 1, Math.max(this.#all.r0, Math.floor(from.row + dy * height)));
    this.#cursor = { step, row };
    this.#keepInView();
    const [box, now] = [this.#box(), this.#seen()];
    this.#tell(this.#cursor, x(step, now, box), y(row + 0.5, now, box));
  }

  #keepInView() {
    const view = this.#view && { ...this.#view };
    if (!view || !this.#cursor) return;
    const { step, row } = this.#cursor;
    const across = step < view.s0 ? step - view.s0 : Math.max(0, step + this.#stride() - view.s1);
    const down = row < view.r0 ? row - view.r0 : Math.max(0, row + 1 - view.r1);
    if (across || down) {
      this.#look({ s0: view.s0 + across, s1: view.s1 + across, r0: view.r0 + down, r1: view.r1 + down });
    }
  }

  /** @returns {import("./gestures.js").Actions} */
  #actions() {
    const inside = (/** @type {number} */ px, /** @type {number} */ py) => {
      const box = this.#box();
      return px >= box.left && px <= box.left + box.width && py >= box.top - 16 && py <= box.top + box.height;
    };
    return {
      isInside: inside,
      hover: (px, py) => {
        this.#cursor = null;
        if (inside(px, py)) this.#tell(this.#at(px, py), px, py);
        else this.#actionsLeave();
      },
      leave: () => this.#actionsLeave(),
      pick: (px, py) => this.#pick(px, py),
      stretch: (dragged) => {
        this.#stretched = dragged && { incident: -1, ...dragged };
        this.#drawOver();
      },
      zoomTo: ({ left, top, right, bottom }, along) => {
        const [from, to, view] = [this.#at(left, top), this.#at(right, bottom), { ...this.#seen() }];
        if (along !== "rows") [view.s0, view.s1] = [Math.floor(from.step), Math.ceil(to.step)];
        if (along !== "steps") [view.r0, view.r1] = [Math.floor(from.row), Math.ceil(to.row)];
        this.#look(view);
      },
      zoomAt: (px, py, across, down) => this.#look(zoomed(this.#seen(), this.#all, this.#at(px, py), across, down, this.#stride())),
      pan: (dx, dy) => {
        const [box, view] = [this.#box(), this.#seen()];
        const steps = (dx / box.width) * (view.s1 - view.s0);
        const rows = (dy / box.height) * (view.r1 - view.r0);
        this.#look({ s0: view.s0 - steps, s1: view.s1 - steps, r0: view.r0 - rows, r1: view.r1 - rows });
      },
      reset: () => this.reset(),
      moveCursor: (dx, dy) => this.#moveCursor(dx, dy),
      zoomCursor: (factor) => this.zoom(factor),
      pickCursor: () => {
        if (!this.#cursor) return;
        const [box, view] = [this.#box(), this.#seen()];
        const cell = this.#cellAt(this.#cursor);
        const place = this.#cursor;
        const incident = this.#markAt(x(place.step + 0.5, view, box), y(place.row + 0.5, view, box));
        this.#events.pick({ ...this.#choice(place, cell), incident });
      },
      hint: () => this.#events.hint(),
    };
  }

  #actionsLeave() {
    this.#hovered = null;
    this.#tooltip.hide();
    this.element.style.cursor = "default";
    this.#drawOver();
  }
}

/** @param {HTMLCanvasElement} canvas @param {HTMLElement} around @returns {CanvasRenderingContext2D | null} empty, in CSS pixels */
function fitCanvas(canvas, around) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(around.clientWidth * ratio), Math.round(around.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context?.setTransform(ratio, 0, 0, ratio, 0, 0);
  context?.clearRect(0, 0, around.clientWidth, around.clientHeight);
  if (context) context.imageSmoothingEnabled = false;
  return context;
}

/** @param {ImageData} image @returns {HTMLCanvasElement} so that it is drawn over what is there, not in place of it */
function picture(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  return canvas;
}
