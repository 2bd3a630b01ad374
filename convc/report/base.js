// Data, texts, and elements. Texts reach the page through text nodes and attributes' values only, never as markup.

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = document.getElementById("shapes").namespaceURI;
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}]/gu;

/** A model's text with what cannot be seen, or turns the direction of writing, shown as escapes. */
function plain(text) {
  return String(text).replace(UNSEEN, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
}

function fill(element, facts, children) {
  for (const [name, value] of Object.entries(facts || {})) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "style") for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, plain(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(typeof child === "object" ? child : plain(child));
    }
  }
  return element;
}

/** An element with attributes and children; texts among them become text nodes. */
const h = (tag, facts, ...children) => fill(document.createElement(tag), facts, children);
const s = (tag, facts, ...children) => fill(document.createElementNS(SVG, tag), facts, children);
const byId = (id) => document.getElementById(id);

function count(number) {
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6]]) if (number >= size) return (number / size).toFixed(2) + unit;
  return number >= 1e5 ? (number / 1e3).toFixed(1) + "k" : String(Math.round(number));
}

function bytes(number) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (number >= size) return (number / size).toFixed(1) + " " + unit;
  return Math.round(number) + " B";
}

function time(seconds) {
  if (seconds >= 1) return seconds.toFixed(2) + " s";
  if (seconds >= 1e-3) return (seconds * 1e3).toFixed(2) + " ms";
  return (seconds * 1e6).toFixed(seconds < 1e-5 ? 1 : 0) + " \u00b5s";
}

const percent = (share) => (share * 100).toFixed(share < 0.0995 ? 1 : 0) + " %";
const change = (before, after, text) => (text(before) === text(after) ? text(before) : text(before) + " \u2192 " + text(after));
const total = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
const plural = (number, one, many) => number + " " + (number === 1 ? one : many || one + "s");

const NODES = DATA.nodes.map(([name, op, inputs, attrs, type, shape, source, macs], id) => ({ id, name, op, inputs, attrs, type, shape, source, macs }));

/** Graphs with their nodes by name, users, and the block that each node and each block lies in. */
const GRAPHS = DATA.graphs.map((graph, index) => {
  const nodes = graph.nodes.map((id) => NODES[id]);
  const all = [...graph.constants.map((id) => NODES[id]), ...nodes];
  const named = new Map(all.filter((n) => n.op !== "output").map((n) => [n.name, n]));
  const users = new Map();
  for (const node of nodes) {
    for (const name of new Set(node.inputs)) {
      if (name === null) continue;
      if (!users.has(name)) users.set(name, []);
      users.get(name).push(node);
    }
  }
  const home = new Map();
  const parents = graph.blocks.map(() => 0);
  graph.blocks.forEach((block, number) => {
    for (const member of block.members) {
      if (member < 0) parents[-member] = number;
      else home.set(member, number);
    }
  });
  return { index, nodes, named, users, home, parents, blocks: graph.blocks, all };
});

/** Numbers of the blocks around a node, outermost (the whole graph, 0) first. */
function chain(graph, id) {
  const found = [];
  for (let block = graph.home.get(id); ; block = graph.parents[block]) {
    found.unshift(block);
    if (block === 0) return found;
  }
}

const FAMILIES = {
  conv: ["conv2d", "conv_transpose2d"],
  linear: ["linear", "matmul"],
  norm: ["batch_norm", "layer_norm", "instance_norm", "group_norm", "lrn"],
  pool: ["max_pool2d", "avg_pool2d", "global_avg_pool", "global_max_pool", "reduce_mean", "reduce_sum", "reduce_max", "reduce_min"],
  act: ["relu", "leaky_relu", "clip", "sigmoid", "hard_sigmoid", "hard_swish", "silu", "tanh", "elu", "selu", "celu", "softplus",
    "softsign", "mish", "gelu", "prelu", "softmax", "log_softmax"],
  join: ["add", "sub", "mul", "div", "concat", "pow", "max", "min", "where"],
  port: ["input", "output"],
};
const FAMILY = new Map(Object.entries(FAMILIES).flatMap(([family, ops]) => ops.map((op) => [op, family])));
const colour = (op) => "var(--" + (FAMILY.get(op) || "move") + ")";

const ruler = document.createElement("canvas").getContext("2d");
const widths = new Map();
const fits = new Map();

/** The text, cut in its middle or at its end where it is wider than `room` in the given font. */
function fitted(text, room, font, atEnd) {
  text = plain(text);
  const key = `${room}|${font}|${text}`;
  if (!fits.has(key)) fits.set(key, cutToFit(text, room, font, atEnd));
  return fits.get(key);
}

function measured(text, font) {
  const key = `${font}|${text}`;
  if (!widths.has(key)) {
    if (ruler.font !== font) ruler.font = font;
    widths.set(key, ruler.measureText(text).width);
  }
  return widths.get(key);
}

function cutToFit(text, room, font, atEnd) {
  const width = (part) => measured(part, font);
  if (width(text) <= room) return text;
  let low = 0;
  let high = text.length;
  const cut = (kept) => atEnd ? text.slice(0, kept).trimEnd() + "\u2026" : text.slice(0, Math.ceil(kept * 0.35)) + "\u2026" + text.slice(text.length - Math.floor(kept * 0.65));
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (width(cut(middle)) <= room) low = middle;
    else high = middle - 1;
  }
  return cut(low);
}

const TOKEN = /(#[^\n]*)|("""[\s\S]*?"""|"[^"\n]*"|'[^'\n]*')|\b(def|for|in|range|if|else|elif|return|while|and|or|not|import|from|as|pass|None|True|False)\b|\b(\d[\w.]*)\b/g;

/** Source text in a pre element, with keywords, strings, comments and numbers in their colours. */
function source(text) {
  const pre = h("pre", { class: "source", tabindex: 0 });
  let at = 0;
  for (const match of text.matchAll(TOKEN)) {
    pre.append(text.slice(at, match.index));
    const kind = match[1] ? "cm" : match[2] ? "st" : match[3] ? "kw" : "nu";
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = match[0];
    pre.append(span);
    at = match.index + match[0].length;
  }
  pre.append(text.slice(at));
  return pre;
}
