// Opens a page in a headless browser, gives it images one by one, and prints as JSON what it shows after each.
//
// node drive_browser.mjs '{"modules", "browser", "address", "steps": [{"give": "choose" | "drop" | "paste", "file"}], "width", "dark", "screenshot"}'

import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { withPage } from "./open_page.mjs";

const order = JSON.parse(process.argv[2]);

await withPage(order, async ({ page, complaints, asked, browser }) => {
  await page.keyboard.press("Tab");
  const shown = [await describe(page)];
  for (const { give, file } of order.steps) {
    await page.evaluate(() => (document.body.dataset.state = "waiting"));
    await giveTo(page, give, file);
    await page.waitForFunction(() => ["done", "failed"].includes(document.body.dataset.state), { timeout: 60000 });
    shown.push(await describe(page));
  }
  if (order.screenshot) await page.screenshot({ path: order.screenshot });
  console.log(JSON.stringify({ shown, complaints, asked, version: await browser.version() }));
});

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
    boxes: [...document.querySelectorAll("#boxes rect")].map((box) => ["x", "y", "width", "height"].map((side) => Number(box.getAttribute(side)))),
    colors: [...document.querySelectorAll("tbody tr")].map((row) => row.style.getPropertyValue("--color")),
    mask: document.getElementById("mask").hidden ? "" : document.getElementById("mask").toDataURL(),
    headings: [...document.querySelectorAll("caption, thead th")].map((heading) => heading.textContent),
    picture: document.getElementById("picture").alt,
    focused: document.activeElement.id,
    paper: getComputedStyle(document.body).backgroundColor,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    namesOfInputs: [...document.querySelectorAll("input")].map((input) => input.labels[0]?.textContent ?? ""),
  }));
}
