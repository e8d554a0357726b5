"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const draw = (dark) => {
    for (const node of document.querySelectorAll(".figure")) {
      const { data, light, dark: night } = figures[Number(node.dataset.figure)];
      window.Plotly.react(node, data, structuredClone(dark ? night : light), config);
    }
  };
  draw(system.matches);
  system.addEventListener("change", () => draw(system.matches));
  window.addEventListener("beforeprint", () => draw(false));
  window.addEventListener("afterprint", () => draw(system.matches));
  for (const button of document.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const code = button.parentElement.querySelector("pre");
      const range = document.createRange();
      range.selectNodeContents(code);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      const copied = document.execCommand("copy"); // also works in a page opened from a file
      button.textContent = copied ? "copied" : "select and copy";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }
  document.documentElement.dataset.drawn = "yes";
})();
