// The page's side of `Pictures` in widgets.py: a status line, and one button for each picture.
// Whatever people have typed is set as text, never as HTML.

const SIDE = 28;

function paint(canvas, greys) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(SIDE, SIDE);
  greys.forEach((grey, k) => pixels.data.set([grey, grey, grey, 255], 4 * k));
  context.putImageData(pixels, 0, 0);
}

function pictureButton(model, k) {
  const button = document.createElement("button");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  button.type = "button";
  button.append(canvas);
  button.addEventListener("click", () => model.send({ keep: k }));
  return button;
}

// JupyterLab takes arrow keys and letters for its own commands unless the focused element says no.
function keepKeys({ target }) {
  if (target.closest(".prompt-form")) target.dataset.lmSuppressShortcuts = "true";
}

function render({ model, el }) {
  const status = document.createElement("p");
  const sheet = document.createElement("div");
  status.setAttribute("role", "status");
  sheet.className = "pictures";
  sheet.setAttribute("role", "group");
  el.append(status, sheet);

  const say = () => { status.textContent = model.get("message"); };

  // Canvases that stand are painted over, so nothing flickers and the focus stays where it is.
  const show = () => {
    const bytes = model.get("greys");
    const greys = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const n = greys.length / SIDE ** 2;
    while (sheet.children.length > n) sheet.lastChild.remove();
    while (sheet.children.length < n) sheet.append(pictureButton(model, sheet.children.length));
    sheet.style.setProperty("--columns", model.get("columns"));
    sheet.style.setProperty("--side", `${model.get("side")}px`);
    [...sheet.children].forEach((button, k) => {
      paint(button.firstChild, greys.subarray(k * SIDE ** 2, (k + 1) * SIDE ** 2));
    });
    mark();
  };

  const mark = () => {
    const kept = new Set(model.get("kept"));
    const keepable = model.get("keepable");
    sheet.setAttribute("aria-label", model.get("label"));
    [...sheet.children].forEach((button, k) => {
      const name = `Picture ${k + 1} of ${sheet.children.length}: ${model.get("label")}`;
      const deed = kept.has(k) ? "kept" : "press to keep it";
      button.disabled = !keepable;
      button.classList.toggle("kept", kept.has(k));
      button.title = keepable ? deed : "";
      button.setAttribute("aria-label", keepable ? `${name}; ${deed}` : name);
    });
  };

  const wait = () => { sheet.setAttribute("aria-busy", model.get("busy")); };

  model.on("change:message", say);
  model.on("change:greys", show);
  model.on("change:label change:kept", mark);
  model.on("change:busy", wait);
  say();
  show();
  wait();
  document.addEventListener("focusin", keepKeys);  // a second time changes nothing
}

export default { render };
