// Runs in the browser: what is wrong with a page of the book, a line each.
async () => {
  const faults = [];
  const all = (selector) => [...document.querySelectorAll(`main ${selector}`)];
  const complain = (what, elements) => faults.push(...elements.map((e) =>
    `${what}: <${e.localName}> ${e.src || e.hash || e.textContent.trim().slice(0, 60)}`));

  const pictures = all("img");
  for (const picture of pictures) picture.loading = "eager";
  await Promise.all(pictures.map((picture) => picture.decode().catch(() => 0)));
  complain("broken picture", pictures.filter((img) => !img.naturalWidth));
  complain("picture without a text", pictures.filter((img) => img.alt.trim().length < 6));

  const page = document.scrollingElement;
  const box = (element) => element.getBoundingClientRect();
  const flows = (element, how) => how.test(getComputedStyle(element).overflowX);
  const scrolls = (element) => flows(element, /auto|scroll/);
  const inScroller = (e) => e && e !== document.body && (scrolls(e) || inScroller(e.parentElement));
  if (page.scrollWidth > page.clientWidth) {
    faults.push(`the page is ${page.scrollWidth} px wide, the window ${page.clientWidth}`);
    complain("reaches too far", all("*").filter(
      (e) => box(e).right > page.clientWidth && !inScroller(e)).slice(0, 3));
  }
  // Outputs may scroll, on a telephone code and small tables too; what is said in words may not.
  const wide = page.clientWidth > 1000;
  const full = all("*").filter((e) => e.scrollWidth > e.clientWidth + 1 && !e.closest("math"));
  complain("cut off", full.filter((e) => flows(e, /hidden|clip/)));
  complain("needs scrolling sideways", full.filter(
    (e) => wide && scrolls(e) && !e.matches(".printed") && e.scrollWidth > 1.1 * e.clientWidth));
  complain("table cell too narrow to be read", all("td").filter(
    (td) => !wide && td.textContent.length > 80 && td.offsetWidth < 250));
  complain("code without a button to copy it", all("pre:not(.printed)").filter(
    (pre) => !pre.parentElement.querySelector("button.copy")));
  if (wide && all("h2").length && !document.querySelector("#sections a")?.offsetHeight)
    faults.push("it does not show what is on this page");

  complain("formula not set", all("math").filter((math) => !box(math).width));
  complain("code not read", all("pre .err"));
  const typed = (fault) => [...document.querySelectorAll("#text > *")].filter((block) => {
    const prose = block.cloneNode(true);
    prose.querySelectorAll("pre, code, math, script, style").forEach((e) => e.remove());
    return fault.test(prose.textContent);
  });
  complain("formula left as typed", typed(/\$|\\[([]|\\begin\{/));
  complain("Markdown left as typed", typed(/\*\*|\]\(|```|\|\s*:?--|^\s*#+ |\{[a-z]+\}`/m));

  const headings = all(":is(h1, h2, h3, h4, h5, h6)");
  const levels = [0, ...headings.map((heading) => Number(heading.localName[1]))];
  complain("heading out of order", headings.filter(
    (_, k) => levels[k + 1] > levels[k] + 1 || (k && levels[k + 1] === 1)));
  if (!headings.length) faults.push("no heading");
  complain("anchor that leads nowhere", all("a[href^='#']").filter(
    ({ hash }) => ![hash, decodeURIComponent(hash)].some((h) => document.getElementById(h.slice(1)))));
  complain("id used twice", all("[id]").filter((e) => document.getElementById(e.id) !== e));

  complain("empty output", all(".outputs > *").filter(
    (e) => !e.offsetHeight || !(e.innerText.trim() || e.localName === "img")));
  complain("widget that does not show", all(".outputs > *").filter(
    (e) => /(Error displaying|Loading) widget|Box\(children=|Model\b.*model_id/.test(e.textContent)));
  return faults;
}
