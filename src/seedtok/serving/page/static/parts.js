// What the page's own components hold and do: images that are chosen, tiles that are clicked, notices.

const LARGEST = 8_000_000; // bytes of a file that is sent as it is
const PIXELS = 32_000_000; // of a picture, likewise: the server reads no more
const SIDE = 1024; // pixels, to which a larger one is reduced
const FORMATS = /^image\/(png|jpeg|webp|gif|bmp)$/;

export const FAR = "This image is far from those that the model was trained on: what it makes of it means little.";
export const UNCHANGED = { __type__: "update" }; // of a component's value

/** The value of a component of tiles. */
export function tiles(codes, marked = [], titles = []) {
  return { codes, marked, titles, chosen: null };
}

/** Shows a notice above the tabs, or none for an empty text. */
export function say(text, isError = false) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.classList.toggle("error", isError);
}

/** Shows what the server warns of. */
export function warn(warnings) {
  if (warnings.length) say(`${warnings.join("; ")}.`);
}

async function dataUrl(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap === null) throw new Error("This file is not an image that can be read.");
  if (file.size <= LARGEST && bitmap.width * bitmap.height <= PIXELS && FORMATS.test(file.type)) {
    return new Promise((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.onerror = () => failed(reader.error);
      reader.readAsDataURL(file);
    });
  }
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [Math.ceil(bitmap.width * scale), Math.ceil(bitmap.height * scale)];
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  return canvas.toDataURL("image/png");
}

/** A component whose value becomes the data URL of a file that is chosen, dropped or pasted. */
export function startPicker(element, props, trigger) {
  async function take(file) {
    if (!file) return;
    try {
      say("");
      props.value = await dataUrl(file);
      trigger("input");
    } catch (error) {
      say(error.message, true);
    }
  }
  element.addEventListener("change", (event) => take(event.target.files?.[0]));
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const visible = [...document.querySelectorAll(".picker")].filter((other) => other.offsetParent);
    if (visible[0] && element.contains(visible[0])) take(event.clipboardData.files[0]);
  });
}

/** A component of buttons with places: a click sets `chosen` to the place. */
export function startChoice(element, props, trigger) {
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-place]");
    if (!button) return;
    props.value = { ...props.value, chosen: Number(button.dataset.place) };
    trigger("select");
  });
}

let trigger = null;
let isTicking = false;

/** A component that is not seen, for events that the page itself begins. */
export function startTicker(element, props, triggerOfGradio) {
  trigger = triggerOfGradio;
}

/** Has the ticker's event begin, at most once a frame. */
export function tick() {
  if (isTicking) return;
  isTicking = true;
  requestAnimationFrame(() => {
    isTicking = false;
    trigger?.("input");
  });
}
