// Maps of attention: opening what a page holds of them, and drawing them on canvases.

/** The maps of a cell: `at(layer, head, example)` by places, example 0 is the mean. */
async function openMaps(seen) {
  const buffer = await inflate(block("maps", seen.cell));
  const places = seen.tokens;
  const layers = [];
  let offset = 0;
  const examples = 1 + seen.shown;
  for (const heads of seen.heads) {
    const count = examples * heads.length * places;
    const parts = new Uint8Array(buffer, offset, count * places);
    offset += count * places;
    layers.push({ heads: heads.length, parts, largest: new Uint16Array(buffer.slice(offset, offset + 2 * count)) });
    offset += 2 * count;
  }
  return {
    places,
    at(layer, head, example) {
      const { heads, parts, largest } = layers[layer];
      const row = (example * heads + head) * places;
      return { parts: parts.subarray(row * places, (row + places) * places), largest: largest.subarray(row, row + places) };
    },
  };
}

/** The share that a query gives a key. */
const share = (map, places, query, key) => (map.parts[query * places + key] / 255) * (map.largest[query] / 65535);

/** The shares of a query's keys, or without a query the mean over all queries that have keys: padding has none. */
function sharesOf(map, places, query) {
  const mean = new Float64Array(places);
  const queries = query === null ? [...Array(places).keys()].filter((row) => map.largest[row] > 0) : [query];
  for (const row of queries) {
    for (let key = 0; key < places; key++) mean[key] += share(map, places, row, key) / queries.length;
  }
  return mean;
}

/** Draws a map, a pixel a pair; each row to its own largest share, or all to the largest of the map. */
function drawMap(canvas, map, places, byRow, colours) {
  canvas.width = canvas.height = places;
  const context = canvas.getContext("2d");
  const image = context.createImageData(places, places);
  const top = map.largest.reduce((a, b) => Math.max(a, b), 1);
  for (let query = 0; query < places; query++) {
    const factor = byRow ? 1 : map.largest[query] / top;
    for (let key = 0; key < places; key++) {
      const at = query * places + key;
      const [red, green, blue] = colours[Math.round(factor * map.parts[at])];
      image.data.set([red, green, blue, 255], 4 * at);
    }
  }
  context.putImageData(image, 0, 0);
}

/** Draws a picture in grey, its blocks lit by `shares` (rows x columns), and a frame around one block. */
function drawOver(canvas, picture, [rows, columns], shares, framed) {
  const context = canvas.getContext("2d");
  canvas.width = 416;
  canvas.height = Math.round((416 * rows) / columns);
  context.imageSmoothingEnabled = picture.naturalWidth > 64;
  context.filter = "grayscale(1) contrast(0.5)"; // neither black nor white, so that light shows
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  const [width, height] = [canvas.width / columns, canvas.height / rows];
  const most = Math.max(...shares, 1e-12);
  const mark = style("--mark").split(" ").join(",");
  shares.forEach((value, i) => {
    context.fillStyle = `rgba(${mark},${0.8 * (value / most)})`;
    context.fillRect((i % columns) * width, Math.floor(i / columns) * height, width, height);
  });
  if (framed === null) return;
  context.strokeStyle = "#fff";
  context.lineWidth = 5;
  const frame = [(framed % columns) * width + 2, Math.floor(framed / columns) * height + 2, width - 4, height - 4];
  context.strokeRect(...frame);
  context.strokeStyle = `rgb(${mark})`;
  context.lineWidth = 3;
  context.strokeRect(...frame);
}
