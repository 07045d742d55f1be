// Map of the expert cache: a cell for each expert of each layer, on a canvas.

const STATES = ["absent", "tier", "cached", "recent", "used", "reading", "evicted"];
const [ABSENT, TIER, CACHED, RECENT, USED, READING, EVICTED] = STATES.keys();
const LABELS = [
  "not in memory", "in the second tier", "cached", "used recently", "used now",
  "being read, or just read", "just evicted",
];
const RECENT_EVENTS = 3; // how long a use stays visible; a read or an eviction for one event
const MIN_ROW = 5;
const MAX_CELL = 22;

export class ExpertMap {
  constructor() {
    this._canvas = document.getElementById("map");
    this._waits = document.getElementById("waits");
    this._readout = document.getElementById("readout");
    this._size = "";
    this._event = 0; // number of the latest event
    this._canvas.addEventListener("pointermove", (event) => this._point(event));
    this._canvas.addEventListener("pointerleave", () => (this._readout.textContent = "\u00a0"));
    new ResizeObserver(() => this._layout()).observe(document.getElementById("map-frame"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this._layout());
  }

  /** Take over an event of /v1/stats. */
  update({ model, layers }) {
    const size = `${model.layers} ${model.experts}`;
    if (size !== this._size) this._reset(model.layers, model.experts);
    this._size = size;
    this._event += 1;
    this._waited.fill(0);
    for (const row of layers) this._updateRow(row);
    this._paint();
  }

  _reset(layers, experts) {
    this._layers = layers;
    this._experts = experts;
    const cells = layers * experts;
    this._cached = new Uint8Array(cells);
    this._tier = new Uint8Array(cells);
    this._painted = new Uint8Array(cells);
    // Numbers of the events with the latest use, read and eviction of each expert.
    for (const name of ["_used", "_read", "_evicted"]) {
      this[name] = new Float64Array(cells).fill(-Infinity);
    }
    this._rows = [];
    this._waited = new Float64Array(layers);
    this._layout();
    this._legend();
  }

  _updateRow(row) {
    const before = this._rows[row.index];
    this._rows[row.index] = row;
    const cached = bits(row.cached);
    const used = bits(row.used);
    const reading = bits(row.reading);
    const tier = bits(row.second_tier ?? "");
    const isNew = before && row.calls > before.calls;
    this._waited[row.index] = before ? row.wait_s - before.wait_s : 0;
    for (let expert = 0; expert < this._experts; expert++) {
      const cell = row.index * this._experts + expert;
      const isCached = bit(cached, expert);
      if (before && isCached !== this._cached[cell]) {
        (isCached ? this._read : this._evicted)[cell] = this._event;
      }
      if (bit(reading, expert)) this._read[cell] = this._event;
      if (isNew && bit(used, expert)) this._used[cell] = this._event;
      this._cached[cell] = isCached;
      this._tier[cell] = bit(tier, expert);
    }
  }

  _state(cell) {
    if (this._read[cell] === this._event) return READING;
    if (this._cached[cell]) {
      const age = this._event - this._used[cell];
      return age === 0 ? USED : age < RECENT_EVENTS ? RECENT : CACHED;
    }
    if (this._evicted[cell] === this._event) return EVICTED;
    return this._tier[cell] ? TIER : ABSENT;
  }

  /** Paint the cells whose state has changed, unless the map is hidden. */
  _paint(all = false) {
    if (!this._width) return;
    const context = this._canvas.getContext("2d", { alpha: false });
    for (let cell = 0; cell < this._painted.length; cell++) {
      const state = this._state(cell);
      if (!all && state === this._painted[cell]) continue;
      this._painted[cell] = state;
      context.fillStyle = this._colors[state];
      const row = Math.floor(cell / this._experts);
      const column = cell % this._experts;
      context.fillRect(
        column * this._width, row * this._height, this._width - this._gap, this._height - this._gap,
      );
    }
    this._paintWaits();
  }

  _paintWaits() {
    const { width, height } = this._waits;
    const context = this._waits.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.fillStyle = this._colors[READING];
    const most = Math.max(...this._waited, 1e-9);
    this._waited.forEach((seconds, row) =>
      context.fillRect(0, row * this._height, (width * seconds) / most, this._height - this._gap),
    );
  }

  _layout() {
    if (!this._layers) return;
    const frame = document.getElementById("map-frame").clientWidth - 62;
    this._width = 0;
    if (frame <= 0) return;
    const pixels = frame * devicePixelRatio;
    // Cells of whole pixels; if there are more experts than pixels, the browser scales them down.
    this._width = Math.min(Math.max(Math.floor(pixels / this._experts), 1), MAX_CELL);
    this._height = Math.max(Math.min(this._width, MAX_CELL), MIN_ROW);
    this._gap = this._width >= 4 ? 1 : 0;
    this._canvas.width = this._width * this._experts;
    this._canvas.height = this._waits.height = this._height * this._layers;
    this._waits.width = 56 * devicePixelRatio;
    const scale = Math.min(1, pixels / this._canvas.width) / devicePixelRatio;
    this._canvas.style.maxWidth = `${this._canvas.width * scale}px`;
    this._canvas.style.height = `${this._canvas.height / devicePixelRatio}px`;
    this._waits.style.height = this._canvas.style.height;
    const style = getComputedStyle(document.documentElement);
    this._colors = STATES.map((name) => style.getPropertyValue(`--${name}`));
    const context = this._canvas.getContext("2d", { alpha: false });
    context.fillStyle = style.getPropertyValue("--panel");
    context.fillRect(0, 0, this._canvas.width, this._canvas.height);
    this._paint(true);
  }

  _legend() {
    const legend = document.getElementById("legend");
    legend.replaceChildren();
    const items = STATES.map((name, state) => [name, LABELS[state]]);
    items.push(["reading", "bars: time a layer waits for reads"]);
    for (const [name, label] of items) {
      const item = document.createElement("li");
      const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      square.setAttribute("width", "11");
      square.setAttribute("height", "11");
      square.setAttribute("fill", `var(--${name})`);
      swatch.append(square);
      item.append(swatch, label);
      legend.append(item);
    }
  }

  _point(event) {
    if (!this._layers) return;
    const box = this._canvas.getBoundingClientRect();
    const expert = Math.floor(((event.clientX - box.left) / box.width) * this._experts);
    const index = Math.floor(((event.clientY - box.top) / box.height) * this._layers);
    const row = this._rows[index];
    if (!row || expert < 0 || expert >= this._experts) return;
    const state = LABELS[this._state(index * this._experts + expert)];
    const rate = (100 * row.hits) / Math.max(row.hits + row.misses, 1);
    this._readout.textContent =
      `layer ${row.layer}, expert ${expert}: ${state}. Layer: ${rate.toFixed(0)} % hits, ` +
      `${row.misses} misses, waited ${row.wait_s.toFixed(2)} s`;
  }
}

function bits(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function bit(bytes, index) {
  return (bytes[index >> 3] >> (index & 7)) & 1;
}
