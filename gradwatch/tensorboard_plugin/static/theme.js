/** Light or dark, as TensorBoard around the frame is. */

import { shownWindow } from "./address.js";

/** @returns {"light" | "dark"} */
export function theme() {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}

/** @param {() => void} changed called whenever the user switches */
export function followTheme(changed) {
  const shown = shownWindow();
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const dark = shown === window ? system.matches : shown.document.body.classList.contains("dark-mode");
    const wanted = dark ? "dark" : "light";
    if (document.documentElement.dataset.theme === wanted) return;
    document.documentElement.dataset.theme = wanted;
    changed();
  };
  apply();
  if (shown === window) {
    system.addEventListener("change", apply);
    return;
  }
  const observer = new MutationObserver(apply);
  observer.observe(shown.document.body, { attributes: true, attributeFilter: ["class"] });
  window.addEventListener("pagehide", () => observer.disconnect());
}
