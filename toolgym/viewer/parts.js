// Pieces of the page. Every text becomes a text node: no markup is ever made of a string.

const LONG = 12000; // characters of a text that are shown at first
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;
const ui = { needles: [] };

function h(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === undefined || child === null || child === false || child === "") continue;
    node.append(child instanceof Node ? child : plain(child));
  }
  return node;
}

// What would drive the reading of other text, such as an override of direction, is shown as itself.
function plain(value) {
  return String(value).replaceAll("\r\n", "\n")
    .replace(HIDDEN, (sign) => `⟨U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

// A text with what was searched for marked; a long one ends with a button that shows the rest.
function text(value, name = "text") {
  const whole = plain(value);
  const node = h("div", { class: name });
  fill(node, whole.slice(0, LONG));
  if (whole.length > LONG) {
    const more = h("button", { class: "more", type: "button" }, `show all ${whole.length.toLocaleString("en")} characters`);
    more.addEventListener("click", () => { node.replaceChildren(); fill(node, whole); });
    node.append(h("div", {}, more));
  }
  return node;
}

function fill(node, shown) {
  if (!ui.needles.length) { node.append(shown); return; }
  const pattern = new RegExp(ui.needles.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "giu");
  let place = 0;
  for (const match of shown.matchAll(pattern)) {
    node.append(shown.slice(place, match.index), h("mark", {}, match[0]));
    place = match.index + match[0].length;
  }
  node.append(shown.slice(place));
}

function badge(label, kind = "", title = undefined) {
  return h("span", { class: `badge ${kind}`, title }, label);
}

// Folded; what is inside is made when it is opened.
function fold(label, make, properties = {}) {
  const node = h("details", { class: `fold ${properties.class ?? ""}`, "data-kind": properties.kind }, h("summary", {}, label));
  const open = () => { if (node.open && node.children.length === 1) node.append(...[make()].flat()); };
  node.addEventListener("toggle", open);
  if (properties.open) { node.open = true; open(); }
  return node;
}

function figure(value) {
  if (!isNumber(value)) return "–";
  return String(Math.round(value * 1000) / 1000);
}

function isNumber(value) {
  return typeof value === "number" && value - value === 0;
}

function json(value) {
  return text(typeof value === "string" ? value : JSON.stringify(value, null, 2), "text mono");
}

// Arguments by name; short ones on a line each.
function pairs(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return json(value ?? {});
  return h("dl", {}, Object.entries(value).flatMap(([name, inner]) => [
    h("dt", {}, name), h("dd", {}, inner !== null && typeof inner === "object" ? json(inner) : text(inner)),
  ]));
}

// Anything by name, level by level: strings as they read, such as the source of a tool; long parts folded.
function tree(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return json(value ?? null);
  return h("dl", {}, Object.entries(value).flatMap(([name, inner]) => {
    const size = JSON.stringify(inner)?.length ?? 0;
    const shown = () => (typeof inner === "string" ? text(inner, "text mono") : tree(inner));
    return [h("dt", {}, name), h("dd", {}, size > 200 ? fold(`${size.toLocaleString("en")} characters`, shown) : shown())];
  }));
}

function preview(value, length = 140) {
  const line = value.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length)}…` : line;
}

function say(parts) {
  return (parts ?? []).map((part, place) => {
    if (!part.trim()) return null;
    if (place % 2 === 0) return text(part.trim());
    const hit = ui.needles.some((word) => part.toLowerCase().includes(word));
    return fold(`reasoning, ${part.trim().split(/\s+/).length} words: ${preview(part)}`, () => text(part),
      { class: "think", kind: "think", open: hit || ui.thinking });
  });
}
