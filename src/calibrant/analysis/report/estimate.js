// How far any scale's integers are from the values that an outline remembers: the sums of calibrant's mse observer.
"use strict";

const EXACT_LEVELS = 1024; // beyond, steps are finer than cells: errors count as uniform
const CODES = 65534; // of masses, as in outline.py

// The outline from its plain form: {size, zeros, wings: [positive, negative]}.
function decode(plain) {
  const bytes = Uint8Array.from(atob(plain.data), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  const take = (count, width, read) => {
    const numbers = new Float64Array(count);
    for (let i = 0; i < count; i++, at += width) numbers[i] = read(at);
    return numbers;
  };
  const step = Math.log(Math.max(plain.size, 2)) / CODES;
  const mass = (place) => {
    const code = view.getUint16(place, true);
    return code ? Math.exp((code - 1) * step) : 0;
  };
  const wings = plain.wings.map((wing) => {
    const keys = take(wing.cells, 2, (place) => wing.base + view.getUint16(place, true));
    const masses = take(wing.cells, 2, mass);
    const means = take(wing.cells, 1, (place) => (view.getUint8(place) + 0.5) / 256);
    const points = take(wing.atoms, 4, (place) => view.getFloat32(place, true));
    const hits = take(wing.atoms, 2, mass);
    return makeWing(keys, masses, means, points, hits, wing.top, plain.bits);
  });
  return { size: plain.size, zeros: plain.zeros, wings };
}

// One sign: cells with a density that runs straight from 1 - tilt to 1 + tilt of its mean, and atoms; with the sums of
// mass, mass times value and mass times value squared over all that follow each of them.
function makeWing(keys, masses, means, points, hits, top, bits) {
  const cells = { left: [], right: [], mass: [], tilt: [] };
  keys.forEach((key, i) => {
    let left = edge(key, bits);
    let right = Math.min(edge(key + 1, bits), top);
    let tilt = 6 * (means[i] - 0.5);
    if (Math.abs(tilt) > 1) { // no straight line has such a mean: evenly over the part that has it
      const mean = left + means[i] * (right - left);
      const reach = Math.min(mean - left, right - mean);
      [left, right] = tilt < 0 ? [left, mean + reach] : [mean - reach, right];
      tilt = 0;
    }
    cells.left.push(left);
    cells.right.push(right);
    cells.mass.push(masses[i]);
    cells.tilt.push(tilt);
  });
  const atoms = { left: points, right: points, mass: hits, tilt: new Float64Array(points.length) };
  for (const pieces of [cells, atoms]) addSums(pieces);
  return { cells, atoms, top };
}

function addSums(pieces) {
  const count = pieces.left.length;
  pieces.above = [0, 1, 2].map(() => new Float64Array(count + 1));
  for (let i = count - 1; i >= 0; i--) {
    const whole = partAbove(pieces, i, 0);
    for (let k = 0; k < 3; k++) pieces.above[k][i] = pieces.above[k][i + 1] + whole[k];
  }
}

const BITS = new DataView(new ArrayBuffer(4));

// The least magnitude with that key of so many mantissa bits.
function edge(key, bits) {
  BITS.setInt32(0, key << (23 - bits));
  const magnitude = BITS.getFloat32(0);
  return Number.isFinite(magnitude) ? magnitude : 2 ** 128;
}

// Of piece i what lies above b: mass, sum of values, sum of squares.
function partAbove(pieces, i, b) {
  const left = pieces.left[i];
  const width = pieces.right[i] - left;
  const mass = pieces.mass[i];
  const tilt = pieces.tilt[i];
  if (width <= 0) return b < left ? [mass, mass * left, mass * left * left] : [0, 0, 0];
  const t = Math.min(Math.max((b - left) / width, 0), 1);
  const rest = 1 - t;
  const from = left + t * width;
  const n = mass * rest * (1 + tilt * t);
  const over = ((mass * width * rest ** 2) / 2) * (1 + (tilt * (1 + 2 * t)) / 3);
  const squares = mass * width ** 2 * rest ** 3 * ((1 + tilt * (2 * t - 1)) / 3 + (tilt * rest) / 2);
  return [n, n * from + over, n * from * from + 2 * from * over + squares];
}

// Of a wing what lies above b: how many values, the sum of their magnitudes, and of the squares.
function tail(wing, b) {
  const sums = [0, 0, 0];
  for (const pieces of [wing.cells, wing.atoms]) {
    let low = 0; // the first piece that is not below b altogether
    let high = pieces.left.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pieces.right[middle] <= b) low = middle + 1;
      else high = middle;
    }
    if (low === pieces.left.length) continue;
    const part = partAbove(pieces, low, b);
    for (let k = 0; k < 3; k++) sums[k] += part[k] + pieces.above[k][low + 1];
  }
  return sums;
}

// The sum of squared errors of a wing with that many levels. shift: of the boundary after a level, 1/2 to the nearest.
// Raising the highest level from ks to (k + 1)s lowers the sum by 2s times the sum of x - (k + 1/2)s over the values
// above the boundary.
function wingError(wing, s, levels, shift, spread) {
  const offCentre = (0.5 - shift) * s;
  const exact = Math.min(levels, EXACT_LEVELS);
  let error = tail(wing, 0)[2];
  for (let k = 0; k < exact; k++) {
    const b = (k + shift) * s;
    if (b >= wing.top) break;
    const [n, m] = tail(wing, b);
    error -= 2 * s * (m - b * n - offCentre * n);
  }
  if (levels <= EXACT_LEVELS) return error;
  const start = exact * s;
  const end = levels * s;
  const [n, m, q] = tail(wing, start);
  const [clipped, mClipped, qClipped] = tail(wing, end);
  error -= q - 2 * start * m + start * start * n;
  return error + (n - clipped) * s * s * spread + qClipped - 2 * end * mClipped + end * end * clipped;
}

// Scale, and how many of the grid's steps lie below zero, for the range [low, high]: `calibrant.core.affine`.
function affine(low, high, grid) {
  const span = grid.max - grid.min;
  let scale;
  if (!grid.symmetric) scale = (Math.max(high, 0) - Math.min(low, 0)) / span;
  else scale = grid.min < 0 ? (2 * Math.max(-low, high)) / span : high / grid.max;
  if (grid.powerOf2 && scale > 0) scale = 2 ** Math.ceil(Math.log2(scale));
  scale = Math.fround(scale);
  if (!(scale > 0)) return { scale: 1, below: Math.max(0, -grid.min) };
  const below = grid.symmetric ? -grid.min : Math.min(Math.max(Math.round(-Math.min(low, 0) / scale), 0), span);
  return { scale, below };
}

// Mean squared error, and mean square, of the outline's values on that grid.
function squaredError(outline, grid, scale, below) {
  const [pos, neg] = outline.wings;
  const levels = grid.max - grid.min - below;
  const error = wingError(pos, scale, levels, grid.up, grid.spread) + wingError(neg, scale, below, grid.down, grid.spread);
  const power = tail(pos, 0)[2] + tail(neg, 0)[2];
  return { error: Math.max(error, 0) / outline.size, power: power / outline.size };
}

function decibels(error, power) {
  if (error <= 0) return Infinity;
  return power > 0 ? 10 * Math.log10(power / error) : -Infinity;
}

// How many of the values lie in each part between the ascending edges; of the last one its end belongs to it.
function countsBetween(outline, edges) {
  const [pos, neg] = outline.wings;
  const upTo = (x, inclusive) => { // how many values are below x, or at most x
    const above = x >= 0 ? tail(pos, inclusive ? x : before(x))[0] : 0;
    const total = outline.size;
    if (x > 0 || (x === 0 && inclusive)) return total - above;
    return tail(neg, inclusive ? before(-x) : -x)[0];
  };
  return edges.slice(1).map((end, i) => Math.max(0, upTo(end, i === edges.length - 2) - upTo(edges[i], false)));
}

// A number just below x > 0, by less than any two values of a float32 are apart.
function before(x) {
  return x * (1 - 2 ** -30);
}
