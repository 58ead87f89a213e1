// The events of the page: values of components in, values of components out.

import * as api from "./api.js";
import * as chat from "./chat.js";
import * as explorer from "./explorer.js";
import { FAR, say, tiles, UNCHANGED, warn } from "./parts.js";

/** An image that has been chosen; raises an error that asks for one. */
function needed(url) {
  if (!url) throw new Error("Choose an image first: click the frame, drop a file on it, or paste one.");
  return url;
}

async function start() {
  const name = (await api.modelName()).replace(/[^\w./-]/g, "");
  return [`Images as codes that a language model reads and writes. Model: **${name}**`];
}

async function encode(url) {
  const [{ codes, is_far: isFar }] = await api.encode([needed(url)]);
  if (isFar) say(FAR);
  return [tiles(codes)];
}

async function decode({ codes }) {
  return codes.length ? await api.decode([codes]) : [""];
}

async function caption(url) {
  const { text, warnings } = await api.chat([api.asked("", needed(url))]);
  warn(warnings);
  return [text];
}

async function ask(url, question) {
  if (!question?.trim()) throw new Error("Write a question.");
  const { text, warnings } = await api.chat([api.asked(question, needed(url))]);
  warn(warnings);
  return [text];
}

async function draw(prompt, count, seed) {
  const { urls, warnings } = await api.draw(prompt, count, seed);
  warn(warnings);
  return [{ images: urls.map((url) => ({ url, text: prompt })), chosen: null }];
}

/** Puts a drawn image into the other tabs' frames, as many as there are. */
async function use({ images, chosen }) {
  say("It is the image of See, Caption, Ask and Explore now.");
  return Array(4).fill(images[chosen].url);
}

// ---------------------------------------------------------------- running them

const events = { start, encode, decode, caption, ask, draw, use, ...chat.events, ...explorer.events };
const FOLLOWING = ["decode", "redraw", "reply", "grow", "stop"]; // what goes on from others, whose notice stays
let running = 0;

/** Runs an event; where it fails, says why and leaves its `count` outputs as they are. */
export async function run(name, count, given) {
  document.body.classList.toggle("running", ++running > 0);
  if (!FOLLOWING.includes(name)) say("");
  try {
    return await events[name](...given);
  } catch (error) {
    say(error.message, true);
    return Array(count).fill(UNCHANGED);
  } finally {
    document.body.classList.toggle("running", --running > 0);
  }
}
