// Small pictures of numbers, as SVG. Decoration beside the figure that they belong to: screen readers are spared them.

import { s } from "./dom.js";

const W = 120, H = 30;

const plot = (...children) => s("svg", { class: "plot", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" }, children);

function points(values) {
  const top = Math.max(...values, 0) || 1;
  const step = W / Math.max(1, values.length - 1);
  return values.map((value, index) => `${(index * step).toFixed(1)} ${(H - 1 - (value / top) * (H - 3)).toFixed(1)}`);
}

export function line(values) {
  return plot(values.length > 1 && s("path", { d: `M${points(values).join("L")}` }));
}

export function area(values) {
  if (values.length < 2) return plot();
  const path = points(values).join("L");
  return plot(s("path", { class: "area", d: `M0 ${H}L${path}L${W} ${H}Z` }), s("path", { d: `M${path}` }));
}

export function bars(values) {
  const top = Math.max(...values, 1);
  const step = W / values.length;
  return plot(values.map((value, index) => {
    const height = value ? Math.max(1.5, (value / top) * (H - 1)) : 0.6;
    return s("rect", { x: (index * step).toFixed(1), y: (H - height).toFixed(1), width: (step * 0.7).toFixed(1), height: height.toFixed(1) });
  }));
}
