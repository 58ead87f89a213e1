// The chat: what it shows, and an answer that grows while the server writes it.

import * as api from "./api.js";
import { say, tick, UNCHANGED, warn } from "./parts.js";

let isAsked = false; // whether the latest message waits for its answer
let answer = null; // what is being written: the messages before it, its parts so far, and what stops it

const fileOf = (url) => ({ path: "image.png", url, mime_type: "image/png", meta: { _type: "gradio.FileData" } });
const textPart = (text) => ({ type: "text", text });
const imagePart = (url) => ({ type: "file", file: fileOf(url) });
const shown = (role, content) => ({ role, content, metadata: null, options: null });

const ROOM = 12_000_000; // characters of images in one request, of the 16 MiB that the server takes

/** What the server is sent of messages that are shown: all texts, and as many of the latest images as there is room for. */
function sent(messages) {
  const partsOf = ({ content }) => (typeof content === "string" ? [textPart(content)] : content);
  const latest = new Set();
  let size = 0;
  for (const part of messages.flatMap(partsOf).filter((part) => part.type === "file").reverse()) {
    size += part.file.url.length;
    if (latest.size && size > ROOM) break;
    latest.add(part);
  }
  return messages.map((message) => ({
    role: message.role,
    content: partsOf(message)
      .filter((part) => part.type === "text" || latest.has(part))
      .map((part) => (part.type === "text" ? textPart(part.text) : api.imagePart(part.file.url))),
  }));
}

/** The messages with as much of the answer as there is. */
const log = ({ before, parts }) => (parts.length ? [...before, shown("assistant", parts.map((part) => ({ ...part })))] : before);

/** Shows the user's message, and clears the fields that it was in. */
async function send(history, text, url) {
  const words = (text ?? "").trim();
  if (answer) throw new Error("An answer is being written: wait for its end, or stop it.");
  if (!words && !url) throw new Error("Write a message, or choose an image.");
  isAsked = true;
  return [[...(history ?? []), shown("user", [...(url ? [imagePart(url)] : []), ...(words ? [textPart(words)] : [])])], "", ""];
}

/** Asks for the answer to what has been sent, and shows it as it comes. */
async function reply(history) {
  if (!isAsked) return [UNCHANGED];
  isAsked = false;
  answer = { before: history, parts: [], stopping: new AbortController() };
  document.body.classList.add("answering");
  try {
    for await (const piece of api.chatPieces(sent(history), answer.stopping.signal)) add(piece);
    if (!answer.parts.length) say("The model wrote nothing.");
    return [log(answer)];
  } catch (error) {
    if (!answer.stopping.signal.aborted) throw error;
    return [log(answer)];
  } finally {
    answer = null;
    document.body.classList.remove("answering");
  }
}

function add({ text, urls, warnings }) {
  const { parts } = answer;
  if (text && parts.at(-1)?.type === "text") parts.at(-1).text += text;
  else if (text) parts.push(textPart(text));
  parts.push(...urls.map(imagePart));
  warn(warnings);
  tick();
}

/** Shows what there is of an answer. */
async function grow() {
  return [answer ? log(answer) : UNCHANGED];
}

async function stop() {
  answer?.stopping.abort();
  return [];
}

export const events = { send, reply, grow, stop };
