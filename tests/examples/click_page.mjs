// Opens a page of `attnzoo see` from its file in a headless browser, clicks, and prints as JSON what it shows.
//
// node click_page.mjs '{"modules", "browser", "address", "clicks": [[0.5, 0.5]], "width", "dark", "screenshot"}'

import { withPage } from "./open_page.mjs";

const order = JSON.parse(process.argv[2]);

await withPage(order, async ({ page, complaints, asked }) => {
  const shown = [await describe(page)];
  for (const [x, y] of order.clicks) {
    const box = await (await page.$("canvas")).boundingBox();
    await page.mouse.click(box.x + x * box.width, box.y + y * box.height);
    shown.push(await describe(page));
  }
  await page.keyboard.press("ArrowRight");
  shown.push(await describe(page));
  if (order.screenshot) await page.screenshot({ path: order.screenshot, fullPage: true });
  console.log(JSON.stringify({ shown, complaints, asked }));
});

function describe(page) {
  return page.evaluate(() => {
    const figures = [...document.querySelectorAll("figure")];
    const canvases = figures.map((figure) => figure.querySelector("canvas"));
    return {
      place: document.getElementById("place").textContent,
      titles: figures.map((figure) => figure.querySelector("b").textContent),
      sizes: canvases.map((canvas) => [canvas.clientWidth, canvas.clientHeight]),
      drawn: canvases.map((canvas) => canvas.toDataURL()),
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      overlapping: figures.some((figure) => {
        const [caption, canvas] = [...figure.children].map((child) => child.getBoundingClientRect());
        return caption.bottom > canvas.top + 1;
      }),
    };
  });
}
