const root = document.body.dataset.root;
const byId = (name) => document.getElementById(name);

// Light and dark
byId("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("theme", next); } catch { /* storage is switched off */ }
});

// The table of contents on a narrow screen
byId("menu").addEventListener("click", () => {
  const open = document.body.classList.toggle("menu");
  byId("menu").setAttribute("aria-expanded", String(open));
});
byId("contents").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
scrollTo({ top: location.hash ? scrollY : 0 });

// Search: the records are a script, not a fetched file, so that it also works without a server
const dialog = byId("search");
const input = dialog.querySelector("input");
let loading = null;

const load = () => {
  loading ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${root}search.js`;
    script.onload = done;
    document.head.append(script);
  });
  return loading;
};

const open = async () => {
  if (!dialog.open) dialog.showModal();
  input.select();
  await load();
  show();
};

const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "")
  .replace(/[-\u2010-\u2013]/g, " ").replaceAll("iz", "is");  // however hyphens and -ise are typed

// The words' places, and above all of them the entry of the glossary that is about what was typed.
function score([url, ...texts], typed) {
  const [title, heading, content] = texts.map(plain);
  const entry = url.startsWith("glossary.html#");
  const about = entry && (heading.startsWith(typed) || typed.startsWith(heading));
  let sum = about ? 1000 - Math.abs(heading.length - typed.length) : Number(entry);
  for (const word of typed.split(" ")) {
    const points = (heading.includes(word) ? 8 + 20 * entry : 0) +
      (title.includes(word) && !heading ? 12 : 0) + (content.includes(word) ? 2 : 0);
    if (!points && !title.includes(word) && !about) return 0;
    sum += points;
  }
  return sum;
}

function excerpt(text, words) {
  const at = Math.max(0, Math.min(...words.map((word) => {
    const place = plain(text).indexOf(word);
    return place < 0 ? Infinity : place;
  })));
  const from = Number.isFinite(at) ? Math.max(0, at - 60) : 0;
  return (from ? "…" : "") + text.slice(from, from + 180) + (text.length > from + 180 ? "…" : "");
}

function show() {
  const typed = plain(input.value).trim().replace(/\s+/g, " ");
  const hits = byId("hits");
  hits.replaceChildren();
  byId("count").textContent = "";
  if (!typed || !window.bookRecords) return;
  const found = window.bookRecords
    .map((record) => [score(record, typed), record])
    .filter(([points]) => points)
    .sort((a, b) => b[0] - a[0]);
  byId("count").textContent = found.length ? `${found.length} places` : "Nothing found";
  for (const [, [url, title, heading, content]] of found.slice(0, 30)) {
    const link = document.createElement("a");
    link.href = root + url;
    const strong = document.createElement("strong");
    strong.textContent = heading ? `${title} › ${heading}` : title;
    const words_ = document.createElement("span");
    words_.textContent = content ? excerpt(content, url.startsWith("glossary.html#") ? [] : typed.split(" ")) : "";
    link.append(strong, words_);
    const item = document.createElement("li");
    item.append(link);
    hits.append(item);
  }
}

byId("find").addEventListener("click", open);
input.addEventListener("input", show);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  byId("hits").querySelector("a")?.click();
});
byId("hits").addEventListener("click", () => dialog.close());
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea");
  if ((event.key === "/" && !typing) || (event.key === "k" && (event.ctrlKey || event.metaKey))) {
    event.preventDefault();
    open();
  }
});

// A button on every cell of code; where the browser has no clipboard, the code is left selected
for (const code of document.querySelectorAll("pre:is(.cell, .listing) > code")) {
  const box = document.createElement("div");
  const button = document.createElement("button");
  box.className = "code";
  button.className = "copy";
  button.textContent = "Copy";
  code.parentElement.before(box);
  box.append(code.parentElement, button);
  button.addEventListener("click", async () => {
    let said = "Copied";
    try { await navigator.clipboard.writeText(code.textContent); } catch {
      getSelection().selectAllChildren(code);
      if (!document.execCommand("copy")) said = "Selected";
    }
    button.textContent = byId("said").textContent = said;
    setTimeout(() => { button.textContent = "Copy"; byId("said").textContent = ""; }, 2000);
  });
}
