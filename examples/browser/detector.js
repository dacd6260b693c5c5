// A detector in the browser: fits images into the size of its file, and returns the objects in them.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { grey, taps } from "./preprocess.js";

/** The objects in an image with at least a score, best first: label, score, and box, x1 y1 x2 y2 in its pixels. */
export async function detect({ notes, session }, picture, leastScore = 0.3) {
  const [channels, height, width] = notes.input_size;
  const { values, size } = fit(channels === 1 ? grey(picture) : picture, notes);
  // a file of `attnzoo export --preprocess` takes uint8 pixels, channels last
  const takesPixels = session.inputMetadata[0].type === "uint8";
  const image = takesPixels
    ? new ort.Tensor("uint8", channelsLast(values, channels), [1, height, width, channels])
    : new ort.Tensor("float32", values, [1, channels, height, width]);
  const { boxes, scores, labels } = await session.run({ images: image });
  const found = [];
  for (let i = 0; i < scores.data.length; i++) {
    // from pixels of the resized image to those of the picture
    const box = [0, 1, 2, 3].map((side) => {
      const length = size[side % 2];
      const place = Math.min(Math.max(boxes.data[4 * i + side], 0), length);
      return (place * (side % 2 ? picture.height : picture.width)) / length;
    });
    const label = Number(labels.data[i]);
    // without an object, or only in the padding
    if (label < 0 || scores.data[i] < leastScore || box[0] >= box[2] || box[1] >= box[3]) continue;
    found.push({ label: notes.labels?.[label] ?? String(label), score: scores.data[i], box });
  }
  return found;
}

/**
 * Resizes an image to the size of a file as in training: bilinear, without a filter for large images. A letterbox keeps
 * the aspect ratio and pads with the mean color at the right and at the bottom. Returns floats in 0 .. 1, channels
 * first, and the width and height of the picture in them.
 */
export function fit({ width, height, channels, data }, { input_size, resize, pad }) {
  const [, newHeight, newWidth] = input_size;
  let size = [newWidth, newHeight];
  if (resize === "letterbox") {
    const scale = Math.min(newWidth / width, newHeight / height);
    size = [width, height].map((side) => Math.max(1, Math.floor(side * scale)));
  }
  const [columns, rows] = [taps(width, size[0]), taps(height, size[1])];
  const values = new Float32Array(channels * newHeight * newWidth);
  for (let channel = 0; channel < channels; channel++) {
    const plane = values.subarray(channel * newHeight * newWidth, (channel + 1) * newHeight * newWidth).fill(pad[channel]);
    const at = (row, column) => data[(row * width + column) * channels + channel];
    rows.forEach(([top, bottom, down], y) => {
      columns.forEach(([left, right, across], x) => {
        const first = at(top, left) + (at(bottom, left) - at(top, left)) * down;
        const second = at(top, right) + (at(bottom, right) - at(top, right)) * down;
        plane[y * newWidth + x] = (first + (second - first) * across) / 255;
      });
    });
  }
  return { values, size };
}

function channelsLast(values, channels) {
  const area = values.length / channels;
  return Uint8Array.from(values, (_, i) => Math.round(values[(i % channels) * area + Math.floor(i / channels)] * 255));
}
