// Opens a page in a headless browser for the tests of pages.

import { createRequire } from "node:module";
import { join } from "node:path";

// Calls use({ page, complaints, asked, browser }) with the page at order.address when it has loaded.
export async function withPage({ modules, browser: path, address, width, dark }, use) {
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
    await use({ page, complaints, asked, browser });
  } finally {
    await browser.close();
  }
}
