// A segmenter in the browser: the class of each pixel of an image, and the colors of the classes.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { grey, normalise, resize, round, taps } from "./preprocess.js";

// largest distance of two windows, as a share of their size
const STEP = 2 / 3;

/**
 * The class of each pixel of an image, row by row, and the classes, the largest first: index, label, and share of the
 * pixels. What is larger than the input of the file is read in windows whose logits are averaged, and what is smaller is
 * padded with the mean. Where a file returns classes instead of logits, the windows vote.
 */
export async function segment({ notes, session }, picture) {
  const pixels = fit(notes.input_size[0] === 1 ? grey(picture) : picture, notes);
  const mask = largest(await averageOfWindows(session, pixels, notes), pixels, picture);
  const counts = notes.labels.map(() => 0);
  for (const index of mask) counts[index]++;
  const regions = notes.labels.map((label, index) => ({ index, label, share: counts[index] / mask.length }));
  return { mask, regions: regions.filter(({ share }) => share > 0).sort((a, b) => b.share - a.share) };
}

/** The color of a class, red, green and blue: that of PASCAL VOC, as in `attnzoo predict`. */
export function colorOf(index) {
  const color = [0, 0, 0];
  // three bits of an index at a time, one for each channel, from the highest bit of a color down
  for (let bit = 0; bit < 8; bit++) {
    for (let channel = 0; channel < 3; channel++) color[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit);
  }
  return color;
}

/** Resizes an image so that all of it fits into the input, or its shorter side fills it, or not at all. */
export function fit(picture, notes) {
  if (notes.resize === "none") return picture;
  const [, height, width] = notes.input_size;
  const ratios = [width / picture.width, height / picture.height];
  const scale = notes.resize === "fit" ? Math.min(...ratios) : Math.max(...ratios);
  const size = [picture.width, picture.height].map((side) => round(side * scale));
  if (!size[0] || !size[1]) throw new Error(`The picture is too thin: ${picture.width} x ${picture.height} pixels.`);
  return resize(picture, ...size, notes.interpolation);
}

/** The sum of the logits of all windows at each pixel, divided by their number: one array for each class. */
async function averageOfWindows(session, pixels, notes) {
  const [channels, height, width] = notes.input_size;
  const averages = notes.labels.map(() => new Float32Array(pixels.width * pixels.height));
  const counts = new Uint16Array(pixels.width * pixels.height);
  // a file of `attnzoo export --preprocess` takes uint8 pixels, channels last
  const takesPixels = session.inputMetadata[0].type === "uint8";
  const shape = takesPixels ? [1, height, width, channels] : [1, channels, height, width];
  for (const top of starts(pixels.height, height)) {
    for (const left of starts(pixels.width, width)) {
      const part = cut(pixels, top, left, height, width);
      const image = inputOf(part, notes, takesPixels);
      const { logits, mask } = await session.run({ images: new ort.Tensor(takesPixels ? "uint8" : "float32", image, shape) });
      for (let y = 0; y < part.height; y++) {
        for (let x = 0; x < part.width; x++) {
          const [from, to] = [y * width + x, (top + y) * pixels.width + left + x];
          counts[to]++;
          if (mask) averages[Number(mask.data[from])][to]++;
          else averages.forEach((sum, index) => (sum[to] += logits.data[index * height * width + from]));
        }
      }
    }
  }
  for (const sum of averages) sum.forEach((value, i) => (sum[i] = value / counts[i]));
  return averages;
}

/** Where the windows of a side begin: as few as needed, evenly spaced. */
function starts(length, window) {
  const steps = Math.max(0, Math.ceil((length - window) / Math.max(1, Math.floor(window * STEP))));
  return steps ? Array.from({ length: steps + 1 }, (_, i) => round((i * (length - window)) / steps)) : [0];
}

/** The part of an image from a place on, at most of a height and width. */
function cut({ width, height, channels, data }, top, left, mostRows, mostColumns) {
  const [rows, columns] = [Math.min(mostRows, height - top), Math.min(mostColumns, width - left)];
  const part = new Uint8ClampedArray(rows * columns * channels);
  for (let y = 0; y < rows; y++) {
    const from = ((top + y) * width + left) * channels;
    part.set(data.subarray(from, from + columns * channels), y * columns * channels);
  }
  return { width: columns, height: rows, channels, data: part };
}

/** The input of a file: pixels, channels last, or normalised values, channels first; padded with the mean. */
function inputOf(part, notes, takesPixels) {
  const [channels, height, width] = notes.input_size;
  const fill = notes.mean.map((value) => round(255 * value));
  const image = takesPixels
    ? Uint8Array.from({ length: height * width * channels }, (_, i) => fill[(i % channels) % fill.length])
    : new Float32Array(channels * height * width);
  const values = takesPixels ? part.data : normalise(part, notes);
  const [planes, depth] = takesPixels ? [1, channels] : [channels, 1];
  for (let plane = 0; plane < planes; plane++) {
    for (let y = 0; y < part.height; y++) {
      const from = (plane * part.height + y) * part.width * depth;
      image.set(values.subarray(from, from + part.width * depth), (plane * height + y) * width * depth);
    }
  }
  return image;
}

/** The class with the largest logit at each pixel of the picture, linearly between the centers of the logits' pixels. */
function largest(logits, { width, height }, picture) {
  const [columns, rows] = [taps(width, picture.width), taps(height, picture.height)];
  const mask = new Uint16Array(picture.width * picture.height);
  const best = new Float32Array(mask.length).fill(-Infinity);
  const line = new Float32Array(width);
  logits.forEach((plane, index) => {
    rows.forEach(([top, bottom, down], y) => {
      for (let x = 0; x < width; x++) {
        const [upper, lower] = [plane[top * width + x], plane[bottom * width + x]];
        line[x] = upper + (lower - upper) * down;
      }
      columns.forEach(([left, right, across], x) => {
        const [at, value] = [y * picture.width + x, line[left] + (line[right] - line[left]) * across];
        if (value > best[at]) [best[at], mask[at]] = [value, index];
      });
    });
  });
  return mask;
}
