// The page's side of `Point` in widgets.py: a square to drag in, and a slider for each direction.

const NAMES = ["across", "up"];

function render({ model, el }) {
  const pad = document.createElement("div");
  const dot = document.createElement("span");
  el.classList.add("prompt-point");
  pad.className = "pad";
  pad.append(dot);
  el.append(pad);

  const reach = model.get("reach");
  const move = (point) => {
    const inside = (x) => Math.max(-reach, Math.min(reach, x));
    model.set("point", point.map(inside));
    model.save_changes();  // while the kernel is busy, only the newest point is kept for it
  };

  const sliders = NAMES.map((name, k) => {
    const label = document.createElement("label");
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: -reach, max: reach, step: reach / 50 });
    slider.addEventListener("input", () => {
      move(model.get("point").map((x, i) => (i === k ? slider.valueAsNumber : x)));
    });
    label.append(name, slider);
    el.append(label);
    return slider;
  });

  const follow = (event) => {
    const box = pad.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width;
    const up = (box.bottom - event.clientY) / box.height;
    move([(2 * across - 1) * reach, (2 * up - 1) * reach]);
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    follow(event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (pad.hasPointerCapture(event.pointerId)) follow(event);
  });

  const show = () => {
    const [x, y] = model.get("point");
    dot.style.left = `${(x / reach + 1) * 50}%`;
    dot.style.bottom = `${(y / reach + 1) * 50}%`;
    sliders[0].value = x;
    sliders[1].value = y;
  };
  model.on("change:point", show);
  show();
}

export default { render };
