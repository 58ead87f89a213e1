// Requests to the server that this page comes from.

const STORED = "seedtok-api-key";

/** An answer of the server that is an error; `message` is what it says. */
export class ApiError extends Error {}

function field(type, name, value) {
  return Object.assign(document.createElement("input"), { type, autocomplete: name, value });
}

/** Asks for a key, which stays in this tab of the browser; false where none is given. */
async function askForKey() {
  const dialog = Object.assign(document.createElement("dialog"), { className: "key" });
  const form = Object.assign(document.createElement("form"), { method: "dialog" });
  const label = Object.assign(document.createElement("label"), { textContent: "This server asks for an API key." });
  const key = Object.assign(field("password", "current-password", ""), { required: true, id: "key" });
  const user = Object.assign(field("text", "username", "seedtok"), { hidden: true });
  label.append(key);
  form.append(user, label, Object.assign(document.createElement("button"), { textContent: "Use it" }));
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  dialog.remove();
  sessionStorage.setItem(STORED, key.value);
  return key.value !== "";
}

let asking = null; // requests that are refused together ask once

/** The response to a request; `body` is posted, `signal` ends it. */
async function respond(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem(STORED);
  if (key) headers.Authorization = `Bearer ${key}`;
  const posted = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { headers, signal, ...posted });
  } catch {
    throw new ApiError("The server cannot be reached.");
  }
  if (response.status === 401) {
    asking ??= askForKey().finally(() => (asking = null));
    if (await asking) return respond(path, body, signal);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new ApiError(answer?.error?.message ?? `The server answered with status ${response.status}.`);
}

const request = async (path, body) => (await respond(path, body)).json();

/** The records of a stream of server-sent events; raises an error for a stream that ends early. */
async function* streamed(path, body, signal) {
  const reader = (await respond(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError("The server ended its answer early.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const record = JSON.parse(data);
      if (record.error) throw new ApiError(record.error.message);
      yield record;
    }
  }
}

/** The data URLs of a message's images, where it has any. */
const urlsOf = (images) => (images ?? []).map((image) => image.image_url.url);

const asUrl = (image) => `data:image/png;base64,${image.b64_json}`;

export const modelName = async () => (await request("v1/models")).data[0].id;

/** Codes of data URLs: {codes, is_far} each. */
export const encode = async (urls) => (await request("v1/seed/encode", { images: urls })).data;

/** Data URLs of images drawn from lists of codes, all from the same noise. */
export const decode = async (codes) => (await request("v1/seed/decode", { codes, seed: 0 })).data.map(asUrl);

/** Codes nearest to one in the codebook, itself first: {code, distance} each. */
export const nearest = async (code, count) => (await request(`v1/seed/codes/${code}?count=${count}`)).data;

/** Images of a prompt, as data URLs, and what the server warns of. */
export async function draw(prompt, n, seed) {
  const answer = await request("v1/images/generations", { prompt, n, seed });
  return { urls: answer.data.map(asUrl), warnings: answer.warnings ?? [] };
}

/** An answer to a conversation, a caption or a short answer: its text, its images as data URLs, and what the server warns of. */
export async function chat(messages) {
  const answer = await request("v1/chat/completions", { messages, num_beams: 5 }); // also of a model of chats
  const { content, images } = answer.choices[0].message;
  return { text: content, urls: urlsOf(images), warnings: answer.warnings ?? [] };
}

/** An answer to a conversation as it is written: text, images as data URLs and warnings in each piece. */
export async function* chatPieces(messages, signal) {
  const body = { messages, stream: true, num_beams: 1 }; // a search by beams knows its words at the end only
  for await (const { choices, warnings } of streamed("v1/chat/completions", body, signal)) {
    const { content, images } = choices[0].delta;
    yield { text: content ?? "", urls: urlsOf(images), warnings: warnings ?? [] };
  }
}

/** A part of a message: an image, as a data URL. */
export const imagePart = (url) => ({ type: "image_url", image_url: { url } });

/** A message of the user's: a text about an image, which is a data URL. */
export const asked = (text, url) => ({ role: "user", content: [imagePart(url), ...(text ? [{ type: "text", text }] : [])] });
