/** Zooming and panning as arithmetic: which steps and rows are in view. */

/** @typedef {import("./paint.js").Window} Window */

const FEWEST_ROWS = 2;
const FEWEST_COLUMNS = 8;
const NEAR = 0.5;

/** @param {Window} view @param {Window} all @returns {Window} inside of `all`, its size kept where possible */
export function clamped(view, all) {
  const [s0, s1] = inside(view.s0, view.s1, all.s0, all.s1);
  const [r0, r1] = inside(view.r0, view.r1, all.r0, all.r1);
  return { s0, s1, r0, r1 };
}

/**
 * @param {Window} view
 * @param {Window} all
 * @param {{step: number, row: number}} at stays where it is
 * @param {number} across factor on the steps in view: 0.5 shows half as many
 * @param {number} down factor on the rows in view
 * @param {number} stride steps between two recorded ones
 * @returns {Window}
 */
export function zoomed(view, all, at, across, down, stride) {
  const [s0, s1] = scaled(view.s0, view.s1, at.step, across, FEWEST_COLUMNS * stride);
  const [r0, r1] = scaled(view.r0, view.r1, at.row, down, FEWEST_ROWS);
  return clamped({ s0, s1, r0, r1 }, all);
}

/** @param {Window} view @param {Window} all @returns {boolean} whether everything is in view */
export function isAll(view, all) {
  return (
    view.s0 <= all.s0 + NEAR && view.s1 >= all.s1 - NEAR && view.r0 <= all.r0 + NEAR && view.r1 >= all.r1 - NEAR
  );
}

/** @param {Window} view @returns {{first: number, last: number, row_first: number, row_last: number}} inclusive, whole */
export function whole(view) {
  return {
    first: Math.max(0, Math.floor(view.s0)),
    last: Math.max(0, Math.ceil(view.s1) - 1),
    row_first: Math.max(0, Math.floor(view.r0 + 1e-6)),
    row_last: Math.max(0, Math.ceil(view.r1 - 1e-6) - 1),
  };
}

/** @returns {[number, number]} */
function inside(/** @type {number} */ from, /** @type {number} */ to, /** @type {number} */ low, /** @type {number} */ high) {
  const size = Math.min(to - from, high - low);
  const start = Math.min(Math.max(from, low), high - size);
  return [start, start + size];
}

/** @returns {[number, number]} */
function scaled(
  /** @type {number} */ from, /** @type {number} */ to, /** @type {number} */ fixed,
  /** @type {number} */ factor, /** @type {number} */ least,
) {
  const size = Math.max((to - from) * factor, Math.min(least, to - from));
  const share = (fixed - from) / (to - from);
  return [fixed - share * size, fixed + (1 - share) * size];
}
