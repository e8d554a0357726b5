/**
 * The colours of the heat map: viridis for sizes, a diverging scale for ratios; and three colours that neither has.
 *
 * Both scales grow evenly in lightness, so that equal steps look equal, also to the colour-blind and in grey print.
 */

const VIRIDIS = [
  "440154", "48186a", "472d7b", "424086", "3b528b", "33638d", "2c728e", "26828e", "21918c", "1fa088", "28ae80",
  "3fbc73", "5ec962", "84d44b", "addc30", "d8e219", "fde725",
];
const DIVERGING = {
  light: ["053061", "2065ab", "4393c3", "90c4dd", "d1e5f0", "f4f3f1", "fddbc7", "f3a481", "d6604d", "b1182b", "67001f"],
  dark: ["c6d8ff", "8db9ff", "5595e6", "3f72ab", "3b5878", "3d4046", "6b4b3d", "98583c", "cf6c49", "f2937c", "ffcbc4"],
};
const LEVELS = 1024;

/** @typedef {{nonfinite: string, zero: string, ring: string, halo: string, text: string, muted: string, line: string,
 *   surface: string, hatch: string, error: string, warning: string, info: string, accent: string}} Ink */

/** @type {Record<"light" | "dark", Ink>} what is drawn on a canvas cannot read the style sheet */
export const INK = {
  light: {
    nonfinite: "#ff1744", zero: "#000000", ring: "#ffffff", halo: "#10151d", text: "#1b2430", muted: "#5d6878",
    line: "#d5dbe3", surface: "#ffffff", hatch: "#d3d9e0", error: "#d3263f", warning: "#c77700", info: "#2f6fd0",
    accent: "#2456d6",
  },
  dark: {
    nonfinite: "#ff1744", zero: "#000000", ring: "#ffffff", halo: "#05070a", text: "#e7eaee", muted: "#a3acb8",
    line: "#434851", surface: "#26292e", hatch: "#454b54", error: "#ff6b7d", warning: "#ffb547", info: "#7fb2ff",
    accent: "#8fb4ff",
  },
};

/** @typedef {Uint8ClampedArray} Ramp LEVELS x RGB */
/** @type {Map<string, Ramp>} */
const ramps = new Map();

/** @param {boolean} diverging @param {"light" | "dark"} theme @returns {Ramp} */
export function ramp(diverging, theme) {
  const key = diverging ? theme : "viridis";
  const known = ramps.get(key);
  if (known) return known;
  const anchors = (diverging ? DIVERGING[theme] : VIRIDIS).map(rgb);
  const made = new Uint8ClampedArray(LEVELS * 3);
  for (let level = 0; level < LEVELS; level++) {
    const place = (level / (LEVELS - 1)) * (anchors.length - 1);
    const index = Math.min(anchors.length - 2, Math.floor(place));
    for (let channel = 0; channel < 3; channel++) {
      const [from, to] = [anchors[index][channel], anchors[index + 1][channel]];
      made[level * 3 + channel] = from + (to - from) * (place - index);
    }
  }
  ramps.set(key, made);
  return made;
}

/** @param {Ramp} colours @param {number} at 0 to 1 @returns {[number, number, number]} */
export function sample(colours, at) {
  const level = Math.round(Math.min(1, Math.max(0, at)) * (LEVELS - 1)) * 3;
  return [colours[level], colours[level + 1], colours[level + 2]];
}

/** @param {string} hex with or without # @returns {[number, number, number]} */
export function rgb(hex) {
  const value = parseInt(hex.replace("#", ""), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
