// The chat: a client of /v1/chat/completions like any other.

import { ApiError, events, request } from "./api.js";
import { AnswerView, element, plainMessage } from "./message.js";

const SAVED = "flash-moe-chat";
const NUMBERS = [
  "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed",
];

export class Chat {
  /** `onKey` is called if the server wants a key, and returns when there is a new one. */
  constructor(onKey) {
    const at = (id) => document.getElementById(id);
    this._log = at("log");
    this._question = at("question");
    this._form = document.querySelector("#settings form");
    this._send = at("send");
    this._stop = at("stop");
    this._onKey = onKey;
    this._messages = [];
    this._abort = null;
    at("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this._ask();
    });
    this._question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this._ask();
    });
    this._stop.addEventListener("click", () => this._abort?.abort());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this._abort?.abort();
    });
    at("new").addEventListener("click", () => this._clear());
    at("download").addEventListener("click", () => this._download());
    this._form.addEventListener("input", () => this._save());
    this._form.addEventListener("submit", (event) => event.preventDefault());
    this._restore();
  }

  _ask() {
    const content = this._question.value.trim();
    if (!content || this._abort) return;
    this._question.value = "";
    this._add({ role: "user", content });
    this._answer();
  }

  _add(message) {
    this._messages.push(message);
    this._append(plainMessage(message.role, message.content));
    this._save();
  }

  /** Append an element and show it. */
  _append(child) {
    document.getElementById("empty")?.remove();
    this._log.append(child);
    this._log.scrollTop = this._log.scrollHeight;
  }

  async _answer() {
    const view = new AnswerView();
    const abort = (this._abort = new AbortController());
    this._setBusy(true);
    this._append(view.root);
    view.onRender = this._follow();
    const message = { role: "assistant", content: "" };
    let note = "";
    let problem = null;
    try {
      note = await this._receive(view, message, abort.signal);
    } catch (error) {
      if (error.name === "AbortError") note = "Stopped.";
      else problem = error;
    } finally {
      this._abort = null;
      this._setBusy(false);
    }
    message.content = view.text || null;
    if (view.reasoningText) message.reasoning = view.reasoningText;
    const isEmpty = !message.content && !message.reasoning && !message.tool_calls;
    if (!isEmpty) this._messages.push(message);
    this._save();
    if (!problem) {
      view.end(note);
      for (const call of message.tool_calls ?? []) this._showCall(view, call);
    } else {
      const again = element("button", { type: "button", textContent: "Try again" });
      again.addEventListener("click", () => {
        if (this._abort) return;
        if (!isEmpty) this._messages.splice(this._messages.indexOf(message), 1);
        view.root.remove();
        this._answer();
      });
      view.end(problem.message, true, again);
      if (problem.status === 401 && (await this._onKey())) again.click();
    }
  }

  /** Read an answer into its view and its message. Return a note about how it ended. */
  async _receive(view, message, signal) {
    const started = performance.now();
    const response = await request("v1/chat/completions", {
      method: "POST",
      body: JSON.stringify(this._request()),
      headers: { "Content-Type": "application/json" },
      signal,
    });
    let finish = null;
    let first = 0;
    let usage = null;
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message);
      usage = chunk.usage ?? usage;
      const choice = chunk.choices[0];
      if (!choice) continue;
      finish = choice.finish_reason ?? finish;
      const { content, reasoning, tool_calls: calls } = choice.delta;
      if (content || reasoning || calls) first ||= performance.now();
      if (reasoning) view.addReasoning(reasoning);
      if (content) view.addText(content);
      for (const { index, ...call } of calls ?? []) (message.tool_calls ??= []).push(call);
    }
    if (!finish) throw new ApiError(0, "The connection ended before the answer.");
    return summary(usage, finish, first - started, performance.now() - first);
  }

  _request() {
    const values = Object.fromEntries(new FormData(this._form));
    const body = { stream: true, stream_options: { include_usage: true } };
    for (const name of NUMBERS) if (values[name]) body[name] = Number(values[name]);
    if (values.reasoning_effort) body.reasoning_effort = values.reasoning_effort;
    if (values.tools.trim()) {
      try {
        body.tools = JSON.parse(values.tools);
      } catch (error) {
        throw new ApiError(400, `Tools: ${error.message}`);
      }
    }
    const system = values.system.trim();
    const before = system ? [{ role: "system", content: system }] : [];
    return { ...body, messages: [...before, ...this._messages] };
  }

  /** Show a call; when all calls of a message have results, the model continues. */
  _showCall(view, call) {
    const hasResult = this._messages.some((each) => each.tool_call_id === call.id);
    view.addCall(call, hasResult ? null : (done, content) => {
      this._add({ role: "tool", tool_call_id: done.id, content });
      const ids = new Set(this._messages.map((each) => each.tool_call_id));
      const calls = this._messages.flatMap((each) => each.tool_calls ?? []);
      if (calls.every((each) => ids.has(each.id)) && !this._abort) this._answer();
    });
  }

  /** Return a function that scrolls to the end, unless the reader has scrolled up. */
  _follow() {
    const log = this._log;
    let bottom = log.scrollTop;
    return () => {
      if (log.scrollTop < bottom - 40) return;
      log.scrollTop = log.scrollHeight;
      bottom = log.scrollTop;
    };
  }

  _setBusy(busy) {
    this._send.hidden = busy;
    this._stop.hidden = !busy;
    this._log.setAttribute("aria-busy", busy);
  }

  _clear() {
    this._abort?.abort();
    this._messages = [];
    this._log.replaceChildren();
    this._save();
    this._question.focus();
  }

  _state() {
    return { settings: Object.fromEntries(new FormData(this._form)), messages: this._messages };
  }

  _save() {
    try {
      sessionStorage.setItem(SAVED, JSON.stringify(this._state()));
    } catch {
      sessionStorage.removeItem(SAVED); // longer than the quota: a reload begins a new chat
    }
  }

  _restore() {
    const saved = JSON.parse(sessionStorage.getItem(SAVED) ?? "null");
    if (!saved) return;
    for (const [name, value] of Object.entries(saved.settings)) {
      this._form.elements[name].value = value;
    }
    this._messages = saved.messages;
    for (const message of saved.messages) {
      if (message.role !== "assistant") {
        this._append(plainMessage(message.role, message.content));
        continue;
      }
      const view = new AnswerView();
      if (message.reasoning) view.addReasoning(message.reasoning);
      view.text = message.content ?? "";
      view.end();
      this._append(view.root);
      for (const call of message.tool_calls ?? []) this._showCall(view, call);
    }
  }

  _download() {
    const text = JSON.stringify({ model: document.title, ...this._state() }, null, 2);
    const link = element("a", { download: "conversation.json" });
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

function summary(usage, finish, firstMs, restMs) {
  const parts = [];
  if (usage) {
    const { prompt_tokens: prompt, completion_tokens: made, prompt_tokens_details: more } = usage;
    parts.push(`${prompt} prompt tokens, ${more.cached_tokens} cached`);
    parts.push(`${made} tokens, the first after ${(firstMs / 1000).toFixed(2)} s`);
    if (made > 1 && restMs > 0) parts.push(`${((1000 * (made - 1)) / restMs).toFixed(1)} tokens/s`);
  }
  if (finish === "length") parts.push("cut off at the maximum of tokens");
  return parts.join(" · ");
}
