// One value: what was seen of it, its ranges, and what happens when they are moved.
"use strict";

const STEPS = 1000; // of a slider
const ROUGHLY = 60; // thresholds at which it is looked where the curve becomes worth a look: DEPTH dB below its best
const DEPTH = 30;
const CURVE = 120; // thresholds of the curve

const byId = (id) => document.getElementById(id);

// An element with that text; nothing in it is ever read as HTML.
function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

const nameOf = (text) => element("bdi", text, "name");

function short(x, digits = 4) {
  if (x === null || x === undefined || Number.isNaN(x)) return "-";
  return Math.abs(x) >= 1e6 || (x !== 0 && Math.abs(x) < 1e-4) ? x.toExponential(digits - 1) : String(Number(x.toPrecision(digits)));
}

function percent(share) {
  if (share === 0) return "0 %";
  return share < 1e-5 ? "less than 0.001 %" : `${short(100 * share, 3)} %`;
}

function dB(level, exact = false) {
  if (exact || level === Infinity) return "exact";
  return level === null || level === undefined ? "-" : `${level.toFixed(1)} dB`;
}

function fillList(list, rows) {
  list.replaceChildren(...rows.flatMap(([label, text]) => [element("dt", label), element("dd", text)]));
}

const gridWords = (grid) => `${grid.min < 0 ? "int" : "uint"}${grid.bits} ${grid.symmetric ? "symmetric" : "asymmetric"}`;

// The grid with that many bits; a narrow one stays narrow.
function withBits(grid, bits) {
  if (bits === grid.bits) return grid;
  const half = 2 ** (bits - 1);
  const narrow = grid.min < 0 && grid.min === -grid.max ? 1 : 0;
  return { ...grid, bits, min: grid.min < 0 ? narrow - half : 0, max: grid.min < 0 ? half - 1 : 2 * half - 1 };
}

class ValueView {
  constructor(report) {
    this.report = report;
    this.charts = new ValueCharts();
    this.sliders = { low: this.makeSlider("low"), high: this.makeSlider("high") };
    byId("channel").addEventListener("input", () => this.pickChannel(Number(byId("channel").value)));
    this.charts.stripes.selected.change.connect(() => {
      const [stripe] = this.charts.stripes.selected.indices;
      if (stripe !== undefined) this.pickChannel(stripe * this.value.channels.per);
    });
  }

  makeSlider(end) {
    const row = element("div", "", "slider");
    const label = element("label", "", "label");
    const range = element("input");
    Object.assign(range, { type: "range", min: 0, max: STEPS, step: 1, id: `slide-${end}` });
    label.htmlFor = range.id;
    const exact = element("input");
    Object.assign(exact, { type: "number", step: "any", id: `exact-${end}` });
    row.append(label, range, exact);
    byId("sliders").append(row);
    range.addEventListener("input", () => this.moved(end, this.magnitude(end, Number(range.value))));
    exact.addEventListener("input", () => {
      const typed = Number(exact.value);
      if (Number.isFinite(typed) && typed !== 0) this.moved(end, Math.abs(typed), false);
    });
    return { row, label, range, exact };
  }

  // Show the value of that number.
  show(number) {
    const value = this.report.values[number];
    this.value = value;
    this.outline = value.outline ? decode(value.outline) : null;
    this.grid = value.grid;
    byId("value-name").replaceChildren(nameOf(value.name));
    this.tellWords();
    fillList(byId("value-facts"), this.facts());
    this.fillMethods();
    byId("clipping").hidden = !this.outline || this.outline.wings.every((wing) => wing.top === 0);
    if (!byId("clipping").hidden) this.showClipping();
    byId("channel-part").hidden = !value.channels;
    if (value.channels) this.showChannels();
  }

  tellWords() {
    const { value } = this;
    const words = byId("value-words");
    const scales = `${gridWords(value.grid)}${value.perChannel ? ", a scale for each channel" : ""}; range by ${value.method}`;
    words.replaceChildren(value.method ? scales : `In float; the ranges are what it could have as ${gridWords(value.grid)}`);
    const maker = this.report.operations[value.maker];
    if (maker) words.append(`; made by ${maker.type} `, nameOf(maker.name));
    value.shared.forEach((other, i) => {
      const link = element("a");
      link.href = linkTo(this.report.values[other]);
      link.append(nameOf(this.report.values[other].name));
      words.append(i ? ", " : "; shares its scale with ", link);
    });
  }

  facts() {
    const { value } = this;
    const [nan, above, below] = value.nonfinite;
    const rows = [
      ["Elements", value.elements.toLocaleString("en")],
      ["Range", value.low === null ? "nothing finite" : `${short(value.low, 6)} to ${short(value.high, 6)}`],
      ["Zeros", percent(value.zeros)],
      ["Estimated", dB(value.sqnr, value.exact)],
    ];
    if (nan + above + below) rows.push(["NaN, Inf", `${nan} NaN, ${above} +Inf, ${below} -Inf`]);
    if (value.chosen) rows.push(["Scale", `${short(value.chosen.scale, 7)}, offset ${value.chosen.offset}`]);
    if (value.moved !== null) {
      const far = value.moved > 0.1 ? ": more samples would change it" : "";
      rows.push(["Moves", `${percent(value.moved)} of the scale between two halves of the samples${far}`]);
    }
    return rows;
  }

  fillMethods() {
    const { value } = this;
    const head = element("tr");
    for (const title of ["Method", "From", "To", "Scale", "Offset", "dB"]) head.append(element("th", title));
    const rows = Object.entries(value.methods).map(([method, choice]) => {
      const used = method === value.method;
      const row = element("tr", "", used ? "chosen" : "");
      const cells = [used ? `${method}, in use` : method, short(choice.low), short(choice.high), short(choice.scale, 6),
        choice.offset, choice.exact ? "exact" : choice.sqnr === null ? "-" : choice.sqnr.toFixed(2)];
      for (const cell of cells) row.append(element("td", String(cell)));
      return row;
    });
    byId("methods").replaceChildren(head, ...rows);
  }

  // Clipping

  get ends() { // of the range in use, or of all that there is
    const [pos, neg] = this.outline.wings;
    const { chosen } = this.value;
    return chosen ? { low: chosen.low, high: chosen.high } : { low: -neg.top, high: pos.top };
  }

  showClipping() {
    const [pos, neg] = this.outline.wings;
    const choices = Object.values(this.value.methods);
    const furthest = (end, top) => Math.max(top, ...choices.map((choice) => Math.abs(choice[end]))) || top;
    const nearest = (end, top) => Math.min(top, ...choices.map((choice) => Math.abs(choice[end])).filter((x) => x > 0));
    this.limits = {};
    for (const [end, top] of [["low", neg.top], ["high", this.grid.symmetric ? Math.max(pos.top, neg.top) : pos.top]]) {
      this.limits[end] = [Math.min(top / 1000, nearest(end, top) / 4), 1.02 * furthest(end, top)];
      this.sliders[end].row.hidden = top === 0 || (end === "low" && this.grid.symmetric);
    }
    this.sliders.high.label.textContent = this.grid.symmetric ? "Clip at ±" : "Top end";
    this.sliders.low.label.textContent = "Bottom end";
    this.showPresets();
    this.lookAt(-neg.top, pos.top);
    this.setEnds(this.ends);
    this.showCurve();
  }

  showPresets() {
    const buttons = Object.entries(this.value.methods).map(([method, choice]) => {
      const button = element("button", method);
      button.type = "button";
      button.addEventListener("click", () => this.setEnds(choice));
      return button;
    });
    const bits = element("select");
    bits.id = "bits";
    for (const width of [...new Set([4, 8, 16, this.value.grid.bits])].sort((a, b) => a - b)) {
      const choice = element("option", `${width} bits`);
      choice.value = width;
      choice.selected = width === this.grid.bits;
      bits.append(choice);
    }
    bits.setAttribute("aria-label", "Bits");
    bits.addEventListener("change", () => {
      this.grid = withBits(this.value.grid, Number(bits.value));
      this.showCurve();
      this.estimate();
    });
    byId("presets").replaceChildren(element("span", "As by "), ...buttons, bits);
    const view = (label, act) => {
      const button = element("button", label);
      button.type = "button";
      button.addEventListener("click", act);
      return button;
    };
    const zoom = (times) => () => {
      const { start, end } = this.charts.range;
      const middle = (start + end) / 2;
      this.lookAt(middle - ((end - start) / 2) * times, middle + ((end - start) / 2) * times, 0);
    };
    const [pos, neg] = this.outline.wings;
    byId("views").replaceChildren(
      view("Whole range", () => this.lookAt(-neg.top, pos.top)),
      view("Range in use", () => this.lookAt(this.ends.low, this.ends.high)),
      view("Zoom in", zoom(0.5)),
      view("Zoom out", zoom(2)),
    );
  }

  lookAt(low, high, margin = 0.04) {
    const room = (high - low) * margin || (margin ? 1 : 0);
    this.charts.fillHistogram(this.outline, low - room, high + room);
  }

  magnitude(end, step) {
    const [least, most] = this.limits[end];
    return least * (most / least) ** (step / STEPS);
  }

  setEnds({ low, high }) {
    this.range = { low, high };
    for (const end of ["low", "high"]) this.place(end);
    this.estimate();
  }

  // Put the slider, and if asked the number beside it, where the range ends.
  place(end, exactly = true) {
    const { range, exact, row } = this.sliders[end];
    if (row.hidden) return;
    const [least, most] = this.limits[end];
    const magnitude = this.grid.symmetric ? Math.max(-this.range.low, this.range.high) : Math.abs(this.range[end]);
    range.value = magnitude > 0 ? Math.round((STEPS * Math.log(magnitude / least)) / Math.log(most / least)) : 0;
    range.setAttribute("aria-valuetext", short(this.range[end]));
    if (exactly) exact.value = short(this.range[end], 6);
  }

  moved(end, magnitude, exactly = true) {
    if (this.grid.symmetric) this.range = { low: this.grid.min < 0 ? -magnitude : 0, high: magnitude };
    else this.range = { ...this.range, [end]: end === "low" ? -magnitude : magnitude };
    this.place(end, exactly);
    this.estimate();
  }

  // What the range costs: {sqnr, error, scale, offset, low, high, clipped}.
  costs(range) {
    const { scale, below } = affine(range.low, range.high, this.grid);
    const { error, power } = squaredError(this.outline, this.grid, scale, below);
    const [low, high] = [-below * scale, (this.grid.max - this.grid.min - below) * scale];
    const [pos, neg] = this.outline.wings;
    const clipped = (tail(pos, high)[0] + tail(neg, -low)[0]) / this.outline.size;
    return { sqnr: decibels(error, power), error, scale, offset: this.grid.min + below, low, high, clipped };
  }

  estimate() {
    const { sqnr, error, scale, offset, low, high, clipped } = this.costs(this.range);
    const live = byId("live");
    const difference = this.value.sqnr === null ? NaN : sqnr - this.value.sqnr;
    const near = Math.abs(difference) < 0.05;
    const than = near ? "as with the range in use" : `${difference > 0 ? "+" : "−"}${Math.abs(difference).toFixed(1)} dB to the range in use`;
    live.replaceChildren(element("strong", dB(sqnr)),
      ` estimated${Number.isFinite(difference) ? `, ${than}` : ""}. Mean squared error ${short(error)}, ${percent(clipped)} clipped, ` +
      `scale ${short(scale, 5)}, offset ${offset}, ${gridWords(this.grid)}.`);
    live.dataset.error = error;
    live.dataset.sqnr = sqnr;
    this.charts.moveEnds(low, high);
    this.charts.here.location = Math.max(-low, high);
    const lanes = Object.entries(this.value.methods).map(([method, choice]) =>
      [method === this.value.method ? `${method} •` : method, choice.low, choice.high, COLOURS[method] ?? OTHER]);
    this.charts.fillRanges([...lanes, ["slider", low, high, colour("--text")]]);
  }

  showCurve() {
    const [pos, neg] = this.outline.wings;
    const bottom = Math.min(...["low", "high"].map((end) => this.limits[end][0]).filter((x) => x > 0));
    const ends = (t) => (this.grid.symmetric ? { low: -t, high: t } : { low: Math.max(-t, -neg.top), high: Math.min(t, pos.top) });
    const between = (least, most, count) =>
      Array.from({ length: count + 1 }, (_, i) => least * (most / least) ** (i / count)).map((t) => [t, this.costs(ends(t)).sqnr]);
    const shapes = ["circle", "square", "diamond", "triangle", "inverted_triangle", "star"];
    const markers = Object.entries(this.value.methods).map(([method, choice], i) =>
      [Math.max(-choice.low, choice.high), this.costs(choice).sqnr, COLOURS[method] ?? OTHER, shapes[i % shapes.length]]);
    const furthest = 1.1 * Math.max(pos.top, neg.top, ...markers.map((marker) => marker[0]));
    const rough = between(bottom, furthest, ROUGHLY).filter((point) => Number.isFinite(point[1]));
    const best = Math.max(...rough.map((point) => point[1]));
    const from = rough.findIndex((point) => point[1] >= best - DEPTH);
    const points = from < 0 ? [] : between(rough[Math.max(from - 1, 0)][0], furthest, CURVE).filter((point) => Number.isFinite(point[1]));
    const known = markers.filter((marker) => Number.isFinite(marker[1]));
    if (points.length) this.charts.fillCurve(points, known);
    const legend = Object.keys(this.value.methods).map((method, i) => `${method} ${"●■◆▲▼★"[i % 6]}`).join(", ");
    byId("curve-hint").textContent = `Both ends are clipped at the same distance from zero; the methods, with their own ends, are ${legend}.`;
    byId("curve").setAttribute("aria-label", "Estimated dB by clip threshold");
  }

  // Channels

  showChannels() {
    const { channels } = this.value;
    const bytes = Uint8Array.from(atob(channels.data), (c) => c.charCodeAt(0));
    const ends = new Int16Array(bytes.buffer);
    const stripes = ends.length / 2;
    this.channelEnds = Array.from({ length: stripes }, (_, i) =>
      [(ends[i] / 32767) * channels.reach, (ends[stripes + i] / 32767) * channels.reach]);
    const octaves = this.channelEnds.map(([low, high]) => (low > high ? null : Math.log2(Math.max(-low, high) / channels.reach)));
    this.charts.fillChannels(octaves.map((o) => (o === null ? null : Math.max(0, 1 + o / 8))), channels.per, channels.count);
    const grouped = channels.per > 1 ? `, ${channels.per} to a stripe` : "";
    byId("channel-hint").textContent =
      `How far each of ${channels.count} channels reaches${grouped}: yellow as far as the widest, dark blue a 256th of that or less.`;
    byId("channel").max = channels.count - 1;
    this.pickChannel(this.channelEnds.findIndex(([low, high]) => Math.max(-low, high) >= channels.reach * 0.9999) * channels.per || 0);
  }

  pickChannel(number) {
    const { channels } = this.value;
    const channel = Math.min(Math.max(Math.trunc(number) || 0, 0), channels.count - 1);
    const [low, high] = this.channelEnds[Math.floor(channel / channels.per)];
    byId("channel").value = channel;
    const share = Math.max(-low, high) / channels.reach;
    byId("channel-words").textContent = low > high ? "nothing finite" : `${short(low)} to ${short(high)}: ${percent(share)} of the widest`;
    this.charts.picked.location = channel;
  }
}
