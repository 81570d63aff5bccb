"use strict";
(() => {
  const table = document.getElementById("volume-table");
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], collator = new Intl.Collator(undefined, { numeric: true });
  const read = ({ dataset }) => dataset.number === undefined ? dataset.key || null : dataset.number === "" ? null : Number(dataset.number);
  const order = (a, b) => typeof a === "string" ? collator.compare(a, b) : a - b;
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map(row => ({ row, key: read(row.cells[column]) }));
    rows.sort((a, b) => a.key === null || b.key === null ? (a.key === null) - (b.key === null) : (up ? 1 : -1) * order(a.key, b.key));
    body.append(...rows.map(item => item.row));
  }));
})();
