/** Cells into pixels. Where several cells share a pixel the highest wins: no spike is ever drawn over. */

/** @typedef {{s0: number, s1: number, r0: number, r1: number}} Window steps [s0, s1) and rows [r0, r1) in view */

/**
 * Draw a grid into a picture of the window; what the grid does not hold stays as it is.
 *
 * @param {ImageData} image
 * @param {import("./grid.js").Grid} grid
 * @param {Uint32Array} lookup colour of each rank
 * @param {Window} view
 */
export function paint(image, grid, lookup, view) {
  if (grid.empty) return;
  const { width, height } = image;
  const across = bands(grid.colEdges, view.s0, view.s1, width);
  const down = bands(grid.rowEdges, view.r0, view.r1, height);
  if (!across.length || !down.length) return;
  const pixels = new Uint32Array(image.data.buffer);
  const line = new Uint8Array(grid.cols);
  let done = 0;
  while (done < down.length) {
    // All grid rows that begin in the same pixel row are drawn together.
    const { from, to } = down[done];
    line.fill(0);
    for (; done < down.length && down[done].from === from; done++) {
      const offset = down[done].bin * grid.cols;
      for (let col = 0; col < grid.cols; col++) {
        const rank = grid.ranks[offset + col];
        if (rank > line[col]) line[col] = rank;
      }
    }
    const start = from * width;
    paintLine(pixels.subarray(start, start + width), line, across, lookup);
    const bottom = Math.max(to, done < down.length ? down[done].from : to);
    for (let y = from + 1; y < Math.min(bottom, height); y++) pixels.copyWithin(y * width, start, start + width);
  }
}

/** @param {Uint32Array} pixels one row @param {Uint8Array} line ranks @param {Band[]} across @param {Uint32Array} lookup */
function paintLine(pixels, line, across, lookup) {
  let done = 0;
  while (done < across.length) {
    const { from } = across[done];
    let [rank, to] = [0, from + 1];
    for (; done < across.length && across[done].from === from; done++) {
      rank = Math.max(rank, line[across[done].bin]);
      to = Math.max(to, across[done].to);
    }
    pixels.fill(lookup[rank], from, to);
  }
}

/** @typedef {{bin: number, from: number, to: number}} Band the pixels [from, to) of a bin, at least one */

/** @param {Float64Array} edges @param {number} low @param {number} high @param {number} size pixels @returns {Band[]} */
function bands(edges, low, high, size) {
  const found = [];
  const pixel = (/** @type {number} */ value) => Math.floor(((value - low) / (high - low)) * size + 1e-6);
  for (let bin = 0; bin + 1 < edges.length; bin++) {
    if (edges[bin + 1] <= low || edges[bin] >= high) continue;
    const from = Math.min(size - 1, Math.max(0, pixel(edges[bin])));
    found.push({ bin, from, to: Math.min(size, Math.max(from + 1, pixel(edges[bin + 1]))) });
  }
  return found;
}
