"use strict";
/* What is known of a cell of the heat map: on hover, on focus, and with the arrow keys. */

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const buttons = [...document.querySelectorAll("button[data-cell]")];

function element(tag, text, name = "") {
  const found = document.createElement(tag);
  found.textContent = text;
  found.className = name;
  return found;
}

function figure({ thumbnail, id, said, value, truth }) {
  const found = element("figure", ""), box = element("div", "", "box");
  if (thumbnail === null) box.append(element("span", "no picture"));
  else box.append(Object.assign(new Image(), data.thumbnails[thumbnail], { alt: id }));
  const answer = element("b", ""), right = element("div", "is ", "wrong");
  answer.append(element("bdi", said));
  right.append(element("bdi", truth));
  found.append(box, answer, ` ${value}`, right, element("bdi", id, "note"));
  return found;
}

function show(button) {
  const cell = data.cells[button.dataset.cell];
  for (const one of buttons) {
    one.tabIndex = one === button ? 0 : -1; // one stop for the tab key, arrows go on
    one.ariaPressed = String(one === button);
  }
  at("cell").textContent = cell.name;
  at("facts").replaceChildren(...Object.entries(cell.facts).map(([name, text]) => {
    const line = element("tr", ""), head = element("th", name);
    head.scope = "row";
    line.append(head, element("td", text));
    return line;
  }));
  at("wrong").textContent = cell.wrong ?? "";
  at("pictures").replaceChildren(...(cell.pictures ?? []).map(figure));
}

function key(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  const place = event.currentTarget.parentElement;
  let row = place.parentElement.rowIndex, column = place.cellIndex, next;
  do { // over cells that hold nothing, to the edge
    row += step[0];
    column += step[1];
    next = at("map").rows[row]?.cells[column];
  } while (next && !next.querySelector("button"));
  next?.querySelector("button").focus();
}

for (const button of buttons) {
  for (const kind of ["pointerenter", "focus", "click"]) {
    button.addEventListener(kind, () => show(button));
  }
  button.addEventListener("keydown", key);
}
show(buttons.find((one) => one.dataset.best === "yes") ?? buttons[0]);
