// Opens a model file and images in the browser, and classifies images.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { readNotes } from "./metadata.js";
import { normalise, prepare } from "./preprocess.js";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
// threads need shared memory, which a page may only use if its server isolates it from others
if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1;

// phones do not support a larger canvas
const MOST_PIXELS = 16_000_000;

/** Opens the file at an address; returns its metadata, its session and its size in bytes. */
export async function openModel(address) {
  const answer = await fetch(address);
  if (!answer.ok) {
    throw new Error(`The model could not be loaded: the server returned ${answer.status} for ${address}. Put the file of attnzoo export next to this page, as ${address}.`);
  }
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const notes = readNotes(bytes);
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: ["wasm"],
    // masked scores become denormal numbers, which are slow on many processors
    extra: { session: { set_denormal_as_zero: "1" } },
  });
  return { notes, session, size: bytes.length };
}

/** The most likely classes of an image, best first: pairs of label and probability. */
export async function classify({ notes, session }, picture, top = 5) {
  const [channels, height, width] = notes.input_size;
  const prepared = prepare(picture, notes);
  // a file of `attnzoo export --preprocess` takes uint8 pixels and normalises them itself
  const takesPixels = session.inputMetadata[0].type === "uint8";
  const image = takesPixels
    ? new ort.Tensor("uint8", new Uint8Array(prepared.data), [1, height, width, channels])
    : new ort.Tensor("float32", normalise(prepared, notes), [1, channels, height, width]);
  const { logits } = await session.run({ images: image });
  const scores = softmax([...logits.data]);
  const order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
  return order.slice(0, top).map((i) => [notes.labels?.[i] ?? String(i), scores[i]]);
}

/** The pixels of an image file, with its EXIF orientation applied, composited on white. */
export async function readPicture(file) {
  let bitmap;
  try {
    // the colours as stored: models are trained on images without their colour profiles
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch (error) {
    throw new Error(`${file.name || "This"} cannot be read as a picture.`, { cause: error });
  }
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * shrink)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, channels: 3, data: withoutAlpha(data) };
}

function withoutAlpha(data) {
  const colours = new Uint8ClampedArray((data.length / 4) * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    for (let channel = 0; channel < 3; channel++) colours[to++] = data[from + channel];
  }
  return colours;
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - largest));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value) => value / total);
}
