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

const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "");

function score(record, words) {
  const [, title, heading, content] = record.map(plain);
  let sum = 0;
  for (const word of words) {
    const points = (heading.includes(word) && !content ? 8 : 0) +
      (title.includes(word) && !heading && !content ? 12 : 0) + (content.includes(word) ? 2 : 0);
    if (!points && !heading.includes(word) && !title.includes(word)) return 0;
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
  const words = plain(input.value).split(/\s+/).filter(Boolean);
  const hits = byId("hits");
  hits.replaceChildren();
  byId("count").textContent = "";
  if (!words.length || !window.bookRecords) return;
  const found = window.bookRecords
    .map((record) => [score(record, words), record])
    .filter(([points]) => points)
    .sort((a, b) => b[0] - a[0]);
  byId("count").textContent = found.length ? `${found.length} places` : "Nothing found";
  for (const [, [url, title, heading, content]] of found.slice(0, 30)) {
    const link = document.createElement("a");
    link.href = root + url;
    const strong = document.createElement("strong");
    strong.textContent = heading ? `${title} › ${heading}` : title;
    const words_ = document.createElement("span");
    words_.textContent = content ? excerpt(content, words) : "";
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
