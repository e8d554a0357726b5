/** New steps without a reload: TensorBoard tells a frame nothing, so the page asks while somebody looks at it. */

const EVERY = 4000; // milliseconds
const AFTER_TROUBLE = 8000;

/** @param {() => Promise<boolean>} ask whether it went well */
export function keepAsking(ask) {
  let timer = 0;
  let asking = false;
  const round = async () => {
    clearTimeout(timer);
    if (asking) return;
    let well = true;
    if (isSeen()) {
      asking = true;
      well = await ask();
      asking = false;
    }
    timer = setTimeout(round, well ? EVERY : AFTER_TROUBLE);
  };
  timer = setTimeout(round, EVERY);
  document.addEventListener("visibilitychange", () => isSeen() && round());
  // TensorBoard hides the frame of a tab that is not in front: it then has no size.
  let seen = isSeen();
  new ResizeObserver(() => {
    const before = seen;
    seen = isSeen();
    if (seen && !before) round();
  }).observe(document.documentElement);
}

/** @returns {boolean} whether anybody can see the page */
function isSeen() {
  return document.visibilityState === "visible" && document.documentElement.clientWidth > 0;
}
