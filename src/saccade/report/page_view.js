// The list of contents, pictures of every evaluation by a slider, and pictures enlarged by a click.
"use strict";
(() => {
  const headings = [...document.querySelectorAll("main h2")];
  if (headings.length > 2) {
    const list = document.querySelector("#contents");
    headings.forEach((heading, i) => {
      const place = heading.closest("section") || heading;
      place.id ||= `part-${i}`;
      const link = document.createElement("a");
      link.href = `#${place.id}`;
      link.textContent = heading.textContent.trim().replace(/\s+/g, " ");
      link.addEventListener("click", () => place.querySelectorAll(":scope > details").forEach((fold) => { fold.open = true; }));
      list.append(link);
    });
    list.hidden = false;
  }

  document.querySelectorAll(".course").forEach((course) => {
    const figures = [...course.closest("section").querySelectorAll("figure[data-course]")].map((node) => ({
      picture: node.querySelector("img"), badge: node.querySelector(".badge"), step: node.querySelector(".step"),
      moments: JSON.parse(node.dataset.course),
    }));
    const [slider, output] = [course.querySelector("input"), course.querySelector("output")];
    slider.addEventListener("input", () => figures.forEach(({ picture, badge, step, moments }) => {
      const [at, uri, score] = moments[Math.min(slider.value, moments.length - 1)];
      picture.src = uri;
      step.textContent = output.textContent = `step ${at}`;
      if (badge) badge.textContent = score;
    }));
  });

  const large = document.createElement("dialog");
  large.className = "large";
  large.addEventListener("click", () => large.close());
  document.body.append(large);
  document.querySelectorAll(".gallery .frame > img:not(.clip, .strip), .shown .frame > img").forEach((picture) => {
    picture.title ||= picture.alt;
    picture.addEventListener("click", () => {
      const copy = picture.closest(".frame").cloneNode(true);
      const words = document.createElement("p");
      words.textContent = picture.alt;
      large.replaceChildren(copy, words);
      large.showModal();
    });
  });
})();
