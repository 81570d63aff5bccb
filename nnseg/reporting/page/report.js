"use strict";
(() => {
  const table = document.getElementById("case-table"), chooser = document.getElementById("metric");

  // Sorting ---------------------------------------------------------------------------------------------------------------------

  const heads = table ? [...table.tHead.rows[0].cells] : [];
  const collator = new Intl.Collator(undefined, { numeric: true });
  const read = (row, column) => {
    if (column === 0) return row.dataset.case;
    const cell = row.cells[column], { key, number = cell.textContent } = cell.dataset, value = parseFloat(number);
    return key || (Number.isNaN(value) ? null : value);
  };
  const sort = (column, up, size) => {
    heads.forEach(head => head.setAttribute("aria-sort", "none"));
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const sized = key => size && key !== null ? Math.abs(key) : key;
    const rows = [...table.tBodies[0].rows].map(row => ({ row, key: sized(read(row, column)) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return (up ? 1 : -1) * (typeof a.key === "string" ? collator.compare(a.key, b.key) : a.key - b.key);
    });
    table.tBodies[0].append(...rows.map(item => item.row));
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    sort(column, head.getAttribute("aria-sort") !== "ascending", false);
  }));

  // On narrow screens each row of a table is a block, whose cells carry the heading of their column -----------------------------

  for (const one of document.querySelectorAll(".scroll table")) {
    const names = [...one.tHead?.rows[0].cells ?? []].map(cell => cell.textContent);
    for (const row of [...one.tBodies].flatMap(body => [...body.rows])) [...row.cells].forEach((cell, i) => { cell.dataset.label = names[i] ?? ""; });
    one.classList.add("stacked");
  }

  // Another metric --------------------------------------------------------------------------------------------------------------

  const choose = name => {
    document.querySelectorAll(".panel").forEach(panel => { panel.hidden = panel.dataset.metric !== name; });
    if (!table) return;
    const { cases, metrics } = JSON.parse(document.getElementById("case-numbers").textContent);
    const { title, better, digits, values } = metrics[name];
    const rows = new Map(cases.map((one, i) => [one, values[i]]));
    table.querySelectorAll(".metric").forEach(words => { words.textContent = title; });
    for (const row of table.tBodies[0].rows) {
      const known = rows.get(row.dataset.case);
      known.forEach((value, i) => { row.cells[i + 1].textContent = value === null ? "–" : value.toFixed(digits); });
    }
    sort(1, better === "higher", better === "zero");
  };
  if (chooser) {
    chooser.closest("p").hidden = false;
    chooser.addEventListener("change", () => choose(chooser.value));
  }

  // From a case's name to the viewer, which shows it; to its still pictures where the viewer does not have it -------------------

  const picker = document.getElementById("viewer-case");
  document.addEventListener("click", event => {
    const link = event.target.closest("a[data-viewed]");
    if (!link || !picker || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    document.getElementById("viewer").scrollIntoView();
    picker.focus({ preventScroll: true });
    if (picker.value === link.dataset.viewed) return;
    picker.value = link.dataset.viewed;
    picker.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // Which section is read -------------------------------------------------------------------------------------------------------

  const links = new Map([...document.querySelectorAll("nav a")].map(a => [a.hash.slice(1), a]));
  const parts = [...document.querySelectorAll("section.part")];
  let current;
  const mark = () => {
    const read = parts.filter(part => part.getBoundingClientRect().top < innerHeight / 3).pop() ?? parts[0];
    const link = links.get(read?.getAttribute("aria-labelledby"));
    if (link === current) return;
    current?.removeAttribute("aria-current");
    link?.setAttribute("aria-current", "true");
    current = link;
    const list = link?.closest("ol");
    if (list && list.scrollWidth > list.clientWidth) list.scrollTo({ left: link.parentElement.offsetLeft - list.clientWidth / 3 });
  };
  addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
  mark();

  addEventListener("beforeprint", () => document.querySelectorAll("details.printed").forEach(part => { part.open = true; }));
})();
