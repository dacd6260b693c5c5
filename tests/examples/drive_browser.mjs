// Opens a page in a headless browser, gives it images one by one, and prints as JSON what it shows after each.
//
// node drive_browser.mjs '{"modules", "browser", "address", "steps": [{"give": "choose" | "drop" | "paste", "file"}], "width", "dark", "screenshot"}'

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";

const { modules, browser: path, address, steps, width, dark, screenshot } = JSON.parse(process.argv[2]);
const require = createRequire(join(modules, "package.json"));
const { default: puppeteer } = await import(require.resolve("puppeteer-core"));
// an installed browser, or the one installed by npm
const executablePath = path ?? (await require("@sparticuz/chromium").executablePath());

const browser = await puppeteer.launch({
  executablePath,
  headless: path ? true : "shell",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
  ],
});
try {
  const page = await browser.newPage();
  const complaints = [];
  const asked = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("request", (request) => asked.push(request.url()));
  await page.setViewport({ width, height: 800 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
  await page.goto(address);
  await page.waitForFunction(() => document.body.dataset.state !== "loading", { timeout: 60000 });

  await page.keyboard.press("Tab");
  const shown = [await describe(page)];
  for (const { give, file } of steps) {
    await page.evaluate(() => (document.body.dataset.state = "waiting"));
    await giveTo(page, give, file);
    await page.waitForFunction(() => ["done", "failed"].includes(document.body.dataset.state), { timeout: 60000 });
    shown.push(await describe(page));
  }
  if (screenshot) await page.screenshot({ path: screenshot });
  console.log(JSON.stringify({ shown, complaints, asked, version: await browser.version() }));
} finally {
  await browser.close();
}

async function giveTo(page, give, file) {
  if (give === "choose") {
    const input = await page.$("#file");
    await input.uploadFile(file);
    return;
  }
  const content = readFileSync(file).toString("base64");
  await page.evaluate(
    (kind, name, encoded) => {
      const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name, { type: "image/png" }));
      const event =
        kind === "drop"
          ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
          : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
      document.getElementById("drop").dispatchEvent(event);
    },
    give,
    basename(file),
    content,
  );
}

function describe(page) {
  return page.evaluate(() => ({
    state: document.body.dataset.state,
    model: document.getElementById("model").textContent,
    status: document.getElementById("status").textContent,
    error: document.getElementById("error").hidden ? "" : document.getElementById("error").textContent,
    classes: [...document.querySelectorAll("tbody tr")].map((row) => [row.cells[0].textContent, Number(row.dataset.score)]),
    picture: document.getElementById("picture").alt,
    focused: document.activeElement.id,
    paper: getComputedStyle(document.body).backgroundColor,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    namesOfInputs: [...document.querySelectorAll("input")].map((input) => input.labels[0]?.textContent ?? ""),
  }));
}
