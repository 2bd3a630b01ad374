// One pane: a graph drawn as SVG, moved and zoomed, its blocks opened and closed, its nodes marked and chosen.

const MINIMUM_ZOOM = 0.015;
const MAXIMUM_ZOOM = 3;
const OP_FONT = "620 12.5px system-ui, sans-serif";
const EXTRA_FONT = "11.5px system-ui, sans-serif";
const NAME_FONT = "11px system-ui, sans-serif";
const SHAPE_FONT = "10.5px monospace";

class Pane {
  /** `host` hears of clicks: choose(node), toggle(key), moved(pane). */
  constructor(host, caption) {
    this.host = host;
    this.view = { x: 0, y: 0, zoom: 1 };
    this.world = s("g", {});
    this.svg = s("svg", { tabindex: 0, role: "application", "aria-label": caption + ". Drag or scroll to move, control and scroll to zoom" }, this.world);
    this.caption = h("div", { class: "caption" }, caption);
    this.element = h("div", { class: "pane" }, this.caption, this.svg);
    this.graph = null;
    this.listen();
  }

  /** Show a graph with its marks: node id to "added", "removed" or "changed". */
  show(graph, marks, open) {
    this.graph = graph;
    this.marks = marks;
    this.open = open;
    this.draw();
  }

  draw() {
    const { graph } = this;
    this.placed = place(graph, this.open);
    this.items = new Map();
    this.lines = new Map();
    const edges = s("g", {});
    const boxes = s("g", {});
    const frames = s("g", {});
    for (const box of this.placed.boxes) {
      const item = box.member < 0 ? this.drawBlock(box) : this.drawNode(box);
      this.items.set(box.member < 0 ? graph.blocks[-box.member].key : NODES[box.member].id, { box, item });
      (box.open ? frames : boxes).append(item);
    }
    for (const edge of this.placed.edges) {
      const path = s("path", { class: "edge", d: edge.path });
      const tip = edge.tip ? s("path", { class: "tipper", d: edge.tip }) : null;
      edges.append(path, ...(tip ? [tip] : []));
      this.lines.set(`${edge.block}|${edge.from}|${edge.to}`, [path, tip]);
    }
    this.world.replaceChildren(frames, edges, boxes);
    this.highlight();
  }

  drawNode(box) {
    const node = NODES[box.member];
    const mark = this.marks.get(node.id);
    const port = node.op === "input" || node.op === "output";
    const g = s("g", { class: `node ${mark || ""} ${port ? "port" : ""}`, transform: `translate(${round(box.x)} ${round(box.y)})`, "data-id": node.id });
    g.style.setProperty("--family", colour(node.op));
    const room = NODE_W - 22;
    const shape = node.shape.slice(1).join("\u00d7");
    const shown = fitted(shape, 84, SHAPE_FONT);
    const op = fitted(node.op, room, OP_FONT);
    const opWidth = measured(op, OP_FONT);
    const extra = opWidth + 12 < room ? fitted(summary(this.graph, node), room - opWidth - 6, EXTRA_FONT) : "";
    const name = fitted(label(this.graph, node), room - measured(shown, SHAPE_FONT) - 8, NAME_FONT);
    g.append(
      s("rect", { class: "halo", x: -4, y: -4, width: NODE_W + 8, height: NODE_H + 8, rx: 11 }),
      s("rect", { class: "box", width: NODE_W, height: NODE_H, rx: 8 }),
      s("rect", { class: "stripe", x: 5, y: 8, width: 3.5, height: NODE_H - 16, rx: 1.75 }),
      s("text", { class: "op", x: 14, y: 19 }, op, extra ? s("tspan", { class: "extra", dx: 6 }, extra) : null),
      s("text", { class: "name", x: 14, y: 36 }, name),
      s("text", { class: "shape", x: NODE_W - 8, y: 36, "text-anchor": "end" }, shown),
    );
    const share = this.host.share(this.graph, node);
    if (share !== null) {
      g.append(
        s("rect", { class: "meter-back", x: 14, y: NODE_H - 5, width: NODE_W - 22, height: 2.5, rx: 1.2 }),
        s("rect", { class: "meter", x: 14, y: NODE_H - 5, width: Math.max(0.5, (NODE_W - 22) * share), height: 2.5, rx: 1.2 }),
      );
    }
    return g;
  }

  drawBlock(box) {
    const number = -box.member;
    const block = this.graph.blocks[number];
    const counts = this.countMarks(number);
    const touched = counts.added + counts.removed + counts.changed > 0;
    const g = s("g", { class: `block ${box.open ? "open" : ""} ${touched ? "touched" : ""}`, transform: `translate(${round(box.x)} ${round(box.y)})`, "data-block": number });
    const chevron = s("path", { class: "chevron", d: box.open ? "M11 11l4 4 4-4" : "M11 15l4 4-4 4" });
    const text = titleOf(this.graph, number);
    if (box.open) {
      g.append(
        s("rect", { class: "halo", x: -4, y: -4, width: box.width + 8, height: box.height + 8, rx: 14 }),
        s("rect", { class: "box", width: box.width, height: box.height, rx: 11 }),
        s("rect", { class: "cap", width: box.width, height: HEAD, rx: 11 }),
        chevron,
        s("text", { class: "label", x: 25, y: 17 }, fitted(text, box.width - 36, OP_FONT)),
      );
      return g;
    }
    const marks = ["added", "removed", "changed"].filter((kind) => counts[kind]);
    const signs = { added: "+", removed: "\u2212", changed: "~" };
    g.append(
      s("rect", { class: "halo", x: -4, y: -4, width: NODE_W + 8, height: NODE_H + 11, rx: 12 }),
      s("rect", { class: "under", x: 5, y: 3.5, width: NODE_W - 10, height: NODE_H, rx: 8 }),
      s("rect", { class: "box", width: NODE_W, height: NODE_H, rx: 8 }),
      chevron,
      s("text", { class: "label", x: 26, y: 19 }, fitted(text, NODE_W - 34 - 30 * marks.length, OP_FONT)),
      s("text", { class: "extra", x: 26, y: 36 }, fitted(`${block.size} ops: ${this.operators(number)}`, NODE_W - 34, NAME_FONT, true)),
      s("text", { class: "extra", x: NODE_W - 8, y: 19, "text-anchor": "end" },
        marks.map((kind) => s("tspan", { class: "count-" + kind, dx: 5 }, signs[kind] + counts[kind]))),
    );
    return g;
  }

  *inside(number) {
    for (const member of this.graph.blocks[number].members) {
      if (member < 0) yield* this.inside(-member);
      else yield NODES[member];
    }
  }

  countMarks(number) {
    const counts = { added: 0, removed: 0, changed: 0 };
    for (const node of this.inside(number)) if (this.marks.has(node.id)) counts[this.marks.get(node.id)]++;
    return counts;
  }

  operators(number) {
    const counts = new Map();
    for (const node of this.inside(number)) counts.set(node.op, (counts.get(node.op) || 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).map(([op, times]) => (times > 1 ? `${times} ${op}` : op)).join(", ");
  }

  /** Mark the chosen node with its edges, the nodes of the current rewrite, and those that a search found. */
  highlight() {
    const { chosen, current, hits } = this.host.marked();
    for (const [key, { box, item }] of this.items) {
      const nodes = box.member < 0 ? (box.open ? [] : [...this.inside(-box.member)]) : [NODES[box.member]];
      item.classList.toggle("chosen", nodes.length > 0 && nodes.some((n) => n.op !== "output" && n.name === chosen));
      item.classList.toggle("current", nodes.some((n) => current.has(n.name)));
      item.classList.toggle("hit", nodes.some((n) => hits.has(n.id)));
    }
    for (const parts of this.lines.values()) for (const part of parts) if (part) part.classList.remove("near");
    const node = chosen === null ? null : this.graph.named.get(chosen);
    if (!node || !this.graph.home.has(node.id)) return;
    for (const name of node.inputs) {
      const producer = name === null ? null : this.graph.named.get(name);
      if (producer && this.graph.home.has(producer.id)) this.lightUp(producer, node);
    }
    for (const user of this.graph.users.get(node.name) || []) this.lightUp(node, user);
  }

  /** The visible parts of the edge from one node to another, through the blocks between them. */
  lightUp(a, b) {
    const above = chain(this.graph, a.id);
    const below = chain(this.graph, b.id);
    let depth = 0;
    while (depth + 1 < Math.min(above.length, below.length) && above[depth + 1] === below[depth + 1]) depth++;
    const member = (blocks, at, node) => (at + 1 < blocks.length ? -blocks[at + 1] : node.id);
    const keys = [`${above[depth]}|${member(above, depth, a)}|${member(below, depth, b)}`];
    for (let at = depth + 1; at < above.length; at++) keys.push(`${above[at]}|${member(above, at, a)}|out`);
    for (let at = depth + 1; at < below.length; at++) keys.push(`${below[at]}|in|${member(below, at, b)}`);
    for (const key of keys) {
      for (const part of this.lines.get(key) || []) {
        if (!part) continue;
        part.classList.add("near");
        part.parentNode.append(part);
      }
    }
  }

  // ---- moving -------------------------------------------------------------------------------------------------------

  listen() {
    let drag = null;
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 16 : 1;
      if (event.ctrlKey || event.metaKey) this.zoomAt(Math.exp(-event.deltaY * unit * 0.006), event.offsetX, event.offsetY);
      else if (event.shiftKey) this.move(-event.deltaY * unit - event.deltaX * unit, 0);
      else this.move(-event.deltaX * unit, -event.deltaY * unit);
    }, { passive: false });
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.button === 0) drag = { x: event.clientX, y: event.clientY, far: false, target: event.target };
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const dx = event.clientX - drag.x;
      const dy = event.clientY - drag.y;
      if (!drag.far && Math.hypot(dx, dy) < 4) return;
      if (!drag.far) {
        this.svg.setPointerCapture(event.pointerId);
        this.svg.classList.add("dragging");
      }
      drag = { ...drag, x: event.clientX, y: event.clientY, far: true };
      this.move(dx, dy);
    });
    const end = () => {
      if (drag && !drag.far) this.click(drag.target);
      drag = null;
      this.svg.classList.remove("dragging");
    };
    this.svg.addEventListener("pointerup", end);
    this.svg.addEventListener("pointercancel", () => { drag = null; this.svg.classList.remove("dragging"); });
  }

  click(target) {
    const item = target.closest("[data-id], [data-block]");
    if (!item) this.host.choose(null);
    else if (item.dataset.id !== undefined) this.host.choose(NODES[Number(item.dataset.id)], this);
    else if (!item.classList.contains("open") || target.classList.contains("cap")) this.host.toggle(this.graph.blocks[Number(item.dataset.block)].key, this);
    else this.host.choose(null);
  }

  apply(smooth) {
    const { x, y, zoom } = this.view;
    this.world.classList.toggle("moving", !!smooth);
    this.world.setAttribute("transform", `translate(${round(x)} ${round(y)}) scale(${zoom})`);
    this.element.style.backgroundPosition = `${round(x)}px ${round(y)}px`;
  }

  move(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.apply();
    this.host.moved(this);
  }

  zoomAt(factor, x, y) {
    const zoom = Math.min(MAXIMUM_ZOOM, Math.max(MINIMUM_ZOOM, this.view.zoom * factor));
    const real = zoom / this.view.zoom;
    this.view = { x: x - (x - this.view.x) * real, y: y - (y - this.view.y) * real, zoom };
    this.apply();
    this.host.moved(this);
  }

  /** The whole drawing, or the part from its top that is as wide as the pane where all would be too small to read. */
  fit(everything) {
    const { width, height } = this.size();
    const inner = { width: Math.max(1, width - 48), height: Math.max(1, height - 76) };
    let zoom = Math.min(inner.width / this.placed.width, inner.height / this.placed.height, 1.15);
    if (!everything) zoom = Math.max(zoom, Math.min(0.9, inner.width / this.placed.width));
    zoom = Math.max(zoom, MINIMUM_ZOOM);
    const spare = inner.height - this.placed.height * zoom;
    this.view = { x: (width - this.placed.width * zoom) / 2, y: 46 + Math.max(0, spare / 2), zoom };
    this.apply();
  }

  size() {
    const box = this.svg.getBoundingClientRect();
    return { width: box.width, height: box.height };
  }

  /** The box of the same name in this pane: "b:" and a block's key, or "n:" and a node's name. */
  twin(name) {
    if (name.startsWith("n:")) {
      const node = this.graph.named.get(name.slice(2));
      return node && this.items.has(node.id) ? this.items.get(node.id).box : null;
    }
    const found = this.items.get(name.slice(2));
    return found && !found.box.open ? found.box : null;
  }

  /** The box of a node, or that of the closed block it is in. */
  boxOf(name) {
    const node = this.graph.named.get(name);
    if (!node || !this.graph.home.has(node.id)) return null;
    if (this.items.has(node.id)) return this.items.get(node.id).box;
    for (const block of chain(this.graph, node.id)) {
      const found = this.items.get(this.graph.blocks[block].key);
      if (block !== 0 && found && !found.box.open) return found.box;
    }
    return null;
  }

  /** Bring boxes to the middle, at a zoom at which they can be read. */
  centreOn(boxes, smooth = true) {
    if (!boxes.length) return;
    const { width, height } = this.size();
    const left = Math.min(...boxes.map((b) => b.x));
    const right = Math.max(...boxes.map((b) => b.x + b.width));
    const top = Math.min(...boxes.map((b) => b.y));
    const bottom = Math.max(...boxes.map((b) => b.y + b.height));
    const most = Math.min((width - 40) / (right - left), (height - 80) / (bottom - top), 1.1);
    const zoom = Math.max(MINIMUM_ZOOM, Math.min(Math.max(this.view.zoom, 0.75), most));
    this.view = { x: width / 2 - ((left + right) / 2) * zoom, y: height / 2 - ((top + bottom) / 2) * zoom, zoom };
    this.apply(smooth);
  }
}

/** The part of a node's name that its block does not say already. */
function label(graph, node) {
  const key = graph.blocks[graph.home.get(node.id)].key;
  return key && node.name.startsWith(key) && node.name.length > key.length + 1 ? node.name.slice(key.length + 1) : node.name;
}

/** A block's label, with that of the block around it where it is but a number; for a part of a long network its ends. */
function titleOf(graph, number) {
  const block = graph.blocks[number];
  if (block.label) {
    const outer = graph.blocks[graph.parents[number]].label;
    return /^\d+$/.test(block.label) && outer ? `${outer}.${block.label}` : block.label;
  }
  const nodes = block.members.filter((member) => member >= 0).map((member) => NODES[member]);
  return nodes.length ? `${nodes[0].name} \u2013 ${nodes[nodes.length - 1].name}` : block.key;
}

/** What tells this node from others of its operator: window, stride, activation. */
function summary(graph, node) {
  const parts = [];
  const list = (text) => (text || "").replace(/[[\] ]/g, "").split(",").map(Number);
  const square = (sizes) => (sizes[0] === sizes[1] ? `${sizes[0]}\u00d7${sizes[0]}` : sizes.slice(0, 2).join("\u00d7"));
  const weights = node.inputs[1] ? graph.named.get(node.inputs[1]) : null;
  if (node.op.startsWith("conv") && weights) parts.push(square(weights.shape.slice(2)));
  if (node.attrs.kernel) parts.push(square(list(node.attrs.kernel)));
  const stride = node.attrs.stride ? list(node.attrs.stride) : [1, 1];
  if (stride[0] > 1 || stride[1] > 1) parts.push("/" + (stride[0] === stride[1] ? stride[0] : stride.join(",")));
  if (node.attrs.groups && node.attrs.groups !== "1") parts.push("g" + node.attrs.groups);
  if (node.op.startsWith("conv") || node.op === "linear") {
    if (node.inputs[3]) parts.push("+");
    if (node.attrs.activation && node.attrs.activation !== "none") parts.push(node.attrs.activation);
  }
  if (node.op === "clip") parts.push(`${node.attrs.min} \u2026 ${node.attrs.max}`);
  return parts.join(" ");
}
