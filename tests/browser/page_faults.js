// Runs in the browser: what is wrong with a rendered notebook, one sentence each.
(formulas) => {
  const all = (selector) => [...document.querySelectorAll(`main ${selector}`)];
  const brief = (text) => text.trim().replace(/\s+/g, " ").slice(0, 60);
  const name = (element) =>
    `<${element.tagName.toLowerCase()} class="${element.className}"> ` +
    (element.currentSrc || `"${brief(element.textContent)}"`);
  const text = (element) => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll("pre, code, script, style, .MathJax").forEach((part) => part.remove());
    return copy.textContent;
  };
  const sideways = (element) => element.scrollWidth > element.clientWidth + 1;
  const scrolls = (element) => /auto|scroll/.test(getComputedStyle(element).overflowX);
  const cuts = (element) => /hidden|clip/.test(getComputedStyle(element).overflowX);
  const inScroller = (element) =>
    element && element !== document.body && (scrolls(element) || inScroller(element.parentElement));
  const wraps = (pre) => {
    const before = pre.offsetHeight;
    [pre, ...pre.children].forEach((part) => (part.style.whiteSpace = "pre"));
    const after = pre.offsetHeight;
    [pre, ...pre.children].forEach((part) => (part.style.whiteSpace = ""));
    return before > after;
  };
  const faults = [];
  const complain = (what, elements, describe = name) =>
    faults.push(...elements.map((element) => `${what}: ${describe(element)}`));

  complain("broken picture", all("img").filter((img) => !img.naturalWidth), (img) => img.src);
  complain("picture without a text", all("img").filter((img) => !img.alt.trim()));

  const page = document.scrollingElement;
  if (page.scrollWidth > page.clientWidth) {
    const right = (element) => element.getBoundingClientRect().right;
    const widest = all("*")
      .filter((element) => right(element) > page.clientWidth && !inScroller(element))
      .sort((one, other) => right(other) - right(one));
    faults.push(`the page is ${page.scrollWidth} px wide, the window ${page.clientWidth}`);
    complain("reaches too far", widest.slice(0, 3));
  }
  const boxes = all("*").filter((element) => sideways(element) && !element.closest(".MathJax"));
  complain("cut off", boxes.filter(cuts));
  // On a telephone code may scroll and a diagram may wrap; what is said in words may not.
  const wide = page.clientWidth > 1000;
  complain(
    "needs scrolling sideways",
    boxes.filter((box) => scrolls(box) && (wide || box.closest(".jp-MarkdownOutput"))),
  );
  if (wide) complain("wraps its lines", all(".jp-MarkdownOutput pre").filter(wraps));

  const rendered = all(".MathJax").filter((element) => element.offsetWidth && element.offsetHeight);
  if (rendered.length !== formulas)
    faults.push(`${rendered.length} formulas rendered, ${formulas} in the notebook`);
  complain("formula with a fault", [
    ...all(".MathJax_Error, .merror, .noError"),
    ...all(".MathJax [style*='color: red']"),
  ]);
  const blocks = all(".jp-MarkdownOutput > *");
  complain(
    "formula left as typed",
    blocks.filter((block) => /\$|\\\(|\\\[|\\begin\{/.test(text(block))),
  );
  complain(
    "Markdown left as typed",
    blocks.filter((block) => /\*\*|\]\(|```|\|\s*:?--|^\s*#+ /m.test(text(block))),
  );

  const headings = all("h1, main h2, main h3, main h4, main h5, main h6");
  const levels = headings.map((heading) => Number(heading.tagName[1]));
  complain(
    "heading out of order",
    headings.filter((_, k) => (k ? levels[k] === 1 || levels[k] > levels[k - 1] + 1 : levels[k] > 1)),
  );
  if (!headings.length) faults.push("no heading");

  complain(
    "anchor that leads nowhere",
    all("a[href^='#']").filter(
      ({ hash }) =>
        ![hash.slice(1), decodeURIComponent(hash.slice(1))].some((id) => document.getElementById(id)),
    ),
    (a) => a.hash,
  );
  complain(
    "empty output",
    all(".jp-OutputArea-output").filter(
      (output) => !output.offsetHeight || !(output.innerText.trim() || output.querySelector("img")),
    ),
  );
  complain(
    "widget that does not show",
    all(".jp-OutputArea-output, main .jp-MarkdownOutput").filter((output) =>
      /(Error displaying|Loading) widget|\w+Box\(children=|\w+Model\b.*model_id/.test(output.textContent),
    ),
  );
  return faults;
}
