"use strict";
/* A point of one picture in another: the cosine of its feature with that of every pixel.

   Pixels and sites have their centres at whole numbers. A pixel x of a picture as it is shown is
   the site k = (sx·(x + .5) + tx)·g/U − .5 of a map with g columns over an input of U pixels;
   likewise y. Features are read bilinearly, and beyond the outermost centres those go on. They are
   never upsampled: dots with the sites are, and |f|² follows from dots of neighbouring sites. */

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const sides = ["left", "right"];
const EDGE = 1e-6, TINY = 1e-24, CANCELLED = 1e-10;
const state = { left: 0, right: 1, side: "left", x: 0, y: 0, cell: 0 };
const kept = new Map();

function once(key, make) {
  if (!kept.has(key)) kept.set(key, make());
  return kept.get(key);
}

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) found[k] = raw.charCodeAt(k);
  return found;
}

const colours = bytes(data.colours); // 256 times red, green, blue

/* ---- maps ---- */

function mapOf(cell, picture) {
  return once(`map ${cell} ${picture}`, () => {
    const { channels, maps } = data.cells[cell], [h, w] = maps[picture].grid;
    const raw = bytes(maps[picture].data), view = new DataView(raw.buffer);
    const scales = Float64Array.from({ length: h * w }, (_, k) => view.getFloat32(4 * k, true));
    return { h, w, channels, scales, values: new Int8Array(raw.buffer, 4 * h * w) };
  });
}

function dot(map, one, other) {
  const { values, channels, scales } = map;
  let a = one * channels, b = other * channels, sum = 0;
  for (let k = 0; k < channels; k++) sum += values[a++] * values[b++];
  return sum * scales[one] * scales[other];
}

/* Of one side of a picture: pixels → sites before and after, the weight of the latter, and
   whether the input shows them. `along` is 0 for x, 1 for y. */
function site(picture, along, cells, x) {
  const { scale, shift, input } = data.pictures[picture];
  const u = scale[along] * (x + 0.5) + shift[along];
  const k = Math.min(Math.max(u * cells / input[along] - 0.5, 0), cells - 1);
  const before = Math.min(Math.floor(k), Math.max(cells - 2, 0));
  const after = Math.min(before + 1, cells - 1);
  return { before, after, weight: k - before, shown: u >= -EDGE && u <= input[along] + EDGE };
}

function axis(picture, along, cells) {
  return once(`axis ${picture} ${along} ${cells}`, () =>
    Array.from({ length: data.pictures[picture].size[along] },
      (_, x) => site(picture, along, cells, x)));
}

/* 1/|f| of every pixel, 0 where a vector is nothing. */
function inverseLengths(cell, picture) {
  return once(`lengths ${cell} ${picture}`, () => {
    const map = mapOf(cell, picture), { h, w } = map;
    const grams = Array.from({ length: 5 }, () => new Float64Array(h * w));
    for (let r = 0; r < h; r++) {
      for (let c = 0; c < w; c++) {
        const k = r * w + c, right = c + 1 < w ? k + 1 : k, below = r + 1 < h ? k + w : k;
        const beside = below + right - k; // below and to the right
        const pairs = [[k, k], [k, right], [k, below], [k, beside], [right, below]];
        pairs.forEach(([a, b], n) => { grams[n][k] = dot(map, a, b); });
      }
    }
    return lengthsBetween(grams, axis(picture, 0, w), axis(picture, 1, h), w);
  });
}

function lengthsBetween([own, right, below, beside, other], columns, rows, w) {
  const found = new Float64Array(columns.length * rows.length);
  let place = 0;
  for (const { before: top, after: bottom, weight: v } of rows) {
    for (const { before: a, after: b, weight: u } of columns) {
      const k = top * w + a, under = bottom * w + a;
      const level = (r) => own[r + a] * (1 - u) ** 2 + right[r + a] * 2 * u * (1 - u)
        + own[r + b] * u ** 2;
      const between = below[k] * (1 - u) ** 2 + (beside[k] + other[k]) * u * (1 - u)
        + below[top * w + b] * u ** 2;
      const square = level(k - a) * (1 - v) ** 2 + level(under - a) * v ** 2
        + between * 2 * v * (1 - v);
      const plain = (own[k] * (1 - u) + own[top * w + b] * u) * (1 - v)
        + (own[under] * (1 - u) + own[bottom * w + b] * u) * v;
      const empty = square <= TINY || square < CANCELLED * plain;
      found[place++] = empty ? 0 : 1 / Math.sqrt(square);
    }
  }
  return found;
}

/* The feature at a point, of length 1; null where nothing is shown or known. */
function feature(cell, picture, x, y) {
  const map = mapOf(cell, picture), column = site(picture, 0, map.w, x);
  const row = site(picture, 1, map.h, y);
  if (!column.shown || !row.shown) return null;
  const found = new Float64Array(map.channels);
  for (const [r, down] of [[row.before, 1 - row.weight], [row.after, row.weight]]) {
    for (const [c, across] of [[column.before, 1 - column.weight], [column.after, column.weight]]) {
      const k = r * map.w + c, share = down * across * map.scales[k];
      for (let n = 0; n < map.channels; n++) found[n] += share * map.values[k * map.channels + n];
    }
  }
  const square = found.reduce((sum, one) => sum + one * one, 0);
  return square > TINY ? found.map((one) => one / Math.sqrt(square)) : null;
}

/* Cosines over a picture, NaN where its input shows nothing, with the first of the largest. */
function similarity(cell, picture, vector) {
  const map = mapOf(cell, picture), { h, w, channels } = map;
  const dots = new Float64Array(h * w);
  for (let k = 0; k < h * w; k++) {
    let sum = 0;
    for (let n = 0; n < channels; n++) sum += vector[n] * map.values[k * channels + n];
    dots[k] = sum * map.scales[k];
  }
  const columns = axis(picture, 0, w), rows = axis(picture, 1, h);
  const across = new Float64Array(h * columns.length);
  for (let r = 0; r < h; r++) {
    columns.forEach(({ before, after, weight }, x) => {
      across[r * columns.length + x] =
        dots[r * w + before] * (1 - weight) + dots[r * w + after] * weight;
    });
  }
  const lengths = inverseLengths(cell, picture), width = columns.length;
  const values = new Float64Array(width * rows.length).fill(NaN);
  const found = { values, best: -1, high: -Infinity, low: Infinity };
  rows.forEach(({ before, after, weight, shown }, y) => {
    for (let x = 0; shown && x < width; x++) {
      if (!columns[x].shown) continue;
      const k = y * width + x;
      const sum = across[before * width + x] * (1 - weight) + across[after * width + x] * weight;
      values[k] = sum * lengths[k];
      if (values[k] > found.high) { found.high = values[k]; found.best = k; }
      found.low = Math.min(found.low, values[k]);
    }
  });
  return found;
}

/* ---- what is seen ---- */

/* Pixels as shown → of the picture itself, and back. */
function toPicture(picture, along, x) {
  const { size, whole } = data.pictures[picture];
  return (x + 0.5) * whole[along] / size[along] - 0.5;
}

function toShown(picture, along, x) {
  const { size, whole } = data.pictures[picture];
  return (x + 0.5) * size[along] / whole[along] - 0.5;
}

const number = (x) => String(Math.round(10 * x) / 10 || 0);

function where(picture, x, y) {
  const found = [toPicture(picture, 0, x), toPicture(picture, 1, y)].map(number);
  return `${data.pictures[picture].name} at x ${found[0]}, y ${found[1]}`;
}

function mark(side, x, y, kind) {
  const [w, h] = data.pictures[state[side]].size, spot = at(`${side}-mark`);
  spot.className = `mark ${kind}`;
  spot.style.left = `${(x + 0.5) / w * 100}%`;
  spot.style.top = `${(y + 0.5) / h * 100}%`;
}

function paint(canvas, picture, found) {
  const [w, h] = data.pictures[picture].size;
  canvas.width = w;
  canvas.height = h;
  if (!found) return;
  const image = new ImageData(w, h), alpha = Math.round(2.55 * at("opacity").value);
  const span = Math.max(found.high - found.low, 1e-12);
  found.values.forEach((value, k) => {
    if (Number.isNaN(value)) return;
    const colour = 3 * Math.round(255 * (value - found.low) / span);
    image.data.set(colours.subarray(colour, colour + 3), 4 * k);
    image.data[4 * k + 3] = alpha;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function legend(found) {
  const canvas = at("scale"), image = new ImageData(256, 1);
  for (let k = 0; k < 256; k++) {
    image.data.set(colours.subarray(3 * k, 3 * k + 3), 4 * k);
    image.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  at("low").textContent = found ? found.low.toFixed(3) : "";
  at("high").textContent = found ? found.high.toFixed(3) : "";
}

function show() {
  const { side, cell, x, y } = state, other = side === "left" ? "right" : "left";
  const from = state[side], to = state[other];
  const vector = feature(cell, from, x, y);
  const found = vector && similarity(cell, to, vector);
  paint(at(`${side}-heat`), from, null);
  paint(at(`${other}-heat`), to, found);
  legend(found);
  mark(side, x, y, "point");
  at(`${other}-mark`).className = "mark none";
  const start = `${where(from, x, y)} → `;
  if (!found) {
    at("answer").textContent = `${start}nothing: the model saw nothing there.`;
    return;
  }
  const width = data.pictures[to].size[0];
  const [bx, by] = [found.best % width, Math.floor(found.best / width)];
  mark(other, bx, by, "match");
  at("answer").textContent = `${start}${where(to, bx, by)}: cosine ${found.high.toFixed(4)}`;
}

function place(side) {
  const picture = data.pictures[state[side]], image = at(`${side}-image`), stage = at(side);
  image.src = picture.image;
  image.width = picture.size[0];
  image.height = picture.size[1];
  image.className = Math.max(...picture.size) < 200 ? "small" : "";
  stage.style.maxWidth = `${32 * Math.min(1, picture.size[0] / picture.size[1])}rem`;
  const [w, h] = picture.whole;
  stage.setAttribute("aria-label", `${side} picture, ${picture.name}; arrow keys move the point`);
  at(`${side}-name`).textContent = picture.name;
  at(`${side}-size`).textContent = ` ${w}×${h} pixels`;
}

/* ---- what is done ---- */

function move(side, x, y) {
  const picture = state[side], inside = (along, value) => {
    const side = data.pictures[picture].whole[along];
    const rounded = Math.round(10 * toPicture(picture, along, value)) / 10; // as it is told
    return toShown(picture, along, Math.min(Math.max(rounded, -0.5), side - 0.5));
  };
  Object.assign(state, { side, x: inside(0, x), y: inside(1, y) });
  show();
}

function middle(side) {
  const [w, h] = data.pictures[state[side]].size;
  move(side, (w - 1) / 2, (h - 1) / 2);
}

function pointer(side, event) {
  const box = at(side).getBoundingClientRect(), [w, h] = data.pictures[state[side]].size;
  move(side, (event.clientX - box.left) / box.width * w - 0.5,
    (event.clientY - box.top) / box.height * h - 0.5);
}

function key(side, event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  const size = data.pictures[state[side]].size, spot = at(`${side}-mark`).style;
  const far = event.shiftKey ? 1 : Math.max(1, Math.max(...size) / 64);
  const [x, y] = [spot.left, spot.top].map((part, k) => parseFloat(part) / 100 * size[k] - 0.5);
  move(side, x + far * step[0], y + far * step[1]);
}

/* Of a block only the t that there are. */
function offerLevels() {
  const block = at("block").value, before = at("t").selectedOptions[0]?.textContent;
  at("t").replaceChildren(...data.cells.flatMap((cell, k) =>
    cell.block === block ? [new Option(cell.t, k, false, cell.t === before)] : []));
  at("t").disabled = at("t").length < 2;
  choose();
}

function choose() {
  state.cell = Number(at("t").value);
  at("agreement").textContent = `Maps on this page: ${data.cells[state.cell].agreement}.`;
  show();
}

function begin() {
  const options = (list) => [...new Set(list)].map((name) => new Option(name, name));
  at("block").replaceChildren(...options(data.cells.map((cell) => cell.block)));
  at("block").disabled = at("block").length < 2;
  for (const side of sides) {
    const list = at(`${side}-picture`), stage = at(side);
    list.replaceChildren(...data.pictures.map((one, k) => new Option(one.name, k)));
    list.value = state[side];
    list.addEventListener("change", () => {
      state[side] = Number(list.value);
      place(side);
      if (state.side === side) middle(side); else show();
    });
    stage.addEventListener("pointerdown", (event) => pointer(side, event));
    stage.addEventListener("pointermove", (event) => { if (event.buttons & 1) pointer(side, event); });
    stage.addEventListener("keydown", (event) => key(side, event));
    place(side);
  }
  at("choice").hidden = data.pictures.length < 3;
  at("block").addEventListener("change", offerLevels);
  at("t").addEventListener("change", choose);
  at("opacity").addEventListener("input", show);
  [state.x, state.y] = data.start.map((value, along) => toShown(0, along, value));
  offerLevels();
}

begin();
