// State, and what clicks and keys do to it.

const LAST_STOP = RECORDS.length + 1;
const VISIBLE_AT_FIRST = 42;

class App {
  constructor() {
    this.view = "graph";
    this.stop = Math.max(0, RECORDS.findIndex((record) => record.rewrites.length) + 1);
    this.mode = "both";
    this.rewrite = -1;
    this.chosen = null;
    this.hits = new Set();
    this.found = [];
    this.foundAt = -1;
    this.open = firstOpen(GRAPHS[0], VISIBLE_AT_FIRST);
    this.passing = new Set();
    this.before = new Pane(this, "Before");
    this.after = new Pane(this, "After");
    this.panes = [];
  }

  // ---- what panes ask -----------------------------------------------------------------------------------------------

  share(graph, node) {
    if (!PROFILE || graph !== FINAL || this.stop !== LAST_STOP) return null;
    const steps = STEPS_OF.get(node.name) || [];
    if (!steps.length || node.op === "output") return null;
    const seconds = steps.reduce((sum, at) => sum + PROFILE.steps[at].seconds, 0);
    this.most ??= Math.max(...[...STEPS_OF.values()].map((all) => all.reduce((sum, at) => sum + PROFILE.steps[at].seconds, 0)));
    return seconds / this.most;
  }

  marked() {
    const rewrite = this.currentRewrite();
    const current = new Set(rewrite ? [rewrite.node, ...rewrite.removed, ...rewrite.added] : []);
    return { chosen: this.chosen, current, hits: this.hits };
  }

  toggle(key, pane) {
    const old = pane.items.get(key);
    const [x, y] = old ? [old.box.x, old.box.y] : [0, 0];
    if (this.allOpen().has(key)) {
      this.open.delete(key);
      this.passing.delete(key);
    } else this.open.add(key);
    this.redraw();
    const now = pane.items.get(key);
    if (now) {
      pane.view.x += (x - now.box.x) * pane.view.zoom;
      pane.view.y += (y - now.box.y) * pane.view.zoom;
      pane.apply();
      this.moved(pane);
    }
  }

  /** The other pane follows: what is nearest to the middle of one stands at the same height in the other. */
  moved(pane) {
    const other = this.panes.find((one) => one !== pane);
    if (!other) return;
    const { width, height } = pane.size();
    const { x, y, zoom } = pane.view;
    let best = null;
    for (const { box } of pane.items.values()) {
      if (box.open) continue;
      const twin = other.twin(this.nameOf(pane, box));
      if (!twin) continue;
      const cx = x + (box.x + box.width / 2) * zoom;
      const cy = y + (box.y + box.height / 2) * zoom;
      const distance = Math.hypot(cx - width / 2, cy - height / 2);
      if (!best || distance < best.distance) best = { distance, cx, cy, twin };
    }
    if (!best) return;
    other.view = { x: best.cx - (best.twin.x + best.twin.width / 2) * zoom, y: best.cy - (best.twin.y + best.twin.height / 2) * zoom, zoom };
    other.apply();
  }

  nameOf(pane, box) {
    return box.member < 0 ? "b:" + pane.graph.blocks[-box.member].key : "n:" + NODES[box.member].name;
  }

  // ---- where we are -------------------------------------------------------------------------------------------------

  graphs() {
    if (this.stop === 0) return [GRAPHS[0], GRAPHS[0]];
    if (this.stop === LAST_STOP) return [FINAL, FINAL];
    return [GRAPHS[DATA.at[this.stop - 1]], GRAPHS[DATA.at[this.stop]]];
  }

  rewrites() {
    return this.stop > 0 && this.stop < LAST_STOP ? RECORDS[this.stop - 1].rewrites : [];
  }

  currentRewrite() {
    return this.rewrites()[this.rewrite] || null;
  }

  allOpen() {
    return new Set([...this.open, ...this.passing]);
  }

  // ---- going places -------------------------------------------------------------------------------------------------

  /** Show a pass (0 is the network as read, the last stop what runs), one of its rewrites, a node. */
  go(stop, rewrite = -1, chosen = null) {
    this.stop = stop;
    this.rewrite = rewrite;
    this.chosen = chosen;
    this.setView("graph");
    this.search(byId("search").value, false);
    this.passing = new Set();
    this.refresh(true);
    if (rewrite >= 0) this.showRewrite();
    else if (chosen !== null) this.reveal([chosen]);
  }

  step(by) {
    const count = this.rewrites().length;
    if (!count) return;
    this.rewrite = this.rewrite < 0 ? (by > 0 ? 0 : count - 1) : Math.max(0, Math.min(count - 1, this.rewrite + by));
    this.chosen = null;
    this.showRewrite();
    this.showDetails();
  }

  showRewrite() {
    const rewrite = this.currentRewrite();
    this.passing = new Set();
    if (rewrite) this.reveal([rewrite.node, ...rewrite.removed, ...rewrite.added]);
    this.showStepper();
  }

  /** Open the blocks around nodes for as long as they are looked at, and bring them to the middle. */
  reveal(names) {
    for (const pane of this.panes) {
      for (const name of names) {
        const node = pane.graph.named.get(name);
        if (!node || !pane.graph.home.has(node.id)) continue;
        for (const block of chain(pane.graph, node.id).slice(1)) this.passing.add(pane.graph.blocks[block].key);
      }
    }
    if (this.isShown(this.allOpen())) for (const pane of this.panes) pane.highlight();
    else this.redraw();
    for (const pane of this.panes) pane.centreOn(names.map((name) => pane.boxOf(name)).filter(Boolean));
  }

  choose(node, pane) {
    const name = node === null || typeof node === "string" ? node : node.op === "output" ? node.inputs[0] : node.name;
    this.chosen = name;
    if (name !== null && !pane) this.reveal([name]);
    for (const one of this.panes) one.highlight();
    this.showDetails();
  }

  /** Show a node in the graph of a stop. */
  seek(name, stop) {
    const graph = stop === 0 ? GRAPHS[0] : FINAL;
    const node = graph.named.get(name);
    this.go(stop, -1, node && graph.home.has(node.id) ? name : null);
  }

  showKernel(name) {
    this.setView("kernels");
    kernelView(byId("view-kernels"), name);
    const button = byId("view-kernels").querySelector("tr[aria-selected] button");
    if (button) button.scrollIntoView({ block: "nearest" });
  }

  setView(view) {
    if (view !== this.view) byId("tip").hidden = true;
    this.view = view;
    for (const name of ["graph", "memory", "kernels"]) {
      byId("view-" + name).hidden = name !== view;
      byId("tab-" + name).setAttribute("aria-selected", String(name === view));
    }
    if (view === "memory") memoryView(byId("view-memory"));
    if (view === "kernels") kernelView(byId("view-kernels"), null);
  }

  // ---- searching ----------------------------------------------------------------------------------------------------

  /** Nodes whose name or operator holds the text; every word of it must be found. */
  search(text, show = true) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const [before, after] = this.graphs();
    const matches = (graph) => graph.nodes.filter((node) => words.every((word) => node.name.toLowerCase().includes(word) || node.op.includes(word)));
    this.found = words.length ? matches(after) : [];
    const gone = words.length && before !== after ? matches(before) : [];
    this.hits = new Set([...this.found, ...gone].map((node) => node.id));
    if (!this.found.length) this.found = gone;
    this.foundAt = -1;
    for (const pane of this.panes) if (pane.graph) pane.highlight();
    this.showResults(show && words.length > 0);
  }

  showResults(visible) {
    const list = byId("results");
    list.hidden = !visible;
    if (!visible) return;
    const from = Math.max(0, Math.min(this.foundAt - 6, this.found.length - 14));
    list.replaceChildren(
      h("li", { class: "count" }, this.found.length ? plural(this.found.length, "match", "matches") : "Nothing found in this graph"),
      ...this.found.slice(from, from + 14).map((node, at) =>
        h("li", { role: "option", "aria-selected": from + at === this.foundAt ? "true" : null, on: { pointerdown: (event) => { event.preventDefault(); this.visit(from + at); } } },
          h("span", {}, node.name), h("span", { class: "faint" }, node.op))));
  }

  visit(at) {
    if (!this.found.length) return;
    this.foundAt = (at + this.found.length) % this.found.length;
    if (this.view !== "graph") this.setView("graph");
    this.choose(this.found[this.foundAt]);
    this.showResults(true);
  }

  // ---- showing ------------------------------------------------------------------------------------------------------

  refresh(fit) {
    const [before, after] = this.graphs();
    const same = before === after;
    const mode = same ? "after" : this.mode;
    const shown = mode === "both" ? [this.before, this.after] : mode === "before" ? [this.before] : [this.after];
    this.after.caption.textContent = this.stop === 0 ? "As read" : this.stop === LAST_STOP ? "What runs" : same ? "Unchanged" : "After";
    if (shown.length !== this.panes.length || shown.some((pane, at) => pane !== this.panes[at])) {
      byId("panes").replaceChildren(...shown.map((pane) => pane.element));
    }
    this.panes = shown;
    this.redraw();
    if (fit) for (const pane of this.panes) pane.fit(false);
    for (const one of ["before", "both", "after"]) {
      byId("show-" + one).setAttribute("aria-pressed", String(one === mode));
      byId("show-" + one).disabled = same;
    }
    const record = this.stop > 0 && this.stop < LAST_STOP ? RECORDS[this.stop - 1] : null;
    byId("pass-title").textContent = record ? `${record.index}. ${record.name}` : this.stop === 0 ? "As read" : "What runs";
    const doc = record ? DATA.docs[record.name] || "" : this.stop === 0 ? "the network before any pass" : "the graph after the last pass";
    byId("pass-doc").textContent = doc;
    byId("pass-doc").title = doc;
    this.showStepper();
    const list = byId("passes");
    const top = list.scrollTop;
    list.replaceChildren(...passList(this.stop, (stop) => this.go(stop)).flat());
    list.scrollTop = top;
    list.querySelector("[aria-current]").scrollIntoView({ block: "nearest" });
    this.showDetails();
  }

  /** Whether the panes show just these blocks open. */
  isShown(open) {
    return this.panes.every((pane) => pane.open.size === open.size && [...open].every((key) => pane.open.has(key)));
  }

  redraw() {
    const [before, after] = this.graphs();
    const marks = differences(before, after, this.rewrites());
    const open = this.allOpen();
    for (const pane of this.panes) {
      if (pane === this.before) pane.show(before, marks.before, open);
      else pane.show(after, marks.after, open);
      pane.apply();
    }
  }

  showStepper() {
    const rewrites = this.rewrites();
    const rewrite = this.currentRewrite();
    byId("previous").disabled = !rewrites.length || this.rewrite === 0;
    byId("next").disabled = !rewrites.length || this.rewrite === rewrites.length - 1;
    byId("step-count").textContent = rewrites.length ? (rewrite ? `${this.rewrite + 1} of ${rewrites.length}` : plural(rewrites.length, "rewrite")) : "No rewrites";
    const text = rewrite ? plain(`${rewrite.rule} at %${rewrite.node}${rewrite.note ? ": " + rewrite.note : ""}`) : "";
    byId("step-text").textContent = text;
    byId("step-text").title = text;
    const [before, after] = this.graphs();
    byId("legend").hidden = before === after;
    byId("legend").classList.toggle("always", !rewrite);
  }

  showDetails() {
    const panel = byId("details");
    const [before, after] = this.graphs();
    let content;
    if (this.chosen !== null) {
      const graph = after.named.has(this.chosen) ? after : before;
      const node = graph.named.get(this.chosen);
      const marks = differences(before, after, this.rewrites());
      content = node ? showNode(node, graph, (graph === after ? marks.after : marks.before).get(node.id)) : [h("p", { class: "note" }, `%${this.chosen} is not in this graph.`)];
    } else if (this.stop === 0 || this.stop === LAST_STOP) content = showModel(this.stop === LAST_STOP);
    else content = showPass(this.stop - 1, this.rewrite);
    panel.replaceChildren(...content.flat().filter(Boolean));
    panel.scrollTop = 0;
    const row = panel.querySelector(".row[aria-current]");
    if (row) row.scrollIntoView({ block: "nearest" });
  }
}
