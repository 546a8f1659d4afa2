// The report page of one drive: figures, frames, map, and the controls of the scene (scene.js).
"use strict";

const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : (Math.abs(value) < 1e-3 ? 0 : Number(value)).toLocaleString("en", { maximumSignificantDigits: digits });

class Report {
  constructor(drive) {
    this.drive = drive;
    this.frame = drive.frames.first;
    this.colour = "colour";
    this.camera = "overview";
    this.timer = null;
    this.scene = new Scene($("viewer"), drive);
    this.head();
    this.toolbar();
    this.map();
    this.findings();
    this.comparison();
    this.figures();
    this.made();
    this.strip();
    this.controls();
    this.go(this.frame);
    this.awaitScene();
  }

  head() {
    const { drive } = this;
    document.title = `${drive.id} – reconstruction`;
    $("name").textContent = drive.id;
    $("verdict").textContent = drive.verdict;
    $("verdict").classList.add(drive.verdict);
    for (const [label, value] of drive.facts) $("facts").append(make("div", {}, make("b", { text: value }), make("span", { text: label })));
    $("shown").textContent = drive.scene.note;
    document.documentElement.style.setProperty("--aspect", drive.frames.aspect);
  }

  toolbar() {
    const { scene } = this.drive;
    scene.colours.forEach((one, index) => $("colours").append(make("button", {
      text: one.label, title: `Key ${index + 1}`, "data-colour": one.name, onclick: () => this.paint(one.name) })));
    for (const [name, label, key] of [["overview", "Overview", "O"], ["ride", "Ride along", "R"], ["own", "Camera view", "C"]])
      $("cameras").append(make("button", { text: label, title: `Key ${key}`, "data-camera": name, onclick: () => this.film(name) }));
    for (const layer of scene.layers) {
      const button = make("button", { "aria-pressed": "true", "data-layer": layer.name, onclick: () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", on);
        this.scene.show(layer.name, on);
      } });
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = layer.colour;
      button.append(swatch, layer.label);
      $("layers").append(button);
    }
    $("layers").hidden = !scene.layers.length;
    $("smaller").addEventListener("click", () => this.scene.resize(1 / 1.3));
    $("larger").addEventListener("click", () => this.scene.resize(1.3));
    this.legend();
  }

  paint(name) {
    if (name === this.colour) return;
    this.colour = name;
    for (const one of this.drive.scene.colours) this.scene.show(`/points/${one.name}`, one.name === name);
    this.legend();
  }

  legend() {
    const { scene } = this.drive;
    for (const button of $("colours").children) button.setAttribute("aria-pressed", button.dataset.colour === this.colour);
    const box = $("legend");
    box.replaceChildren();
    if (this.colour === "confidence") {
      const bar = make("i");
      bar.style.background = scene.confidence.css;
      box.append(`confidence ${number(scene.confidence.low)}`, bar, number(scene.confidence.high));
    } else if (this.colour === "chunk") box.append(`one colour for each chunk, ${this.drive.chunk_colours.length} chunks`);
    box.hidden = this.colour === "colour";
  }

  film(name) {
    this.camera = name;
    for (const button of $("cameras").children) button.setAttribute("aria-pressed", button.dataset.camera === name);
    this.aim();
  }

  aim() {
    const { scene, frames } = this.drive;
    if (this.camera === "overview") return this.scene.look(scene.start.position, scene.start.target, scene.up);
    const position = frames.position[this.frame], rotation = frames.rotation[this.frame];
    if (!position) return;
    let ahead = axis(rotation, 2);
    if (this.camera === "own") return this.scene.look(position, add(position, ahead, scene.step), axis(rotation, 1).map((v) => -v));
    ahead = add(ahead, scene.up, -dot(ahead, scene.up));
    const back = add(add(position, ahead, -9 * scene.step), scene.up, 5 * scene.step);
    this.scene.look(back, add(position, ahead, 9 * scene.step), scene.up);
  }

  go(frame) {
    const { drive } = this, { frames } = drive;
    this.frame = Math.max(0, Math.min(frames.count - 1, Math.round(frame)));
    const now = this.frame;
    $("scrub").value = now;
    $("scrub").setAttribute("aria-valuetext", `frame ${now} of ${frames.count}`);
    $("frame").textContent = `${now} / ${frames.count - 1}`;
    const shown = frames.images[now];
    const name = shown === null || shown === undefined ? null : frames.files[shown];
    $("photo").hidden = !name;
    $("nophoto").hidden = !!name;
    if (name) { $("photo").src = `frames/${name}`; $("photo").alt = `Image of frame ${frames.files_of[shown]}`; }
    else $("nophoto").textContent = frames.note || "no image";
    const rows = [["frame", `${now}, ${frames.status[now]}`]];
    if (frames.time) rows.push(["time", `${frames.time[now].toFixed(2)} s`]);
    rows.push(["chunk", frames.chunk[now] < 0 ? "–" : frames.chunk[now]], ["confidence", number(frames.confidence[now], 4)]);
    if (frames.share && frames.share[now] !== null)
      rows.push(["images agree", `${Math.round(100 * frames.share[now])} % of the tracks, median ${number(frames.distance[now])} px`]);
    rows.push([`travelled (${drive.unit})`, number(frames.travelled[now], 4)]);
    if (drive.deviation?.[now] !== null && drive.deviation) rows.push(["position error (m)", number(drive.deviation[now])]);
    if (name && frames.files_of[shown] !== now) rows.push(["image of frame", frames.files_of[shown]]);
    const finding = drive.findings.find((one) => !one.everywhere && one.start <= now && now < one.stop);
    if (finding) rows.push(["verdict", finding.reason]);
    $("now").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: String(value) })]));
    const at = frames.map[now];
    this.dot.setAttribute("visibility", at ? "visible" : "hidden");
    if (at) { this.dot.setAttribute("cx", at[0]); this.dot.setAttribute("cy", -at[1]); }
    this.scene.place(now);
    if (this.camera !== "overview") this.aim();
  }

  play(on = this.timer === null) {
    clearInterval(this.timer);
    this.timer = on ? setInterval(() => this.go(this.frame + 1 < this.drive.frames.count ? this.frame + 1 : 0), 100) : null;
    $("play").textContent = on ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  }

  controls() {
    $("scrub").max = this.drive.frames.count - 1;
    $("scrub").addEventListener("input", (event) => { this.play(false); this.go(Number(event.target.value)); });
    $("play").addEventListener("click", () => this.play());
    window.addEventListener("keydown", (event) => this.key(event), true);
    this.film("overview");
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.tagName;
    if (field === "SELECT" || (field === "INPUT" && event.target !== $("scrub"))) return;
    if (field === "BUTTON" && (event.key === " " || event.key === "Enter")) return;
    const far = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: () => this.go(this.frame - far), ArrowRight: () => this.go(this.frame + far),
      Home: () => this.go(0), End: () => this.go(this.drive.frames.count - 1), " ": () => this.play(),
      o: () => this.film("overview"), r: () => this.film("ride"), c: () => this.film("own"),
    };
    this.drive.scene.colours.forEach((one, index) => { actions[String(index + 1)] = () => this.paint(one.name); });
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End") this.play(false);
    action();
  }

  // Waits until the client has loaded the scene. Then keys that are pressed inside its frame are handled here too.
  awaitScene(tries = 0) {
    if (this.scene.isLoaded) {
      this.scene.ready = true;
      this.scene.frame.contentWindow.addEventListener("keydown", (event) => this.key(event), true);
      $("waiting").hidden = true;
      this.scene.place(this.frame);
      document.body.dataset.scene = "ready";
    } else if (tries > 1200) $("waiting").textContent = "The scene could not be loaded: is scene.viser beside this page?";
    else setTimeout(() => this.awaitScene(tries + 1), 100);
  }

  map() {
    const { drive } = this, box = $("map");
    const lines = drive.paths.map((path) => path.points);
    const xs = lines.flat().map((p) => p[0]), ys = lines.flat().map((p) => -p[1]);
    const low = (v) => v.reduce((a, b) => Math.min(a, b), Infinity), high = (v) => v.reduce((a, b) => Math.max(a, b), -Infinity);
    const [left, top] = [low(xs), low(ys)], span = Math.max(high(xs) - left, high(ys) - top, 1e-6), pad = span * 0.08;
    const width = high(xs) - left + 2 * pad, height = high(ys) - top + 2 * pad + span * 0.1;
    box.setAttribute("viewBox", `${left - pad} ${top - pad} ${width} ${height}`);
    const stroke = span / 110;
    const line = (points, colour, wide, extra = {}) => box.append(svg("polyline", {
      points: points.map((p) => `${p[0]},${-p[1]}`).join(" "), fill: "none", stroke: colour, "stroke-width": wide,
      "stroke-linejoin": "round", "stroke-linecap": "round", ...extra }));
    for (const path of drive.paths) line(path.points, path.colour, path.own ? stroke * 1.3 : stroke);
    for (const one of drive.findings) {
      if (one.everywhere) continue;
      const points = drive.frames.map.slice(one.start, one.stop + 1).filter((p) => p);
      if (points.length > 1) line(points, one.colour, stroke * 2.6, { opacity: 0.85 });
    }
    for (const loop of drive.loops) {
      const [a, b] = [drive.frames.map[loop.first], drive.frames.map[loop.second]];
      if (a && b) line([a, b], loop.accepted ? "#56d3c2" : "#96505a", stroke * 0.8, { "stroke-dasharray": `${stroke * 2} ${stroke * 2}` });
    }
    for (const [x, y, used] of drive.fixes || []) {
      const r = stroke * (used ? 0.8 : 1.3);
      box.append(svg("circle", { cx: x, cy: -y, r, fill: used ? "#e3b341" : "none", stroke: used ? "none" : "#f85149", "stroke-width": stroke * 0.5, "data-fix": used ? "used" : "rejected" }));
    }
    if (drive.north) this.north(box, left - pad + width, top - pad, width, stroke);
    this.dot = svg("circle", { r: stroke * 2.6, fill: "#fff", stroke: "#0d0f12", "stroke-width": stroke * 0.8 });
    box.append(this.dot);
    this.scalebar(box, left - pad, top - pad + height, width, stroke);
    box.addEventListener("click", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(box.getScreenCTM().inverse());
      let best = this.frame, least = Infinity;
      drive.frames.map.forEach((p, index) => {
        const distance = p ? (p[0] - point.x) ** 2 + (-p[1] - point.y) ** 2 : Infinity;
        if (distance < least) [least, best] = [distance, index];
      });
      this.play(false);
      this.go(best);
    });
    for (const path of drive.paths) {
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = path.colour;
      $("maplegend").append(make("span", {}, swatch, path.name));
    }
    for (const [name, colour, used] of [["fixes used", "#e3b341", true], ["fixes rejected", "#f85149", false]]) {
      const count = (drive.fixes || []).filter((one) => one[2] === used).length;
      if (!count) continue;
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = colour;
      $("maplegend").append(make("span", {}, swatch, name));
    }
  }

  north(box, right, top, width, stroke) {
    const [x, y] = this.drive.north, size = width * 0.045, cx = right - width * 0.06, cy = top + width * 0.09;
    const at = (along, across) => `${cx + along * x * size - across * y * size},${cy - along * y * size - across * x * size}`;
    box.append(svg("polygon", { points: `${at(1, 0)} ${at(-0.8, 0.6)} ${at(-0.4, 0)} ${at(-0.8, -0.6)}`, fill: "#98a2b0", "data-north": "yes" }));
    const text = svg("text", { x: cx - width / 60, y: cy - size * 1.3, fill: "#98a2b0", "font-size": width / 24 });
    text.textContent = "N";
    box.append(text);
  }

  scalebar(box, left, bottom, width, stroke) {
    const { per_unit: per, unit } = this.drive;
    const wanted = (width * per) / 4, power = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].map((n) => n * power).find((n) => n <= wanted) || power;
    const x = left + width * 0.03, y = bottom - width * 0.03;
    box.append(svg("line", { x1: x, x2: x + length / per, y1: y, y2: y, stroke: "#98a2b0", "stroke-width": stroke * 0.7 }));
    const text = svg("text", { x, y: y - stroke * 2, fill: "#98a2b0", "font-size": width / 24 });
    text.textContent = `${number(length)} ${unit}`;
    box.append(text);
  }

  strip() {
    const { drive } = this, { frames } = drive, canvas = $("strip");
    const draw = () => {
      const ratio = window.devicePixelRatio || 1, wide = canvas.clientWidth, tall = 30;
      if (!wide) return;
      canvas.width = wide * ratio;
      canvas.height = tall * ratio;
      const paint = canvas.getContext("2d");
      paint.scale(ratio, ratio);
      paint.fillStyle = "#0d0f12";
      paint.fillRect(0, 0, wide, tall);
      const x = (frame) => (frame / Math.max(frames.count - 1, 1)) * wide;
      let start = 0;
      for (let frame = 1; frame <= frames.count; frame++) {
        if (frame < frames.count && frames.chunk[frame] === frames.chunk[start]) continue;
        if (frames.chunk[start] >= 0) {
          paint.fillStyle = drive.chunk_colours[frames.chunk[start]];
          paint.globalAlpha = 0.75;
          paint.fillRect(x(start), tall - 4, Math.max(x(frame) - x(start) - 0.5, 0.5), 4);
        }
        start = frame;
      }
      paint.globalAlpha = 0.35;
      for (const one of drive.findings) {
        if (one.everywhere) continue;
        paint.fillStyle = one.colour;
        paint.fillRect(x(one.start), 0, Math.max(x(one.stop) - x(one.start), 2), tall - 4);
      }
      paint.globalAlpha = 1;
      const known = frames.confidence.filter((v) => v !== null);
      if (!known.length) return;
      const least = known.reduce((a, b) => Math.min(a, b)), most = known.reduce((a, b) => Math.max(a, b));
      paint.strokeStyle = "#58a6ff";
      paint.lineWidth = 1;
      paint.beginPath();
      let pen = false;
      frames.confidence.forEach((value, frame) => {
        if (value === null) { pen = false; return; }
        const y = 3 + (tall - 10) * (1 - (value - least) / (most - least || 1));
        if (pen) paint.lineTo(x(frame), y); else paint.moveTo(x(frame), y);
        pen = true;
      });
      paint.stroke();
    };
    new ResizeObserver(draw).observe(canvas);
    canvas.title = "Median confidence of the frames; chunks below; shaded: findings of the verdict";
  }

  findings() {
    const { drive } = this;
    if (!drive.findings.length) {
      const said = drive.verdict === "unknown" ? "This result has no verdict." : "The verdict has no findings.";
      $("findings").append(make("li", {}, make("button", { text: said, disabled: "" })));
    }
    for (const one of drive.findings) {
      const where = one.everywhere ? "whole drive" : `frames ${one.start} – ${one.stop - 1}`;
      $("findings").append(make("li", {}, make("button", { onclick: () => { this.play(false); this.go((one.start + one.stop) / 2); } },
        make("span", { class: `pill ${one.level}`, text: one.level }), make("span", { text: one.reason }), make("span", { class: "where", text: where }))));
    }
  }

  comparison() {
    const { views, results, unit } = this.drive, box = $("slider");
    const [left, right] = box.querySelectorAll("img"), [leftTag, rightTag] = box.querySelectorAll(".tag");
    views.forEach((view, index) => $("view").append(make("option", { value: index, text: view.title })));
    const show = () => {
      const view = views[$("view").value];
      for (const [choice, image, tag] of [[$("before"), left, leftTag], [$("after"), right, rightTag]]) {
        const picture = view.pictures[choice.value];
        image.src = picture.file;
        image.alt = `${view.title}: ${picture.name}`;
        tag.textContent = picture.name;
      }
      box.style.aspectRatio = `${view.width} / ${view.height}`;
    };
    const choose = () => {
      const view = views[$("view").value];
      // before and after: another result and this one; without another result this one and the photograph
      const [first, second] = results.length > 1 ? [1, 0] : [0, view.pictures.length - 1];
      for (const [choice, wanted] of [[$("before"), first], [$("after"), second]]) {
        const kept = choice.selectedOptions[0]?.textContent;
        choice.replaceChildren(...view.pictures.map((picture, index) => make("option", { value: index, text: picture.name })));
        const again = view.pictures.findIndex((picture) => picture.name === kept);
        choice.value = again >= 0 ? again : wanted;
      }
      show();
    };
    box.style.setProperty("--cut", "50%");
    box.querySelector("input").addEventListener("input", (event) => box.style.setProperty("--cut", `${event.target.value}%`));
    $("view").value = this.drive.first_view;
    $("view").addEventListener("change", choose);
    for (const id of ["before", "after"]) $(id).addEventListener("change", show);
    choose();
    const head = make("tr", {}, make("th", { text: "result" }), make("th", { class: "n", text: this.drive.truth ? `ATE (${unit})` : `rms distance from this result (${unit})` }),
      make("th", { class: "n", text: "% of path" }), make("th", { class: "n", text: "verdict" }));
    const rows = results.map((one) => {
      const swatch = make("span", { class: "swatch" });
      swatch.style.background = one.colour;
      const name = make("td", {}, swatch, one.name);
      if (one.changed) name.append(make("div", { class: "small soft", text: one.changed }));
      return make("tr", {}, name, make("td", { class: "n", text: number(one.rmse) }), make("td", { class: "n", text: number(one.share) }),
        make("td", { class: "n" }, make("span", { class: `pill ${one.verdict}`, text: one.verdict })));
    });
    $("results").append(make("thead", {}, head), make("tbody", {}, ...rows));
  }

  figures() {
    for (const one of this.drive.figures) {
      const figure = make("figure", { class: one.wide ? "panel wide" : "panel" }, make("h3", { text: one.title }), make("p", { class: "small soft", text: one.note }));
      if (one.file) figure.append(make("img", { src: one.file, alt: one.title, loading: "lazy" }));
      $("figures").append(figure);
    }
  }

  made() {
    for (const [id, rows] of [["made", this.drive.made], ["settings", this.drive.settings]])
      $(id).append(...rows.map(([name, value]) => make("tr", {}, make("td", { text: name }), make("td", { text: value }))));
  }
}

fetch("drive.json").then((answer) => {
  if (!answer.ok) throw new Error(`drive.json: ${answer.status}`);
  return answer.json();
}).then((drive) => { window.report = new Report(drive); }).catch((error) => {
  $("waiting").textContent = location.protocol === "file:"
    ? "A web server is needed for this page: python -m http.server, or jobs.report --serve" : `The report could not be loaded (${error.message}).`;
});
