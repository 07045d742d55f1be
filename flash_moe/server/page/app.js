// Entry of the page: views, the API key, and the two panels.

import { apiKey } from "./api.js";
import { Chat } from "./chat.js";
import { Live } from "./live.js";

let asking = null;

/** Show the dialog for the key. Return true when there is one; several callers share a dialog. */
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const form = document.getElementById("key-form");
    const input = document.getElementById("key");
    const problem = document.getElementById("key-problem");
    if (apiKey.get()) {
      problem.textContent = "The server did not accept this key.";
      problem.dataset.bad = "";
    }
    const done = (key) => {
      asking = null;
      resolve(key);
    };
    form.onsubmit = (event) => {
      event.preventDefault();
      apiKey.set(input.value);
      input.value = "";
      dialog.onclose = null;
      dialog.close();
      done(true);
    };
    dialog.onclose = () => done(false);
    dialog.showModal();
  });
  return asking;
}

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.view;
    for (const each of document.querySelectorAll("nav button")) {
      each.setAttribute("aria-pressed", each === button);
    }
  });
}

new Chat(askForKey);
new Live(askForKey);
