// Inside the attention: a cell, a layer, a head, an example and a query are chosen; all that is shown follows.

const MAPS = "their maps";

function attentionPanel(panel, page) {
  const state = { cell: 0, layer: 0, head: 0, example: 0, query: null, colouring: MAPS, byRow: true, over: "query" };
  const opened = new Map();
  const parts = {
    choices: make("div", { className: "controls" }), notes: make("p", { className: "readout" }),
    grid: make("div", { className: "grid", role: "group", "aria-label": "Layers and heads" }), scale: make("div"),
    map: make("canvas", { className: "map", tabIndex: 0, role: "img" }), readout: make("p", { className: "readout", role: "status" }),
    row: make("div", { className: "row" }), over: make("div"), gallery: make("div", { className: "gallery" }),
  };

  const tiles = page.attention.map(({ cell }, i) => {
    const [canvas, label] = [make("canvas", { "aria-hidden": "true" }), make("span", { textContent: cell })];
    return { canvas, label, button: make("button", { type: "button", onclick: () => set({ cell: i }) }, canvas, label) };
  });
  parts.gallery.append(...tiles.map(({ button }) => button));

  const seen = () => page.attention[state.cell];
  const examples = () => page.examples[seen().examples];
  const open = (cell) => {
    if (!opened.has(cell)) {
      const of = page.attention[cell];
      opened.set(cell, openMaps({ ...of, shown: page.examples[of.examples].index.length }));
    }
    return opened.get(cell);
  };

  /** Applies a change, keeps all places within what there is, and draws. */
  async function set(change) {
    Object.assign(state, change);
    const { layers, heads, tokens } = seen();
    state.layer = Math.min(state.layer, layers.length - 1);
    state.head = Math.min(state.head, heads[state.layer].length - 1);
    state.example = Math.min(state.example, examples().index.length);
    if (state.query !== null) state.query = Math.max(0, Math.min(state.query, tokens - 1));
    if (!(state.colouring in seen().statistics)) state.colouring = MAPS;
    await draw();
  }

  async function draw() {
    const cell = state.cell;
    const maps = await open(cell);
    if (cell !== state.cell) return;
    const colours = ramp();
    drawChoices();
    drawGrid(maps, colours);
    drawMap(parts.map, maps.at(state.layer, state.head, state.example), maps.places, state.byRow, colours);
    drawQuery(maps);
    drawScale(colours);
    drawGallery(colours);
  }

  function drawChoices() {
    const { layers, heads, mechanisms } = seen();
    const cells = page.attention.map(({ cell }, i) => [i, cell]);
    const layer = layers.map((name, i) => [i, new Set(mechanisms).size > 1 ? `${name}: ${mechanisms[i]}` : name]);
    const example = [[0, `mean over ${examples().averaged}`], ...examples().index.map((name, i) => [i + 1, `example ${name}`])];
    const all = [
      ["Cell", cells, "cell"], ["Layer", layer, "layer"],
      ["Head", heads[state.layer].map((name, i) => [i, name]), "head"], ["Map", example, "example"],
    ];
    replace(parts.choices, all.filter(([, choices, name]) => name !== "cell" || choices.length > 1).map(([label, choices, name]) =>
      choice(label, choices, state[name], (value) => set({ [name]: Number(value) }))));
    parts.choices.append(tick("each query to its largest key", state.byRow, (byRow) => set({ byRow })));
    parts.notes.textContent = seen().notes.join(" ");
  }

  /** Exchanges controls without taking the focus from the one in use. */
  function replace(box, children) {
    const place = findAll("select, input", box).indexOf(document.activeElement);
    box.replaceChildren(...children);
    if (place >= 0) requestAnimationFrame(() => findAll("select, input", box)[place]?.focus());
  }

  /** The heads are drawn again when what they show changes; otherwise another one is marked. */
  function drawGrid(maps, colours) {
    const shows = JSON.stringify([state.cell, state.colouring, state.example, state.byRow, colours[255]]);
    if (parts.grid.dataset.shows !== shows) fillGrid(maps, colours);
    parts.grid.dataset.shows = shows;
    const focused = parts.grid.contains(document.activeElement);
    for (const button of findAll("button", parts.grid)) {
      const chosen = button.dataset.place === `${state.layer},${state.head}`;
      button.setAttribute("aria-pressed", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      if (chosen && focused) button.focus();
    }
  }

  function fillGrid(maps, colours) {
    const { layers, heads, statistics } = seen();
    const most = Math.max(...heads.map((own) => own.length));
    const values = statistics[state.colouring];
    const all = (values ?? []).flat().filter((value) => value !== null);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const titles = Array.from({ length: most }, (_, head) => make("span", { textContent: heads[0][head] ?? "" }));
    const cells = layers.flatMap((layer, i) => [make("span", { textContent: layer }), ...titles.map((_, j) => {
      if (j >= heads[i].length) return make("span");
      const about = `layer ${layer}, head ${heads[i][j]}`;
      const button = make("button", { type: "button", title: about, onclick: () => set({ layer: i, head: j }) });
      button.dataset.place = `${i},${j}`;
      if (values) {
        const value = values[i][j];
        const colour = colours[value === null ? 0 : Math.round((255 * (value - low)) / (high - low || 1))];
        Object.assign(button.style, { background: css(colour), color: readable(colour) });
        button.title = `${about}: ${state.colouring} ${digits(value)}`;
        if (most <= 6) button.textContent = value === null ? "–" : String(+value.toPrecision(3));
      } else {
        const canvas = make("canvas", { "aria-hidden": "true" });
        drawMap(canvas, maps.at(i, j, state.example), maps.places, state.byRow, colours);
        button.append(canvas);
      }
      button.setAttribute("aria-label", button.title);
      return button;
    })]);
    parts.grid.style.gridTemplateColumns = `1.6rem repeat(${most}, minmax(0, 1fr))`;
    parts.grid.replaceChildren(make("span"), ...titles, ...cells);
    parts.range = values ? [digits(low), digits(high)] : ["0", state.byRow ? "a query's largest" : "the map's largest"];
  }

  function drawScale(colours) {
    const bar = make("div", { className: "ramp" });
    bar.style.background = `linear-gradient(to right, ${colours.filter((_, i) => i % 51 === 0).map(css)})`;
    const [low, high] = parts.range.map((text) => make("span", { textContent: text }));
    parts.scale.replaceChildren(bar, make("div", { className: "ends" }, low, high));
  }

  /** What place a number is: a token, or a block of patches. */
  function named(place) {
    const { kind, class_token: first, blocks, texts } = examples();
    if (first && place === 0) return "class token";
    if (kind === "image") {
      const at = place - first;
      return `${Math.floor(at / blocks[1])},${at % blocks[1]}`;
    }
    const token = state.example ? texts[state.example - 1][place] : undefined;
    return token === undefined ? String(place) : `${place} ${JSON.stringify(token)}`;
  }

  function drawQuery(maps) {
    const { query } = state;
    const map = maps.at(state.layer, state.head, state.example);
    parts.row.hidden = query === null;
    if (query !== null) {
      Object.assign(parts.row.style, { top: `${(100 * query) / maps.places}%`, height: `${100 / maps.places}%` });
    }
    const { layers, heads, cell } = seen();
    const what = `${cell}, layer ${layers[state.layer]}, head ${heads[state.layer][state.head]}`;
    parts.map.setAttribute("aria-label", `Map of ${what}: queries down, keys across; arrow keys choose the query`);
    const shares = sharesOf(map, maps.places, query);
    const best = [...shares.keys()].filter((key) => shares[key] > 0).sort((a, b) => shares[b] - shares[a]).slice(0, 3);
    const top = best.map((key) => `${named(key)} (${(100 * shares[key]).toFixed(1)} %)`).join(", ") || "none";
    parts.readout.textContent = `${query === null ? "Mean over queries" : `Query ${named(query)}`}; largest keys: ${top}`;
    drawContent(shares);
  }

  function drawContent(shares) {
    const { kind } = examples();
    (kind === "image" ? drawPicture : drawText)(shares);
  }

  /** What is drawn over an example: what a query attends to, or what reaches the output through all layers. */
  function overlay(shares) {
    const rolled = seen().rollout;
    if (state.over !== "rollout" || !rolled) return { values: shares, query: state.query };
    return { values: rolled[Math.max(0, state.example - 1)], query: null };
  }

  const overChoice = () => choice("Light", [["query", "what the query attends to"], ["rollout", "rollout through all layers"]], state.over, (over) => set({ over }));

  async function drawPicture(shares) {
    const { pictures, blocks, grid, class_token: first, index } = examples();
    const number = Math.max(0, state.example - 1);
    const picture = new Image();
    picture.src = `data:image/png;base64,${pictures[number]}`;
    parts.picture = picture;
    await picture.decode();
    if (parts.picture !== picture) return; // something else has been chosen meanwhile
    const { values, query } = overlay(shares);
    const rolled = values !== shares;
    const cells = rolled ? values.flat() : [...values].slice(first ? 1 : 0);
    const framed = query === null || (first && query === 0) ? null : query - first;
    const canvas = make("canvas", { className: "map", role: "img", "aria-label": "Example with the blocks attended to lit" });
    canvas.style.aspectRatio = "auto";
    drawOver(canvas, picture, rolled ? grid : blocks, cells, framed);
    canvas.addEventListener("click", (event) => {
      const at = (size, length, count) => Math.min(count - 1, Math.floor((count * size) / length));
      const [row, column] = [at(event.offsetY, canvas.clientHeight, blocks[0]), at(event.offsetX, canvas.clientWidth, blocks[1])];
      set({ query: row * blocks[1] + column + first, over: "query" });
    });
    const whose = state.example ? `Example ${index[number]}` : `Example ${index[number]}, lit by the mean map`;
    const box = make("div", { className: "controls" }, ...(seen().rollout ? [overChoice()] : []));
    parts.over.replaceChildren(make("h3", { textContent: whose }), box, canvas, make("p", { className: "readout", textContent: "A click chooses the query." }));
  }

  function drawText(shares) {
    const { texts, index, lengths } = examples();
    const number = Math.max(0, state.example - 1);
    const { values, query } = overlay(shares);
    const most = Math.max(...values, 1e-12);
    const box = make("div", { className: "tokens", tabIndex: 0, role: "group", "aria-label": "Tokens; a click chooses the query" });
    texts[number].forEach((token, i) => {
      const text = token.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");
      const span = make("span", { textContent: text, title: `${i}: ${(100 * (values[i] ?? 0)).toFixed(2)} %` });
      span.style.background = `rgb(var(--mark) / ${(0.85 * (values[i] ?? 0)) / most})`;
      if (i === query) span.className = "query";
      span.addEventListener("click", () => set({ query: i, over: "query" }));
      box.append(span);
    });
    const [kept, length] = [texts[number].length, lengths[number]];
    const first = kept < length ? `first ${kept} of ${length} tokens` : `${length} tokens`;
    const whose = `Example ${index[number]}${state.example ? "" : ", coloured by the mean map"}: ${first}`;
    const choices = make("div", { className: "controls" }, ...(seen().rollout ? [overChoice()] : []));
    parts.over.replaceChildren(make("h3", { textContent: whose }), choices, box);
  }

  /** The same layer, head and example of every cell; of one that lacks them its last, which its label then names. */
  async function drawGallery(colours) {
    if (tiles.length < 2) return;
    const maps = await Promise.all(tiles.map((_, i) => open(i)));
    const place = ({ layers, heads }, layer, head) => `layer ${layers[layer]}, head ${heads[layer][head]}`;
    const wanted = place(seen(), state.layer, state.head);
    tiles.forEach(({ button, canvas, label }, i) => {
      const { cell, heads, examples: key } = page.attention[i];
      const layer = Math.min(state.layer, heads.length - 1);
      const head = Math.min(state.head, heads[layer].length - 1);
      const example = Math.min(state.example, page.examples[key].index.length);
      drawMap(canvas, maps[i].at(layer, head, example), maps[i].places, state.byRow, colours);
      const own = place(page.attention[i], layer, head);
      label.textContent = own === wanted ? cell : `${cell} (${own})`;
      button.setAttribute("aria-pressed", String(i === state.cell));
    });
  }

  /** A statistic over the layers of every cell: means over heads. */
  function drawAcross(place, name) {
    const mean = (own) => own.reduce((sum, value) => sum + (value ?? NaN), 0) / own.length;
    const shown = page.attention.filter((of) => of.statistics[name]);
    const curves = Object.fromEntries(shown.map((of) => [of.cell, { x: of.layers, y: of.statistics[name].map(mean) }]));
    const looks = shown.map((of) => look(page, of.cell));
    const ticks = [...new Set(page.attention.flatMap((of) => of.layers))];
    const options = { figure: { height: 340 }, what: "cell", x: "layer", y: `${name}, mean over heads`, ticks, thick: page.baseline };
    return lines(place.plot, place.below, curves, looks, new Set(), options);
  }

  function choiceOfQuery(event) {
    const { tokens } = seen();
    return Math.max(0, Math.min(tokens - 1, Math.floor((tokens * event.offsetY) / parts.map.clientHeight)));
  }

  parts.map.addEventListener("click", (event) => set({ query: choiceOfQuery(event), over: "query" }));
  parts.map.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") set({ query: null });
    if (!step) return;
    event.preventDefault();
    set({ query: state.query === null ? 0 : state.query + step, over: "query" });
  });
  parts.grid.addEventListener("keydown", (event) => {
    const step = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    set({ layer: Math.max(0, state.layer + step[0]), head: Math.max(0, state.head + step[1]) });
  });

  const names = [...new Set(page.attention.flatMap((of) => Object.keys(of.statistics)))];
  const colouring = choice("Heads by", [[MAPS, MAPS], ...names.map((name) => [name, name])], MAPS, (value) => set({ colouring: value }));
  const everyQuery = make("button", { type: "button", textContent: "mean over queries", onclick: () => set({ query: null }) });
  panel.append(
    parts.choices, parts.notes,
    make("div", { className: "heads" },
      make("div", {}, make("h3", { textContent: "Layers and heads" }), make("div", { className: "controls" }, colouring), parts.grid, parts.scale),
      make("div", {}, make("h3", { textContent: "Map: queries down, keys across" }), make("div", { className: "controls" }, everyQuery),
        make("div", { className: "frame" }, parts.map, parts.row), parts.readout),
      parts.over),
  );
  if (page.attention.length > 1) {
    const place = { plot: make("div", { className: "drawing" }), below: make("div") };
    let statistic = names[0];
    const across = choice("Statistic", names.map((name) => [name, name]), statistic, (name) => {
      statistic = name;
      drawAcross(place, name);
    });
    panel.append(make("h3", { textContent: "The same layer and head in every cell" }), parts.gallery,
      make("h3", { textContent: "Over the layers of every cell" }), make("div", { className: "controls" }, across), place.plot, place.below);
    onTheme(() => drawAcross(place, statistic));
    drawAcross(place, statistic);
  }
  onTheme(draw);
  return set({});
}
