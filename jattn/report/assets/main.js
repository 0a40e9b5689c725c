// The page comes to life: theme, sections, tables, commands; a panel when it comes into sight.

const PANELS = { differences: differencesPanel, curves: curvesPanel, cost: costPanel, attention: attentionPanel, dynamics: dynamicsPanel };

function startTheme() {
  const wanted = matchMedia("(prefers-color-scheme: dark)");
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    document.dispatchEvent(new Event("theme"));
  };
  document.documentElement.dataset.theme = wanted.matches ? "dark" : "light";
  wanted.addEventListener("change", () => apply(wanted.matches ? "dark" : "light"));
  // Paper is white.
  let before = null;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    apply("light");
  });
  addEventListener("afterprint", () => apply(before));
  find("#theme").addEventListener("click", () => apply(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
}

function addLinks() {
  for (const section of findAll("main > section")) {
    find("nav").append(make("a", { href: `#${section.id}`, textContent: find("h2", section).textContent }));
  }
}

function addCopying() {
  for (const block of findAll("[data-copy]")) {
    const text = find("code", block).textContent;
    const button = make("button", { type: "button", textContent: "copy" });
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(find("code", block));
        button.textContent = "selected";
      }
      setTimeout(() => (button.textContent = "copy"), 2000);
    });
    block.append(button);
  }
}

async function startPanels() {
  const page = JSON.parse(await inflateText(block("data", "drawn")));
  for (const name of ["bokeh.min.js", "bokeh-api.min.js"]) {
    document.head.append(make("script", { textContent: await inflateText(block("library", name)) }));
  }
  const start = async (panel) => {
    await PANELS[panel.dataset.panel](panel, page);
    panel.dataset.ready = "";
  };
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries.filter(({ isIntersecting }) => isIntersecting)) {
      watch.unobserve(entry.target);
      start(entry.target);
    }
  }, { rootMargin: "600px" });
  findAll("[data-panel]").forEach((panel) => watch.observe(panel));
}

startTheme();
addLinks();
findAll("main table").forEach(enliven);
addCopying();
startPanels();
