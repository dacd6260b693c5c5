// The page: shows the classes, the objects or the mask of an image that is chosen, dropped or pasted.

const MODEL = "model.onnx";
// what the page says while it works, and the caption and the columns of its table
const TEXTS = {
  classify: ["Classifying …", "The most likely classes", "Class", "Probability"],
  detect: ["Looking for objects …", "The objects, the most certain first", "Object", "Score"],
  segment: ["Segmenting …", "The classes of the pixels, the largest first", "Class", "Share"],
};
// number of classes of a mask that are said; all of them are in the table
const MOST_SAID = 3;

const element = (id) => document.getElementById(id);
const [input, drop, status, error, found] = ["file", "drop", "status", "error", "found"].map(element);

let model;
let classifier;
let detector;
let segmenter;
// a key of TEXTS
let task;
let shownPicture;
// number of the latest image, whose result is shown
let newest = 0;

/** Sets the state for the stylesheet: loading, ready, working, done or failed. */
function setState(state, message, failure = "") {
  document.body.dataset.state = state;
  status.textContent = message;
  error.textContent = failure;
  error.hidden = !failure;
}

async function start() {
  try {
    try {
      const modules = ["./classifier.js", "./detector.js", "./segmenter.js"];
      [classifier, detector, segmenter] = await Promise.all(modules.map((path) => import(path)));
    } catch (cause) {
      throw new Error("onnxruntime-web could not be loaded: run npm install in the folder of this page.", { cause });
    }
    model = await classifier.openModel(MODEL);
    const { notes, size } = model;
    const sides = `${notes.input_size[2]} x ${notes.input_size[1]} pixels`;
    element("model").textContent = `${notes.model ?? MODEL}: ${(size / 1e6).toFixed(1)} MB, ${sides}${notes.labels ? `, ${notes.labels.length} classes` : ""}.`;
    // a file with --task mask has the classes of pixels, one with segment their logits
    task = notes.task === "mask" ? "segment" : notes.task;
    const [, caption, ...columns] = TEXTS[task];
    found.querySelector("caption").textContent = caption;
    [...found.querySelectorAll("thead th")].forEach((cell, i) => (cell.textContent = columns[i]));
    found.classList.toggle("colored", task !== "classify");
    input.disabled = false;
    setState("ready", "Ready.");
  } catch (failure) {
    fail(failure);
  }
}

async function show(file) {
  if (!model) return;
  if (!file) {
    fail(new Error("No picture was found in the dropped or pasted content."));
    return;
  }
  const number = ++newest;
  setState("working", TEXTS[task][0]);
  found.hidden = true;
  try {
    const picture = await classifier.readPicture(file);
    const begin = performance.now();
    const { rows, said, objects = [], mask } = await predict(picture);
    const took = performance.now() - begin;
    if (number !== newest) return;
    showPicture(file);
    showBoxes(picture, objects);
    showMask(picture, mask);
    found.querySelector("tbody").replaceChildren(...rows.map(row));
    found.hidden = false;
    setState("done", `${said}. It took ${took.toFixed(0)} ms.`);
  } catch (failure) {
    if (number === newest) fail(failure);
  }
}

/** The rows of the table, the sentence that is read out, and the objects or the mask of a picture. */
async function predict(picture) {
  if (task === "detect") {
    const objects = await detector.detect(model, picture);
    return { objects, rows: objects.map(({ label, score }) => ({ label, score, color: objectColor(label) })), said: counted(objects) };
  }
  if (task === "segment") {
    const { mask, regions } = await segmenter.segment(model, picture);
    const rows = regions.map(({ index, label, share }) => ({ label, score: share, color: `rgb(${segmenter.colorOf(index)})` }));
    const more = rows.length > MOST_SAID ? `, and ${rows.length - MOST_SAID} more` : "";
    return { mask, rows, said: rows.slice(0, MOST_SAID).map(spoken).join("; ") + more };
  }
  const classes = await classifier.classify(model, picture);
  const rows = classes.map(([label, score]) => ({ label, score }));
  return { rows, said: spoken(rows[0]) };
}

function spoken({ label, score }) {
  return `${label}, ${percent(score)}`;
}

function fail(failure) {
  console.warn(failure);
  found.hidden = true;
  setState("failed", "", failure.message);
}

function showPicture(file) {
  if (shownPicture) URL.revokeObjectURL(shownPicture);
  shownPicture = URL.createObjectURL(file);
  element("picture").src = shownPicture;
  element("picture").alt = `The picture ${file.name}`;
}

/** Draws boxes over the picture; each class has its color, also in the table. */
function showBoxes({ width, height }, objects) {
  const boxes = element("boxes");
  boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  // the best on top
  boxes.replaceChildren(
    ...[...objects].reverse().map(({ label, box: [left, top, right, bottom] }) => {
      const shape = document.createElementNS(boxes.namespaceURI, "rect");
      const sides = { x: left, y: top, width: right - left, height: bottom - top };
      for (const [name, value] of Object.entries(sides)) shape.setAttribute(name, value);
      shape.style.setProperty("--color", objectColor(label));
      return shape;
    }),
  );
}

/** Draws the classes of pixels over the picture, in the colors of the table; without a mask nothing. */
function showMask({ width, height }, mask) {
  const canvas = element("mask");
  canvas.hidden = !mask;
  if (!mask) return;
  Object.assign(canvas, { width, height });
  const pixels = new ImageData(width, height);
  // black, the color of class 0, is lighter, so that the picture stays visible
  const colors = model.notes.labels.map((_, index) => [...segmenter.colorOf(index), index ? 255 : 70]);
  mask.forEach((index, i) => pixels.data.set(colors[index], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function counted(objects) {
  if (!objects.length) return "No object was found";
  const counts = new Map();
  for (const { label } of objects) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].map(([label, count]) => `${count} ${label}`).join(", ");
}

/** A color of its own for each class of objects. */
function objectColor(label) {
  return `hsl(${[...label].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7)} 80% 45%)`;
}

function row({ label, score, color }) {
  const line = document.createElement("tr");
  if (color) line.style.setProperty("--color", color);
  line.dataset.score = score;
  const name = Object.assign(document.createElement("th"), { scope: "row", textContent: label });
  const value = Object.assign(document.createElement("td"), { textContent: percent(score) });
  value.style.setProperty("--share", score);
  line.append(name, value);
  return line;
}

function percent(score) {
  return score.toLocaleString("en", { style: "percent", minimumFractionDigits: 1 });
}

function pictureIn(transfer) {
  return [...transfer.files].find((file) => file.type.startsWith("image/")) ?? transfer.files[0];
}

input.addEventListener("change", () => {
  if (input.files.length) show(input.files[0]);
  // so that the same image can be chosen again
  input.value = "";
});
// an image dropped outside the drop zone must not replace the page
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
document.addEventListener("dragover", () => drop.classList.add("over"));
for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => show(pictureIn(event.dataTransfer)));
document.addEventListener("paste", (event) => show(pictureIn(event.clipboardData)));

start();
