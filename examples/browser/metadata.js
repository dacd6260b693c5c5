// What a file of `attnzoo export` says of itself, read from its bytes: onnxruntime-web does not hand it out.
//
// ONNX files are protobuf messages. Of the outermost, field 14 is a list of entries with a key (field 1) and a value
// (field 2); everything else, the graph and its weights, is skipped without being looked at.

const ENTRIES = 14;
const KEY = 1;
const VALUE = 2;

const JSON_KEYS = ["input_size", "mean", "std", "crop_pct", "labels"];
const NEEDED = ["input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"];

/** How pictures are prepared, the labels and what else a file says; throws where it does not say what is needed. */
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
  if (task !== "classify") {
    throw new Error(`The file is for ${task}, and this page is for classifiers: --task classify makes one.`);
  }
  const missing = NEEDED.filter((key) => !(key in notes));
  if (missing.length) {
    throw new Error(`The file does not say ${missing.join(", ")}: was it written by attnzoo export?`);
  }
  return Object.fromEntries(Object.entries(notes).map(([key, text]) => [key, JSON_KEYS.includes(key) ? JSON.parse(text) : text]));
}

/** The fields of a message that have a length, as pairs of number and bytes. */
function* fields(bytes) {
  let position = 0;
  const varint = () => {
    let value = 0;
    // a multiplication, for 32 bits are too few for the lengths of large files
    for (let factor = 1; position < bytes.length; factor *= 128) {
      const byte = bytes[position++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new Error("The file ends early: was it copied whole?");
  };
  while (position < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) position += 8;
    else if (kind === 5) position += 4;
    else if (kind === 2) {
      const length = varint();
      if (position + length > bytes.length) throw new Error("The file ends early: was it copied whole?");
      yield [Math.floor(tag / 8), bytes.subarray(position, position + length)];
      position += length;
    } else throw new Error("This is no ONNX file.");
  }
}
