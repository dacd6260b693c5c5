// The page: classifies an image that is chosen, dropped or pasted, and shows the result.

const MODEL = "model.onnx";

const element = (id) => document.getElementById(id);
const [input, drop, status, error, found] = ["file", "drop", "status", "error", "found"].map(element);

let model;
let classifier;
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
      classifier = await import("./classifier.js");
    } catch (cause) {
      throw new Error("onnxruntime-web could not be loaded: run npm install in the folder of this page.", { cause });
    }
    model = await classifier.openModel(MODEL);
    const { notes, size } = model;
    const sides = `${notes.input_size[2]} x ${notes.input_size[1]} pixels`;
    element("model").textContent = `${notes.model ?? MODEL}: ${(size / 1e6).toFixed(1)} MB, ${sides}${notes.labels ? `, ${notes.labels.length} classes` : ""}.`;
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
  setState("working", "Classifying …");
  found.hidden = true;
  try {
    const picture = await classifier.readPicture(file);
    const begin = performance.now();
    const classes = await classifier.classify(model, picture);
    const took = performance.now() - begin;
    if (number !== newest) return;
    showPicture(file);
    found.querySelector("tbody").replaceChildren(...classes.map(([label, score]) => row(label, score)));
    found.hidden = false;
    setState("done", `${classes[0][0]}, ${percent(classes[0][1])}. It took ${took.toFixed(0)} ms.`);
  } catch (failure) {
    if (number === newest) fail(failure);
  }
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

function row(label, score) {
  const line = document.createElement("tr");
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
