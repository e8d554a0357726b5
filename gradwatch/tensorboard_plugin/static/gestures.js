/** Mouse, wheel and keys on the heat map, told as what they mean. */

const CLICK = 4; // pixels that a click may move
const THIN = 10; // a box that is thinner zooms along its length only
const WHEEL = 0.0016;
const ZOOM = 0.5;
const LEAP = 10;

/**
 * @typedef {object} Actions
 * @property {(x: number, y: number) => boolean} isInside whether a place is over the cells
 * @property {(x: number, y: number) => void} hover
 * @property {() => void} leave
 * @property {(x: number, y: number) => void} pick
 * @property {(box: {left: number, top: number, right: number, bottom: number} | null) => void} stretch while a box is dragged; null: given up
 * @property {(box: {left: number, top: number, right: number, bottom: number}, along: "both" | "steps" | "rows") => void} zoomTo
 * @property {(x: number, y: number, across: number, down: number) => void} zoomAt factors on what is in view
 * @property {(dx: number, dy: number) => void} pan in pixels
 * @property {() => void} reset
 * @property {(dx: number, dy: number) => void} moveCursor in cells
 * @property {(factor: number) => void} zoomCursor
 * @property {() => void} pickCursor
 * @property {() => void} hint the wheel was turned over a map that does not have the focus
 */

/** @param {HTMLElement} element that takes the focus @param {Actions} actions */
export function listen(element, actions) {
  pointers(element, actions);
  element.addEventListener("wheel", (event) => onWheel(event, element, actions), { passive: false });
  element.addEventListener("keydown", (event) => onKey(event, actions));
  element.addEventListener("dblclick", (event) => {
    event.preventDefault();
    actions.reset();
  });
}

/** @param {HTMLElement} element @param {Actions} actions */
function pointers(element, actions) {
  /** @type {{id: number, x: number, y: number, pan: boolean, moved: boolean} | null} */
  let held = null;
  element.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event, element);
    if (event.button > 1 || !actions.isInside(x, y)) return;
    element.focus({ preventScroll: true });
    event.preventDefault();
    element.setPointerCapture(event.pointerId);
    held = { id: event.pointerId, x, y, pan: event.shiftKey || event.button === 1, moved: false };
  });
  element.addEventListener("pointermove", (event) => {
    const [x, y] = place(event, element);
    if (!held) {
      actions.hover(x, y);
      return;
    }
    held.moved ||= Math.hypot(x - held.x, y - held.y) > CLICK;
    if (!held.moved) return;
    actions.leave();
    if (held.pan) {
      actions.pan(x - held.x, y - held.y);
      [held.x, held.y] = [x, y];
    } else actions.stretch(box(held, x, y));
  });
  element.addEventListener("pointerup", (event) => {
    if (!held) return;
    const [x, y] = place(event, element);
    const { moved, pan } = held;
    const dragged = box(held, x, y);
    held = null;
    if (!moved) actions.pick(x, y);
    else if (!pan) {
      actions.stretch(null);
      actions.zoomTo(dragged, along(dragged));
    }
  });
  const giveUp = () => {
    if (held) actions.stretch(null);
    held = null;
  };
  element.addEventListener("pointercancel", giveUp);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !held) return;
    event.stopImmediatePropagation(); // it gives up the box, not the zoom
    giveUp();
  });
  element.addEventListener("pointerleave", () => !held && actions.leave());
}

/** @param {WheelEvent} event @param {HTMLElement} element @param {Actions} actions */
function onWheel(event, element, actions) {
  const [x, y] = place(event, element);
  if (!actions.isInside(x, y)) return;
  if (document.activeElement !== element && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    actions.hint(); // the page scrolls: a map must not swallow the wheel of somebody who is passing
    return;
  }
  event.preventDefault();
  const turned = event.deltaY || event.deltaX; // with Shift browsers turn it sideways
  const factor = Math.exp(Math.min(300, Math.max(-300, turned * (event.deltaMode ? 20 : 1))) * WHEEL);
  if (event.shiftKey) actions.zoomAt(x, y, 1, factor);
  else actions.zoomAt(x, y, factor, 1);
}

/** @param {KeyboardEvent} event @param {Actions} actions */
function onKey(event, actions) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const far = event.shiftKey ? LEAP : 1;
  const meaning = {
    ArrowLeft: () => actions.moveCursor(-far, 0),
    ArrowRight: () => actions.moveCursor(far, 0),
    ArrowUp: () => actions.moveCursor(0, -far),
    ArrowDown: () => actions.moveCursor(0, far),
    PageUp: () => actions.moveCursor(0, -LEAP),
    PageDown: () => actions.moveCursor(0, LEAP),
    Home: () => actions.moveCursor(-Infinity, 0),
    End: () => actions.moveCursor(Infinity, 0),
    "+": () => actions.zoomCursor(ZOOM),
    "=": () => actions.zoomCursor(ZOOM),
    "-": () => actions.zoomCursor(1 / ZOOM),
    Enter: actions.pickCursor,
    " ": actions.pickCursor,
    Escape: actions.reset,
    0: actions.reset,
  }[event.key];
  if (!meaning) return;
  event.preventDefault();
  meaning();
}

/** @param {{x: number, y: number}} from @param {number} x @param {number} y */
function box(from, x, y) {
  return { left: Math.min(from.x, x), right: Math.max(from.x, x), top: Math.min(from.y, y), bottom: Math.max(from.y, y) };
}

/** @param {{left: number, top: number, right: number, bottom: number}} dragged @returns {"both" | "steps" | "rows"} */
function along({ left, top, right, bottom }) {
  if (bottom - top < THIN) return "steps";
  return right - left < THIN ? "rows" : "both";
}

/** @param {MouseEvent} event @param {HTMLElement} element @returns {[number, number]} */
function place(event, element) {
  const around = element.getBoundingClientRect();
  return [event.clientX - around.left, event.clientY - around.top];
}
