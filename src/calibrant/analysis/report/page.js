// The page: the summary, the worst, the list, and which value is shown.
"use strict";

const report = JSON.parse(byId("data").textContent);
const BEST = 60; // dB at which a bar of error has no length
const BAD = 20; // dB below which a bar is marked

const linkTo = (value) => `#value=${encodeURIComponent(value.name)}`;
const listed = report.operations.length ? listedOperations() : report.values.map((_, number) => listedValue(number, ""));
let view = null;
let shown = null; // the number of the value that is shown
let current = null; // its row in the list
let rows = []; // {item, element, text}, in the order of the list

// The operations in their order, each after what it reads that no quantized operation makes.
function listedOperations() {
  const seen = new Set();
  return report.operations.flatMap((operation) => {
    const entering = operation.entering.filter((number) => !seen.has(number));
    entering.forEach((number) => seen.add(number));
    return [...entering.map((number) => listedValue(number, "value")), listedOperation(operation)];
  });
}

function listedOperation(operation) {
  const made = report.values[operation.value];
  return {
    name: operation.name, kind: operation.type, fused: operation.fused, reason: operation.reason, worst: operation.worst,
    value: operation.value, method: made?.method ?? "", moved: made?.moved ?? null,
    bars: [["value", operation.rounding], ["weights", operation.weights], ["alone", operation.alone], ["so far", operation.accumulated]],
  };
}

function listedValue(number, kind) {
  const value = report.values[number];
  return {
    name: value.name, kind, fused: "", reason: "", worst: value.sqnr, value: number, method: value.method, moved: value.moved,
    bars: [["value", value.sqnr]],
  };
}

function bar([label, level]) {
  const line = element("div", "", level < BAD ? "bar bad" : "bar");
  const track = element("span", "", "track");
  const fill = element("div", "", "fill");
  fill.style.width = `${100 * Math.min(Math.max(1 - level / BEST, 0), 1)}%`;
  track.append(fill);
  line.append(element("span", label, "label"), track, element("span", `${level < BAD ? "! " : ""}${dB(level)}`, "dB"));
  return line;
}

function makeRow(item, number) {
  const line = element("li");
  const head = element("div", "", "row-head");
  const what = element("span", "", "what");
  if (item.kind) what.append(element("span", `${item.kind}${item.fused ? " + activation" : ""} `, "kind"));
  const name = item.value === null ? element("span") : element("a");
  if (item.value !== null) name.href = linkTo(report.values[item.value]);
  name.append(nameOf(item.name));
  what.append(name);
  head.append(element("span", String(number + 1), "place"), what);
  if (item.reason) head.append(element("span", "float", "badge"));
  else if (item.method) head.append(element("span", item.method, "badge"));
  line.append(head);
  const known = item.bars.filter(([, level]) => level !== null);
  if (known.length) {
    const bars = element("div", "", "bars");
    bars.append(...known.map(bar));
    line.append(bars);
  }
  const text = [item.kind, item.name, item.fused, item.method, item.reason, item.value === null ? "" : report.values[item.value].name];
  return { item, element: line, text: text.join(" ").toLowerCase(), number };
}

// The list

const ORDERS = {
  order: [report.operations.length ? "order of execution" : "name", (a, b) => a.number - b.number],
  worst: ["most error first", (a, b) => (a.item.worst ?? Infinity) - (b.item.worst ?? Infinity) || a.number - b.number],
  moves: ["scale that moves most first", (a, b) => (b.item.moved ?? -1) - (a.item.moved ?? -1) || a.number - b.number],
  name: ["name", (a, b) => a.item.name.localeCompare(b.item.name)],
};

function makeList() {
  rows = listed.map(makeRow);
  const noun = report.operations.length ? "Operations, in the order in which they run" : "Values";
  byId("list-heading").textContent = noun;
  byId("list-hint").textContent = report.operations.length
    ? "The longer a bar, the more error: of the value that the operation makes (estimated), of its weights" +
      (report.operations.some((o) => o.alone !== null)
        ? "; of the model's outputs with it alone quantized, and of what it makes with all before it quantized so far (measured)." : ".") +
      " A value that no quantized operation makes stands before the first that reads it."
    : "The longer a bar, the more error is estimated. A model given beside the table adds its operations, in their order.";
  for (const [key, [label]] of Object.entries(ORDERS)) {
    if (key === "name" && !report.operations.length) continue;
    const choice = element("option", label);
    choice.value = key;
    byId("sort").append(choice);
  }
  byId("sort").addEventListener("change", sortList);
  byId("search").addEventListener("input", searchList);
  sortList();
  searchList();
}

function sortList() {
  rows.sort(ORDERS[byId("sort").value || "order"][1]);
  byId("rows").replaceChildren(...rows.map((row) => row.element));
}

function searchList() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const row of rows) {
    row.element.hidden = !words.every((word) => row.text.includes(word));
    found += row.element.hidden ? 0 : 1;
  }
  byId("found").textContent = words.length ? `${found} of ${rows.length}` : `${rows.length}`;
}

// The other parts

function makeSummary() {
  byId("title").append(nameOf(report.title));
  fillList(byId("facts"), report.facts);
  byId("notes").hidden = !report.notes.length;
  byId("notes").querySelector("summary").textContent = `Notes (${report.notes.length})`;
  byId("notes").querySelector("ul").replaceChildren(...report.notes.map((note) => element("li", note)));
  const values = report.operations.length ? listed.filter((item) => !item.reason) : listed;
  if (!values.some((item) => item.worst !== null)) return Promise.resolve();
  const of = report.operations.length ? "quantized operations, in their order" : "values, by name";
  byId("overview-hint").textContent = "Signal over quantization noise, the higher the better. Click on a bar to see the value.";
  byId("overview").setAttribute("aria-label", `Error of ${of}; the list below tells the same`);
  return drawOverview(values.map((item) => item.worst), of, (i) => {
    if (values[i].value !== null) location.hash = linkTo(report.values[values[i].value]);
  });
}

function makeSuspects() {
  const count = report.suspects.length;
  const layers = report.operations.length ? "layer" : "value";
  byId("worst").hidden = !count;
  byId("worst-heading").textContent = count === 1 ? `The worst ${layers}, and what to do` : `The worst ${count} ${layers}s, and what to do`;
  const measured = report.operations.some((operation) => operation.alone !== null);
  byId("worst-hint").textContent = measured
    ? "Ranked by the error of the model's outputs with each layer alone quantized, as measured."
    : "Ranked by what is estimated of each; what an error does to the outputs was not measured.";
  byId("suspects").replaceChildren(...report.suspects.map(makeSuspect));
}

function makeSuspect(suspect) {
  const item = element("li");
  const heading = element("h3");
  const operation = report.operations[suspect.operation];
  const target = suspect.value ?? operation?.reads[0];
  const link = element(target === undefined ? "span" : "a");
  if (target !== undefined) link.href = linkTo(report.values[target]);
  link.append(nameOf(operation ? operation.name : report.values[suspect.value].name));
  const title = element("span", operation ? `${operation.type} ` : "");
  title.append(link);
  heading.append(title, element("span", dB(suspect.decibels), "dB"));
  const facts = element("ul");
  facts.append(...suspect.facts.map((fact) => element("li", fact)));
  const steps = element("ul");
  for (const [text, option] of suspect.steps) {
    const step = element("li", option ? `${text}: ` : text);
    if (option) step.append(element("code", option));
    steps.append(step);
  }
  item.append(heading);
  if (suspect.facts.length) item.append(facts);
  if (suspect.steps.length) item.append(element("p", "What to try", "do"), steps);
  return item;
}

function makeReasons() {
  const reasons = new Map();
  for (const operation of report.operations) {
    if (operation.reason) reasons.set(operation.reason, [...(reasons.get(operation.reason) ?? []), operation]);
  }
  byId("float").hidden = byId("to-float").hidden = !report.operations.length;
  const parts = [...reasons].flatMap(([reason, operations]) => {
    const list = element("ul");
    list.append(...operations.map((operation) => {
      const line = element("li", `${operation.type} `);
      line.append(nameOf(operation.name));
      return line;
    }));
    return [element("h3", `${operations.length} × ${reason}`), list];
  });
  byId("reasons").replaceChildren(...(parts.length ? parts : [element("p", "Nothing.")]));
}

// Which value is shown

// The name of the value that the address asks for; null where it asks for none.
function nameInAddress() {
  const found = /^#value=(.*)$/s.exec(location.hash);
  if (!found) return null;
  try {
    return decodeURIComponent(found[1]);
  } catch {
    return found[1]; // a stray percent sign: the name as it stands
  }
}

// row: of the list, where it was come from there; several may have one value.
function select(number, scroll, row = rows.find((one) => one.item.value === number)) {
  shown = number;
  view.show(number);
  current?.element.removeAttribute("aria-current");
  current = row;
  current?.element.setAttribute("aria-current", "true");
  if (scroll) byId("value").scrollIntoView();
}

// Show the value of the address; where there is none such say so, and show `otherwise` unless that is null.
function followAddress(otherwise = null) {
  const name = nameInAddress();
  const number = report.values.findIndex((value) => value.name === name);
  byId("value-missing").hidden = name === null || number >= 0;
  byId("value-missing").textContent = `No value is called '${name}'.`;
  if (number >= 0) select(number, true);
  else if (otherwise !== null) select(otherwise, false);
  if (number < 0 && name !== null) byId("value").scrollIntoView();
}

function stepInList(by) {
  const visible = rows.filter((row) => !row.element.hidden && row.item.value !== null);
  if (!visible.length) return;
  const next = visible[Math.min(Math.max(visible.indexOf(current) + by, 0), visible.length - 1)];
  history.replaceState(null, "", linkTo(report.values[next.item.value]));
  byId("value-missing").hidden = true;
  select(next.item.value, false, next);
  next.element.scrollIntoView({ block: "nearest" });
}

// Light and dark

const dark = matchMedia("(prefers-color-scheme: dark)");
const KEPT = "calibrant-report-theme";

function keptTheme() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null; // storage is forbidden: the system's choice serves
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Show it ${theme === "dark" ? "light" : "dark"}`);
  paint();
  if (shown !== null && !byId("clipping").hidden) view.estimate();
}

function otherTheme() {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEPT, theme);
  } catch {
    // it holds for this visit
  }
  setTheme(theme);
}

const KEYS = {
  "/": () => byId("search").focus(),
  j: () => stepInList(1),
  k: () => stepInList(-1),
  w: () => byId("worst").scrollIntoView(),
  t: otherTheme,
};

function onKey(event) {
  const typing = event.target.matches("input:not([type=range]), select, textarea");
  if (event.key === "Escape" && event.target === byId("search")) {
    byId("search").value = "";
    searchList();
    byId("search").blur();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

async function start() {
  setTheme(keptTheme() ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => { if (!keptTheme()) setTheme(dark.matches ? "dark" : "light"); });
  byId("theme").addEventListener("click", otherTheme);
  const drawing = [makeSummary()];
  makeSuspects();
  makeList();
  makeReasons();
  byId("value").hidden = !report.values.length;
  if (report.values.length) {
    view = new ValueView(report);
    drawing.push(view.charts.show());
    followAddress(report.suspects[0]?.value ?? listed.find((item) => item.value !== null)?.value ?? 0);
    window.addEventListener("hashchange", () => followAddress());
  }
  document.addEventListener("keydown", onKey);
  await Promise.all(drawing);
  document.documentElement.dataset.ready = "true";
}

start();
