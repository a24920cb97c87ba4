// Draws every chart of the page from the JSON beside it, follows the colour scheme and the switch of the horizontal axis.
"use strict";
(() => {
  const root = document.documentElement;
  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const figures = [...document.querySelectorAll(".chart")].map((node) => ({
    plot: node.querySelector(".plot"),
    chart: JSON.parse(node.querySelector("script").textContent),
    small: node.closest(".health") !== null,
  }));
  const units = [[1, "s"], [60, "min"], [3600, "h"]];
  let axis = "steps";

  // One unit for all charts, so that they can be compared at a glance.
  const ofRuns = figures.flatMap((f) => f.chart.traces).filter((t) => !t.arm);
  const longest = Math.max(1, ...ofRuns.map((t) => t.seconds[t.seconds.length - 1]));
  const [divisor, unit] = units.filter(([size]) => longest >= 3 * size).pop() || units[0];
  // Curves of a check are those of arms over seeds, which have steps alone.
  const along = (trace) => (trace.arm ? trace.steps : axis === "seconds" ? trace.seconds.map((s) => s / divisor) : trace[axis]);
  const named = (trace) => trace.arm || (RUNS.length > 1 ? RUNS[trace.run] : "");

  function line(trace, values, faint) {
    const points = trace.y.length <= 12;
    return {
      x: along(trace), y: values, type: "scatter", mode: points ? "lines+markers" : "lines",
      line: { color: color(`--run${trace.run % 8}`), width: faint ? 1 : 2 }, marker: { size: 5 }, opacity: faint ? 0.28 : 1,
      hoverinfo: faint ? "skip" : "all", hovertemplate: `%{y:.4g}<extra>${escape(named(trace))}</extra>`,
    };
  }

  // The ends of an interval, without lines of their own, and the colour between them.
  function band(trace) {
    if (!trace.low) return [];
    const edge = (values, fill) => ({
      x: along(trace), y: values, type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip", fill,
      fillcolor: `${color(`--run${trace.run % 8}`)}2e`,
    });
    return [edge(trace.low, "none"), edge(trace.high, "tonexty")];
  }

  function traces(chart) {
    return chart.traces.flatMap(band).concat(curves(chart));
  }

  function curves(chart) {
    return chart.traces.flatMap((t) => (t.smooth ? [line(t, t.y, true), line(t, t.smooth, false)] : [line(t, t.y, false)]));
  }

  // A curve that only rounding moves is shown as level, near its height.
  function reach(chart) {
    const all = chart.traces.flatMap((t) => [...t.y, ...(t.low || []), ...(t.high || [])]);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const size = Math.max(Math.abs(low), Math.abs(high));
    return high - low > 1e-6 * size ? {} : { range: [low - (size / 2 || 1), high + (size / 2 || 1)] };
  }

  function layout({ chart, small }) {
    const scale = {
      gridcolor: color("--line"), linecolor: color("--line"), zeroline: false, fixedrange: true, automargin: true,
      nticks: small ? 4 : 5, tickfont: { size: 11, color: color("--quiet") },
    };
    const hover = { bgcolor: color("--card"), bordercolor: color("--line"), font: { size: 12, color: color("--ink") } };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false, hovermode: "x unified",
      margin: { l: 34, r: 8, t: 6, b: 24 }, hoverlabel: hover, font: { family: getComputedStyle(document.body).fontFamily },
      xaxis: { ...scale, showgrid: false, ticksuffix: axis === "seconds" ? ` ${unit}` : "", hoverformat: axis === "seconds" ? ".1f" : ".4~s" },
      yaxis: { ...scale, rangemode: "normal", ...reach(chart) },
    };
  }

  const draw = () => figures.forEach((f) =>
    Plotly.react(f.plot, traces(f.chart), layout(f), { displayModeBar: false, responsive: true }));

  // What is folded has no width that a chart could take.
  document.querySelectorAll(".fold").forEach((fold) => fold.addEventListener("toggle", () =>
    figures.filter((f) => fold.open && fold.contains(f.plot)).forEach((f) => Plotly.Plots.resize(f.plot))));

  const hasImages = ofRuns.some((t) => t.images[t.images.length - 1] > 0);
  document.querySelectorAll(".switch button").forEach((button) => {
    button.hidden = button.dataset.axis === "images" && !hasImages;
    button.addEventListener("click", () => {
      axis = button.dataset.axis;
      document.querySelectorAll(".switch button").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.axis === axis)));
      draw();
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
