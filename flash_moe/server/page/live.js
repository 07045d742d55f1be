// What streams, live: figures, the rate of the SSD, and the map of experts, from /v1/stats.

import { events, request } from "./api.js";
import { element } from "./message.js";
import { ExpertMap } from "./map.js";

const WINDOW_S = 2; // rates are averages over this time
const HISTORY_S = 120;
const RETRY_MS = [500, 1000, 2000, 5000];

export class Live {
  constructor(onKey) {
    this._onKey = onKey;
    this._map = new ExpertMap();
    this._history = [];
    this._values = {};
    this._status = document.getElementById("status");
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this._abort?.abort();
      else this._wake?.();
    });
    this._run();
  }

  /** Read events for ever: a hidden page does not, and a lost connection is tried again. */
  async _run() {
    for (let failures = 0; ; ) {
      if (document.hidden) {
        await new Promise((resolve) => (this._wake = resolve));
        continue;
      }
      this._abort = new AbortController();
      try {
        const headers = { Accept: "text/event-stream" };
        const response = await request("v1/stats", { headers, signal: this._abort.signal });
        for await (const data of events(response)) {
          const stats = JSON.parse(data);
          if (stats.error) break;
          failures = 0;
          this._show(stats);
        }
      } catch (error) {
        if (error.name === "AbortError") continue;
        if (error.status === 401 && (await this._onKey())) continue;
      }
      this._setStatus("lost", "connection lost, trying again");
      const pause = RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)];
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  _setStatus(state, text) {
    if (this._status.dataset.state === state) return;
    this._status.dataset.state = state;
    this._status.textContent = text;
  }

  _show(stats) {
    this._setStatus("connected", "connected");
    const history = this._history;
    if (history.length && stats.time_s < history.at(-1).time_s) history.length = 0; // restarted
    const { model } = stats;
    if (document.title !== model.id) {
      document.title = model.id;
      document.getElementById("model").textContent = model.id;
      document.getElementById("map-size").textContent =
        `(${model.layers} × ${model.experts}, ${model.top_k} per token, policy ${model.policy})`;
    }
    this._map.update(stats);
    const from = history.findLast((each) => stats.time_s - each.time_s >= WINDOW_S) ?? history[0];
    const sample = { time_s: stats.time_s, experts: stats.experts, tokens: stats.tokens, rate: 0 };
    // Without a layer nothing has streamed since the event before.
    const recent = from && stats.layers.length ? difference(sample, from) : null;
    sample.rate = recent?.bytes_per_s ?? 0;
    history.push(sample);
    while (stats.time_s - history[0].time_s > HISTORY_S) history.shift();
    this._showFigures(stats, recent);
    this._showRate(stats.disk.measured_bytes_per_s);
  }

  _showFigures(stats, recent) {
    const { experts, memory, requests, prompt_caches: caches, latest_answer: latest } = stats;
    const disk = stats.disk.measured_bytes_per_s;
    this._figure("Decoding", `${number(recent?.tokens_per_s ?? 0)} tokens/s`,
      latest?.tokens_per_s ? `latest answer ${number(latest.tokens_per_s)}` : "");
    this._figure("First token", latest ? `${number(latest.first_token_s)} s` : "–",
      "of the latest answer");
    this._figure("Hit rate", recent?.lookups ? percent(recent.hits / recent.lookups) : "–",
      `${percent(experts.hit_rate)} since loading`);
    this._figure("From the SSD", `${bytes(recent?.bytes_per_s ?? 0)}/s`,
      disk ? `the disk: ${bytes(disk)}/s` : "disk not measured");
    this._figure("Expert cache", `${bytes(memory.cached_expert_bytes)}`,
      `of ${bytes(experts.bank_bytes)}; the model: ${bytes(experts.expert_bytes)}`,
      memory.cached_expert_bytes / experts.bank_bytes);
    this._figure("Memory", bytes(memory.resident_bytes), `of ${bytes(memory.limit_bytes)}`,
      memory.resident_bytes / memory.limit_bytes);
    this._figure("Requests", `${requests.running} running`, `${requests.queued} queued`);
    this._figure("Prompt caches", bytes(caches.bytes),
      `${caches.entries} of at most ${bytes(caches.limit_bytes)}`,
      caches.bytes / caches.limit_bytes);
    if (caches.disk_bytes !== null) {
      this._figure("Prompt caches on disk", bytes(caches.disk_bytes), `${caches.disk_hits} loaded`);
    }
    if (experts.host_hits || experts.bytes_copied) {
      this._figure("Second tier", `${experts.host_hits} hits`,
        `${bytes(experts.bytes_copied)} copied to the GPU`);
    }
    for (const machine of experts.ranks ?? []) {
      const lookups = machine.hits + machine.misses;
      this._figure(`Machine ${machine.rank + 1}`, `${bytes(machine.bytes_read)} read`,
        `${percent(lookups ? machine.hits / lookups : 0)} hits, ` +
        `waited ${number(machine.peer_wait_s)} s for others`);
    }
  }

  /** Set a figure; it gets an element when it is set for the first time. */
  _figure(name, value, detail, share = null) {
    let parts = this._values[name];
    if (!parts) {
      parts = this._values[name] = {
        value: element("dd", { className: "value" }),
        detail: element("dd", { className: "detail" }),
        bar: share === null ? null : element("progress", { max: 1 }),
      };
      const box = element("div", {}, element("dt", { textContent: name }), parts.value);
      box.append(parts.detail);
      if (parts.bar) {
        parts.bar.setAttribute("aria-label", name);
        box.append(element("dd", {}, parts.bar));
      }
      document.getElementById("figures").append(box);
    }
    if (parts.value.textContent !== value) parts.value.textContent = value;
    if (parts.detail.textContent !== detail) parts.detail.textContent = detail;
    if (parts.bar) parts.bar.value = share;
  }

  _showRate(disk) {
    const end = this._history.at(-1).time_s;
    const most = Math.max(...this._history.map((each) => each.rate), 1);
    // The limit of the disk is in the picture when the reads come near it.
    const top = disk && most > disk / 4 ? Math.max(most, disk) * 1.05 : most * 1.05;
    const y = (rate) => (48 - (48 * rate) / top).toFixed(1);
    const points = this._history.map(
      (each) => `${(240 - (240 * (end - each.time_s)) / HISTORY_S).toFixed(1)},${y(each.rate)}`,
    );
    document.getElementById("rate-line").setAttribute("points", points.join(" "));
    const limit = document.getElementById("rate-limit");
    limit.toggleAttribute("hidden", !disk || disk > top);
    if (disk && disk <= top) {
      limit.setAttribute("y1", y(disk));
      limit.setAttribute("y2", y(disk));
    }
    document.getElementById("rate-scale").textContent =
      most > 1 ? `(last two minutes, at most ${bytes(most)}/s)` : "(last two minutes)";
  }
}

function difference(now, before) {
  const seconds = now.time_s - before.time_s;
  const [a, b] = [now.experts, before.experts];
  return {
    bytes_per_s: (a.bytes_read - b.bytes_read) / seconds,
    tokens_per_s: (now.tokens.generated - before.tokens.generated) / seconds,
    hits: a.hits - b.hits,
    lookups: a.hits + a.misses - b.hits - b.misses,
  };
}

const number = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Format a number of bytes, in powers of 1000 like the command line. */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${unit ? n.toFixed(n < 10 ? 2 : n < 100 ? 1 : 0) : Math.round(n)} ${units[unit]}`;
}
