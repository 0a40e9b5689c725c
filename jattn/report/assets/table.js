// Tables that sort by a click on a column's title, and keep the rows that hold what is typed.

function enliven(table) {
  const body = find("tbody", table);
  const heads = findAll("thead th", table);
  heads.forEach((head, column) => find("button", head).addEventListener("click", () => sort(body, heads, column)));
  const box = find(`.filter[data-table="${table.id}"]`);
  if (body.rows.length > 3) addFilter(box, body);
}

function sort(body, heads, column) {
  const direction = heads[column].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign)));
}

/** Numbers by size, texts by letters; what is missing comes last either way. */
function compare(a, b, sign) {
  if (!a.dataset.order && !b.dataset.order) {
    return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  }
  const [x, y] = [parseFloat(a.dataset.order), parseFloat(b.dataset.order)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return sign * (x - y);
}

function addFilter(box, body) {
  const said = make("span", { role: "status" });
  const input = make("input", { type: "search", placeholder: "Filter rows", "aria-label": "Filter rows" });
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let kept = 0;
    for (const row of body.rows) {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      kept += !row.hidden;
    }
    said.textContent = input.value ? `${kept} of ${body.rows.length} rows` : "";
  });
  box.append(input, said);
}
