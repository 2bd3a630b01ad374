// The left side: the network as read, each pass in order, and what runs.

function passList(current, go) {
  const seconds = RECORDS.reduce((sum, record) => sum + record.seconds, 0);
  const item = (stop, children, idle) =>
    h("button", { type: "button", class: "pass" + (idle ? " idle" : ""), "data-stop": stop, "aria-current": stop === current ? "true" : null, on: { click: () => go(stop) } }, children);
  const operators = (record) => change(total(record.ops_before), total(record.ops_after), String);
  const first = RECORDS[0];
  return [
    h("div", { class: "side-title" }, h("span", {}, "Passes in order"), h("span", {}, RECORDS.length ? time(seconds) : "")),
    item(0, [h("span", { class: "number" }, "\u25cf"), h("span", { class: "name" }, "As read"), h("span", { class: "time" }, first ? `${total(first.ops_before)} operators` : "")]),
    RECORDS.map((record, index) => {
      const idle = !record.rewrites.length;
      return item(index + 1, [
        h("span", { class: "number" }, record.index),
        h("span", { class: "name", title: DATA.docs[record.name] }, record.name),
        h("span", { class: "time" }, time(record.seconds)),
        idle && !record.refusals.length ? null : h("span", { class: "more" },
          h("span", { class: "tag " + record.numerics }, record.numerics),
          idle ? null : h("span", { class: "good" }, plural(record.rewrites.length, "rewrite")),
          record.refusals.length ? h("span", { class: "refused" }, record.refusals.length + " refused") : null,
          idle ? null : h("span", {}, operators(record) + " operators"),
          record.macs_before === record.macs_after ? null : h("span", {}, change(record.macs_before, record.macs_after, count) + " MACs")),
      ], idle);
    }),
    item(RECORDS.length + 1, [h("span", { class: "number" }, "\u25b6"), h("span", { class: "name" }, "What runs"), h("span", { class: "time" }, plural(DATA.program.steps.length, "step"))]),
  ];
}

/**
 * Which nodes differ between two graphs, by id: in the first one removed or changed, in the second added or changed.
 * A node that only reads another name than before is the same.
 */
function differences(before, after, rewrites) {
  const marks = { before: new Map(), after: new Map() };
  if (before === after) return marks;
  const made = new Set(rewrites.flatMap((rewrite) => rewrite.added));
  const same = (a, b) => a.id === b.id || (!made.has(a.name) && a.op === b.op && a.type === b.type && JSON.stringify(a.attrs) === JSON.stringify(b.attrs));
  for (const node of before.nodes) {
    if (node.op === "output") continue;
    const other = after.named.get(node.name);
    if (!other) marks.before.set(node.id, "removed");
    else if (!same(node, other)) marks.before.set(node.id, "changed");
  }
  for (const node of after.nodes) {
    if (node.op === "output") continue;
    const other = before.named.get(node.name);
    if (!other) marks.after.set(node.id, "added");
    else if (!same(node, other)) marks.after.set(node.id, "changed");
  }
  return marks;
}

/** Blocks to open at first: level by level, as long as what is visible stays small enough to be read. */
function firstOpen(graph, most) {
  const open = new Set();
  let level = [0];
  let visible = graph.blocks[0].members.length;
  for (;;) {
    const inner = level.flatMap((number) => graph.blocks[number].members.filter((member) => member < 0).map((member) => -member));
    const more = inner.reduce((sum, number) => sum + graph.blocks[number].members.length, 0);
    if (!inner.length || visible + more > most) return open;
    for (const number of inner) open.add(graph.blocks[number].key);
    visible += more;
    level = inner;
  }
}
