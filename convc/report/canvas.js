// Geometry: places of everything that is visible, from the layers and centres that came with the page.
// A block that is open is wider and taller than its closed box; what stands beside it moves aside, so columns stay columns.

const NODE_W = DATA.node_width;
const NODE_H = 46;
const GAP_Y = 34;
const PORT_GAP = 24;
const PAD = 14;
const HEAD = 26;

/** Sizes of a block's inside, with its open blocks measured first. `open` holds keys of blocks. */
function measure(graph, number, open) {
  const block = graph.blocks[number];
  const members = block.members.map((member, index) => {
    const inner = member < 0 && open.has(graph.blocks[-member].key) ? measure(graph, -member, open) : null;
    return { member, index, inner, layer: block.layers[index], centre: block.centres[index],
      width: inner ? inner.width : NODE_W, height: inner ? inner.height : NODE_H };
  });
  const stretch = stretcher(members);
  const count = Math.max(0, ...block.layers, block.exit ? block.exit[0] : 0) + 1;
  const heights = new Array(count).fill(0);
  for (const one of members) heights[one.layer] = Math.max(heights[one.layer], one.height);
  const tops = [];
  let y = number === 0 ? 0 : HEAD;
  heights.forEach((height, layer) => {
    tops.push(y);
    const port = (layer === 0 && block.entry !== null) || (block.exit && (layer === block.exit[0] || layer + 1 === block.exit[0]));
    y += height + (layer + 1 < count ? (port ? PORT_GAP : GAP_Y) : 0);
  });
  const pad = number === 0 ? 0 : PAD;
  for (const one of members) {
    one.x = pad + stretch(one.centre) - anchor(one);
    one.y = tops[one.layer] + (heights[one.layer] - one.height) / 2;
  }
  const right = Math.max(block.width, ...members.map((one) => one.x + one.width - pad), stretch(block.width));
  return {
    number, block, members, tops, heights,
    at: (centre) => pad + stretch(centre),
    width: right + 2 * pad,
    height: y + (block.exit ? 0 : pad),
    entry: block.entry === null ? null : pad + stretch(block.entry),
    exit: block.exit === null ? null : pad + stretch(block.exit[1]),
  };
}

/** Where in a member's width its column is: the entry of an open block, the middle of anything else. */
function anchor(one) {
  if (!one.inner) return NODE_W / 2;
  return one.inner.entry === null ? one.inner.exit ?? one.width / 2 : one.inner.entry;
}

/** Moves a centre to the right by what open blocks at and left of it need beyond a closed box. */
function stretcher(members) {
  const needs = new Map();
  for (const one of members) {
    if (!one.inner) continue;
    const at = anchor(one);
    const [left, right] = needs.get(one.centre) || [0, 0];
    needs.set(one.centre, [Math.max(left, at - NODE_W / 2), Math.max(right, one.width - at - NODE_W / 2)]);
  }
  const sorted = [...needs].sort((a, b) => a[0] - b[0]);
  return (centre) => {
    let moved = centre;
    for (const [stop, [left, right]] of sorted) {
      if (stop < centre) moved += left + right;
      else if (stop === centre) moved += left;
    }
    return moved;
  };
}

/** Boxes and edges in one coordinate system: `boxes` outermost first, `edges` with the members that they join. */
function place(graph, open) {
  const boxes = [];
  const edges = [];
  const visit = (size, x, y, owner) => {
    const here = size.members.map((one) => {
      const box = { x: x + one.x, y: y + one.y, width: one.width, height: one.height, member: one.member, open: !!one.inner, one };
      boxes.push(box);
      if (one.inner) visit(one.inner, box.x, box.y, one.member);
      return box;
    });
    for (const [a, b] of size.block.edges) edges.push(route(size, here, a, b, x, y));
  };
  const whole = measure(graph, 0, open);
  visit(whole, 0, 0, 0);
  return { boxes, edges, width: whole.width, height: whole.height };
}

function route(size, here, a, b, x, y) {
  const { block, tops, heights } = size;
  const from = a === -1 ? 0 : block.layers[a];
  const to = b === -2 ? block.exit[0] : block.layers[b];
  const start = a === -1 ? size.entry : size.members[a].x + (size.members[a].inner ? size.members[a].inner.exit ?? size.members[a].width / 2 : NODE_W / 2);
  const end = b === -2 ? size.exit : size.members[b].x + (size.members[b].inner ? size.members[b].inner.entry ?? size.members[b].width / 2 : NODE_W / 2);
  const stem = block.stems[String(a)] || [];
  const points = [];
  let px = x + start;
  const first = a === -1 ? y : here[a].y + here[a].height;
  let py = a === -1 ? y + tops[0] : y + tops[from] + heights[from];
  let path = `M${round(px)} ${round(first)}V${round(py)}`;
  const bend = (nx, ny) => {
    const middle = round((py + ny) / 2);
    path += Math.abs(nx - px) < 0.5 ? `V${round(ny)}` : `C${round(px)} ${middle} ${round(nx)} ${middle} ${round(nx)} ${round(ny)}`;
    px = nx;
    py = ny;
  };
  for (let layer = from + 1; layer < to; layer++) {
    bend(x + size.at(stem[layer - from - 1]), y + tops[layer]);
    py = y + tops[layer] + heights[layer];
    path += `V${round(py)}`;
    points.push([px, py]);
  }
  bend(x + end, y + tops[to]);
  const last = b === -2 ? y + size.height : here[b].y;
  path += `V${round(last)}`;
  const tip = b !== -2 && !here[b].open ? `M${round(px - 3.6)} ${round(last - 6)}h7.2l-3.6 6z` : null;
  return { path, tip, from: a === -1 ? "in" : size.block.members[a], to: b === -2 ? "out" : size.block.members[b], block: size.number };
}

const round = (value) => Math.round(value * 10) / 10;
