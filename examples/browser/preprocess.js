// Preprocessing of images, pixel by pixel the same as timm's evaluation transform with Pillow.
//
// Images are resized here because the canvas resizes differently in every browser, which changes the results of a model.
// An image is { width, height, channels, data }, where data holds bytes, row by row, channels last.

// the resampling filters, and their support to each side, in pixels of the smaller image
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
// weights are integers with this many fractional bits
const BITS = 22;

/** Resizes an image and crops its center, to the size and channels in the metadata of a file. */
export function prepare(picture, notes) {
  const [channels, height, width] = notes.input_size;
  if (channels === 1) picture = grey(picture);
  return crop(resize(picture, ...resizedSize(picture, notes), notes.interpolation), width, height, notes);
}

/** Normalises with mean and standard deviation: bytes, channels last -> floats, channels first. */
export function normalise({ width, height, channels, data }, { mean, std }) {
  const area = width * height;
  const values = new Float32Array(channels * area);
  for (let channel = 0; channel < channels; channel++) {
    // a single number is for all channels
    const [middle, spread] = [mean, std].map((list) => Math.fround(list[channel % list.length]));
    for (let i = 0; i < area; i++) {
      // rounded to float32 after each step, as in timm
      const share = Math.fround(data[i * channels + channel] / 255);
      values[channel * area + i] = Math.fround(share - middle) / spread;
    }
  }
  return values;
}

function resizedSize(picture, notes) {
  const [height, width] = notes.input_size.slice(1).map((side) => Math.floor(side / notes.crop_pct));
  if (notes.crop_mode === "squash") return [width, height];
  const shorter = Math.min(picture.width, picture.height);
  // torchvision, which timm calls here, rounds the longer side down
  if (notes.crop_mode === "center" && width === height) {
    return [picture.width, picture.height].map((side) => Math.floor((width * side) / shorter));
  }
  const ratios = [picture.width / width, picture.height / height];
  const ratio = notes.crop_mode === "border" ? Math.max(...ratios) : Math.min(...ratios);
  return [round(picture.width / ratio), round(picture.height / ratio)];
}

/** Resizes an image with an interpolation of Pillow. */
export function resize(picture, width, height, interpolation) {
  if (interpolation === "nearest") return resizeNearest(picture, width, height);
  if (!(interpolation in FILTERS)) throw new Error(`The interpolation ${interpolation} of the file is not supported.`);
  // rows before columns; recent versions of Pillow use the other order for some shapes, which changes pixels slightly
  const narrow = width === picture.width ? picture : resizeRows(picture, width, interpolation);
  if (height === picture.height) return narrow;
  return transpose(resizeRows(transpose(narrow), height, interpolation));
}

/** Resizes every row of an image to a new width. */
function resizeRows({ width, height, channels, data }, newWidth, interpolation) {
  const taps = Array.from({ length: newWidth }, (_, x) => weights(x, width, newWidth, interpolation));
  const resized = new Uint8ClampedArray(newWidth * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (const [first, parts] of taps) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (BITS - 1);
        for (let i = 0, from = (y * width + first) * channels + channel; i < parts.length; i++, from += channels) {
          sum += data[from] * parts[i];
        }
        resized[to++] = sum >> BITS;
      }
    }
  }
  return { width: newWidth, height, channels, data: resized };
}

/** The source pixels of a resized pixel: the index of the first, and the weights of the pixels from there on. */
function weights(x, width, newWidth, interpolation) {
  const [reach, filter] = FILTERS[interpolation];
  const scale = width / newWidth;
  // when downsampling, the filter is stretched to cover every source pixel
  const stretch = Math.max(scale, 1);
  const center = (x + 0.5) * scale;
  const first = Math.max(0, Math.trunc(center - reach * stretch + 0.5));
  const end = Math.min(width, Math.trunc(center + reach * stretch + 0.5));
  const values = Array.from({ length: end - first }, (_, i) => filter((first + i - center + 0.5) * (1 / stretch)));
  const total = values.reduce((sum, value) => sum + value, 0);
  return [first, Int32Array.from(values, (value) => Math.trunc((value / total) * 2 ** BITS + Math.sign(value) * 0.5))];
}

function resizeNearest({ width, height, channels, data }, newWidth, newHeight) {
  const [columns, rows] = [nearest(width, newWidth), nearest(height, newHeight)];
  const resized = new Uint8ClampedArray(newWidth * newHeight * channels);
  let to = 0;
  for (const row of rows) {
    for (const column of columns) {
      const from = (row * width + column) * channels;
      for (let channel = 0; channel < channels; channel++) resized[to++] = data[from + channel];
    }
  }
  return { width: newWidth, height: newHeight, channels, data: resized };
}

function nearest(side, newSide) {
  const step = side / newSide;
  const nearestTo = new Array(newSide);
  // accumulated as in Pillow: where a pixel lies between two, the rounding error decides
  for (let i = 0, at = step * 0.5; i < newSide; i++, at += step) nearestTo[i] = Math.floor(at);
  return nearestTo;
}

function transpose({ width, height, channels, data }) {
  const turned = new Uint8ClampedArray(data.length);
  for (let x = 0, to = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < channels; channel++) turned[to++] = data[(y * width + x) * channels + channel];
    }
  }
  return { width: height, height: width, channels, data: turned };
}

/** Crops a side that is too long at both ends, and pads one that is too short. */
function crop(picture, width, height, { crop_mode, mean }) {
  const { channels } = picture;
  const fill = mean.map((value) => (crop_mode === "border" ? round(255 * value) : 0));
  const [left, top] = [offset(width, picture.width), offset(height, picture.height)];
  const data = new Uint8ClampedArray(width * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [column, row] = [x - left, y - top];
      const isInside = column >= 0 && column < picture.width && row >= 0 && row < picture.height;
      const from = (row * picture.width + column) * channels;
      for (let channel = 0; channel < channels; channel++) data[to++] = isInside ? picture.data[from + channel] : fill[channel];
    }
  }
  return { width, height, channels, data };
}

function offset(wanted, given) {
  return wanted > given ? Math.floor((wanted - given) / 2) : -round((given - wanted) / 2);
}

/** Rounds to the nearest integer, and halves to the even one, as Python does. */
export function round(value) {
  const below = Math.floor(value);
  const isHalf = value - below === 0.5;
  return isHalf ? below + (below % 2) : Math.round(value);
}

function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** Converts to greyscale with Pillow's weights of the colours. */
export function grey({ width, height, data }) {
  const values = new Uint8ClampedArray(width * height);
  for (let i = 0; i < values.length; i++) {
    values[i] = (data[3 * i] * 19595 + data[3 * i + 1] * 38470 + data[3 * i + 2] * 7471 + 32768) >> 16;
  }
  return { width, height, channels: 1, data: values };
}

/** For each new pixel, the two pixels between whose centers it is, and the share of the second. */
export function taps(side, newSide) {
  return Array.from({ length: newSide }, (_, i) => {
    const place = Math.max(0, (i + 0.5) * (side / newSide) - 0.5);
    const first = Math.floor(place);
    return [Math.min(first, side - 1), Math.min(first + 1, side - 1), place - first];
  });
}
