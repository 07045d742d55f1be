// Messages of a conversation as elements.

import { render } from "./markdown.js";

const RENDER_MS = 160; // least time between two renderings of a growing answer

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function article(role) {
  const made = element("article");
  made.dataset.role = role;
  return made;
}

/** Element of a message of the user or of a tool: plain text. */
export function plainMessage(role, text) {
  const made = article(role);
  made.textContent = text;
  return made;
}

/** Element of an answer that grows. */
export class AnswerView {
  constructor() {
    this.root = article("assistant");
    this.reasoningText = "";
    this.text = "";
    this._body = element("div", { className: "text" });
    this._calls = element("div");
    this.root.append(this._body, this._calls);
    this._timer = 0;
    this._cost = 0;
    this.onRender = () => {};
  }

  addReasoning(text) {
    if (!this._reasoning) {
      this._reasoning = element("div");
      this._summary = element("summary", { textContent: "Reasoning…" });
      const folded = element("details", { className: "reasoning" }, this._summary, this._reasoning);
      this.root.prepend(folded);
    }
    this.reasoningText += text;
    this._grow();
  }

  addText(text) {
    this.text += text;
    this._grow();
  }

  /** Render soon. A long answer is rendered less often: it takes an eighth of the time at most. */
  _grow() {
    this._timer ||= setTimeout(() => this._render(), Math.max(RENDER_MS, 7 * this._cost));
  }

  /** Show a call; with `onResult`, its result can be entered. */
  addCall(call, onResult) {
    const { name, arguments: text } = call.function;
    const box = element("div", { className: "call" });
    box.append("Calls ", element("code", { textContent: name }));
    box.append(element("pre", { textContent: indented(text) }));
    if (onResult) {
      const input = element("textarea", { rows: 1, placeholder: "Result" });
      input.setAttribute("aria-label", `Result of ${name}`);
      const form = element("form", {}, input, element("button", { textContent: "Return" }));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        form.remove();
        onResult(call, input.value);
      });
      box.append(form);
    }
    this._calls.append(box);
  }

  /** Show the last state, and a note below it. */
  end(note = "", isBad = false, button = null) {
    clearTimeout(this._timer);
    this._render();
    for (const code of this._body.querySelectorAll("pre")) code.append(copyButton(code));
    if (this._summary) this._summary.textContent = "Reasoning";
    if (!note) return;
    const line = element("p", { className: "note", textContent: note });
    if (isBad) line.dataset.bad = "";
    if (button) line.append(button);
    this.root.append(line);
    this.onRender();
  }

  _render() {
    this._timer = 0;
    const started = performance.now();
    if (this._reasoning) this._reasoning.textContent = this.reasoningText;
    this._body.replaceChildren(render(this.text));
    this._cost = performance.now() - started;
    this.onRender();
  }
}

function copyButton(code) {
  const text = code.textContent;
  const button = element("button", { type: "button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  return button;
}

function indented(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // cut off
  }
}
