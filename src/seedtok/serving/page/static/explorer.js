// The code explorer: codes of two images spliced, replaced, drawn.

import * as api from "./api.js";
import { FAR, say, tiles, UNCHANGED } from "./parts.js";

const EVERY = 4; // codes between two prefixes
const NEAR = 8; // codes shown beside the chosen one
const KEPT = 16; // results that are remembered

/** A function of a text that remembers its latest results. */
function remembered(work) {
  const known = new Map();
  return (key) => {
    if (!known.has(key)) {
      if (known.size >= KEPT) known.delete(known.keys().next().value);
      const result = work(key);
      known.set(key, result);
      result.catch(() => known.delete(key));
    }
    return known.get(key);
  };
}

const encoded = remembered(async (url) => (await api.encode([url]))[0]);
const drawn = remembered(async (codes) => (await api.decode([codes.split(",").map(Number)]))[0]);
const codesOf = async (url) => (await encoded(url)).codes;

/** An image of one colour, for where there is no second one. */
function blank() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, 8, 8);
  return canvas.toDataURL("image/png");
}

function joined(first, second, count) {
  const codes = [...first.slice(0, count), ...second.slice(count)];
  return tiles(codes, places(codes, first));
}

/** Where codes are those of another list. */
const places = (codes, others) => codes.flatMap((code, place) => (code === others[place] ? [place] : []));

/** The codes of both images, and those of the first with the rest of the second. */
async function explore(a, b, count) {
  if (!a && !b) return [tiles([]), tiles([]), tiles([])];
  const [first, second] = await Promise.all([a || blank(), b || blank()].map(codesOf));
  for (const url of [a, b]) if (url && (await encoded(url)).is_far) say(FAR);
  return [tiles(a ? first : []), tiles(b ? second : []), joined(first, second, count)];
}

let latest = 0; // the number of the drawing that was asked for last, which is the one to show

async function redraw({ codes }) {
  const number = ++latest;
  const url = codes.length ? await drawn(codes.join()) : "";
  return [number === latest ? url : UNCHANGED];
}

/** The codes nearest to that of the tile that was chosen. */
async function choose(mixed) {
  const code = mixed.codes[mixed.chosen];
  const near = (await api.nearest(code, NEAR + 1)).slice(1);
  const titles = near.map((other) => `distance ${other.distance.toFixed(3)}`);
  const label = `New code in place of ${code}, which is number ${mixed.chosen + 1} of ${mixed.codes.length}`;
  return [{ __type__: "update", value: code, label }, tiles(near.map((other) => other.code), [], titles)];
}

/** Replaces the code of the tile that was chosen. */
async function replace(mixed, code, first) {
  if (mixed.chosen === null) throw new Error("Choose one of the codes below the drawing first.");
  await api.nearest(code, 1); // says so where there is no such code
  const codes = mixed.codes.map((old, place) => (place === mixed.chosen ? code : old));
  return [{ ...mixed, codes, marked: places(codes, first.codes) }];
}

/** The chosen one of the nearest codes. */
async function take(nearest) {
  return [nearest.codes[nearest.chosen]];
}

/** Drawings of the first 0, 4, 8 ... codes of the first image with the rest of the second. */
async function prefixes(a, b) {
  if (!a) throw new Error("Choose an image A first.");
  const [first, second] = await Promise.all([a, b || blank()].map(codesOf));
  const counts = Array.from({ length: Math.floor(first.length / EVERY) + 1 }, (_, number) => number * EVERY);
  const urls = await api.decode(counts.map((count) => joined(first, second, count).codes));
  return [{ images: urls.map((url, number) => ({ url, text: `${counts[number]} of A` })), chosen: null }];
}

export const events = { explore, redraw, choose, replace, take, prefixes };
