// The page's side of `Pictures` in widgets.py: a status line, and one button for each picture.
// Whatever people have typed is set as text, never as HTML.

const SIDE = 28;
const FRAME = 8;  // pixels of a button around its picture
const SHEET = [632, 312];  // for all pictures, whatever their number

function paint(canvas, greys) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(SIDE, SIDE);
  greys.forEach((grey, k) => pixels.data.set([grey, grey, grey, 255], 4 * k));
  context.putImageData(pixels, 0, 0);
}

// The grid that leaves n pictures largest, in whole pixels, and no row much shorter than another.
function layOut(n) {
  const zoom = (columns) => Math.floor(Math.min(
    SHEET[0] / columns - FRAME, SHEET[1] / Math.ceil(n / columns) - FRAME) / SIDE);
  let best = 1;
  for (let columns = 2; columns <= n; columns += 1) {
    if (zoom(columns) >= zoom(best)) best = columns;
  }
  return [Math.ceil(n / Math.ceil(n / best)), Math.max(zoom(best), 1) * SIDE + FRAME];
}

function pictureButton(model, k) {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  button.type = "button";
  button.append(canvas, document.createElement("span"), document.createElement("span"));
  button.addEventListener("click", () => model.send({ [model.get("deed")]: k }));
  return button;
}

// What to write below drawings: their prompts; their seeds and whatever else is not the same for all.
function nameAll(every) {
  const told = ([key]) => key === "seed"
    || (key !== "prompt" && every.some((facts) => facts[key] !== every[0][key]));
  const part = ([key, value]) => (key === "checkpoint" ? value : `${key} ${value ?? "auto"}`);
  return every.map((facts) => (
    [facts.prompt, Object.entries(facts).filter(told).map(part).join(" · ")]));
}

// JupyterLab takes arrow keys and letters for its own commands unless the focused element says no.
function keepKeys({ target }) {
  if (target.closest(".prompt-form")) target.dataset.lmSuppressShortcuts = "true";
}

function render({ model, el }) {
  const status = document.createElement("p");
  const sheet = document.createElement("div");
  el.classList.add("prompt-pictures", model.get("deed") || "still");
  sheet.className = model.get("deed") === "restore" ? "past" : "pictures";
  status.setAttribute("role", "status");
  sheet.setAttribute("role", "group");
  el.append(status, sheet);

  const say = () => {
    status.textContent = model.get("message");
    status.dataset.tone = model.get("tone");
  };

  // Canvases that stand are painted over, so nothing flickers and the focus stays where it is.
  const show = () => {
    const bytes = model.get("greys");
    const greys = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const n = greys.length / SIDE ** 2;
    while (sheet.children.length > n) sheet.lastChild.remove();
    while (sheet.children.length < n) sheet.append(pictureButton(model, sheet.children.length));
    const [columns, side] = layOut(n);
    sheet.style.setProperty("--columns", columns);
    sheet.style.setProperty("--side", `${side}px`);
    [...sheet.children].forEach((button, k) => {
      paint(button.firstChild, greys.subarray(k * SIDE ** 2, (k + 1) * SIDE ** 2));
    });
    mark();
  };

  const mark = () => {
    const kept = new Set(model.get("kept"));
    const label = model.get("label");
    const names = nameAll(model.get("facts"));
    sheet.setAttribute("aria-label", label);
    [...sheet.children].forEach((button, k) => {
      const name = names[k]?.join(" · ") ?? `Picture ${k + 1} of ${sheet.children.length}: ${label}`;
      const deed = kept.has(k) ? "kept" : "press to keep it";
      button.disabled = !model.get("deed");
      button.classList.toggle("kept", kept.has(k));
      [0, 1].forEach((row) => { button.children[row + 1].textContent = names[k]?.[row] ?? ""; });
      button.title = names[k] ? name : (button.disabled ? "" : deed);
      button.setAttribute("aria-label", button.disabled || names[k] ? name : `${name}; ${deed}`);
    });
  };

  const wait = () => { sheet.setAttribute("aria-busy", model.get("busy")); };

  model.on("change:message change:tone", say);
  model.on("change:greys", show);
  model.on("change:label change:kept change:facts", mark);
  model.on("change:busy", wait);
  say();
  show();
  wait();
  document.addEventListener("focusin", keepKeys);  // a second time changes nothing
}

export default { render };
