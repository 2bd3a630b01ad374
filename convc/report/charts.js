// Memory over time, and kernels with their times and sources.

function memoryView(host) {
  const { memory, totals, program } = DATA;
  const card = (value, text) => h("div", { class: "card" }, h("b", {}, value), h("span", {}, text));
  const saved = totals.buffers ? 1 - totals.arena / totals.buffers : 0;
  host.replaceChildren(h("div", { class: "chart-view" },
    h("div", { class: "cards" },
      card(bytes(totals.weights), "weights in the graph"), card(bytes(totals.packed), "weights as kernels read them"),
      card(bytes(totals.arena), "arena for activations"), card(bytes(totals.buffers), `${plural(memory.buffers.length, "buffer")} without sharing`),
      card(percent(saved), "saved by sharing"), card(bytes(totals.inputs + totals.outputs), "inputs and outputs")),
    memory.buffers.length ? h("div", { class: "chart", id: "memory-chart" }) : h("p", { class: "note" }, `Target ${program.target} plans no memory.`),
    h("div", { class: "faint" }, "Across: steps of the program. Up: place in the arena. Each rectangle is a buffer, from the step that writes it to the last that reads it; the thin line is what is alive.")));
  if (memory.buffers.length) drawMemory(byId("memory-chart"));
}

function drawMemory(host) {
  const { memory } = DATA;
  const box = host.getBoundingClientRect();
  const width = Math.max(400, box.width);
  const height = Math.max(240, box.height);
  const edge = { left: 74, right: 20, top: 18, bottom: 36 };
  const moments = memory.moments.length ? memory.moments[memory.moments.length - 1] + 1 : 1;
  const x = (moment) => edge.left + ((width - edge.left - edge.right) * moment) / moments;
  const y = (offset) => height - edge.bottom - ((height - edge.top - edge.bottom) * offset) / Math.max(1, memory.total);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Buffers in the arena over the steps of the program" });
  for (const tick of ticks(memory.total, 6)) {
    svg.append(s("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: y(tick), y2: y(tick) }),
      s("text", { class: "axis-text", x: edge.left - 8, y: y(tick) + 4, "text-anchor": "end" }, bytes(tick)));
  }
  for (const tick of ticks(moments, 12)) {
    const step = memory.moments.indexOf(tick);
    if (step >= 0) svg.append(s("text", { class: "axis-text", x: x(tick), y: height - 14 }, step + 1));
  }
  svg.append(s("text", { class: "axis-text", x: width - edge.right, y: height - 2, "text-anchor": "end" }, "step"));
  for (const buffer of memory.buffers) {
    const node = workedFor(buffer.name);
    const [from, to] = buffer.life;
    const rect = s("rect", { class: "buffer", x: x(from), y: y(buffer.offset + buffer.bytes), width: Math.max(1, x(to + 1) - x(from)), height: Math.max(1, y(buffer.offset) - y(buffer.offset + buffer.bytes)), rx: 1.5 });
    rect.style.setProperty("--family", colour(node ? node.op : ""));
    const step = (moment) => memory.moments.indexOf(moment) + 1;
    tip(rect, () => `%${plain(buffer.name)}\n${plain(buffer.type)}\n${bytes(buffer.bytes)} at ${bytes(buffer.offset)}, steps ${step(from)} to ${memory.moments.lastIndexOf(to) + 1}`);
    rect.addEventListener("click", () => app.seek(node ? node.name : buffer.name, RECORDS.length + 1));
    svg.append(rect);
    const room = x(to + 1) - x(from) - 8;
    if (room > 34 && y(buffer.offset) - y(buffer.offset + buffer.bytes) > 15) {
      svg.append(s("text", { class: "buffer-label", x: x(from) + 5, y: (y(buffer.offset) + y(buffer.offset + buffer.bytes)) / 2 + 4 }, fitted(buffer.name, room, NAME_FONT)));
    }
  }
  const alive = new Array(moments).fill(0);
  for (const buffer of memory.buffers) for (let at = buffer.life[0]; at <= buffer.life[1]; at++) alive[at] += buffer.bytes;
  svg.append(s("path", { class: "live", d: alive.map((size, at) => `${at ? "V" + round(y(size)) : "M" + round(x(0)) + " " + round(y(size))}H${round(x(at + 1))}`).join("") }));
  host.replaceChildren(svg);
}

/** The node that a value belongs to: lowering names what it puts beside a node `node.something`. */
function workedFor(name) {
  while (name && !FINAL.named.has(name)) name = name.slice(0, Math.max(0, name.lastIndexOf(".")));
  return FINAL.named.get(name) || null;
}

/** Round numbers from 0 up to `most`, about `wanted` of them. */
function ticks(most, wanted) {
  const rough = Math.max(1, most) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough));
  const found = [];
  for (let at = 0; at <= most; at += step) found.push(at);
  return found;
}

function tip(element, text) {
  const box = byId("tip");
  element.addEventListener("pointermove", (event) => {
    box.textContent = text();
    box.hidden = false;
    const size = box.getBoundingClientRect();
    box.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - size.width - 8)) + "px";
    box.style.top = Math.max(4, Math.min(event.clientY + 16, innerHeight - size.height - 8)) + "px";
  });
  element.addEventListener("pointerleave", () => { box.hidden = true; });
}

/** Kernels with the figures of the profile where there is one; those that take most first. */
function kernelFigures() {
  const timed = new Map(PROFILE ? PROFILE.kernels.map((kernel) => [kernel.kernel, kernel]) : []);
  const found = DATA.kernels.map((kernel) => ({ ...kernel, timed: timed.get(kernel.name) || null }));
  const weight = (kernel) => (kernel.timed ? kernel.timed.seconds : PROFILE ? -1 : kernel.calls);
  return found.sort((a, b) => weight(b) - weight(a));
}

function kernelView(host, chosen) {
  const kernels = kernelFigures();
  chosen = chosen || (kernels.length ? kernels[0].name : null);
  const most = Math.max(1e-12, ...kernels.map((kernel) => (kernel.timed ? kernel.timed.seconds : kernel.calls)));
  const bar = (kernel) => {
    const share = (kernel.timed ? kernel.timed.seconds : PROFILE ? 0 : kernel.calls) / most;
    return s("svg", { viewBox: "0 0 100 7", preserveAspectRatio: "none", "aria-hidden": "true" }, s("rect", { class: "fill", width: Math.max(0.3, share * 100), height: 7, rx: 0.8 }));
  };
  const columns = PROFILE ? ["kernel", "time", "share", "GFLOP/s", "of limit", "calls"] : ["kernel", "calls", "lines"];
  const cells = (kernel) => {
    const figures = kernel.timed;
    if (!PROFILE) return [kernel.calls, kernel.lines];
    if (!figures) return ["", "", "", "", kernel.calls];
    return [time(figures.seconds), percent(figures.share), figures.macs ? figures.gflops.toFixed(1) : "", figures.macs ? percent(figures.limit_share) : "", kernel.calls];
  };
  const summed = PROFILE ? `${time(PROFILE.seconds)} an inference on one thread; steps add up to ${time(PROFILE.total)}; the limit is ${(PROFILE.limit * 2e-9).toFixed(0)} GFLOP/s` : "No times were measured: bars show how often a kernel is called.";
  const list = h("div", { class: "kernel-list" },
    h("p", { class: "note" }, summed),
    h("table", { class: "kernels" },
      h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, kernels.map((kernel) => h("tr", { "aria-selected": kernel.name === chosen ? "true" : null },
        h("td", {}, h("button", { type: "button", class: "link mono", title: kernel.name, "data-kernel": kernel.name, on: { click: () => app.showKernel(kernel.name) } }, kernel.name), bar(kernel)),
        cells(kernel).map((cell) => h("td", {}, cell)))))));
  const scrolled = host.querySelector(".kernel-list") ? host.querySelector(".kernel-list").scrollTop : 0;
  host.replaceChildren(list, h("div", { class: "kernel-source" }, chosen ? kernelSource(chosen) : []));
  list.scrollTop = scrolled;
}

function kernelSource(name) {
  const nodes = [...new Set(DATA.program.steps.flatMap((step, index) => (step.kernel === name ? [DATA.step_nodes[index]] : [])))].filter(Boolean);
  return [
    h("h2", {}, name),
    nodes.length ? h("details", { open: nodes.length <= 12 }, h("summary", {}, `Runs ${plural(nodes.length, "node")}`),
      h("ul", { class: "calls" }, nodes.map((node) => h("li", {}, link("%" + node, () => app.seek(node, RECORDS.length + 1)))))) : null,
    source(DATA.sources[name] || ""),
  ];
}
