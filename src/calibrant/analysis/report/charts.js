// What Bokeh draws: the overview, a value's histogram with the ranges below it, its error curve, its channels.
"use strict";

// Okabe and Ito's colours, which colour-blind people tell apart; every range is also named where it stands.
const COLOURS = { minmax: "#0072b2", percentile: "#e69f00", mse: "#009e73", kl: "#cc79a7", isotone: "#56b4e9" };
const OTHER = "#999999";
const HIGHEST = 60; // dB that the overview shows; what is above is as good as exact
const BINS = 96;
const SIDE = 90; // pixels left of every chart, so that charts below each other line up

const drawn = []; // {figure, marks: [[model, property, css variable]]}: what changes with the theme

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function figure(options) {
  const plot = Bokeh.Plotting.figure({
    sizing_mode: "stretch_width",
    toolbar_location: null,
    active_drag: null,
    active_scroll: null,
    min_border_left: SIDE,
    min_border_right: 16,
    background_fill_color: null,
    border_fill_color: null,
    outline_line_color: null,
    ...options,
  });
  const entry = { plot, marks: [] };
  for (const axis of [...plot.below, ...plot.left]) {
    axis.axis_label_text_font_style = "normal";
    axis.axis_label_text_font_size = "12px";
    axis.major_label_text_font_size = "12px";
    for (const property of ["axis_label_text_color", "major_label_text_color"]) entry.marks.push([axis, property, "--text"]);
    for (const property of ["axis_line_color", "major_tick_line_color"]) entry.marks.push([axis, property, "--quiet"]);
    axis.minor_tick_line_color = null;
  }
  for (const grid of plot.center) entry.marks.push([grid, "grid_line_color", "--line"]);
  drawn.push(entry);
  return entry;
}

function paint() {
  for (const { marks } of drawn) for (const [model, property, name] of marks) model[property] = colour(name);
}

function show(entry, id) {
  paint();
  return Bokeh.Plotting.show(entry.plot, document.getElementById(id));
}

function source(names) {
  return new Bokeh.ColumnDataSource({ data: Object.fromEntries(names.map((name) => [name, []])) });
}

// A bar for each row, in order; choose(number) is called for the one that is clicked.
function drawOverview(levels, label, choose) {
  const entry = figure({ height: 200, tools: "tap", y_axis_label: "dB", x_axis_label: label });
  const rows = source(["x", "top", "colour"]);
  const known = levels.filter((level) => level !== null);
  const most = Math.min(Math.max(...known, 1), HIGHEST);
  entry.plot.y_range = new Bokeh.Range1d({ start: Math.min(0, ...known), end: most * 1.05 });
  entry.plot.x_range = new Bokeh.Range1d({ start: 0.4, end: levels.length + 0.6 });
  const x = levels.map((_, i) => i + 1);
  rows.data = { x, top: levels.map((level) => level ?? 0) };
  const bars = entry.plot.vbar({
    x: { field: "x" }, top: { field: "top" }, bottom: 0, width: 0.8, source: rows, line_color: null, fill_color: "#888888",
    nonselection_fill_alpha: 1,
  });
  entry.marks.push([bars.glyph, "fill_color", "--bar"], [bars.nonselection_glyph, "fill_color", "--bar"],
    [bars.selection_glyph, "fill_color", "--bad"]);
  rows.selected.change.connect(() => {
    if (rows.selected.indices.length) choose(rows.selected.indices[0]);
  });
  return show(entry, "overview");
}

// The charts of one value, drawn once and then filled with each value that is looked at.
class ValueCharts {
  constructor() {
    this.histogram = figure({ height: 210, tools: "xpan,xwheel_zoom,xbox_zoom", y_axis_type: "log", y_axis_label: "elements" });
    this.range = new Bokeh.Range1d({ start: 0, end: 1 });
    this.histogram.plot.x_range = this.range;
    this.histogram.plot.y_range = new Bokeh.Range1d({ start: 0.5, end: 10 });
    this.bars = source(["left", "right", "top"]);
    const quads = this.histogram.plot.quad({
      left: { field: "left" }, right: { field: "right" }, top: { field: "top" }, bottom: 0.5, source: this.bars,
      line_color: null, fill_color: "#888888",
    });
    this.histogram.marks.push([quads.glyph, "fill_color", "--quiet"]);
    this.ends = [0, 1].map(() => this.span(this.histogram, "height"));
    this.zero = this.span(this.histogram, "height", { line_width: 1, line_dash: "dotted" });
    this.zero.location = 0;

    this.ranges = figure({ height: 150, tools: "", y_range: new Bokeh.FactorRange({ factors: ["-"] }) });
    this.ranges.plot.x_range = new Bokeh.Range1d({ start: 0, end: 1 }); // a document of its own, so a range of its own
    this.lanes = source(["y", "left", "right", "colour"]);
    this.ranges.plot.hbar({
      y: { field: "y" }, left: { field: "left" }, right: { field: "right" }, height: 0.55, source: this.lanes,
      fill_color: { field: "colour" }, line_color: null,
    });

    this.curve = figure({ height: 200, tools: "", x_axis_type: "log", y_axis_label: "dB", x_axis_label: "clip at |x|" });
    this.curve.plot.x_range = new Bokeh.Range1d({ start: 0.1, end: 1 });
    this.curve.plot.y_range = new Bokeh.Range1d({ start: 0, end: 1 });
    this.points = source(["x", "y"]);
    const line = this.curve.plot.line({ x: { field: "x" }, y: { field: "y" }, source: this.points, line_width: 2, line_color: "#888888" });
    this.curve.marks.push([line.glyph, "line_color", "--text"]);
    this.markers = source(["x", "y", "colour", "marker"]);
    this.curve.plot.scatter({
      x: { field: "x" }, y: { field: "y" }, marker: { field: "marker" }, size: 11, source: this.markers,
      fill_color: { field: "colour" }, line_color: null,
    });
    this.here = this.span(this.curve, "height");

    this.channels = figure({ height: 110, tools: "tap", x_axis_label: "channel" });
    this.channels.plot.x_range = new Bokeh.Range1d({ start: 0, end: 1 });
    this.channels.plot.y_range = new Bokeh.Range1d({ start: 0, end: 1 });
    for (const part of [...this.channels.plot.left, ...this.channels.plot.center]) part.visible = false;
    this.stripes = source(["left", "right", "colour"]);
    this.channels.plot.quad({
      left: { field: "left" }, right: { field: "right" }, top: 1, bottom: 0, source: this.stripes, line_color: null,
      fill_color: { field: "colour" }, nonselection_fill_alpha: 1,
    });
    this.picked = this.span(this.channels, "height");
  }

  span(entry, dimension, options = {}) {
    const span = new Bokeh.Span({ location: 0, dimension, line_width: 2, line_color: "#888888", ...options });
    entry.plot.add_layout(span);
    entry.marks.push([span, "line_color", "--text"]);
    return span;
  }

  show() {
    return Promise.all([
      show(this.histogram, "histogram"), show(this.ranges, "ranges"), show(this.curve, "curve"), show(this.channels, "channels"),
    ]);
  }

  // What the outline holds between two ends, and the ranges below it on the same axis.
  fillHistogram(outline, start, end) {
    for (const range of [this.range, this.ranges.plot.x_range]) range.setv({ start, end });
    const edges = Array.from({ length: BINS + 1 }, (_, i) => start + ((end - start) * i) / BINS);
    const counts = countsBetween(outline, edges);
    this.bars.data = { left: edges.slice(0, -1), right: edges.slice(1), top: counts.map((count) => Math.max(count, 0.5)) };
    this.histogram.plot.y_range.end = Math.max(...counts, 1) * 2;
  }

  // lanes: [label, low, high, colour], the first at the top.
  fillRanges(lanes) {
    this.ranges.plot.y_range.factors = lanes.map(([label]) => label).reverse();
    this.ranges.plot.height = 36 + 22 * lanes.length;
    this.lanes.data = {
      y: lanes.map((lane) => lane[0]), left: lanes.map((lane) => lane[1]), right: lanes.map((lane) => lane[2]),
      colour: lanes.map((lane) => lane[3]),
    };
  }

  moveEnds(low, high) {
    this.ends[0].location = low;
    this.ends[1].location = high;
  }

  // points: [threshold, dB]; markers: [threshold, dB, colour, shape].
  fillCurve(points, markers) {
    const high = Math.max(...points.map((point) => point[1]), ...markers.map((marker) => marker[1]));
    const low = Math.min(...points.map((point) => point[1]), ...markers.map((marker) => marker[1]));
    this.curve.plot.y_range.setv({ start: low - 2, end: high + 3 });
    this.curve.plot.x_range.setv({ start: points[0][0], end: points[points.length - 1][0] });
    this.points.data = { x: points.map((point) => point[0]), y: points.map((point) => point[1]) };
    this.markers.data = {
      x: markers.map((m) => m[0]), y: markers.map((m) => m[1]), colour: markers.map((m) => m[2]), marker: markers.map((m) => m[3]),
    };
  }

  // shades: from 0 to 1, one for each stripe of `per` channels.
  fillChannels(shades, per, count) {
    const palette = Bokeh.Palettes.Cividis256;
    const end = (i) => Math.min((i + 1) * per, count) - 0.5;
    this.channels.plot.x_range.setv({ start: -0.5, end: count - 0.5 });
    this.stripes.data = {
      left: shades.map((_, i) => i * per - 0.5), right: shades.map((_, i) => end(i)),
      colour: shades.map((shade) => (shade === null ? OTHER : palette[Math.round(shade * 255)])),
    };
  }
}
