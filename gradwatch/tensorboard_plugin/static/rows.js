/** Which rows of the heat map a layer is: parameters and modules name the same thing at two levels. */

/** @typedef {{from: number, to: number}} Rows [from, to) */

/**
 * @param {string[]} names all rows in depth order
 * @param {string | null} layer a parameter or a module
 * @returns {Rows | null} its own row, those of the parameters in it, or that of the module that holds it
 */
export function rowsOf(names, layer) {
  if (layer === null) return null;
  const exact = names.indexOf(layer);
  if (exact >= 0) return { from: exact, to: exact + 1 };
  const inside = `${layer}.`;
  const first = names.findIndex((name) => name.startsWith(inside));
  if (first >= 0) {
    let to = first;
    while (to < names.length && names[to].startsWith(inside)) to++;
    return { from: first, to };
  }
  const dot = layer.lastIndexOf(".");
  const holder = dot < 0 ? -1 : names.indexOf(layer.slice(0, dot));
  return holder >= 0 ? { from: holder, to: holder + 1 } : null;
}
