/**
 * The entry of the gradwatch tab: TensorBoard imports this module in an empty frame and calls `render`.
 *
 * It asks for the runs before anything else is loaded, and names every module at once: fetching them one import after
 * the other would cost a round trip for each floor.
 */

const MODULES = [
  "address", "api", "axes", "canvas", "cells", "clipboard", "colours", "controls", "details", "dom", "explorer",
  "figure", "figures", "gestures", "grid", "heatmap", "incidents", "layout", "live", "overlay", "page", "paint",
  "rows", "runs", "scale", "store", "theme", "tooltip", "view", "words",
];

/** Build the page. */
export async function render() {
  const runs = fetch(new URL("runs", document.baseURI));
  runs.catch(() => undefined); // the page asks again, and tells
  for (const name of MODULES) {
    document.head.append(link("modulepreload", `./static/${name}.js`));
  }
  const style = link("stylesheet", "./static/style.css");
  const styled = new Promise((resolve) => {
    style.addEventListener("load", resolve);
    style.addEventListener("error", resolve);
  });
  document.head.append(style);
  document.documentElement.lang = "en";
  document.title = "gradwatch";
  const [{ start }] = await Promise.all([import("./static/page.js"), styled]);
  await start(document.body, runs);
}

/** @param {string} rel @param {string} path relative to this module */
function link(rel, path) {
  const element = document.createElement("link");
  element.rel = rel;
  element.href = new URL(path, import.meta.url).href;
  return element;
}
