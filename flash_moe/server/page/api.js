// Requests to the server that the page came from.

const KEY = "flash-moe-key";

/** The API key: kept for this tab, sent only as a header. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** Error of the server, with its HTTP status; 0 if the connection failed. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Return the response to a request.
 * Throws an ApiError, or an AbortError after an abort.
 */
export async function request(path, options = {}) {
  const headers = { ...options.headers };
  const key = apiKey.get();
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    throw connectionError(error);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, body?.error?.message ?? `HTTP status ${response.status}`);
}

function connectionError(error) {
  return error.name === "AbortError" ? error : new ApiError(0, "The server cannot be reached.");
}

/** Yield the data of each server-sent event. */
export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw connectionError(error);
    }
    if (part.done) return;
    const blocks = (rest + decoder.decode(part.value, { stream: true })).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}
