/** What stands around the cells: layer names, steps, the colour bar. Drawn as canvas text, so that no name is markup. */

import { ramp, sample, INK } from "./colours.js";
import { plain, short, stepText } from "./words.js";

export const FONT = "11.5px Roboto, 'Segoe UI', system-ui, sans-serif";
const BOLD = `600 ${FONT}`;
const LABEL_HEIGHT = 14;
const LONGEST_NAME = 90;
const TICK_DISTANCE = 92;
const BAR_WIDTH = 12;

/** @typedef {{left: number, top: number, width: number, height: number}} Box in CSS pixels */

/** @param {CanvasRenderingContext2D} context @param {string[]} names @param {number} most @returns {number} room for them */
export function labelWidth(context, names, most) {
  context.font = BOLD; // the chosen name is
  let widest = 40;
  const stride = Math.max(1, Math.floor(names.length / 400));
  for (let index = 0; index < names.length && widest < most; index += stride) {
    widest = Math.max(widest, context.measureText(short(names[index], LONGEST_NAME)).width);
  }
  return Math.ceil(Math.min(widest, most));
}

/**
 * The names at the left, as many as there is room for; the selected one always.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Box} box of the cells
 * @param {import("./paint.js").Window} view
 * @param {(row: number) => string} nameOf
 * @param {{from: number, to: number} | null} selected rows [from, to)
 * @param {"light" | "dark"} theme
 */
export function drawNames(context, box, view, nameOf, selected, theme) {
  const ink = INK[theme];
  const size = box.height / (view.r1 - view.r0);
  const y = (/** @type {number} */ row) => box.top + (row + 0.5 - view.r0) * size;
  const stride = Math.max(1, Math.ceil(LABEL_HEIGHT / size));
  const isChosen = (/** @type {number} */ row) => selected !== null && row >= selected.from && row < selected.to;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const write = (/** @type {number} */ row) => {
    context.font = isChosen(row) ? BOLD : FONT;
    context.fillStyle = isChosen(row) ? ink.accent : ink.muted;
    context.fillText(fitted(context, nameOf(row), box.left - 16), box.left - 8, y(row));
  };
  // Where the names are thinned out, the chosen one takes the place of its neighbours.
  const alone = selected && stride > 1 && inView(selected.from, view) ? selected.from : -1;
  for (let row = Math.ceil(view.r0 / stride) * stride; row < view.r1; row += stride) {
    const crowded = alone >= 0 && Math.abs(y(row) - y(alone)) < LABEL_HEIGHT;
    if (inView(row, view) && !crowded) write(row);
  }
  if (alone >= 0) write(alone);
}

/** The steps below. */
export function drawSteps(
  /** @type {CanvasRenderingContext2D} */ context, /** @type {Box} */ box,
  /** @type {import("./paint.js").Window} */ view, /** @type {"light" | "dark"} */ theme,
) {
  const ink = INK[theme];
  context.font = FONT;
  context.textBaseline = "top";
  context.textAlign = "center";
  context.fillStyle = ink.muted;
  context.strokeStyle = ink.line;
  context.lineWidth = 1;
  const bottom = box.top + box.height;
  const step = nice(((view.s1 - view.s0) / box.width) * TICK_DISTANCE);
  for (let at = Math.ceil(view.s0 / step) * step; at < view.s1; at += step) {
    const x = box.left + ((at - view.s0) / (view.s1 - view.s0)) * box.width;
    context.beginPath();
    context.moveTo(Math.round(x) + 0.5, bottom);
    context.lineTo(Math.round(x) + 0.5, bottom + 5);
    context.stroke();
    context.fillText(stepText(at), x, bottom + 8);
  }
  context.fillText("optimizer step", box.left + box.width / 2, bottom + 24);
}

/** The colour bar, with the number that each colour stands for. */
export function drawBar(
  /** @type {CanvasRenderingContext2D} */ context, /** @type {Box} */ box, /** @type {number} */ left,
  /** @type {import("./scale.js").Scale} */ scale, /** @type {"light" | "dark"} */ theme,
) {
  const ink = INK[theme];
  const colours = ramp(scale.relative, theme);
  const { height, top } = box;
  for (let y = 0; y < height; y++) {
    context.fillStyle = `rgb(${sample(colours, 1 - (y + 0.5) / height).join(" ")})`;
    context.fillRect(left, top + y, BAR_WIDTH, 1.5);
  }
  context.strokeStyle = ink.line;
  context.lineWidth = 1;
  context.strokeRect(left - 0.5, top - 0.5, BAR_WIDTH + 1, height + 1);
  if (scale.knots.length > 2) {
    // From here on upwards the ramp is compressed.
    context.fillStyle = ink.surface;
    context.fillRect(left - 1, top + height * (1 - scale.knots[1][1]) - 1, BAR_WIDTH + 2, 2);
  }
  context.font = FONT;
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillStyle = ink.muted;
  for (const { place, text } of scale.ticks(16 / height)) {
    const y = top + height * (1 - place);
    context.beginPath();
    context.moveTo(left + BAR_WIDTH, Math.round(y) + 0.5);
    context.lineTo(left + BAR_WIDTH + 4, Math.round(y) + 0.5);
    context.stroke();
    context.fillText(text, left + BAR_WIDTH + 8, Math.min(top + height - 5, Math.max(top + 5, y)));
  }
}

/** Why there is nothing to see. @param {CanvasRenderingContext2D} context @param {Box} box @param {string} why @param {"light" | "dark"} theme */
export function drawNothing(context, box, why, theme) {
  context.font = FONT;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const text = plain(why || "nothing was recorded", 200);
  const width = context.measureText(text).width + 24;
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  context.fillStyle = INK[theme].surface;
  context.fillRect(x - width / 2, y - LABEL_HEIGHT, width, 2 * LABEL_HEIGHT);
  context.fillStyle = INK[theme].muted;
  context.fillText(text, x, y);
}

/** @param {CanvasRenderingContext2D} context @param {string} name @param {number} width @returns {string} its end, where it is too long */
function fitted(context, name, width) {
  const text = short(name, LONGEST_NAME);
  if (context.measureText(text).width <= width) return text;
  const characters = [...text];
  let [low, high] = [0, characters.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (context.measureText(`…${characters.slice(middle).join("")}`).width <= width) high = middle;
    else low = middle + 1;
  }
  return `…${characters.slice(low).join("")}`;
}

/** @param {number} row @param {import("./paint.js").Window} view */
function inView(row, view) {
  return row >= 0 && row + 0.5 >= view.r0 && row + 0.5 <= view.r1;
}

/** @param {number} least @returns {number} 1, 2 or 5 times a power of ten, at least 1 */
function nice(least) {
  const base = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  for (const factor of [1, 2, 5]) if (factor * base >= least) return factor * base;
  return 10 * base;
}
