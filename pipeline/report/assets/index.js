// The index page: searches, filters and sorts the drives of an output in the browser.
"use strict";

const whole = (value) => Number(value).toLocaleString("en");
const short = (value) => Number(value).toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
const RANK = { fail: 0, warn: 1, unknown: 2, pass: 3, unreadable: -1 };
const SORTS = {
  name: ["name", (a, b) => a.id.localeCompare(b.id, "en", { numeric: true })],
  verdict: ["verdict, worst first", (a, b) => RANK[a.verdict] - RANK[b.verdict]],
  published: ["time of publishing", (a, b) => (a.published_at || "").localeCompare(b.published_at || "")],
  frames: ["frames", (a, b) => (a.frames || 0) - (b.frames || 0)],
  length: ["length of path", (a, b) => (a.length || 0) - (b.length || 0)],
  points: ["points", (a, b) => (a.points || 0) - (b.points || 0)],
  seconds: ["time taken", (a, b) => (a.seconds || 0) - (b.seconds || 0)],
};

function sketch(path) {
  const space = "http://www.w3.org/2000/svg";
  const box = document.createElementNS(space, "svg");
  box.setAttribute("viewBox", "-6 -6 112 112");
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", "trajectory from above");
  const line = document.createElementNS(space, "polyline");
  line.setAttribute("points", path.map(([x, y]) => `${x},${100 - y}`).join(" "));
  for (const [name, value] of [["fill", "none"], ["stroke", "#58a6ff"], ["stroke-width", "2.4"], ["stroke-linejoin", "round"]]) line.setAttribute(name, value);
  box.append(line);
  return box;
}

// All georeferenced drives on one map, north up. Longitudes are scaled by the cosine of the latitude: both axes in metres.
function allMap(drives, box) {
  const space = "http://www.w3.org/2000/svg";
  const node = (tag, attributes, text) => {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  };
  const placed = drives.filter((one) => one.place?.length);
  box.replaceChildren();
  if (!placed.length) return false;
  const all = placed.flatMap((one) => one.place), middle = all.reduce((sum, p) => sum + p[1], 0) / all.length;
  const [lon, lat] = all[0], metre = 111320, shrink = Math.cos((middle * Math.PI) / 180);
  const flat = (p) => [((((p[0] - lon + 540) % 360) - 180) * metre * shrink), -(p[1] - lat) * metre];
  const points = all.map(flat), xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const low = (v) => v.reduce((a, b) => Math.min(a, b), Infinity), high = (v) => v.reduce((a, b) => Math.max(a, b), -Infinity);
  const span = Math.max(high(xs) - low(xs), high(ys) - low(ys), 1), pad = span * 0.08;
  const [left, top, width, height] = [low(xs) - pad, low(ys) - pad, high(xs) - low(xs) + 2 * pad, high(ys) - low(ys) + 2 * pad + span * 0.08];
  box.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
  const colours = { pass: "#3fb950", warn: "#d29922", fail: "#f85149" };
  for (const one of placed) {
    const line = node("polyline", { points: one.place.map((p) => flat(p).join(",")).join(" "), fill: "none", stroke: colours[one.verdict] || "#58a6ff", "stroke-width": span / 140, "stroke-linejoin": "round", "data-drive": one.id });
    line.append(node("title", {}, one.id));
    const parent = one.report ? node("a", { href: one.report }) : node("g", {});
    parent.append(line);
    box.append(parent);
  }
  const wanted = width / 4, power = 10 ** Math.floor(Math.log10(wanted)), length = [5, 2, 1].map((n) => n * power).find((n) => n <= wanted) || power;
  const x = left + width * 0.03, y = top + height - span * 0.03;
  box.append(node("line", { x1: x, x2: x + length, y1: y, y2: y, stroke: "#98a2b0", "stroke-width": span / 200 }));
  box.append(node("text", { x, y: y - span / 60, fill: "#98a2b0", "font-size": span / 28 }, length >= 1000 ? `${length / 1000} km` : `${length} m`));
  const nx = left + width - span * 0.05, ny = top + span * 0.03;
  box.append(node("polygon", { points: `${nx},${ny} ${nx + span / 60},${ny + span / 18} ${nx},${ny + span / 24} ${nx - span / 60},${ny + span / 18}`, fill: "#98a2b0" }));
  box.append(node("text", { x: nx - span / 80, y: ny + span / 10, fill: "#98a2b0", "font-size": span / 28 }, "N"));
  return true;
}

function card(one) {
  const look = make("div", { class: "look" });
  look.append(one.thumb ? make("img", { src: one.thumb, alt: "", loading: "lazy", decoding: "async" }) : make("div", { class: "none", text: "no picture" }));
  if (one.path?.length) look.append(sketch(one.path));
  const body = make("div", { class: "body" }, make("div", { class: "title" }, make("h3", { text: one.id }), make("span", { class: `pill ${one.verdict}`, text: one.verdict })));
  if (one.error) body.append(make("p", { class: "small soft", text: one.error }));
  else {
    const facts = [["frames", whole(one.frames)], ["points", short(one.points)], ["chunks", whole(one.chunks)], ["loops", `${one.loops_accepted} / ${one.loops}`],
      ["path", `${short(one.length)} ${one.unit}`], ["took", `${short(one.seconds)} s`]];
    body.append(make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })])));
    body.append(make("p", { class: "small soft", text: one.report ? one.published_at.replace("T", " ").slice(0, 16) : `${one.published_at.replace("T", " ").slice(0, 16)}, no report made yet` }));
  }
  const node = make(one.report ? "a" : "div", { class: "panel card", "data-drive": one.id });
  if (one.report) node.href = one.report;
  node.append(look, body);
  return node;
}

function start(site) {
  const drives = site.drives;
  const cards = new Map(drives.map((one) => [one.id, card(one)]));
  let level = "all", up = true;
  $("where").textContent = site.output;
  $("city").hidden = !site.city;
  const counts = { all: drives.length };
  for (const one of drives) counts[one.verdict] = (counts[one.verdict] || 0) + 1;
  const total = (name) => drives.reduce((sum, one) => sum + (one[name] || 0), 0);
  for (const [label, value] of [["drives", whole(drives.length)], ["frames", whole(total("frames"))], ["points", short(total("points"))]])
    $("facts").append(make("div", {}, make("b", { text: value }), make("span", { text: label })));
  for (const name of ["all", "pass", "warn", "fail", "unknown", "unreadable"]) {
    if (!counts[name]) continue;
    const button = make("button", { text: `${name} ${counts[name]}`, "data-level": name, "aria-pressed": name === level });
    button.addEventListener("click", () => { level = name; refresh(); });
    $("levels").append(button);
  }
  for (const [name, [label]] of Object.entries(SORTS)) $("sort").append(make("option", { value: name, text: label }));
  function refresh() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = drives.filter((one) => (level === "all" || one.verdict === level) && words.every((word) => one.id.toLowerCase().includes(word)));
    const compare = SORTS[$("sort").value][1];
    shown.sort((a, b) => (up ? 1 : -1) * compare(a, b) || SORTS.name[1](a, b));
    $("allmap").hidden = !allMap(shown, $("allmapbox"));
    $("cards").replaceChildren(...shown.map((one) => cards.get(one.id)));
    $("count").textContent = `${whole(shown.length)} of ${whole(drives.length)}`;
    for (const button of $("levels").children) button.setAttribute("aria-pressed", button.dataset.level === level);
    $("order").textContent = up ? "↑" : "↓";
  }
  $("search").addEventListener("input", refresh);
  $("sort").addEventListener("change", refresh);
  $("order").addEventListener("click", () => { up = !up; refresh(); });
  refresh();
  document.body.dataset.ready = "yes";
}

fetch("drives.json").then((answer) => answer.json()).then(start).catch((error) => {
  $("count").textContent = location.protocol === "file:"
    ? "A web server is needed for this page: python -m http.server, or jobs.report --serve" : `drives.json could not be loaded (${error.message}).`;
});
