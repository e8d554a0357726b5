/** Canvases in CSS pixels, sharp on every screen. */

import { INK } from "./colours.js";

const HATCH = 6;

/** @param {HTMLCanvasElement} canvas @param {HTMLElement} around @returns {CanvasRenderingContext2D | null} empty, in CSS pixels */
export function fitCanvas(canvas, around) {
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
export function picture(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  return canvas;
}

/** What has no value shows these lines. @param {CanvasRenderingContext2D} context @param {import("./axes.js").Box} box @param {"light" | "dark"} theme */
export function hatch(context, box, theme) {
  context.save();
  context.beginPath();
  context.rect(box.left, box.top, box.width, box.height);
  context.clip();
  context.strokeStyle = INK[theme].hatch;
  context.lineWidth = 1;
  context.beginPath();
  for (let at = -box.height; at < box.width; at += HATCH) {
    context.moveTo(box.left + at, box.top + box.height);
    context.lineTo(box.left + at + box.height, box.top);
  }
  context.stroke();
  context.restore();
}
