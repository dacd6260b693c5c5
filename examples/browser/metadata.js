// Reads the metadata of a file of `attnzoo export` from its bytes, because onnxruntime-web does not provide it.
//
// ONNX files are protobuf messages. In the outermost message, field 14 is a list of entries with a key (field 1) and a
// value (field 2). Everything else, the graph and its weights, is skipped.

const ENTRIES = 14;
const KEY = 1;
const VALUE = 2;

const JSON_KEYS = ["input_size", "mean", "std", "crop_pct", "labels", "pad"];
const OF_SEGMENTERS = ["input_size", "mean", "std", "interpolation", "resize", "labels"];
const NEEDED = {
  classify: ["input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"],
  detect: ["input_size", "resize", "pad"],
  // logits of each pixel, or its class
  segment: OF_SEGMENTERS,
  mask: OF_SEGMENTERS,
};

/** Preprocessing, labels and other metadata of a file; throws if required entries are missing. */
export function readNotes(bytes) {
  const decoder = new TextDecoder();
  const notes = {};
  for (const [number, entry] of fields(bytes)) {
    if (number === ENTRIES) {
      const texts = Object.fromEntries([...fields(entry)].map(([field, text]) => [field, decoder.decode(text)]));
      notes[texts[KEY] ?? ""] = texts[VALUE] ?? "";
    }
  }
  const task = notes.task ?? "classify";
  if (!(task in NEEDED)) {
    throw new Error(`The task of the file must be ${Object.keys(NEEDED).join(", ")}, got ${task}: export it without --task.`);
  }
  const missing = NEEDED[task].filter((key) => !(key in notes));
  if (missing.length) {
    throw new Error(`The metadata of the file lacks ${missing.join(", ")}: was it written by attnzoo export?`);
  }
  const parsed = Object.fromEntries(Object.entries(notes).map(([key, text]) => [key, JSON_KEYS.includes(key) ? JSON.parse(text) : text]));
  return { task, ...parsed };
}

/** The length-delimited fields of a message, as pairs of field number and bytes. */
function* fields(bytes) {
  let position = 0;
  const varint = () => {
    let value = 0;
    // multiplies instead of shifting, because the lengths of large files exceed 32 bits
    for (let factor = 1; position < bytes.length; factor *= 128) {
      const byte = bytes[position++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new Error("The file is truncated: was it copied completely?");
  };
  while (position < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) position += 8;
    else if (kind === 5) position += 4;
    else if (kind === 2) {
      const length = varint();
      if (position + length > bytes.length) throw new Error("The file is truncated: was it copied completely?");
      yield [Math.floor(tag / 8), bytes.subarray(position, position + length)];
      position += length;
    } else throw new Error("This is not an ONNX file.");
  }
}
