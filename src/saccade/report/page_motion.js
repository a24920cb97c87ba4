// Plays all clips of the page or shows their strips instead; who wants less motion, or reads on a narrow screen, begins with strips.
"use strict";
(() => {
  const root = document.documentElement;
  const buttons = [...document.querySelectorAll(".motion")];
  let chosen = false;
  const calm = matchMedia("(prefers-reduced-motion: reduce), (max-width: 640px)");
  function show(playing) {
    root.dataset.motion = playing ? "play" : "still";
    buttons.forEach((button) => { button.hidden = false; button.textContent = playing ? "Pause" : "Play"; });
  }
  buttons.forEach((button) => button.addEventListener("click", () => { chosen = true; show(root.dataset.motion !== "play"); }));
  calm.addEventListener("change", () => { if (!chosen) show(!calm.matches); });
  show(!calm.matches);
})();
