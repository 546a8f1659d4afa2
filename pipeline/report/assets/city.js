// The city's page: a map of drives, links, tiles and changes, drawn as vectors from city.json.
"use strict";

const number = (value) => Number(value).toLocaleString("en");
const COLOURS = ["#58a6ff", "#f0883e", "#bc8cff", "#56d3c2", "#ff7bac", "#d2c85a", "#7ee787", "#a5d6ff"];
const LAYERS = [["tiles", "tiles"], ["drives", "drives"], ["accepted", "accepted links"], ["rejected", "rejected links"], ["change", "change"]];
const KINDS = { gone: "#ec5c5c", new: "#4cc38a" };

function start(city) {
  const shown = new Set(LAYERS.map(([name]) => name));
  const box = $("map");
  let view = null, all = null;
  $("where").textContent = `version ${city.version}, ${city.published_at.replace("T", " ").slice(0, 16)}`;
  for (const [label, value] of [["drives", city.counts.drives], ["links accepted", city.counts.accepted], ["links rejected", city.counts.links - city.counts.accepted], ["tiles", city.counts.tiles], ["points", city.counts.points], ["changes", city.counts.changes]])
    $("facts").append(make("div", {}, make("b", { text: number(value) }), make("span", { text: label })));
  const size = (name) => city.drives.filter((one) => one.frame === name).length;
  const frames = [...city.frames].sort((a, b) => size(b.name) - size(a.name));
  for (const frame of frames) $("frame").append(make("option", { value: frame.name, text: `${frame.name} (${size(frame.name)} drives)` }));
  for (const [name, label] of LAYERS) {
    const button = make("button", { text: label, "data-layer": name, "aria-pressed": true });
    button.addEventListener("click", () => {
      if (!shown.delete(name)) shown.add(name);
      button.setAttribute("aria-pressed", shown.has(name));
      draw();
    });
    $("layers").append(button);
  }

  function titled(tag, attributes, title) {
    const node = svg(tag, { "vector-effect": "non-scaling-stroke", ...attributes });
    const said = svg("title");
    said.textContent = title;
    node.append(said);
    return node;
  }

  function draw() {
    const name = $("frame").value, frame = city.frames.find((one) => one.name === name);
    const mine = (list) => list.filter((one) => one.frame === name);
    const drives = mine(city.drives), tiles = mine(city.tiles), links = mine(city.links), changes = mine(city.changes);
    const xs = [], ys = [];
    for (const one of drives) for (const [x, y] of one.path) { xs.push(x); ys.push(-y); }
    for (const { box: [x0, y0, x1, y1] } of changes) { xs.push(x0, x1); ys.push(-y0, -y1); }
    const low = (v) => v.reduce((a, b) => Math.min(a, b), Infinity), high = (v) => v.reduce((a, b) => Math.max(a, b), -Infinity);
    const span = Math.max(high(xs) - low(xs), high(ys) - low(ys), 1e-6), pad = 0.12 * span;
    all = [low(xs) - pad, low(ys) - pad, high(xs) - low(xs) + 2 * pad, high(ys) - low(ys) + 2 * pad];
    view = view && view.frame === name ? view : { frame: name, box: [...all] };
    box.setAttribute("viewBox", view.box.join(" "));
    box.replaceChildren();
    const most = high([1, ...tiles.map((one) => one.points)]);
    if (shown.has("tiles")) for (const one of tiles)
      box.append(titled("rect", { class: "tile", x: one.x * frame.tile, y: -(one.y + 1) * frame.tile, width: frame.tile, height: frame.tile, fill: "#58a6ff", "fill-opacity": (0.04 + 0.22 * Math.sqrt(one.points / most)).toFixed(3), stroke: "#2a3038" },
        `tile ${one.x} ${one.y}: ${number(one.points)} points of ${one.drives} drives`));
    if (shown.has("drives")) for (const one of drives) {
      const colour = COLOURS[city.drives.indexOf(one) % COLOURS.length];
      box.append(titled("polyline", { class: "drive", "data-drive": one.id, points: one.path.map(([x, y]) => `${x},${-y}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-linejoin": "round" },
        `${one.id}: ${one.links} links accepted, ${one.rejected} rejected; placed by ${one.evidence}`));
    }
    for (const one of links) {
      if (!shown.has(one.accepted ? "accepted" : "rejected")) continue;
      const [[ax, ay], [bx, by]] = one.ends, colour = one.accepted ? "#4cc38a" : "#ec5c5c", said = `${one.names.join(" and ")}: ${one.reason}`;
      box.append(titled("line", { class: one.accepted ? "link accepted" : "link rejected", x1: ax, y1: -ay, x2: bx, y2: -by, stroke: colour, "stroke-width": 1.5, ...(one.accepted ? {} : { "stroke-dasharray": "5 4" }) }, said));
      const mark = titled("circle", { cx: ax, cy: -ay, r: span / 220, fill: colour }, said);
      box.append(mark);
    }
    if (shown.has("change")) for (const one of changes) {
      const [x0, y0, x1, y1] = one.box, least = span / 90, width = Math.max(x1 - x0, least), height = Math.max(y1 - y0, least);
      box.append(titled("rect", { class: `change ${one.kind}`, "data-object": one.object, x: (x0 + x1 - width) / 2, y: -(y0 + y1 + height) / 2, width, height, fill: KINDS[one.kind], "fill-opacity": 0.35, stroke: KINDS[one.kind], "stroke-width": 2 },
        `${one.kind}: in ${one.drive}, seen through in ${one.other}; ${number(one.points)} points`));
    }
    scale(frame);
    $("count").textContent = `${drives.length} drives, ${links.filter((one) => one.accepted).length} links accepted, ${links.filter((one) => !one.accepted).length} rejected, ${tiles.length} tiles, ${changes.length} changes`;
  }

  function scale(frame) {
    const [left, top, width, height] = view.box, wanted = width / 5, power = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].map((n) => n * power).find((n) => n <= wanted) || power, x = left + 0.03 * width, y = top + 0.96 * height;
    box.append(svg("line", { x1: x, x2: x + length, y1: y, y2: y, stroke: "#98a2b0", "stroke-width": 3, "vector-effect": "non-scaling-stroke" }));
    const text = svg("text", { x, y: y - 0.015 * height, fill: "#98a2b0", "font-size": Math.max(width, height) / 40 });
    text.textContent = frame.on_earth ? (length >= 1000 ? `${length / 1000} km` : `${length} m`) : `${length} units`;
    box.append(text);
  }

  function moved(change) { change(view.box); draw(); }
  const at = (event) => {
    const to = box.getScreenCTM().inverse(), point = new DOMPoint(event.clientX, event.clientY).matrixTransform(to);
    return [point.x, point.y];
  };
  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = at(event), factor = event.deltaY > 0 ? 1.2 : 1 / 1.2;
    moved((v) => { v[0] = x - (x - v[0]) * factor; v[1] = y - (y - v[1]) * factor; v[2] *= factor; v[3] *= factor; });
  }, { passive: false });
  let held = null;
  box.addEventListener("pointerdown", (event) => { held = at(event); });
  box.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [x, y] = at(event);
    moved((v) => { v[0] += held[0] - x; v[1] += held[1] - y; });
  });
  for (const name of ["pointerup", "pointerleave"]) box.addEventListener(name, () => { held = null; });
  box.addEventListener("dblclick", () => moved((v) => { v.splice(0, 4, ...all); }));
  $("frame").addEventListener("change", draw);

  for (const one of city.changes) {
    const look = make("div", { class: "changelook" });
    look.append(one.picture ? make("img", { src: one.picture, alt: `${one.drive} beside ${one.other}`, loading: "lazy" }) : make("div", { class: "none", text: "no picture" }));
    $("changes").append(make("div", { class: "panel card wide", "data-object": one.object }, look,
      make("div", { class: "body" }, make("div", { class: "title" }, make("h3", { text: `in ${one.drive}, not in ${one.other}` }), make("span", { class: `pill ${one.kind === "new" ? "pass" : "fail"}`, text: one.kind })),
        make("p", { class: "small soft", text: `${number(one.points)} points, ${one.object}` }))));
  }
  if (!city.changes.length) $("changes").append(make("p", { class: "soft", text: "No change was found between two drives." }));
  for (const one of city.drives)
    $("drives").append(make("tr", {}, make("td", { text: one.id }), make("td", { class: "n", text: one.links }), make("td", { class: "n", text: one.rejected }), make("td", { class: "n", text: one.deviation ?? "–" }), make("td", { text: one.evidence })));
  const without = [...Object.entries(city.candidates_without), ...(city.links_apart ? [["rejected, between drives in different frames", city.links_apart]] : [])];
  for (const [reason, count] of without) $("without").append(make("tr", {}, make("td", { text: reason }), make("td", { class: "n", text: number(count) })));
  for (const note of city.notes) $("notes").append(make("li", { text: note }));
  draw();
  document.body.dataset.ready = "yes";
}

fetch("city.json").then((answer) => answer.json()).then(start).catch((error) => {
  $("count").textContent = location.protocol === "file:"
    ? "A web server is needed for this page: python -m http.server, or jobs.report --serve" : `city.json could not be loaded (${error.message}).`;
});
